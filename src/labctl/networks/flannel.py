"""A cluster with Flannel: pods on a bridge, `cni0`; between nodes VXLAN (`flannel.1`), or plain routes (host-gw). Pure.

Built as Flannel does, from its documentation and source; not Flannel. With vxlan every node has one route, one
neighbour and one entry of the tunnel's forwarding database for each other node, all permanent: nothing is learned, and
no ARP crosses the tunnel.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface

from labctl.fabrics.base import NodeObjects
from labctl.model import interfaces
from labctl.model.lab import Lab, Node, Pair, Placement
from labctl.model.pod_network import Backend
from labctl.model.signature import ExpectedSignature, Role
from labctl.model.ways import ExpectedRoute
from labctl.networks.carried import CarriedNetwork, NodeDevices, routed_ways, routes_by_uplink
from labctl.networks.netfilter import Rule, Ruleset, forward_rules
from labctl.networks.vtep import vtep_objects, ways_by_vtep
from labctl.networks.way import Row, expected_from, frame, in_envelope

SOURCE = "worked out from Flannel's documentation, and seen on this kernel with what labctl builds"
BRIDGE, TUNNEL, VNI = "cni0", "flannel.1", 1


class FlannelNetwork(CarriedNetwork):
    """`PodNetwork` of the seam."""

    title = "Flannel's"
    remark = "Built as Flannel builds it; not Flannel."

    def __init__(self, backend: Backend) -> None:
        self._is_tunnelled = backend is Backend.VXLAN
        self.devices = NodeDevices(bridge=BRIDGE, tunnel=TUNNEL if self._is_tunnelled else "")

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        bridge, address = self.bridge(lab, node, IPv4Interface(f"{node.router}/{node.pod_cidr.prefixlen}"))
        if not self._is_tunnelled:
            return NodeObjects(
                says=f"{BRIDGE} {node.router}, routes by the other nodes",
                links=(bridge,),
                addresses=(address,),
                routes=routes_by_uplink(lab, node),
            )
        tunnel = vtep_objects(lab, node, self, vni=VNI, port=interfaces.VXLAN_PORT)
        return replace(
            tunnel,
            says=f"{BRIDGE} {node.router}, {tunnel.says}",
            links=(bridge, *tunnel.links),
            addresses=(address, *tunnel.addresses),
        )

    def rules(self, lab: Lab, node: Node) -> Ruleset:
        pods, here = lab.network.pod_cidr, node.pod_cidr

        def rule(chain: str, match: str, target: str, says: str, table: str = "nat") -> Rule:
            return Rule(table=table, chain=chain, match=match, target=target, says=says)

        return Ruleset(
            rules=(
                *forward_rules(lab),
                rule("FORWARD", "", "FLANNEL-FWD", "flanneld forward", "filter"),
                rule("FLANNEL-FWD", f"-s {pods}", "ACCEPT", "flanneld forward from pods", "filter"),
                rule("FLANNEL-FWD", f"-d {pods}", "ACCEPT", "flanneld forward to pods", "filter"),
                rule("POSTROUTING", "", "FLANNEL-POSTRTG", "flanneld masq"),
                rule("FLANNEL-POSTRTG", f"-s {here} -d {pods}", "RETURN", "flanneld masq: pods keep their address"),
                rule("FLANNEL-POSTRTG", f"-s {pods} -d {here}", "RETURN", "flanneld masq: pods are seen as they are"),
                rule(
                    "FLANNEL-POSTRTG", f"! -s {pods} -d {here}", "RETURN", "flanneld masq: others are seen as they are"
                ),
                rule("FLANNEL-POSTRTG", f"-s {pods} ! -d 224.0.0.0/4", "MASQUERADE", "flanneld masq: to the world"),
                rule("FLANNEL-POSTRTG", f"! -s {pods} -d {pods}", "MASQUERADE", "flanneld masq: from a node to pods"),
            )
        )

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        if not self._is_tunnelled:
            return routed_ways(lab, pair)
        return ways_by_vtep(lab, pair, TUNNEL)

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        crosses = pair.placement is Placement.CROSS_NODE
        rows = (tunnelled(VNI) if self._is_tunnelled else ROUTED) if crosses else bridged(self.devices)
        return expected_from(
            rows,
            placement=pair.placement,
            encapsulation=lab.datapath.encapsulation,
            packets=packets,
            source=SOURCE,
        )


_SENT = frame(64, Role.CLIENT_ETH0, Role.CLIENT_BRIDGE)
_ON_WIRE = frame(63, Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
_TO_SERVER = frame(62, Role.SERVER_BRIDGE, Role.SERVER_ETH0)
_BRIDGED = frame(64, Role.CLIENT_ETH0, Role.SERVER_ETH0)

ROUTED: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _SENT),
    (Role.CLIENT_VETH, _SENT),
    (Role.CLIENT_BRIDGE, _SENT),
    (Role.CLIENT_UPLINK, _ON_WIRE),
    (Role.CLIENT_LO, None),
    (Role.SERVER_LO, None),
    (Role.SERVER_UPLINK, _ON_WIRE),
    (Role.SERVER_BRIDGE, _TO_SERVER),
    (Role.SERVER_VETH, _TO_SERVER),
    (Role.SERVER_ETH0, _TO_SERVER),
)
"""From bridge to bridge by the nodes' own routes."""


def tunnelled(vni: int) -> tuple[Row, ...]:
    """From bridge to bridge through a tunnel that both nodes route by."""
    inner = frame(63, Role.CLIENT_TUNNEL, Role.SERVER_TUNNEL)
    return (
        (Role.CLIENT_ETH0, _SENT),
        (Role.CLIENT_VETH, _SENT),
        (Role.CLIENT_BRIDGE, _SENT),
        (Role.CLIENT_TUNNEL, inner),
        (Role.CLIENT_UPLINK, in_envelope(inner, vni=vni)),
        (Role.CLIENT_LO, None),
        (Role.SERVER_LO, None),
        (Role.SERVER_UPLINK, in_envelope(inner, vni=vni)),
        (Role.SERVER_TUNNEL, inner),
        (Role.SERVER_BRIDGE, _TO_SERVER),
        (Role.SERVER_VETH, _TO_SERVER),
        (Role.SERVER_ETH0, _TO_SERVER),
    )


def bridged(devices: NodeDevices) -> tuple[Row, ...]:
    """From port to port of one bridge: no hop is counted. What captures at the bridge's own device sees it, since a
    capture makes that device take up every frame."""
    tunnel: tuple[Row, ...] = ((Role.CLIENT_TUNNEL, None),) if devices.tunnel else ()
    return (
        (Role.CLIENT_ETH0, _BRIDGED),
        (Role.CLIENT_VETH, _BRIDGED),
        (Role.CLIENT_BRIDGE, _BRIDGED),
        *tunnel,
        (Role.CLIENT_UPLINK, None),
        (Role.CLIENT_LO, None),
        (Role.SERVER_VETH, _BRIDGED),
        (Role.SERVER_ETH0, _BRIDGED),
    )
