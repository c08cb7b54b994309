"""Into the pods and nodes of a kind lab: `kubectl exec` into pods, `docker exec` into nodes."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.model.sections_kind import Capture
from labctl.providers.base import TargetKind
from labctl.providers.cilium.pods import PodState
from labctl.providers.cilium.targets import Door, DoorTarget, pod_door
from labctl.providers.cilium.workloads import CONTAINER, helper_name
from labctl.providers.kind.settings import Settings
from labctl.providers.kind.tools import Commands

_ASK_S = 60.0


def node_door(engine: str, container: str) -> Door:
    return Door(closed=(engine, "exec", container), open=(engine, "exec", "-i", container))


@dataclass(frozen=True, slots=True, kw_only=True)
class KindWays:
    """`Ways` of `providers/cilium/open.py`."""

    settings: Settings
    engine: str
    commands: Commands

    def node(self, node: str) -> DoorTarget:
        return DoorTarget(
            name=node,
            kind=TargetKind.NODE,
            door=node_door(self.engine, self.settings.nodes[node]),
            commands=self.commands,
        )

    def pod(self, pod: PodState, node: str) -> DoorTarget:
        return DoorTarget(name=pod.name, kind=TargetKind.POD, door=self._door(pod.name), commands=self.commands)

    def capture(self, node: DoorTarget) -> DoorTarget:
        """Where tcpdump sees the node's devices: the node's container if it has tcpdump, else the helper pod, which
        shares the node's network namespace."""
        helper = DoorTarget(
            name=node.name, kind=TargetKind.NODE, door=self._door(helper_name(node.name)), commands=self.commands
        )
        if self.settings.cluster.capture is Capture.POD:
            return helper
        if self.settings.cluster.capture is Capture.NODE:
            return node
        has = node.run(("sh", "-c", "command -v tcpdump"), timeout_s=_ASK_S)
        return node if has.returncode == 0 else helper

    def _door(self, pod: str) -> Door:
        return pod_door(self.settings.kubectl(), self.settings.namespace, pod, CONTAINER)
