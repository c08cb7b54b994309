"""What the machines are like before anything is done to them: asked all at once over SSH. `preflight.py` judges it.

One script a machine prints `key=value` lines; machines that cannot be asked are reported in one error.

How far a machine's clock is from this host's: asked over SSH, estimated from several round trips, judged. Pure but
for `measure`.

Cristian's method: the answer's time stands for the middle of its round trip, and the shortest round trip errs least.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from labctl.errors import LabError, MeasureFailed, StepFailed
from labctl.model.versions import Version
from labctl.providers.base import ClockOffset
from labctl.providers.cilium.commands import Commands
from labctl.providers.kubeadm.failures import TaskFailure, step_failed
from labctl.providers.kubeadm.kubernetes import Installed, parse_version
from labctl.providers.kubeadm.ssh import Fleet, MachineCommands
from labctl.values import dataclass

_ASK_S = 90.0
_LINES = r"""
echo "uid=$(id -u)"
echo "kernel=$(uname -r)"
echo "family=$(. /etc/os-release 2>/dev/null; echo " $ID $ID_LIKE ")"
[ -d /run/systemd/system ] && echo systemd=yes
echo "cpus=$(nproc 2>/dev/null)"
echo "memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
free() { [ -d "$1" ] && df -Pk "$1" 2>/dev/null | awk -v d="$1" 'NR == 2 {print "free=" $4 " " d}'; }
free /var/lib
free /var/lib/containerd
free /var/lib/kubelet
share() { [ -d "$2" ] && df "$1" "$2" 2>/dev/null | awk -v d="$2" -v k="$3" 'NR == 2 {print k "=" $4 " " $2 " " d}'; }
for d in /var/lib /var/lib/containerd /var/lib/kubelet; do share -Pk $d space; share -Pi $d inodes; done
echo "available=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
echo "cgroup=$(stat -fc %T /sys/fs/cgroup 2>/dev/null)"
command -v python3 >/dev/null && echo python=yes
echo "pythonversion=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
for tool in crictl conntrack iptables ip mount nsenter; do command -v $tool >/dev/null || echo "lacks=$tool"; done
echo "kubeadm=$(kubeadm version -o short 2>/dev/null)"
echo "kubelet=$(kubelet --version 2>/dev/null)"
echo "containerd=$(containerd --version 2>/dev/null)"
echo "mark=$(sed -n 's/.*"lab": *"\([^"]*\)".*/\1/p' /etc/labctl/lab.json 2>/dev/null)"
[ -e /etc/kubernetes/kubelet.conf ] && echo cluster=yes
ss -Hltn 2>/dev/null | awk '{sub(/.*:/, "", $4); print "port=" $4}' | sort -u
ip -o -4 address show 2>/dev/null | while read -r _ device _ address _; do echo "device=$device ${address%/*}"; done
true
"""
SCRIPT = "; ".join(_LINES.strip().splitlines())
"""On one line: several in quotes are not one word to csh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is free of the file system that a directory is on, in KiB (`unit` "space") or in inodes ("inodes")."""

    directory: str
    unit: str
    free: int
    total: int

    @property
    def free_percent(self) -> float:
        return 100.0 * self.free / self.total if self.total else 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """One machine as it was found. `devices` are (name, address), `free_byte` (directory, bytes). Numbers are 0 where
    the machine did not report them."""

    node: str
    is_root: bool
    kernel: Version | None
    family: str
    has_systemd: bool
    has_python: bool
    installed: Installed
    has_containerd: bool
    containerd: Version | None
    python: Version | None
    lacks: tuple[str, ...]
    mark: str
    is_in_cluster: bool
    devices: tuple[tuple[str, str], ...]
    clock: ClockOffset | None = None
    cpus: int = 0
    memory_byte: int = 0
    free_byte: tuple[tuple[str, int], ...] = ()
    available_byte: int = 0
    """Memory that programs could take now."""
    rooms: tuple[Room, ...] = ()
    ports: frozenset[int] = frozenset()
    """TCP ports on which a process listens."""
    cgroup: str = ""
    """The type of the file system at /sys/fs/cgroup: `cgroup2fs` with cgroup v2 alone."""

    def device_of(self, address: str) -> str:
        """The device that has this address; empty when none has."""
        return next((device for device, has in self.devices if has == address), "")


def parse_survey(node: str, text: str, clock: ClockOffset | None = None) -> MachineFacts:
    """From what `SCRIPT` prints. Unknown lines (a login banner) are passed over."""
    said: dict[str, str] = {}
    devices, lacks, free, ports = [], [], [], set[int]()
    rooms: list[Room] = []
    for line in text.splitlines():
        key, found, value = line.partition("=")
        if not found:
            continue
        if key == "device":
            name, _, address = value.partition(" ")
            devices.append((name.partition("@")[0], address))
        elif key == "port":
            ports.add(_number(value.strip()))
        elif key == "free":
            size, _, directory = value.partition(" ")
            free.append((directory, _number(size) * 1024))
        elif key in ("space", "inodes") and len(parts := value.split()) == 3:
            rooms.append(Room(directory=parts[2], unit=key, free=_number(parts[0]), total=_number(parts[1])))
        elif key == "lacks":
            lacks.append(value.strip())
        else:
            said[key] = value.strip()
    family = f" {said.get('family', '')} "
    return MachineFacts(
        node=node,
        is_root=said.get("uid") == "0",
        kernel=_version(said.get("kernel", "")),
        family="RedHat" if any(f" {name} " in family for name in ("rhel", "fedora", "centos")) else "Debian",
        has_systemd="systemd" in said,
        has_python="python" in said,
        installed=Installed(
            host=node, kubeadm=_version(said.get("kubeadm", "")), kubelet=_version(said.get("kubelet", ""))
        ),
        has_containerd=bool(said.get("containerd")),
        containerd=_version(said.get("containerd", "").rpartition("containerd ")[2]),
        python=_version(said.get("pythonversion", "")),
        lacks=tuple(lacks),
        mark=said.get("mark", ""),
        is_in_cluster="cluster" in said,
        devices=tuple(devices),
        clock=clock,
        cpus=_number(said.get("cpus", "")),
        memory_byte=_number(said.get("memory", "")) * 1024,
        free_byte=tuple(free),
        available_byte=_number(said.get("available", "")) * 1024,
        rooms=tuple(rooms),
        ports=frozenset(ports),
        cgroup=said.get("cgroup", ""),
    )


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _version(text: str) -> Version | None:
    try:
        return parse_version(text)
    except ValueError:
        return None


def survey(fleet: Fleet, nodes: Sequence[str]) -> tuple[MachineFacts, ...]:
    """Asks all machines at the same time. Raises StepFailed for those that cannot be reached, all in one error."""

    def ask(node: str) -> MachineFacts | LabError:
        try:
            return look_at(fleet[node])
        except LabError as failed:
            return failed

    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = dict(zip(nodes, pool.map(ask, nodes), strict=True))
    failed = [answer for answer in answers.values() if isinstance(answer, LabError)]
    if failed:
        raise _together(failed) from failed[0]
    return tuple(answer for answer in answers.values() if isinstance(answer, MachineFacts))


def _together(failed: Sequence[LabError]) -> StepFailed:
    """One error for all machines: each cause with what it is the cause of where they differ, every remedy once."""
    causes = [f.cause for f in failed]
    if len(failed) > 1 and len(set(causes)) > 1:
        causes = [f"{f.what}: {f.cause}" for f in failed]
    return StepFailed(
        what="; ".join(f.what for f in failed),
        cause="\n".join(dict.fromkeys(causes)),
        remedy="\n".join(dict.fromkeys(line for f in failed for line in f.remedy.splitlines())),
    )


def look_at(commands: MachineCommands, *, ask_s: float = _ASK_S) -> MachineFacts:
    """Asks one machine. Raises StepFailed or MeasureFailed."""
    node = commands.machine.node
    done = commands.run(("sh", "-c", SCRIPT), timeout_s=ask_s)
    if done.timed_out:
        # What it said until then would read as programs that are not there.
        raise StepFailed(
            what=f"{node} ({commands.machine.address}): did not report within {ask_s:g} s what is installed",
            cause="it accepts commands over SSH, and is too slow to complete them: overloaded, or out of memory",
            remedy=f"ssh {commands.machine.place} uptime",
        )
    if done.returncode != 0 and "uid=" not in done.text:
        raise step_failed(
            [TaskFailure(node=node, task="Look at the machine", message=done.error_text)], [commands.machine]
        )
    return parse_survey(node, done.text, measure(node, commands))


_ROUNDS = 5
_ASK_CLOCK_S = 60.0
"""Where sudo waits for a unreachable name server, each command takes 20 s."""
_ENOUGH_S = 10.0
"""After it no further question is asked of a machine that has answered once: a slow one need not hold up the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockExchange:
    """One question for the time: when it was sent and answered by our clock, and what the machine said. Seconds."""

    sent_s: float
    answered_s: float
    said_s: float


def argv_time() -> tuple[str, ...]:
    return ("date", "+%s.%N")


def parse_time(node: str, text: str) -> float:
    try:
        return float(text.strip())
    except ValueError as failed:
        raise MeasureFailed(
            what=f"the time of {node} is not a number",
            cause=f"date +%s.%N printed: {text.strip()[:80] or 'nothing'}",
            remedy="remove what a login prints (banners, echo in .bashrc) from non-interactive shells",
        ) from failed


def offset_of(node: str, exchanges: Iterable[ClockExchange]) -> ClockOffset:
    """From the exchange with the shortest round trip. Raises ValueError when there is none."""
    best = min(exchanges, key=lambda e: e.answered_s - e.sent_s)
    return ClockOffset(
        node=node,
        offset_s=best.said_s - (best.sent_s + best.answered_s) / 2,
        error_s=(best.answered_s - best.sent_s) / 2,
    )


def in_words(offset: ClockOffset) -> str:
    """`node2 is 0.4 ms ahead, ± 0.3 ms`, `node2 is 4 min 16 s behind, ± 0.3 s`."""
    way = "ahead" if offset.offset_s >= 0 else "behind"
    return f"{offset.node} is {_span(abs(offset.offset_s))} {way}, ± {_span(offset.error_s)}"


def _span(span_s: float) -> str:
    if span_s < 1:
        return f"{span_s * 1000:.1f} ms"
    if span_s < 60:
        return f"{span_s:.1f} s"
    minutes, seconds = divmod(round(span_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def are_apart(clocks: Iterable[ClockOffset], limit_s: float) -> bool:
    """Whether two of the clocks surely differ by more than the limit. Clocks that are wrong together do no harm."""
    known = list(clocks)
    least = min((c.offset_s + c.error_s for c in known), default=0.0)
    most = max((c.offset_s - c.error_s for c in known), default=0.0)
    return most - least > limit_s


def measure(node: str, commands: Commands) -> ClockOffset:
    """Asks several times over the connection that is there. Raises MeasureFailed for a machine that does not answer,
    or not with a number."""
    exchanges: list[ClockExchange] = []
    begun_s = time.monotonic()
    for _ in range(_ROUNDS):
        sent_s = time.time()
        done = commands.run(argv_time(), timeout_s=_ASK_CLOCK_S)
        answered_s = time.time()
        if done.timed_out:
            raise MeasureFailed(
                what=f"{node} did not report its time within {_ASK_CLOCK_S:g} s",
                cause="it accepts commands over SSH, but is too slow to complete the shortest of them (overloaded?)",
                remedy=shlex.join((*commands.prefix, "uptime")),
            )
        exchanges.append(ClockExchange(sent_s=sent_s, answered_s=answered_s, said_s=parse_time(node, done.text)))
        if time.monotonic() - begun_s > _ENOUGH_S:
            break
    return offset_of(node, exchanges)
