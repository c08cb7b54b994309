"""Where a hidden fault could be read: every place that labctl writes to or speaks from is searched for its name, and
for the digest that a lab would have whose scenario names it.

It stands alone because it is the one module of lessons that looks where students must find nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from labctl.errors import LabError, UsageError
from labctl.lessons.workplace import Workplace, lab_for
from labctl.model.lab import NETNS, Scenario
from labctl.model.result import Completed
from labctl.names import UNDERLAY, namespace_of
from labctl.planning.shell import quoted
from labctl.system import files, netns

_MOST_FILES = 2_000


def leaks(
    fault: str,
    workplace: Workplace,
    ends: tuple[str, str],
    run: Callable[[Sequence[str], Path], Completed],
    folders: Sequence[Path],
    refuse: Callable[[Scenario], None],
) -> Iterator[str]:
    """Each place where the name or the digest stands."""
    wanted = [fault.encode(), *_digests(fault, workplace, refuse)]
    lab, work = workplace.name, folders[0]
    for argv in (
        ("labctl", "list", "--json"),
        ("labctl", "status", lab, "--json"),
        ("labctl", "diff", lab, "--json"),
        ("labctl", "check", lab, "ping", "--json"),
        ("labctl", "trace", lab, *ends, "--json"),
        ("labctl", "facts", lab, "wrong-role", "lost-at", "--json"),
    ):
        done = run(argv, work)  # those with a run directory leave it in the folder, which is searched below
        if _has(wanted, done.stdout + done.stderr):
            yield f"the output of {quoted(argv)}"
    for folder in (netns.RUN_DIRECTORY / "labs" / lab, *folders):
        yield from (f"the file {path}" for path in _files(folder) if _has(wanted, _content(path)))
    yield from (f"process {pid}" for pid in _processes(workplace) if _has(wanted, _said_of(pid)))


def _digests(fault: str, workplace: Workplace, refuse: Callable[[Scenario], None]) -> Iterator[bytes]:
    """Of the lab with the fault in its scenario, where a scenario can have it."""
    lab = workplace.lab
    overrides = (*workplace.overrides, f"datapath.faults={json.dumps([fault])}")
    try:
        broken = lab_for(Path(lab.source), lab.name, overrides, refuse)
    except (UsageError, LabError):
        return
    yield broken.digest.encode()


def _has(wanted: Sequence[bytes], data: bytes) -> bool:
    return any(one in data for one in wanted)


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()][:_MOST_FILES]


def _content(path: Path) -> bytes:
    try:
        return files.read_file(path)
    except OSError:
        return b""


def _processes(workplace: Workplace) -> Sequence[int]:
    """Those inside the lab."""
    lab = workplace.lab
    if lab.provider != NETNS:
        return ()
    parts = (UNDERLAY, *(node.name for node in lab.nodes), *(pod.name for pod in lab.pods))
    keys = [key for part in parts if (key := netns.key_of(namespace_of(lab.name, part))) is not None]
    return netns.processes_in(keys)


def _said_of(pid: int) -> bytes:
    """Its command line and its environment."""
    return b"".join(_content(Path(f"/proc/{pid}/{name}")) for name in ("cmdline", "environ"))
