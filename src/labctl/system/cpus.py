"""The CPUs that this process may use, how they lie to each other, and which two of them a client and a server take.

Two CPUs that share a core (SMT) share its pace too, and two on different NUMA nodes have the memory between them: both
are the machine's and not the network's. So the ends take two cores of one NUMA node where there are such, and what is
next best where there are not. The kernel's first CPUs have most of its interrupts: the last ones are taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from labctl.values import dataclass

_CPUS = Path("/sys/devices/system/cpu")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a CPU is: the CPUs of its core (itself too), and its NUMA node (0 where the kernel knows of none)."""

    core: frozenset[int]
    numa_node: int = 0


def cpus_for_pair() -> tuple[int | None, int | None]:
    """Two different CPUs to pin client and server to, of those that this process may use; None with one CPU."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return None, None
    return best_pair(usable, {cpu: _place(cpu) for cpu in usable})


def best_pair(usable: Sequence[int], places: Mapping[int, Place]) -> tuple[int, int]:
    """The best two of at least two: different cores of one NUMA node before different cores, and those before two
    threads of a core; among equals the last ones."""

    def rank(pair: tuple[int, int]) -> tuple[bool, bool, tuple[int, int]]:
        first, second = (places[cpu] for cpu in pair)
        apart = pair[1] not in first.core
        return apart, apart and first.numa_node == second.numa_node, (pair[1], pair[0])

    return max(combinations(sorted(usable), 2), key=rank)


def _place(cpu: int) -> Place:
    folder = _CPUS / f"cpu{cpu}"
    nodes = [int(path.name[4:]) for path in folder.glob("node[0-9]*")]
    return Place(
        core=cpu_list(_text(folder / "topology/thread_siblings_list")) | {cpu}, numa_node=min(nodes, default=0)
    )


def cpu_list(text: str) -> frozenset[int]:
    """The kernel's way to write several CPUs: `0-3,8`. Empty for anything else."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            return frozenset()
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def packet_threads(cpus: Sequence[int]) -> tuple[int, ...]:
    """The process numbers of the kernel's threads that do put-off packet work on those CPUs (ksoftirqd)."""
    names = {f"ksoftirqd/{cpu}" for cpu in cpus}
    return tuple(sorted(int(path.name) for path in _PROC.glob("[0-9]*") if _text(path / "comm").strip() in names))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
