"""A cluster with Calico: pods without a wire in common, each behind a route; between nodes VXLAN or BGP. Pure.

Built as Calico does, from its documentation and source; not Calico. A pod's gateway is 169.254.1.1, which no device
has: the node's end of its veth pair answers for it (proxy ARP), with the MAC that all these ends have. What is for a
pod of the node's range that is not there is dropped (blackhole), not sent out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.fabrics.base import NodeObjects
from labctl.fabrics.frr import mesh_daemons
from labctl.model.interfaces import UPLINK, UPLINK_INDEX
from labctl.model.lab import Lab, Node, Pair, Placement, Pod
from labctl.model.pod_network import Backend
from labctl.model.signature import ExpectedSignature, Role
from labctl.model.ways import ExpectedRoute
from labctl.names import namespace_of
from labctl.networks.carried import ANYWHERE, CarriedNetwork, NodeDevices, routed_ways
from labctl.networks.netfilter import Rule, Ruleset, forward_rules
from labctl.networks.vtep import vtep_objects, ways_by_vtep
from labctl.networks.way import Row, expected_from, frame, in_envelope
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.daemon import FrrStart, RoutesAwait
from labctl.providers.netns.kinds.namespace import Sysctls
from labctl.providers.netns.kinds.routing import (
    BlackholeAdd,
    RouteAdd,
    RouteScope,
)

SOURCE = "worked out from Calico's documentation, and seen on this kernel with what labctl builds"
TUNNEL, VNI, PORT = "vxlan.calico", 4096, 4789
GATEWAY = IPv4Address("169.254.1.1")


class CalicoNetwork(CarriedNetwork):
    """`PodNetwork` of the seam."""

    title = "Calico's"
    remark = "Built as Calico builds it; not Calico."

    def __init__(self, backend: Backend) -> None:
        self._is_tunnelled = backend is Backend.VXLAN
        self.devices = NodeDevices(tunnel=TUNNEL if self._is_tunnelled else "")

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        namespace = namespace_of(lab.name, node.name)
        # Proxy ARP answers only for what the node itself has a route to, by another device than the asker's.
        answered = RouteAdd(
            namespace=namespace,
            device=UPLINK,
            index=UPLINK_INDEX,
            destination=IPv4Network(f"{GATEWAY}/32"),
            scope=RouteScope.LINK,
        )
        block = BlackholeAdd(namespace=namespace, destination=node.pod_cidr)
        if not self._is_tunnelled:
            return NodeObjects(
                says=f"a blackhole for {node.pod_cidr}, the other nodes' by BGP", routes=(block, answered)
            )
        tunnel = vtep_objects(lab, node, self, vni=VNI, port=PORT)
        return replace(
            tunnel,
            says=f"{tunnel.says}, a blackhole for {node.pod_cidr}",
            routes=(block, answered, *tunnel.routes),
        )

    def daemons(self, lab: Lab) -> Iterator[Object]:
        """Real Calico runs BIRD; here it is FRR, with the same full mesh."""
        for node in () if self._is_tunnelled else lab.nodes:
            yield FrrStart(namespace=namespace_of(lab.name, node.name), daemons=mesh_daemons(lab, node))

    def learned(self, lab: Lab) -> Iterator[Object]:
        for node in () if self._is_tunnelled else lab.nodes:
            others = tuple(other.pod_cidr for other in lab.nodes if other is not node)
            yield RoutesAwait(namespace=namespace_of(lab.name, node.name), destinations=others)

    def pod(self, lab: Lab, node: Node, pod: Pod, index: int) -> Iterator[Object]:
        on_node = namespace_of(lab.name, node.name)
        yield from self.veth(lab, node, pod, index)
        proxy = ((f"net.ipv4.conf.{pod.lxc}.proxy_arp", "1"), (f"net.ipv4.neigh.{pod.lxc}.proxy_delay", "0"))
        yield Sysctls(namespace=on_node, settings=proxy)
        here = IPv4Network(pod.address)
        yield RouteAdd(namespace=on_node, device=pod.lxc, index=index, destination=here, scope=RouteScope.LINK)
        yield from self.addressed(lab, pod, IPv4Interface(pod.address))
        route = self._on_eth0(lab, pod)
        yield route(destination=IPv4Network(GATEWAY), scope=RouteScope.LINK)
        yield route(destination=ANYWHERE, gateway=GATEWAY)

    def rules(self, lab: Lab, node: Node) -> Ruleset:
        pods = lab.network.pod_cidr

        def rule(chain: str, match: str, target: str, says: str, table: str = "filter") -> Rule:
            return Rule(table=table, chain=chain, match=match, target=target, says=says)

        return Ruleset(
            rules=(
                *forward_rules(lab),
                rule("FORWARD", "", "cali-FORWARD", "cali:FORWARD"),
                rule("cali-FORWARD", "-i cali+", "cali-from-wl-dispatch", "cali:from a pod"),
                rule("cali-FORWARD", "-o cali+", "cali-to-wl-dispatch", "cali:to a pod"),
                rule("cali-from-wl-dispatch", "", "ACCEPT", "cali:no policy, from a pod"),
                rule("cali-to-wl-dispatch", "", "ACCEPT", "cali:no policy, to a pod"),
                rule("POSTROUTING", "", "cali-POSTROUTING", "cali:POSTROUTING", "nat"),
                rule("cali-POSTROUTING", "", "cali-nat-outgoing", "cali:nat-outgoing", "nat"),
                rule("cali-nat-outgoing", f"-s {pods} ! -d {pods}", "MASQUERADE", "cali:out of the pools", "nat"),
            )
        )

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        if not self._is_tunnelled:
            return routed_ways(lab, pair)
        return ways_by_vtep(lab, pair, TUNNEL)

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        crosses = pair.placement is Placement.CROSS_NODE
        rows = (_TUNNELLED if self._is_tunnelled else _ROUTED) if crosses else _SAME_NODE
        return expected_from(
            tuple(row for row in rows if self._is_tunnelled or row[0] is not Role.CLIENT_TUNNEL),
            placement=pair.placement,
            encapsulation=lab.datapath.encapsulation,
            packets=packets,
            source=SOURCE,
            equal_macs={Role.SERVER_VETH: Role.CLIENT_VETH},
        )


_SENT = frame(64, Role.CLIENT_ETH0, Role.CLIENT_VETH)
_INNER = frame(63, Role.CLIENT_TUNNEL, Role.SERVER_TUNNEL)
_WRAPPED = in_envelope(_INNER, vni=VNI, port=PORT)
_TO_SERVER = frame(62, Role.SERVER_VETH, Role.SERVER_ETH0)
_TO_NEIGHBOUR = frame(63, Role.SERVER_VETH, Role.SERVER_ETH0)

_TUNNELLED: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _SENT),
    (Role.CLIENT_VETH, _SENT),
    (Role.CLIENT_TUNNEL, _INNER),
    (Role.CLIENT_UPLINK, _WRAPPED),
    (Role.CLIENT_LO, None),
    (Role.SERVER_LO, None),
    (Role.SERVER_UPLINK, _WRAPPED),
    (Role.SERVER_TUNNEL, _INNER),
    (Role.SERVER_VETH, _TO_SERVER),
    (Role.SERVER_ETH0, _TO_SERVER),
)
_ON_WIRE = frame(63, Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
_ROUTED: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _SENT),
    (Role.CLIENT_VETH, _SENT),
    (Role.CLIENT_UPLINK, _ON_WIRE),
    (Role.CLIENT_LO, None),
    (Role.SERVER_LO, None),
    (Role.SERVER_UPLINK, _ON_WIRE),
    (Role.SERVER_VETH, _TO_SERVER),
    (Role.SERVER_ETH0, _TO_SERVER),
)
_SAME_NODE: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _SENT),
    (Role.CLIENT_VETH, _SENT),
    (Role.CLIENT_TUNNEL, None),
    (Role.CLIENT_UPLINK, None),
    (Role.CLIENT_LO, None),
    (Role.SERVER_VETH, _TO_NEIGHBOUR),
    (Role.SERVER_ETH0, _TO_NEIGHBOUR),
)
