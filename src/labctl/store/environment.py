"""Where it was measured: facts about this machine, read from files and from the tools' own version lines.

The readers take the root of the file system, so that they can be tried on a recorded machine. What cannot be read is
left out or None: a missing fact is told as missing, never guessed.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from labctl.model.comparison import Environment
from labctl.model.tools import TOOLS, identify

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
    """What files tell, without the versions of tools. Takes milliseconds."""
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
