"""A lab as a plan for machines: which steps, in which order. Pure.

Steps have no undo of their own: what was built on machines stays when a later step fails, `labctl up` continues from
there, and `labctl down` puts the machines back as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from labctl.model.plan import Action, Plan, Step
from labctl.model.sections import MachineSource
from labctl.providers.cilium.commands import WriteFile
from labctl.providers.cilium.compatibility import has_cilium
from labctl.providers.cilium.waiting import WaitForNodes, WaitForPods
from labctl.providers.cilium.workloads import CONTAINER, LAB_LABEL, nodes_with_helper, workloads
from labctl.providers.kubeadm import by_hand
from labctl.providers.kubeadm.actions import (
    FetchKubeconfig,
    MakeMachines,
    Play,
    RemovePods,
    RenderCilium,
    Survey,
)
from labctl.providers.kubeadm.inventory import variables
from labctl.providers.kubeadm.settings import KubeadmSettings

_KERNELS = ("/proc", "/sys", "/dev")
_CLUSTERS = ("/etc/cni", "/etc/kubernetes", "/var/lib/kubelet", "/var/lib/cni", "/opt/cni")
READY_S = 300.0
"""How long agents, nodes and pods may take until they are ready."""


def plan_lab(settings: KubeadmSettings) -> Plan:
    machines = settings.machines
    count = "1 machine" if len(machines) == 1 else f"{len(machines)} machines"
    values = play_variables(settings)
    steps = [
        Step(id="look", title=f"{count}: reached over SSH and inspected", actions=(_survey(settings),)),
        *_render(settings),
        Step(
            id="prepare",
            title=f"{count}: kernel, packages, containerd",
            actions=(Play(playbook="prepare", by_hand=by_hand.prepare(settings), variables=values),),
        ),
        Step(
            id="control-plane",
            title=f"{settings.control_plane.node}: Kubernetes {settings.kubernetes} {with_or_without(settings)}",
            actions=(
                Play(playbook="control-plane", by_hand=by_hand.control_plane(settings), variables=values),
                FetchKubeconfig(
                    place=settings.control_plane.place,
                    path=settings.files.kubeconfig,
                    is_root=settings.control_plane.user == "root",
                ),
            ),
        ),
        Step(
            id="join",
            title=f"{', '.join(m.node for m in machines[1:])}: join",
            actions=(Play(playbook="join", by_hand=by_hand.join(settings), variables=values),),
        ),
        _cilium(settings) if has_cilium(settings.lab) else _network(settings),
        pods_step(settings),
    ]
    if len(machines) == 1:
        steps = [step for step in steps if step.id != "join"]
    if settings.kubeadm.machines is MachineSource.VAGRANT:
        steps.insert(0, _vagrant(settings, count))
    return Plan(
        lab=settings.lab.name,
        provider="kubeadm",
        steps=tuple(steps),
        preamble=_preamble(settings),
        is_resumable=True,
    )


def with_or_without(settings: KubeadmSettings) -> str:
    if settings.lab.datapath.kube_proxy_replacement:
        return "without kube-proxy"
    return f"with kube-proxy in {settings.lab.datapath.kube_proxy} mode"


def plan_switch(before: KubeadmSettings, after: KubeadmSettings) -> Plan:
    """From one datapath to another on the cluster that is there: Cilium again, then the pods again; of another network
    there is nothing to switch."""
    remove = after.kubectl(
        "--namespace", after.namespace, "delete", "pods", "--selector", LAB_LABEL, "--wait", "--timeout=120s"
    )
    gone = RemovePods(argv=remove, place=after.control_plane.place)
    if has_cilium(after.lab):
        title = f"Cilium: {before.mode} → {after.mode}"
        switch = Step(id="switch", title=title, actions=(*_cilium(after).actions, gone))
    else:
        title = f"{after.mode} stays: there is nothing of Cilium to switch, pods are made again"
        switch = Step(id="switch", title=title, actions=(gone,))
    return Plan(
        lab=after.lab.name, provider="kubeadm", steps=(*_render(after), switch, pods_step(after)), is_resumable=True
    )


def play_variables(settings: KubeadmSettings, family: str = "Debian") -> dict[str, Any]:
    """What the playbooks read. The family decides the form of the vendor's repository."""
    found = variables(settings.lab, settings.kubeadm, settings.machines, settings.cilium_version, family)
    is_cilium, manifest = has_cilium(settings.lab), settings.manifest
    found["labctl"] |= {
        "cilium_manifest": str(settings.files.rendered) if is_cilium else "",
        "network_manifest": "" if is_cilium else str(settings.files.rendered),
        "pods_manifest": str(settings.files.workloads),
        "namespace": settings.namespace,
        "images": list(settings.images),
        "cni_directory": settings.cni_directory,
    }
    remember = found["labctl"]["remember"]
    if settings.cni_directory:
        remember["directories"] = list(dict.fromkeys((*remember["directories"], settings.cni_directory)))
    if manifest is not None:
        remember["network"] = {"paths": [path for path in manifest.host_paths if _is_its_own(path, settings)]}
    return found


def _is_its_own(path: str, settings: KubeadmSettings) -> bool:
    """Whether that path of a machine, where it was not there, is the network's alone: not the kernel's, the cluster's
    or the container runtime's, and no folder at the top."""
    place = PurePosixPath(path)
    runtimes = str(PurePosixPath(settings.kubeadm.runtime.socket).parent)
    others = (*_KERNELS, *_CLUSTERS, runtimes, *filter(None, (settings.cni_directory,)))
    is_plain = len(place.parts) > 2 and ".." not in place.parts
    return is_plain and not any(place.is_relative_to(other) for other in others)


def _survey(settings: KubeadmSettings) -> Survey:
    return Survey(machines=tuple(machine.place for machine in settings.machines))


def _vagrant(settings: KubeadmSettings, count: str) -> Step:
    vagrant = settings.kubeadm.vagrant
    return Step(
        id="machines",
        title=f"{count}: {vagrant.box} by Vagrant ({vagrant.provider})",
        actions=(
            MakeMachines(
                lab=settings.lab.name,
                scenario=settings.lab.source,
                nodes=len(settings.machines),
                provider=str(vagrant.provider),
            ),
        ),
    )


def _render(settings: KubeadmSettings) -> Iterator[Step]:
    """Nothing where there is no Cilium."""
    files = settings.files
    if not has_cilium(settings.lab):
        return
    yield Step(
        id="chart",
        title=f"Cilium {settings.cilium_version} rendered for {settings.mode} and verified",
        actions=(
            RenderCilium(
                values=settings.values_text,
                pull=settings.argv_pull,
                argv=settings.argv_render,
                output=files.rendered,
                values_path=files.values,
                chart=settings.chart,
                wanted=settings.wanted,
                user_values=settings.user_values,
            ),
        ),
    )


def _network(settings: KubeadmSettings) -> Step:
    """Another network than Cilium: what was read of its manifest is applied as the cluster's administrator. A node is
    Ready once it has a network."""
    manifest = settings.manifest
    written = () if manifest is None else (manifest.written(settings.files.rendered),)
    workloads = () if manifest is None else manifest.workloads
    names = ", ".join(one.shown for one in workloads) or "no DaemonSet, no Deployment"
    then = ("wait", "--for", "condition=Ready", "nodes", "--all", "--timeout", "300s")
    return Step(
        id="network",
        title=f"{settings.network_in_words} on every node ({names})",
        actions=(
            *written,
            Play(
                playbook="network",
                by_hand=by_hand.apply(settings, settings.files.rendered, then),
                variables=play_variables(settings),
                waits=(WaitForNodes(kubectl=settings.kubectl(), count=len(settings.machines), timeout_s=READY_S),),
            ),
        ),
    )


def _cilium(settings: KubeadmSettings) -> Step:
    then = ("--namespace", "kube-system", "rollout", "status", "daemonset/cilium", "--timeout", "300s")
    return Step(
        id="cilium",
        title=f"Cilium {settings.cilium_version} on every node",
        actions=(
            Play(
                playbook="cilium",
                by_hand=by_hand.apply(settings, settings.files.rendered, then),
                variables=play_variables(settings),
                waits=_cilium_waits(settings),
            ),
        ),
    )


def _cilium_waits(settings: KubeadmSettings) -> tuple[WaitForPods | WaitForNodes, ...]:
    kubectl, count = settings.kubectl(), len(settings.machines)
    return (
        WaitForPods(
            kubectl=kubectl, namespace="kube-system", selector="k8s-app=cilium", count=count, what="Cilium agents",
            timeout_s=READY_S, daemonset="cilium",
        ),
        WaitForPods(
            kubectl=kubectl, namespace="kube-system", selector="name=cilium-operator", count=1,
            what="the Cilium operator", timeout_s=READY_S,
        ),
        WaitForNodes(kubectl=kubectl, count=count, timeout_s=READY_S),
    )  # fmt: skip


def pods_step(settings: KubeadmSettings) -> Step:
    then = ("--namespace", settings.namespace, "wait", "--for", "condition=Ready", "pods", "--all", "--timeout", "300s")
    actions: list[Action] = [
        WriteFile(path=settings.files.workloads, text=workloads(settings)),
        Play(
            playbook="pods",
            by_hand=by_hand.apply(settings, settings.files.workloads, then),
            variables=play_variables(settings),
            waits=(
                WaitForPods(
                    kubectl=settings.kubectl(),
                    namespace=settings.namespace,
                    selector=LAB_LABEL,
                    count=len(settings.lab.pods) + len(nodes_with_helper(settings)),
                    what=f"pods ({CONTAINER} image {settings.tools_image})",
                    timeout_s=READY_S,
                ),
            ),
        ),
    ]
    return Step(
        id="pods", title=f"{len(settings.lab.pods)} pods, and a helper on each of their nodes", actions=tuple(actions)
    )


def _preamble(settings: KubeadmSettings) -> str:
    lines = [
        "# Run it on a host that reaches every machine by SSH and has helm. Each block between ON_THE_MACHINE lines",
        "# can also be typed on the machine itself, as root. labctl does the same with the playbooks in playbooks/,",
        "# with kubeadm's settings in a file instead of on its command line.",
        "umask 077",
    ]
    if all(machine.address == machine.node for machine in settings.machines):
        lines.insert(0, "# lab.yaml lists no machines yet: node1, node2, … stand for their addresses.")
    return "\n".join(lines)
