"""Whether a host can have a class of so many students: memory, processors, the kernel's limits, the tools for logins.

What one student takes was measured with thirty (bench/results/classroom.json). It stands alone because only
`labctl doctor --class` asks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from labctl.providers.base import Probe
from labctl.system import process
from labctl.system.files import MIB
from labctl.values import dataclass

LAB_MIB = 18
"""Of memory, for a lab of three nodes and three pods that is up: the most that was seen, other work counted in."""
COMMAND_MIB = 90
"""For a command while it runs, and the login's shell."""
BASE_MIB = 512
STUDENTS_OF_A_CPU = 16
"""Who type at once and wait some three seconds for a command of half a second."""
LABS_OF_A_STUDENT = 3
NAMESPACES_OF_A_LAB = 8
DISK_MIB = 50
"""For a home, and the runs of checks and traces."""
_TOOLS = ("useradd", "userdel", "usermod", "chpasswd", "sudo", "visudo", "setpriv", "find")
_STATE = Path("/var/lib")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What this host has. Zero where it cannot be read."""

    memory_mib: int
    cpus: int
    disk_mib: int
    namespaces: int
    terminals: int
    missing_tools: tuple[str, ...]
    has_rules_folder: bool
    has_sshd: bool


def read_host() -> HostFacts:
    return HostFacts(
        memory_mib=_meminfo_mib("MemAvailable"),
        cpus=len(os.sched_getaffinity(0)),
        disk_mib=shutil.disk_usage(_STATE).free // MIB if _STATE.is_dir() else 0,
        namespaces=_number("/proc/sys/user/max_net_namespaces"),
        terminals=_number("/proc/sys/kernel/pty/max"),
        missing_tools=tuple(name for name in _TOOLS if process.find_program(name) is None),
        has_rules_folder=Path("/etc/sudoers.d").is_dir(),
        has_sshd=process.find_program("sshd") is not None,
    )


def _meminfo_mib(key: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) // 1024
    return 0


def _number(path: str) -> int:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def class_probes(students: int, host: HostFacts) -> Iterator[Probe]:
    """What a class of so many needs, beside what labs need. Pure."""
    needed_for = f"a class of {students}"

    def probe(name: str, found: str, is_there: bool, remedy: str, *, required: bool = True) -> Probe:
        return Probe(
            name=name, present=is_there, found=found, needed_for=needed_for, remedy=remedy, required=required
        )  # fmt: skip

    memory = BASE_MIB + students * (LABS_OF_A_STUDENT * LAB_MIB + COMMAND_MIB)
    yield probe(
        "memory", f"{host.memory_mib} MiB are available, {memory} MiB are needed", host.memory_mib >= memory,
        f"a host with {memory} MiB, or fewer students at once",
    )  # fmt: skip
    cpus = -(-students // STUDENTS_OF_A_CPU)
    yield probe(
        "processors", f"{host.cpus}; {cpus} keep commands short", host.cpus >= cpus,
        "a host with more of them; with fewer, students wait", required=False,
    )  # fmt: skip
    disk = students * DISK_MIB
    yield probe(
        "disk", f"{host.disk_mib} MiB are free below /var/lib, {disk} MiB are needed", host.disk_mib >= disk,
        "df -h /var/lib /home",
    )  # fmt: skip
    namespaces = students * LABS_OF_A_STUDENT * NAMESPACES_OF_A_LAB
    yield probe(
        "network namespaces", f"at most {host.namespaces}, {namespaces} are needed", host.namespaces >= namespaces,
        f"sudo sysctl -w user.max_net_namespaces={2 * namespaces}",
    )  # fmt: skip
    terminals = 4 * students
    yield probe(
        "terminals", f"at most {host.terminals}, {terminals} are needed", host.terminals >= terminals,
        f"sudo sysctl -w kernel.pty.max={2 * terminals}",
    )  # fmt: skip
    missing = ", ".join(host.missing_tools)
    yield probe(
        "tools for logins", f"missing: {missing}" if missing else "all there", not missing,
        "sudo apt-get install passwd sudo util-linux findutils",
    )  # fmt: skip
    yield probe(
        "rules for sudo", "/etc/sudoers.d" if host.has_rules_folder else "there is no /etc/sudoers.d",
        host.has_rules_folder, "sudo apt-get install sudo",
    )  # fmt: skip
    yield probe(
        "sshd", "installed" if host.has_sshd else "not installed", host.has_sshd,
        "sudo apt-get install openssh-server  # or students log in at this host's own consoles", required=False,
    )  # fmt: skip
