"""The fabric `bridge`: every node is attached to one bridge, the wire between them, in its own namespace. Pure.

It stands alone because every fabric is one module behind `base`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from labctl.fabrics.base import NodeObjects, TapPlace, device_of
from labctl.model import interfaces
from labctl.model.fabric import Router
from labctl.model.lab import Fault, Lab, Node, Pair, Placement
from labctl.model.signature import ExpectedSignature, Role
from labctl.names import UNDERLAY, namespace_of
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.link import BridgeAdd, LinkUp, VethAdd
from labctl.providers.netns.kinds.namespace import Sysctls
from labctl.providers.netns.kinds.routing import AddressAdd, NeighbourAdd

_BRIDGE_ONLY = (("net.bridge.bridge-nf-call-iptables", "0"),)
"""The underlay is a wire. Where br_netfilter is built in, bridged packets would walk through netfilter there too."""


class BridgeFabric:
    """`Fabric` of the seam."""

    says = "a bridge in a namespace of its own, the wire between the nodes"

    def underlay(self, lab: Lab) -> Iterable[Object]:
        namespace = namespace_of(lab.name, UNDERLAY)
        yield Sysctls(namespace=namespace, settings=_BRIDGE_ONLY, if_there=True)
        bridge = device_of(lab, UNDERLAY, interfaces.BRIDGE, interfaces.BRIDGE_INDEX)
        yield BridgeAdd(namespace=namespace, device=bridge)

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        namespace = namespace_of(lab.name, node.name)
        device, index = interfaces.UPLINK, interfaces.UPLINK_INDEX
        port = interfaces.bridge_port(node.index)
        wire = VethAdd(
            namespace=namespace_of(lab.name, UNDERLAY),
            device=device_of(lab, UNDERLAY, port, interfaces.bridge_port_index(node.index)),
            peer=device_of(lab, node.name, device, index, mac=node.mac),
            peer_namespace=namespace,
            bridge=(interfaces.BRIDGE, interfaces.BRIDGE_INDEX),
        )
        return NodeObjects(
            says=f"uplink {node.address}",
            links=(wire,),
            up=(LinkUp(namespace=namespace, device=device, index=index),),
            addresses=(AddressAdd(namespace=namespace, device=device, index=index, address=node.address),),
            neighbours=_neighbours(lab, node, namespace),
        )

    def routers(self, lab: Lab) -> Iterator[tuple[Router, Iterable[Object]]]:
        return iter(())

    def next_hop(self, lab: Lab, node: Node, other: Node) -> IPv4Address | None:
        return other.address.ip

    def daemons(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def learned(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def seen_through(self, lab: Lab, pair: Pair, expected: ExpectedSignature) -> ExpectedSignature:
        return expected

    def taps(self, lab: Lab, pair: Pair) -> tuple[TapPlace, ...]:
        if pair.placement is Placement.SAME_NODE:
            return ()
        client, server = (lab.node(lab.pod(name).node) for name in (pair.client, pair.server))
        return (
            (Role.CLIENT_BRIDGE_PORT, UNDERLAY, interfaces.bridge_port(client.index)),
            (Role.SERVER_BRIDGE_PORT, UNDERLAY, interfaces.bridge_port(server.index)),
        )


def _neighbours(lab: Lab, node: Node, namespace: str) -> Iterable[NeighbourAdd]:
    """Every other node by its MAC; with the fault, by this node's own. A frame to an unknown MAC would be flooded,
    and eBPF host routing accepts what is flooded; a frame to the sender's own MAC is forwarded to no port."""
    missing = Fault.MISSING_NEIGHBOUR in lab.datapath.faults
    for other in lab.nodes:
        if other is not node:
            yield NeighbourAdd(
                namespace=namespace,
                device=interfaces.UPLINK,
                index=interfaces.UPLINK_INDEX,
                address=other.address.ip,
                mac=node.mac if missing else other.mac,
            )
