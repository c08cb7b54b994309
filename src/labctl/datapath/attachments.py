"""Which program is attached to which device and hook of a node. Pure; attaching is done by `providers/netns`."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.datapath.layout import Program
from labctl.model.datapath import Encapsulation
from labctl.model.interfaces import (
    CILIUM_HOST,
    CILIUM_HOST_INDEX,
    CILIUM_NET,
    CILIUM_NET_INDEX,
    CILIUM_VXLAN,
    CILIUM_VXLAN_INDEX,
    UPLINK,
    UPLINK_INDEX,
    lxc_indexes,
)
from labctl.model.lab import Lab


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One tc filter: direct-action, protocol all, priority 1, handle 1, on the clsact qdisc of the device.

    `hook` is `ingress` or `egress`; `program` is the function in the object; `filter_name` is what
    `tc filter show` prints, as Cilium names it: program, dash, device.
    """

    device: str
    ifindex: int
    hook: str
    program: str

    @property
    def filter_name(self) -> str:
        return f"{self.program}-{self.device}"


def attachments(lab: Lab, node: str) -> tuple[Attachment, ...]:
    """Every filter of that node, node devices first, then the lxc of each pod in the lab's order.

    Legacy and BPF host routing have the same list, as in Cilium: attachment does not tell the modes apart.
    """
    fixed = [
        (CILIUM_NET, CILIUM_NET_INDEX, Program.TO_HOST),
        (CILIUM_HOST, CILIUM_HOST_INDEX, Program.TO_HOST),
        (CILIUM_HOST, CILIUM_HOST_INDEX, Program.FROM_HOST),
        (UPLINK, UPLINK_INDEX, Program.FROM_NETDEV),
        (UPLINK, UPLINK_INDEX, Program.TO_NETDEV),
    ]
    if lab.datapath.encapsulation is Encapsulation.VXLAN:
        fixed += [
            (CILIUM_VXLAN, CILIUM_VXLAN_INDEX, Program.FROM_OVERLAY),
            (CILIUM_VXLAN, CILIUM_VXLAN_INDEX, Program.TO_OVERLAY),
        ]
    indexes = lxc_indexes(lab, node)
    pods = [(pod.lxc, indexes[pod.name], Program.FROM_CONTAINER) for pod in lab.pods_on(node)]
    return tuple(
        Attachment(device=device, ifindex=ifindex, hook=program.hook, program=program.function)
        for device, ifindex, program in (*fixed, *pods)
    )
