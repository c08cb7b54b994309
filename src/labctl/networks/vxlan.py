"""One Ethernet over all nodes, made by hand: a bridge a node, whose port to the others is a vxlan device. Pure.

Pods ask each other by ARP as on one wire. Point to point, every node has an entry for each other one that what it does
not know goes to; by multicast, it goes to a group that all nodes joined. Where an address is, the devices learn from
what comes. With EVPN they learn nothing: FRR tells the other nodes, by BGP and a route reflector, which MACs are behind
it (type-2 routes) and that it wants what is sent to all (type-3).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

from labctl.fabrics.base import NodeObjects
from labctl.fabrics.bridge import reflector_address
from labctl.fabrics.frr import evpn_daemons
from labctl.model.interfaces import POD_BRIDGE_INDEX, TUNNEL_INDEX, UPLINK, UPLINK_INDEX
from labctl.model.lab import Lab, Node, Pair, Placement, Pod
from labctl.model.pod_network import Flooding
from labctl.model.signature import ExpectedSignature, Role
from labctl.model.ways import ExpectedRoute, ExpectedTunnel, Told
from labctl.names import namespace_of
from labctl.networks.carried import CarriedNetwork, NodeDevices, tunnelled_ways
from labctl.networks.flannel import bridged
from labctl.networks.way import Row, expected_from, frame, in_envelope
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.daemon import FrrStart, TunnelsAwait
from labctl.providers.netns.kinds.link import Tunnel, TunnelAdd
from labctl.providers.netns.kinds.routing import ANY_MAC, TunnelEntryAdd

SOURCE = "what the Linux kernel's bridge and vxlan devices do, seen on this kernel"
PORT = 4789
"""The port that IANA gave to VXLAN; Cilium and Flannel keep the older one of Linux, 8472."""
DEFAULT_VNI = {Flooding.P2P: 5, Flooding.MULTICAST: 6, Flooding.EVPN: 7}
DEFAULT_GROUP = IPv4Address("239.1.1.1")
BRIDGE = "br0"


class VxlanNetwork(CarriedNetwork):
    """`PodNetwork` of the seam."""

    title = "vxlan devices by hand:"
    remark = "The kernel's own bridge and vxlan devices, as one would set them up by hand."

    def __init__(self, *, mode: Flooding, vni: int | None, group: IPv4Address | None) -> None:
        self._mode, self._vni = mode, vni or DEFAULT_VNI[mode]
        self._group = group or DEFAULT_GROUP
        self.learning_s = 1.0 if mode is Flooding.EVPN else 0.0  # a node sees the MAC, then BGP tells the others
        self.devices = NodeDevices(bridge=BRIDGE, tunnel=f"vxlan{self._vni}")

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        namespace, tunnel = namespace_of(lab.name, node.name), self.devices.tunnel
        bridge, address = self.bridge(lab, node, self._on_wire(lab, node.router))
        by_group = self._mode is Flooding.MULTICAST
        device = TunnelAdd(
            namespace=namespace,
            device=self.device(lab, node.name, tunnel, TUNNEL_INDEX),
            tunnel=Tunnel(
                vni=self._vni,
                port=PORT,
                local=node.address.ip,
                link=UPLINK_INDEX,
                remote=self._group if by_group else None,
                learning=self._mode is not Flooding.EVPN,
            ),
            lower=UPLINK,
            bridge=(BRIDGE, POD_BRIDGE_INDEX),
        )
        is_told = self._mode is Flooding.P2P
        others = tuple(other for other in lab.nodes if other is not node) if is_told else ()
        return NodeObjects(
            says=f"{BRIDGE} with the port {tunnel}, VNI {self._vni}, "
            + (f"group {self._group}" if by_group else "to every other node" if is_told else "by EVPN"),
            links=(bridge, device),
            addresses=(address,),
            neighbours=tuple(
                TunnelEntryAdd(
                    namespace=namespace, device=tunnel, index=TUNNEL_INDEX, mac=ANY_MAC, node=other.address.ip
                )
                for other in others
            ),
        )

    def daemons(self, lab: Lab) -> Iterator[Object]:
        if self._mode is not Flooding.EVPN:
            return
        for router in lab.routers:
            clients = tuple(node.address.ip for node in lab.nodes)
            daemons = evpn_daemons(lab, router.name, reflector_address(lab), reflects_to=clients)
            yield FrrStart(namespace=namespace_of(lab.name, router.name), daemons=daemons)
        for node in lab.nodes:
            daemons = evpn_daemons(lab, node.name, node.address.ip)
            yield FrrStart(namespace=namespace_of(lab.name, node.name), daemons=daemons)

    def learned(self, lab: Lab) -> Iterator[Object]:
        """Every node floods to every other one."""
        if self._mode is not Flooding.EVPN:
            return
        for node in lab.nodes:
            others = tuple(other.address.ip for other in lab.nodes if other is not node)
            yield TunnelsAwait(
                namespace=namespace_of(lab.name, node.name),
                device=self.devices.tunnel,
                index=TUNNEL_INDEX,
                nodes=others,
            )

    def pod(self, lab: Lab, node: Node, pod: Pod, index: int) -> Iterator[Object]:
        """Its address is in the range of all pods: every other one is on the same wire."""
        yield from self.veth(lab, node, pod, index, bridge=(BRIDGE, POD_BRIDGE_INDEX))
        yield from self.addressed(lab, pod, self._on_wire(lab, pod.address))

    def _on_wire(self, lab: Lab, address: IPv4Address) -> IPv4Interface:
        return IPv4Interface(f"{address}/{lab.network.pod_cidr.prefixlen}")

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        return ()

    def tunnels(self, lab: Lab, pair: Pair) -> tuple[ExpectedTunnel, ...]:
        told = Told.BGP if self._mode is Flooding.EVPN else Told.LEARNED
        return tunnelled_ways(lab, pair, self.devices.tunnel, told)

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        crosses = pair.placement is Placement.CROSS_NODE
        return expected_from(
            _switched(self._vni) if crosses else bridged(self.devices),
            placement=pair.placement,
            encapsulation=lab.datapath.encapsulation,
            packets=packets,
            source=SOURCE,
        )


def _switched(vni: int) -> tuple[Row, ...]:
    """From pod to pod by their MACs: no hop is counted on the way."""
    sent = frame(64, Role.CLIENT_ETH0, Role.SERVER_ETH0)
    wrapped = in_envelope(sent, vni=vni, port=PORT)
    return (
        (Role.CLIENT_ETH0, sent),
        (Role.CLIENT_VETH, sent),
        (Role.CLIENT_BRIDGE, sent),
        (Role.CLIENT_TUNNEL, sent),
        (Role.CLIENT_UPLINK, wrapped),
        (Role.CLIENT_LO, None),
        (Role.SERVER_LO, None),
        (Role.SERVER_UPLINK, wrapped),
        (Role.SERVER_TUNNEL, sent),
        (Role.SERVER_BRIDGE, sent),
        (Role.SERVER_VETH, sent),
        (Role.SERVER_ETH0, sent),
    )
