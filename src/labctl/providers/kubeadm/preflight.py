"""Whether machines can be used as they are: what `survey.py` saw, judged by what the lab asks for. Pure, but for the
version of this host's Ansible.

Everything that stands in the way on any machine is reported in one error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata

from labctl.errors import StepFailed, UsageError
from labctl.model.sections import Kubeadm, PackageSource
from labctl.model.versions import Version
from labctl.providers.kubeadm.config import LEAST_AVAILABLE_BYTE, LEAST_FREE_PERCENT
from labctl.providers.kubeadm.inventory import FIRST_IN_VENDOR_REPOSITORY
from labctl.providers.kubeadm.kubernetes import nearest, parse_version, skew
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.settings import KubeadmSettings, refuse_kernel
from labctl.providers.kubeadm.survey import MachineFacts, are_apart, in_words
from labctl.values import dataclass

LEAST_CPUS = 2
LEAST_MEMORY_BYTE = 1700 * 1024 * 1024
"""Both are kubeadm's own, for the control plane."""
LEAST_FREE_BYTE = 256 * 1024 * 1024
"""etcd alone sets 128 MiB aside for its log."""
POD_MEMORY_BYTE = 400 * 1024 * 1024
"""What kubelet, containerd, Cilium's agent and the pods of a small lab take together on a worker, at least."""
CGROUP_V2 = "cgroup2fs"
FIRST_WITHOUT_CGROUP_V1 = (1, 35)
CONTROL_PLANE_PORTS = (2379, 2380, 10257, 10259)
KUBELET_PORT = 10250

Problem = tuple[str, str]
"""Cause and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Something about one machine that stops the lab."""

    node: str
    cause: str
    remedy: str


def judge_survey(settings: KubeadmSettings, seen: Iterable[MachineFacts]) -> tuple[Obstacle, ...]:
    """Everything that stands in the way, in the order of the machines."""
    seen = tuple(seen)
    apart = are_apart((one.clock for one in seen if one.clock), settings.kubeadm.max_clock_offset_s)
    return tuple(obstacle for one in seen for obstacle in _judge(settings, one, clocks_are_apart=apart))


def _judge(settings: KubeadmSettings, seen: MachineFacts, *, clocks_are_apart: bool) -> list[Obstacle]:
    machine = next(m for m in settings.machines if m.node == seen.node)
    found = judge_machine(settings.kubeadm, machine, seen)
    if seen.mark and seen.mark != settings.lab.name:
        found.append((f"it belongs to lab {seen.mark}", f"labctl down {seen.mark}"))
    if seen.kernel is not None:
        try:
            refuse_kernel(settings, seen.kernel)
        except UsageError as refused:
            found.append((f"{refused.what}: {refused.cause}", refused.remedy))
    if clocks_are_apart and (problem := clock_problem(settings.kubeadm, machine, seen)):
        found.append(problem)
    return [Obstacle(node=seen.node, cause=cause, remedy=remedy) for cause, remedy in found]


def judge_machine(kubeadm: Kubeadm, machine: Machine, seen: MachineFacts) -> list[Problem]:
    """What stands in the way on this machine, whichever lab it is for."""
    found: list[Problem] = []
    if not seen.is_root:
        found.append((f"{machine.user} is not root there", f"ssh {machine.place} sudo -n id -u  # must print 0"))
    if not seen.has_python:
        found.append(("Ansible needs Python 3", f"ssh {machine.place} sudo apt-get install -y python3"))
    elif seen.python is not None and seen.python.series < (least := least_python(_ansible_core())):
        has, wants = (".".join(map(str, series)) for series in (seen.python.series, least))
        problem = f"its Python is {has}, and ansible-core {_ansible_core()} works with {wants} and later"
        older = 'in the clone of labctl: make upgrade ONLY="ansible-core<2.17"'  # the next start installs it
        found.append((problem, f"{older}; or a newer python3 on the machine"))
    if not seen.has_systemd:
        found.append(("it does not run systemd", "use a machine or VM that does"))
    if seen.is_in_cluster and not seen.mark:
        found.append(
            (
                "it is a node of a cluster that labctl did not make, and labctl leaves it alone",
                f"another machine; or, if that cluster may be deleted: ssh {machine.place} sudo kubeadm reset",
            )
        )
    found += _judge_versions(kubeadm, seen)
    found += _judge_cgroups(kubeadm, machine, seen)
    found += _judge_room(kubeadm, machine, seen)
    found += _judge_pressure(kubeadm, machine, seen)
    if machine.node_address and not seen.device_of(machine.node_address) and seen.devices:
        has = ", ".join(f"{address} ({device})" for device, address in seen.devices if device != "lo")
        found.append((f"it has no address {machine.node_address}; it has {has or 'none'}", "correct nodeAddress:"))
    return found


def clock_problem(kubeadm: Kubeadm, machine: Machine, seen: MachineFacts) -> Problem | None:
    """For machines whose clocks are apart. Certificates are made on one machine and read on the others: this host's
    clock is a reference only."""
    if seen.clock is None or abs(seen.clock.offset_s) <= kubeadm.max_clock_offset_s:
        return None
    cause = (
        f"the clock of {in_words(seen.clock)}, as seen from here; the machines differ from each other, and "
        "certificates are not valid across such a gap"
    )
    remedy = (
        f"ssh {machine.place} sudo timedatectl set-ntp true\n"
        f'ssh {machine.place} sudo date --set="@$(date +%s)"  # where no time server can be reached'
    )
    return cause, remedy


def _judge_room(kubeadm: Kubeadm, machine: Machine, seen: MachineFacts) -> list[Problem]:
    """Processors, memory, disk and ports, of a machine that is in no lab yet: one that is has taken its part."""
    found: list[Problem] = []
    if seen.mark:
        return found
    forgiven = kubeadm.ignore_preflight_errors
    if machine.is_control_plane and 0 < seen.cpus < LEAST_CPUS and "NumCPU" not in forgiven:
        found.append(
            (
                f"the control plane needs {LEAST_CPUS} CPUs, and it has {seen.cpus}",
                "a larger machine as the first one, or kubeadm.ignorePreflightErrors: [Swap, NumCPU]",
            )
        )
    if machine.is_control_plane and 0 < seen.memory_byte < LEAST_MEMORY_BYTE and "Mem" not in forgiven:
        found.append(
            (
                f"the control plane needs 1700 MB of memory, and it has {seen.memory_byte >> 20}",
                "a larger machine as the first one, or kubeadm.ignorePreflightErrors: [Swap, Mem]",
            )
        )
    found += [
        (
            f"{directory} has {free >> 20} MB free, and images, logs and etcd need more",
            f"ssh {machine.place} df -h {directory}",
        )
        for directory, free in seen.free_byte
        if free < LEAST_FREE_BYTE
    ][:1]
    ports = (kubeadm.api_port, *CONTROL_PLANE_PORTS, KUBELET_PORT) if machine.is_control_plane else (KUBELET_PORT,)
    found += [
        (
            f"port {port} is taken on the machine, perhaps by another cluster",
            f"ssh {machine.place} 'sudo ss -ltnp \"sport = :{port}\"'",
        )
        for port in ports
        if port in seen.ports and f"Port-{port}" not in forgiven
    ]
    return found


def _judge_pressure(kubeadm: Kubeadm, machine: Machine, seen: MachineFacts) -> list[Problem]:
    """What the kubelet would evict pods for, or soon, by the thresholds that a lab gives it. With thresholds of the
    person's own nothing is foreseen."""
    if "evictionHard" in kubeadm.kubelet:
        return []
    found: dict[str, Problem] = {}
    for room in seen.rooms:
        if room.free_percent < LEAST_FREE_PERCENT:
            what, option = ("space", "") if room.unit == "space" else ("inodes", " -i")
            found.setdefault(
                room.unit,
                (
                    (
                        f"the kubelet would report DiskPressure and evict pods: {room.free_percent:.1f} % of the "
                        f"{what} of {room.directory} are free, and {LEAST_FREE_PERCENT} % have to be"
                    ),
                    f"ssh {machine.place} df{option} {room.directory}  # then make room there",
                ),
            )
    # A machine whose lab is up has given it the memory already.
    least_byte = LEAST_AVAILABLE_BYTE if seen.mark else LEAST_AVAILABLE_BYTE + POD_MEMORY_BYTE
    if 0 < seen.available_byte < least_byte:
        found["memory"] = (
            (
                f"the kubelet would report MemoryPressure and evict pods: {seen.available_byte >> 20} MB of memory are "
                f"available, and the lab needs {least_byte >> 20}"
            ),
            f"ssh {machine.place} 'free -m; ps -eo rss,args --sort=-rss | head'",
        )
    return list(found.values())


def _judge_cgroups(kubeadm: Kubeadm, machine: Machine, seen: MachineFacts) -> list[Problem]:
    if not seen.cgroup:
        return []
    asked, is_v2 = parse_version(kubeadm.kubernetes), seen.cgroup == CGROUP_V2
    if not is_v2 and asked.series >= FIRST_WITHOUT_CGROUP_V1 and kubeadm.kubelet.get("failCgroupV1") is not False:
        cause = f"it has cgroup v1, on which the kubelet of Kubernetes {asked} does not start"
        remedy = (
            f"boot it with systemd.unified_cgroup_hierarchy=1 (ssh {machine.place} cat /proc/cmdline), or in lab.yaml: "
            "kubeadm: {kubelet: {failCgroupV1: false}}, or an older kubeadm.kubernetes"
        )
        return [(cause, remedy)]
    if is_v2 and seen.containerd is not None and seen.containerd.series < (1, 4):
        return [
            (
                f"it has cgroup v2, which containerd {seen.containerd} does not support",
                "containerd 1.4 or later, or boot it with systemd.unified_cgroup_hierarchy=0",
            )
        ]
    return []


def _judge_versions(kubeadm: Kubeadm, seen: MachineFacts) -> list[Problem]:
    asked, found = parse_version(kubeadm.kubernetes), list[Problem]()
    source = kubeadm.package_source
    installed = seen.installed
    if seen.containerd is not None and (problem := cri_problem(asked, seen.containerd)):
        found.append((problem, "another containerd on the machine, or another kubeadm.kubernetes"))
    if source is PackageSource.INSTALLED:
        forgiven = kubeadm.ignore_preflight_errors
        # labctl itself finds the pods by crictl; kubeadm wants the others.
        lacks = [tool for tool in seen.lacks if tool == "crictl" or f"FileExisting-{tool}" not in forgiven]
        if lacks:
            waived = ", ".join(("Swap", *(f"FileExisting-{tool}" for tool in lacks if tool != "crictl")))
            also = f", or kubeadm.ignorePreflightErrors: [{waived}]" if "crictl" not in lacks else ""
            found.append(
                (f"downloading is disabled, and it lacks {' and '.join(lacks)}", f"install them by hand{also}")
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
                    f"downloading is disabled, and it lacks {' and '.join(missing)}",
                    "install them by hand, or packages.source: bundle with the files in packages.bundle",
                )
            )
    elif (
        source in (PackageSource.AUTO, PackageSource.REPOSITORY)
        and not kubeadm.packages.repository
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
    """A kubelet before 1.23 speaks CRI v1alpha2 only, which containerd 2 lacks; one since 1.26 speaks v1 only, which
    came with containerd 1.6."""
    if kubernetes.series < (1, 23) and containerd.series >= (2, 0):
        return f"containerd {containerd} does not work with the kubelet of Kubernetes {kubernetes} (CRI v1alpha2)"
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


def refuse_obstacles(settings: KubeadmSettings, seen: Iterable[MachineFacts]) -> None:
    """Raises StepFailed that names every obstacle with its machine."""
    obstacles = judge_survey(settings, seen)
    if not obstacles:
        return
    address = {machine.node: machine.address for machine in settings.machines}
    raise StepFailed(
        what=f"{len({o.node for o in obstacles})} of {len(settings.machines)} machines cannot be used as they are",
        cause="\n".join(f"{o.node} ({address[o.node]}): {o.cause}" for o in obstacles),
        remedy="\n".join(dict.fromkeys(o.remedy for o in obstacles)),
    )
