"""Pods on the nodes' own wire: each has a macvlan or ipvlan device on its node's uplink, and no bridge. Pure.

A macvlan has a MAC of its own, an ipvlan that of the uplink. Neither reaches its own node by that device: what is sent
there goes out on the wire, by design of the kernel.

It stands alone because every pod network is one module behind `base`.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface

from labctl.fabrics.base import NodeObjects
from labctl.model.interfaces import POD_DEVICE, POD_DEVICE_INDEX, UPLINK, UPLINK_INDEX
from labctl.model.lab import Lab, Node, Pair, Placement, Pod
from labctl.model.signature import ExpectedSignature, Role
from labctl.model.ways import ExpectedRoute
from labctl.names import namespace_of
from labctl.networks.carried import CarriedNetwork
from labctl.networks.way import Row, expected_from, frame
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.link import LinkUp, SharedAdd, Sharing

SOURCE = "what the Linux kernel's macvlan and ipvlan devices do, seen on this kernel"


class SharedNetwork(CarriedNetwork):
    """`PodNetwork` of the seam."""

    remark = "The kernel's own devices, as one would set them up by hand; a pod does not reach its own node."

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self.title = f"{sharing} devices:"

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        return NodeObjects(says="shared with its pods")

    def pod(self, lab: Lab, node: Node, pod: Pod, index: int) -> Iterator[Object]:
        namespace = namespace_of(lab.name, pod.name)
        mac = pod.mac if self._sharing is Sharing.MACVLAN else node.mac
        yield SharedAdd(
            namespace=namespace_of(lab.name, node.name),
            lower=(UPLINK, UPLINK_INDEX),
            sharing=self._sharing,
            device=self.device(lab, pod.name, POD_DEVICE, POD_DEVICE_INDEX, mac=mac),
            inside=namespace,
        )
        yield LinkUp(namespace=namespace, device=POD_DEVICE, index=POD_DEVICE_INDEX)
        yield from self.addressed(lab, pod, IPv4Interface(f"{pod.address}/{lab.network.pod_cidr.prefixlen}"))

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        return ()

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        return expected_from(
            ON_WIRE if pair.placement is Placement.CROSS_NODE else ON_UPLINK,
            placement=pair.placement,
            encapsulation=lab.datapath.encapsulation,
            packets=packets,
            source=SOURCE,
        )


_SENT = frame(64, Role.CLIENT_ETH0, Role.SERVER_ETH0)
ON_WIRE: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _SENT),
    (Role.CLIENT_UPLINK, _SENT),
    (Role.CLIENT_LO, None),
    (Role.SERVER_LO, None),
    (Role.SERVER_UPLINK, _SENT),
    (Role.SERVER_ETH0, _SENT),
)
ON_UPLINK: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _SENT),
    (Role.CLIENT_UPLINK, _SENT),
    (Role.CLIENT_LO, None),
    (Role.SERVER_ETH0, _SENT),
)
"""The uplink's taps see it, though it does not leave the node."""
