"""Where it was measured: facts about this machine, from files and the tools' own version lines, and how busy it is.

The readers take the root of the file system, so that they can be tried on a recorded machine. What cannot be read is
left out or None: a missing fact is recorded as missing, never guessed.

How busy it is, and with whom, is in the kernel's counters, read twice and subtracted. PSI `some` counts every wait for
a CPU, also those that our own clients and servers cause each other on a small machine. So beside it stands what others
used: all CPU time less that of our own processes and of the kernel's packet work.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from labctl.model.comparison import Environment
from labctl.model.tools import TOOLS, identify
from labctl.values import dataclass

RunText = Callable[[Sequence[str]], str]
"""Runs argv and gives stdout and stderr as one text; the empty text when the program is not there."""

SYSCTLS = (
    "net.core.bpf_jit_enable",
    "net.core.default_qdisc",
    "net.core.dev_weight",
    "net.core.netdev_budget",
    "net.core.netdev_budget_usecs",
    "net.core.netdev_max_backlog",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.ipv4.ip_early_demux",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.netfilter.nf_conntrack_max",
    "kernel.bpf_stats_enabled",
    "kernel.sched_rt_runtime_us",
    "kernel.timer_migration",
)


def read_environment(root: Path = Path("/")) -> Environment:
    """What files show, without the versions of tools. Takes milliseconds."""
    return Environment(
        kernel=_text(root / "proc/sys/kernel/osrelease") or "unknown",
        cpu_model=_cpu_model(_text(root / "proc/cpuinfo")),
        cpus=_cpu_count(_text(root / "proc/cpuinfo")),
        memory_byte=_memory_byte(_text(root / "proc/meminfo")),
        sysctls=dict(_sysctls(root)),
        settings=dict(_settings(root)),
    )


def read_versions(run_text: RunText) -> Mapping[str, str]:
    """The version of each tool that is there, and of its libraries, by name. Each program is asked once."""
    versions: dict[str, str] = {}
    for tool in TOOLS.values():
        if not tool.record:
            continue
        identity = identify(tool, run_text((tool.program, *tool.asked)))
        if identity.version and identity.implementation == tool.implementation:
            versions |= {tool.record: identity.version, **dict(identity.parts)}
    return versions


def fingerprint(run_text: RunText, root: Path = Path("/")) -> Environment:
    """Everything that a third party needs to say whether their machine is alike."""
    return replace(read_environment(root), versions=read_versions(run_text))


def _text(path: Path) -> str:
    """The file's text without surrounding white space; empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _cpu_model(cpuinfo: str) -> str:
    # arm64 has no model name, only numbers of the implementer and the part.
    match = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if match:
        return match.group(1).strip()
    numbers = dict(re.findall(r"^(CPU implementer|CPU part)\s*:\s*(\S+)$", cpuinfo, re.MULTILINE))
    return " ".join(f"{key} {value}" for key, value in sorted(numbers.items())) or "unknown"


def _cpu_count(cpuinfo: str) -> int:
    return len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))


def _memory_byte(meminfo: str) -> int:
    match = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else 0


def _sysctls(root: Path) -> Iterator[tuple[str, str]]:
    for name in SYSCTLS:
        value = _text(root / "proc/sys" / name.replace(".", "/"))
        if value:
            yield name, " ".join(value.split())


def _settings(root: Path) -> Iterator[tuple[str, str]]:
    """Other facts, as text by name. Only those that can be read are there."""
    facts = (
        ("kernelBuild", _text(root / "proc/sys/kernel/version")),
        ("kernelConfigSha256", _kernel_config_digest(root)),
        ("clocksource", _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")),
        ("governor", _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        ("turboDisabled", _text(root / "sys/devices/system/cpu/intel_pstate/no_turbo")),
        ("smt", _text(root / "sys/devices/system/cpu/smt/control")),
        ("isolatedCpus", _text(root / "sys/devices/system/cpu/isolated")),
        ("hypervisor", _hypervisor(_text(root / "proc/cpuinfo"))),
        ("distribution", _distribution(_text(root / "etc/os-release"))),
    )
    yield from ((name, value) for name, value in facts if value)
    directory = root / "sys/devices/system/cpu/vulnerabilities"
    for path in sorted(directory.glob("*")):
        if state := _text(path):
            yield f"mitigation.{path.name}", state


def _kernel_config_digest(root: Path) -> str:
    """SHA-256 of the kernel's configuration, from the running kernel or else from the file that came with it."""
    try:
        return hashlib.sha256(gzip.decompress((root / "proc/config.gz").read_bytes())).hexdigest()
    except (OSError, EOFError):
        pass
    release = _text(root / "proc/sys/kernel/osrelease")
    try:
        return hashlib.sha256((root / f"boot/config-{release}").read_bytes()).hexdigest()
    except OSError:
        return ""


def _hypervisor(cpuinfo: str) -> str:
    return "yes" if re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) else ""


def _distribution(os_release: str) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', os_release, re.MULTILINE)
    return match.group(1) if match else ""


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
    """Counters since boot (or, for `own_s`, since our start) that show how busy the machine was as a difference.

    `cpu_some_us` is PSI: microseconds in which a task that could run waited for a CPU. `own_s` is the CPU time of our
    process and of its children that have ended. `frequency_hz` is the mean over the CPUs at that moment.
    None: the kernel does not report it, or (`own_s`) it cannot be known.
    """

    at_s: float
    cpu_some_us: int | None
    ticks: CpuTicks | None
    own_s: float | None = None
    frequency_hz: float | None = None

    def cpu_pressure_share(self, earlier: Pressure) -> float | None:
        """The share of the time between two readings in which a task waited for a CPU."""
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
        apart: the neighbours' share is then too low by at most that, never too high.
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
    waited = re.search(r"^some .*\btotal=(\d+)", _pressure_text(root / "proc/pressure/cpu"), re.MULTILINE)
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
        if _pressure_text(path / "comm").startswith("ksoftirqd/"):
            found.append(int(path.name))
    return tuple(sorted(found))


def _ticks(root: Path) -> CpuTicks | None:
    # user nice system idle iowait irq softirq steal guest guest_nice; guest is part of user already (proc(5)).
    cpu = re.search(r"^cpu +((?:\d+ ?)+)", _pressure_text(root / "proc/stat"), re.MULTILINE)
    ticks = [int(word) for word in cpu.group(1).split()][:8] if cpu else []
    if len(ticks) != 8:
        return None
    kernel = sum(_thread_ticks(root, pid) for pid in ksoftirqd_pids(root))
    return CpuTicks(tasks=sum(ticks[:3]), ksoftirqd=kernel, steal=ticks[7], total=sum(ticks))


def _thread_ticks(root: Path, pid: int) -> int:
    """utime + stime of one process (fields 14 and 15 of proc_pid_stat(5))."""
    fields = _COMM_END.split(_pressure_text(root / f"proc/{pid}/stat"), maxsplit=1)[-1].split()
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0


def _frequency_hz(root: Path) -> float | None:
    """From cpufreq, which reports the current frequency; `cpu MHz` of a virtual machine is a constant."""
    found = (_pressure_text(path) for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    kilohertz = [int(text) for text in found if text.isdigit()]
    return fmean(kilohertz) * 1000 if kilohertz else None


def _pressure_text(path: Path) -> str:
    """The file's text without surrounding white space; empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
