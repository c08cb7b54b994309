"""Tunnels that nodes route by, as Flannel and Calico set them: one vxlan device a node with an address of its own, and
for each other node a route by that node's address, its neighbour entry and its FDB entry, all of them set. Pure.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

from labctl.fabrics.base import NodeObjects
from labctl.model.interfaces import TUNNEL_INDEX, UPLINK, UPLINK_INDEX, device_mac
from labctl.model.lab import Lab, Node, Pair
from labctl.model.ways import ExpectedRoute
from labctl.names import namespace_of
from labctl.networks.carried import CarriedNetwork, ends_of
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.link import Tunnel, TunnelAdd
from labctl.providers.netns.kinds.routing import AddressAdd, NeighbourAdd, RouteAdd, TunnelEntryAdd


def vtep_address(node: Node) -> IPv4Address:
    """Both give the tunnel's device the first address of the node's range of pods."""
    return node.pod_cidr.network_address


def vtep_objects(lab: Lab, node: Node, network: CarriedNetwork, *, vni: int, port: int) -> NodeObjects:
    """The tunnel of the network on a node, and the ways to all other nodes' pods by it."""
    namespace, tunnel = namespace_of(lab.name, node.name), network.devices.tunnel
    others = tuple(other for other in lab.nodes if other is not node)
    return NodeObjects(
        says=f"{tunnel} {vtep_address(node)}, tunnels to the other nodes",
        links=(
            TunnelAdd(
                namespace=namespace,
                device=network.device(lab, node.name, tunnel, TUNNEL_INDEX),
                tunnel=Tunnel(vni=vni, port=port, local=node.address.ip, link=UPLINK_INDEX),
                lower=UPLINK,
            ),
        ),
        addresses=(
            AddressAdd(
                namespace=namespace,
                device=tunnel,
                index=TUNNEL_INDEX,
                address=IPv4Interface(f"{vtep_address(node)}/32"),
            ),
        ),
        routes=tuple(
            RouteAdd(
                namespace=namespace,
                device=tunnel,
                index=TUNNEL_INDEX,
                destination=other.pod_cidr,
                gateway=vtep_address(other),
                onlink=True,
            )
            for other in others
        ),
        neighbours=tuple(entry for other in others for entry in _to(namespace, tunnel, other)),
    )


def _to(namespace: str, tunnel: str, other: Node) -> tuple[Object, ...]:
    mac = device_mac(other.name, tunnel)
    return (
        NeighbourAdd(namespace=namespace, device=tunnel, index=TUNNEL_INDEX, address=vtep_address(other), mac=mac),
        TunnelEntryAdd(namespace=namespace, device=tunnel, index=TUNNEL_INDEX, mac=mac, node=other.address.ip),
    )


def ways_by_vtep(lab: Lab, pair: Pair, tunnel: str) -> tuple[ExpectedRoute, ...]:
    return tuple(
        ExpectedRoute(
            part=node.name, destination=other.pod_cidr, next_hops=frozenset({vtep_address(other)}), device=tunnel
        )
        for node, other in ends_of(lab, pair)
    )
