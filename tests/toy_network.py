"""A pod network that was made from CONTRIBUTING.md alone: a bridge a node, and routes between the nodes.

The conformance tests run with it in the place of the network of the scenario docker-host-routes.
"""

from __future__ import annotations

from ipaddress import IPv4Interface

from labctl.fabrics import fabric_of
from labctl.fabrics.base import NodeObjects
from labctl.model.interfaces import UPLINK, UPLINK_INDEX
from labctl.model.lab import Lab, Node, Pair, Placement
from labctl.model.signature import ExpectedSignature, Role
from labctl.names import namespace_of
from labctl.networks.carried import CarriedNetwork, NodeDevices
from labctl.networks.way import Row, expected_from, frame
from labctl.providers.netns.kinds.routing import RouteAdd

BRIDGE = "toy0"


class ToyNetwork(CarriedNetwork):
    title = "the toy's"
    remark = "A toy: a bridge on each node, and routes by hand."
    devices = NodeDevices(bridge=BRIDGE)

    def __init__(self, **choice: object) -> None:
        del choice  # it has no keys of its own

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        bridge, address = self.bridge(lab, node, IPv4Interface(f"{node.router}/{node.pod_cidr.prefixlen}"))
        routes = tuple(
            RouteAdd(
                namespace=namespace_of(lab.name, node.name), device=UPLINK, index=UPLINK_INDEX,
                destination=other.pod_cidr, gateway=gateway,
            )
            for other in lab.nodes
            if other is not node and (gateway := fabric_of(lab).next_hop(lab, node, other)) is not None
        )  # fmt: skip
        return NodeObjects(says=f"{BRIDGE} {node.router}", links=(bridge,), addresses=(address,), routes=routes)

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        rows = _ACROSS if pair.placement is Placement.CROSS_NODE else _ON_BRIDGE
        return expected_from(
            rows,
            placement=pair.placement,
            encapsulation=lab.datapath.encapsulation,
            packets=packets,
            source="the toy's",
        )


_SENT = frame(64, Role.CLIENT_ETH0, Role.CLIENT_BRIDGE)
_ON_WIRE = frame(63, Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
_DELIVERED = frame(62, Role.SERVER_BRIDGE, Role.SERVER_ETH0)
_BRIDGED = frame(64, Role.CLIENT_ETH0, Role.SERVER_ETH0)
_ACROSS: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _SENT), (Role.CLIENT_VETH, _SENT), (Role.CLIENT_BRIDGE, _SENT),
    (Role.CLIENT_UPLINK, _ON_WIRE), (Role.CLIENT_LO, None), (Role.SERVER_LO, None), (Role.SERVER_UPLINK, _ON_WIRE),
    (Role.SERVER_BRIDGE, _DELIVERED), (Role.SERVER_VETH, _DELIVERED), (Role.SERVER_ETH0, _DELIVERED),
)  # fmt: skip
_ON_BRIDGE: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _BRIDGED), (Role.CLIENT_VETH, _BRIDGED), (Role.CLIENT_BRIDGE, _BRIDGED),
    (Role.CLIENT_UPLINK, None), (Role.CLIENT_LO, None), (Role.SERVER_VETH, _BRIDGED), (Role.SERVER_ETH0, _BRIDGED),
)  # fmt: skip
