"""A running lab on machines, opened: pods and nodes reached over SSH, by `nsenter` into pods' namespaces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from labctl.errors import MeasureFailed
from labctl.json_text import parse_json
from labctl.model.sections import DEVICE_PATTERN
from labctl.providers.base import ClockOffset, OpenLab, TargetKind
from labctl.providers.cilium.commands import shown
from labctl.providers.cilium.compatibility import has_cilium
from labctl.providers.cilium.foreign import open_foreign
from labctl.providers.cilium.open import OpenCiliumLab, open_lab
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.providers.cilium.workloads import CONTAINER, PodState, helper_name, nodes_with_helper
from labctl.providers.kubeadm.settings import KubeadmSettings
from labctl.providers.kubeadm.ssh import Fleet
from labctl.providers.kubeadm.survey import measure
from labctl.values import dataclass

_ASK_S = 30.0
_DEVICE = re.compile(DEVICE_PATTERN)
_NAMESPACES = ("--mount", "--net", "--uts", "--ipc", "--pid", "--root", "--wd")


def argv_container(pod: str, namespace: str, container: str) -> tuple[str, ...]:
    """The container's id, as crictl lists it by the labels that the kubelet gives."""
    return (
        "crictl", "ps", "--quiet", "--state", "Running",
        "--label", f"io.kubernetes.pod.name={pod}",
        "--label", f"io.kubernetes.pod.namespace={namespace}",
        "--label", f"io.kubernetes.container.name={container}",
    )  # fmt: skip


def argv_inspect(container: str) -> tuple[str, ...]:
    return ("crictl", "inspect", "--output", "json", container)


def parse_pid(text: str) -> int:
    """The container's first process, from `crictl inspect`. Raises MeasureFailed."""
    try:
        return int(parse_json(text)["info"]["pid"])
    except (ValueError, KeyError, TypeError) as failed:
        raise MeasureFailed(what="crictl does not report the container's process", cause=text.strip()[:200]) from failed


def door_into(pid: int) -> Door:
    """Into all namespaces of a container but the user's: its programs, its files, its network."""
    words = ("nsenter", f"--target={pid}", *_NAMESPACES, "--")
    return Door(closed=words, open=words)


@dataclass(frozen=True, slots=True)
class SshWays:
    """How to get into the nodes and pods of this lab (`providers.cilium.open.Ways`)."""

    settings: KubeadmSettings
    fleet: Fleet

    def node(self, node: str) -> DoorTarget:
        return DoorTarget(
            name=node, kind=TargetKind.NODE, commands=self.fleet[node], door=Door(closed=(), open=()),
        )  # fmt: skip

    def pod(self, pod: PodState, node: str) -> DoorTarget:
        return self._into(pod.name, node, pod.name, TargetKind.POD)

    def capture(self, node: DoorTarget) -> DoorTarget:
        """On the machine itself if it has tcpdump, else in the helper pod, which shares the node's network. A node
        without pods of the lab has no helper, and nothing is captured there."""
        if node.name not in nodes_with_helper(self.settings) or self.fleet[node.name].find("tcpdump"):
            return node
        return self._into(helper_name(node.name), node.name, node.name, TargetKind.NODE)

    def _into(self, pod: str, node: str, name: str, kind: TargetKind) -> DoorTarget:
        commands = self.fleet[node]
        argv = argv_container(pod, self.settings.namespace, CONTAINER)
        listed = commands.run(argv, timeout_s=_ASK_S).text.split()
        if not listed:
            raise MeasureFailed(
                what=f"pod {pod} has no running container on {node}",
                remedy=shown(commands, ("crictl", "pods", "--name", pod)),
            )
        pid = parse_pid(commands.run(argv_inspect(listed[0]), timeout_s=_ASK_S).text)
        return DoorTarget(name=name, kind=kind, commands=commands, door=door_into(pid))


def uplinks(settings: KubeadmSettings, fleet: Fleet) -> dict[str, str]:
    """The device on each machine that carries its cluster address, found on the machine."""
    found = {}
    for machine in settings.machines:
        address = machine.cluster_address
        done = fleet[machine.node].run(("ip", "-json", "-4", "address", "show"), timeout_s=_ASK_S)
        found[machine.node] = machine.interface or device_of(done.text, address)
    return {node: device for node, device in found.items() if device}


def device_of(text: str, address: str) -> str:
    """The device with that address in `ip -json address`; empty when none has it, or when what is said there is no
    device's name."""
    try:
        links = parse_json(text)
        named = next(
            str(link["ifname"])
            for link in links
            if any(entry.get("local") == address for entry in link.get("addr_info") or ())
        )
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return ""
    return named if _DEVICE.fullmatch(named) else ""


class OpenMachinesLab(OpenCiliumLab):
    """With clocks of its own on every node (`OpenLab.clock_offsets`)."""

    def __init__(self, opened: OpenCiliumLab, fleet: Fleet) -> None:
        super().__init__(
            opened._settings, opened._lab, opened._facts, opened._targets, opened._capture, opened._agents,
            fleet.own_traffic(),
        )  # fmt: skip
        self._fleet = fleet

    def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
        return tuple(measure(node, self._fleet[node]) for node in nodes)


@contextmanager
def opened(settings: KubeadmSettings) -> Iterator[OpenLab]:
    with Fleet(settings.machines) as fleet:
        known = replace(settings, uplinks=uplinks(settings, fleet))
        fleet.end_strays()
        ways = SshWays(known, fleet)
        if has_cilium(known.lab):
            yield OpenMachinesLab(open_lab(known, fleet.control_plane, ways), fleet)
            return
        yield open_foreign(
            known, fleet.control_plane, ways, clock=lambda node: measure(node, fleet[node]),
            own_traffic=fleet.own_traffic(),
        )  # fmt: skip
