"""How busy this machine is, and with whom: the kernel's counters, read twice and subtracted.

PSI `some` counts every wait for a CPU, also those that our own clients and servers cause each other on a small machine.
So beside it stands what others used: all CPU time less that of our own processes and of the kernel's packet work.
Readers take the root of the file system, so that they can be tried on a recorded machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

_COMM_END = re.compile(r"\) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTicks:
    """Clock ticks over all CPUs since boot. `tasks` is user, nice and system time of whatever is not an interrupt;
    `ksoftirqd` is the part of it in which the kernel's threads did packet work; `steal` went to other machines."""

    tasks: int
    ksoftirqd: int
    steal: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Counters since boot (or, for `own_s`, since our start) that tell how busy the machine was as a difference.

    `cpu_some_us` is PSI: microseconds in which a task that could run waited for a CPU. `own_s` is the CPU time of our
    process and of its children that have ended. `frequency_hz` is the mean over the CPUs at that moment.
    None: the kernel does not tell, or (`own_s`) it cannot be known.
    """

    at_s: float
    cpu_some_us: int | None
    ticks: CpuTicks | None
    own_s: float | None = None
    frequency_hz: float | None = None

    def cpu_pressure_share(self, earlier: Pressure) -> float | None:
        """The share of the time between two readings in which somebody waited for a CPU."""
        elapsed_s = self.at_s - earlier.at_s
        if self.cpu_some_us is None or earlier.cpu_some_us is None or elapsed_s <= 0:
            return None
        return (self.cpu_some_us - earlier.cpu_some_us) / 1e6 / elapsed_s

    def steal_share(self, earlier: Pressure) -> float | None:
        """The share of all CPU time between two readings that was given to others."""
        if self.ticks is None or earlier.ticks is None or self.ticks.total <= earlier.ticks.total:
            return None
        return (self.ticks.steal - earlier.ticks.steal) / (self.ticks.total - earlier.ticks.total)

    def neighbours_share(self, earlier: Pressure, ticks_per_s: int) -> float | None:
        """The share of all CPU time between two readings that other processes of this machine used.

        Our own processes' time holds the softirqs that interrupted them, where the kernel does not account for these
        apart: the neighbours are then told too low by at most that, never too high.
        """
        if self.ticks is None or earlier.ticks is None or self.own_s is None or earlier.own_s is None:
            return None
        total = self.ticks.total - earlier.ticks.total
        if total <= 0:
            return None
        ours = (self.own_s - earlier.own_s) * ticks_per_s + self.ticks.ksoftirqd - earlier.ticks.ksoftirqd
        return max(0.0, (self.ticks.tasks - earlier.ticks.tasks - ours) / total)


def read_pressure(at_s: float, *, own_s: float | None = None, root: Path = Path("/")) -> Pressure:
    """The counters now; `at_s` is the monotonic clock's reading, `own_s` is `own_cpu_s()` where that is meaningful."""
    waited = re.search(r"^some .*\btotal=(\d+)", _text(root / "proc/pressure/cpu"), re.MULTILINE)
    return Pressure(
        at_s=at_s,
        cpu_some_us=int(waited.group(1)) if waited else None,
        ticks=_ticks(root),
        own_s=own_s,
        frequency_hz=_frequency_hz(root),
    )


def own_cpu_s() -> float:
    """CPU time of this process, all its threads, and its children that have ended and were waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def ticks_per_s() -> int:
    """How many of the ticks of `CpuTicks` are a second of one CPU."""
    return os.sysconf("SC_CLK_TCK")


def ksoftirqd_pids(root: Path = Path("/")) -> tuple[int, ...]:
    """The kernel's threads for packet work that was put off: one a CPU. They stay the same while a machine is up."""
    found = []
    for path in (root / "proc").glob("[0-9]*"):
        if _text(path / "comm").startswith("ksoftirqd/"):
            found.append(int(path.name))
    return tuple(sorted(found))


def _ticks(root: Path) -> CpuTicks | None:
    # user nice system idle iowait irq softirq steal guest guest_nice; guest is part of user already (proc(5)).
    cpu = re.search(r"^cpu +((?:\d+ ?)+)", _text(root / "proc/stat"), re.MULTILINE)
    ticks = [int(word) for word in cpu.group(1).split()][:8] if cpu else []
    if len(ticks) != 8:
        return None
    kernel = sum(_thread_ticks(root, pid) for pid in ksoftirqd_pids(root))
    return CpuTicks(tasks=sum(ticks[:3]), ksoftirqd=kernel, steal=ticks[7], total=sum(ticks))


def _thread_ticks(root: Path, pid: int) -> int:
    """utime + stime of one process (fields 14 and 15 of proc_pid_stat(5))."""
    fields = _COMM_END.split(_text(root / f"proc/{pid}/stat"), maxsplit=1)[-1].split()
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0


def _frequency_hz(root: Path) -> float | None:
    """From cpufreq, which tells the current frequency; `cpu MHz` of a virtual machine is a constant."""
    found = (_text(path) for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    kilohertz = [int(text) for text in found if text.isdigit()]
    return fmean(kilohertz) * 1000 if kilohertz else None


def _text(path: Path) -> str:
    """The file's text without surrounding white space; empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
