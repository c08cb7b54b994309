"""What the machines are like before anything is done to them: asked all at once over SSH, then judged.

One script a machine prints `key=value` lines; everything that is wrong on any machine is told in one error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata

from labctl.errors import LabError, StepFailed, UsageError
from labctl.model.sections_kubeadm import PackageSource
from labctl.providers.base import ClockOffset
from labctl.providers.cilium.versions import Version
from labctl.providers.kubeadm.clock import are_apart, in_words, measure
from labctl.providers.kubeadm.failures import TaskFailure, step_failed
from labctl.providers.kubeadm.inventory import FIRST_IN_VENDOR_REPOSITORY
from labctl.providers.kubeadm.kubernetes import Installed, nearest, parse_version, skew
from labctl.providers.kubeadm.settings import Settings, refuse_kernel
from labctl.providers.kubeadm.ssh import Fleet, MachineCommands

_ASK_S = 90.0
SCRIPT = r"""
echo "uid=$(id -u)"
echo "kernel=$(uname -r)"
echo "family=$(. /etc/os-release 2>/dev/null; echo " $ID $ID_LIKE ")"
[ -d /run/systemd/system ] && echo systemd=yes
command -v python3 >/dev/null && echo python=yes
echo "pythonversion=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
for tool in crictl conntrack iptables ip mount nsenter; do command -v $tool >/dev/null || echo "lacks=$tool"; done
echo "kubeadm=$(kubeadm version -o short 2>/dev/null)"
echo "kubelet=$(kubelet --version 2>/dev/null)"
echo "containerd=$(containerd --version 2>/dev/null)"
echo "mark=$(sed -n 's/.*"lab": *"\([^"]*\)".*/\1/p' /etc/labctl/lab.json 2>/dev/null)"
[ -e /etc/kubernetes/kubelet.conf ] && echo cluster=yes
ip -o -4 address show 2>/dev/null | while read -r _ device _ address _; do echo "device=$device ${address%/*}"; done
true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One machine as it was found. `devices` are (name, address)."""

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

    def device_of(self, address: str) -> str:
        """The device that has this address; empty when none has."""
        return next((device for device, has in self.devices if has == address), "")


def parse_survey(node: str, text: str, clock: ClockOffset | None = None) -> Seen:
    """From what `SCRIPT` prints. Unknown lines (a login banner) are passed over."""
    said: dict[str, str] = {}
    devices, lacks = [], []
    for line in text.splitlines():
        key, found, value = line.partition("=")
        if not found:
            continue
        if key == "device":
            name, _, address = value.partition(" ")
            devices.append((name.partition("@")[0], address))
        elif key == "lacks":
            lacks.append(value.strip())
        else:
            said[key] = value.strip()
    family = f" {said.get('family', '')} "
    return Seen(
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
    )


def _version(text: str) -> Version | None:
    try:
        return parse_version(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Something about one machine that stops the lab."""

    node: str
    cause: str
    remedy: str


def judge_survey(settings: Settings, seen: Iterable[Seen]) -> tuple[Obstacle, ...]:
    """Everything that stands in the way, in the order of the machines."""
    seen = tuple(seen)
    apart = are_apart((one.clock for one in seen if one.clock), settings.kubeadm.max_clock_offset_s)
    return tuple(obstacle for one in seen for obstacle in _judge(settings, one, clocks_are_apart=apart))


def _judge(settings: Settings, seen: Seen, *, clocks_are_apart: bool) -> list[Obstacle]:
    machine = next(m for m in settings.machines if m.node == seen.node)
    found: list[tuple[str, str]] = []
    if not seen.is_root:
        found.append((f"{machine.user} is not root there", f"ssh {machine.place} sudo -n id -u  # must print 0"))
    if not seen.has_python:
        found.append(("Ansible needs Python 3", f"ssh {machine.place} sudo apt-get install -y python3"))
    elif seen.python is not None and seen.python.series < (least := least_python(_ansible_core())):
        has, wants = (".".join(map(str, series)) for series in (seen.python.series, least))
        problem = f"its Python is {has}, and ansible-core {_ansible_core()} works with {wants} and later"
        found.append((problem, 'here: .venv/bin/pip install "ansible-core<2.17"; or a newer python3 on the machine'))
    if not seen.has_systemd:
        found.append(("it does not run systemd", "a machine or VM that does"))
    if seen.mark and seen.mark != settings.lab.name:
        found.append((f"it belongs to lab {seen.mark}", f"labctl down {seen.mark}"))
    elif seen.is_in_cluster and not seen.mark:
        found.append(
            (
                "it is a node of a cluster that labctl did not make, and labctl leaves it alone",
                f"another machine; or, if that cluster may go: ssh {machine.place} sudo kubeadm reset",
            )
        )
    found += _judge_versions(settings, seen)
    if machine.node_address and not seen.device_of(machine.node_address) and seen.devices:
        has = ", ".join(f"{address} ({device})" for device, address in seen.devices if device != "lo")
        found.append((f"it has no address {machine.node_address}; it has {has or 'none'}", "correct nodeAddress:"))
    # Certificates are made on one machine and read on the others: this host's clock is a measure, not a party.
    if clocks_are_apart and seen.clock and abs(seen.clock.offset_s) > settings.kubeadm.max_clock_offset_s:
        cause = (
            f"the clock of {in_words(seen.clock)}, as seen from here; the machines differ from each other, and "
            "certificates are not valid across such a gap"
        )
        remedy = (
            f"ssh {machine.place} sudo timedatectl set-ntp true; where no time server can be reached: "
            f'ssh {machine.place} sudo date --set="@$(date +%s)"'
        )
        found.append((cause, remedy))
    return [Obstacle(node=seen.node, cause=cause, remedy=remedy) for cause, remedy in found]


def _judge_versions(settings: Settings, seen: Seen) -> list[tuple[str, str]]:
    asked, found = settings.kubernetes, []
    if seen.kernel is not None:
        try:
            refuse_kernel(settings, seen.kernel)
        except UsageError as refused:
            found.append((f"{refused.what}: {refused.cause}", refused.remedy))
    source = settings.kubeadm.package_source
    installed = seen.installed
    if seen.containerd is not None and (problem := cri_problem(asked, seen.containerd)):
        found.append((problem, "another containerd on the machine, or another kubeadm.kubernetes"))
    if source is PackageSource.INSTALLED:
        forgiven = settings.kubeadm.ignore_preflight_errors
        # labctl itself finds the pods by crictl; the others are kubeadm's wish.
        lacks = [tool for tool in seen.lacks if tool == "crictl" or f"FileExisting-{tool}" not in forgiven]
        if lacks:
            waived = ", ".join(("Swap", *(f"FileExisting-{tool}" for tool in lacks if tool != "crictl")))
            also = f", or kubeadm.ignorePreflightErrors: [{waived}]" if "crictl" not in lacks else ""
            found.append(
                (f"nothing may be downloaded, and it has not got {' and '.join(lacks)}", f"install them by hand{also}")
            )
        missing = [
            name
            for name, there in (
                ("kubeadm", installed.kubeadm), ("kubelet", installed.kubelet), ("containerd", seen.has_containerd)
            )
            if not there
        ]  # fmt: skip
        if missing:
            found.append(
                (
                    f"nothing may be downloaded, and it has not got {' and '.join(missing)}",
                    "install them by hand, or packages.source: bundle with the files in packages.bundle",
                )
            )
    elif (
        source in (PackageSource.AUTO, PackageSource.REPOSITORY)
        and not settings.kubeadm.packages.repository
        and installed.kubeadm is None
        and asked.series < FIRST_IN_VENDOR_REPOSITORY
    ):
        found.append(
            (
                f"packages of Kubernetes {asked} are in no vendor repository any more (pkgs.k8s.io begins with 1.24)",
                "packages.source: bundle or installed, a mirror in packages.repository, or a newer kubeadm.kubernetes",
            )
        )
    for problem in skew(asked, installed):
        better = nearest(asked, installed)
        found.append((problem, f"--set kubeadm.kubernetes={better}" if better else f"install kubelet {asked}"))
    return found


def cri_problem(kubernetes: Version, containerd: Version) -> str:
    """A kubelet before 1.23 speaks CRI v1alpha2 only, which containerd 2 has not; one since 1.26 speaks v1 only, which
    came with containerd 1.6."""
    if kubernetes.series < (1, 23) and containerd.series >= (2, 0):
        return f"containerd {containerd} does not speak with the kubelet of Kubernetes {kubernetes} (CRI v1alpha2)"
    if kubernetes.series >= (1, 26) and containerd.series < (1, 6):
        return f"containerd {containerd} is too old for Kubernetes {kubernetes}, which needs 1.6 (CRI v1)"
    return ""


def least_python(ansible_core: str) -> tuple[int, int]:
    """The oldest Python on a machine that this ansible-core works with, from its support matrix."""
    numbers = [int(word) for word in re.findall(r"\d+", ansible_core)[:2]]
    for since, least in (([2, 20], (3, 9)), ([2, 18], (3, 8)), ([2, 17], (3, 7))):
        if numbers >= since:
            return least
    return (3, 6)


def _ansible_core() -> str:
    try:
        return metadata.version("ansible-core")
    except metadata.PackageNotFoundError:
        return ""


def survey(fleet: Fleet, nodes: Sequence[str]) -> tuple[Seen, ...]:
    """Asks all machines at the same time. Raises StepFailed for those that cannot be reached, all in one error."""

    def ask(node: str) -> Seen | LabError:
        try:
            return look_at(fleet[node])
        except LabError as failed:
            return failed

    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = dict(zip(nodes, pool.map(ask, nodes), strict=True))
    failed = [answer for answer in answers.values() if isinstance(answer, LabError)]
    if failed:
        raise _together(failed) from failed[0]
    return tuple(answer for answer in answers.values() if isinstance(answer, Seen))


def _together(failed: Sequence[LabError]) -> StepFailed:
    """One error for all machines: each cause with what it is the cause of where they differ, every remedy once."""
    causes = [f.cause for f in failed]
    if len(failed) > 1 and len(set(causes)) > 1:
        causes = [f"{f.what}: {f.cause}" for f in failed]
    return StepFailed(
        what="; ".join(f.what for f in failed),
        cause="\n       ".join(dict.fromkeys(causes)),
        remedy="\n       ".join(dict.fromkeys(f.remedy for f in failed if f.remedy)),
    )


def look_at(commands: MachineCommands) -> Seen:
    node = commands.machine.node
    done = commands.run(("sh", "-c", SCRIPT), timeout_s=_ASK_S)
    if done.timed_out:
        # What it said until then would read as programs that are not there.
        raise StepFailed(
            what=f"{node} ({commands.machine.address}): did not say in {_ASK_S:g} s what is installed",
            cause="it takes commands over SSH, and is too slow to end them: overloaded, or out of memory",
            remedy=f"ssh {commands.machine.place} uptime",
        )
    if done.returncode != 0 and "uid=" not in done.text:
        raise step_failed(
            [TaskFailure(node=node, task="Look at the machine", message=done.error_text)], [commands.machine]
        )
    return parse_survey(node, done.text, measure(node, commands))


def refuse_obstacles(settings: Settings, seen: Iterable[Seen]) -> None:
    """Raises StepFailed that tells every obstacle with its machine."""
    obstacles = judge_survey(settings, seen)
    if not obstacles:
        return
    address = {machine.node: machine.address for machine in settings.machines}
    raise StepFailed(
        what=f"{len({o.node for o in obstacles})} of {len(settings.machines)} machines cannot be used as they are",
        cause="\n       ".join(f"{o.node} ({address[o.node]}): {o.cause}" for o in obstacles),
        remedy="\n       ".join(dict.fromkeys(o.remedy for o in obstacles)),
    )
