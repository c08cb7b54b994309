"""The fabric `switched`: bridges in a ring, each node on one of them, and a spanning tree that blocks one wire. Pure.

Without the protocol a broadcast would go round for ever. The bridges agree on a root (the lowest priority, the first
one's here) and block the port that closes the loop; that takes twice the forward delay, at the shortest timers that
the standard allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from labctl.fabrics.base import NodeObjects, OneWire, TapPlace, no_outside
from labctl.fabrics.routed import uplink_of
from labctl.model import interfaces
from labctl.model.fabric import LinkEnd, Router
from labctl.model.interfaces import BRIDGE_INDEX, UPLINK, UPLINK_INDEX
from labctl.model.lab import Lab, Node, Outside, Pair, Placement
from labctl.model.signature import Role
from labctl.names import namespace_of
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.link import BridgeAdd, Device, LinkUp, PortAdd, PortsAwait, SpanningTree, VethAdd
from labctl.providers.netns.kinds.namespace import Sysctls
from labctl.providers.netns.kinds.routing import AddressAdd, NeighbourAdd

BRIDGE = "switch"
HELLO, FORWARD_DELAY, MAX_AGE = 100, 200, 600
"""In hundredths of a second: the least that IEEE 802.1D-1998 allows."""
_BRIDGE_ONLY = (("net.bridge.bridge-nf-call-iptables", "0"),)


class SwitchedFabric(OneWire):
    """`Fabric` of the seam."""

    says = "nothing is in it, the nodes are joined by switches"

    def underlay(self, lab: Lab) -> Iterable[Object]:
        return ()

    def routers(self, lab: Lab) -> Iterator[tuple[Router, Iterable[Object]]]:
        """Each with its bridge, and its wires to those before it."""
        made: set[str] = set()
        for number, switch in enumerate(lab.routers):
            made.add(switch.name)
            yield switch, tuple(self._switch(lab, switch, number, made))

    def _switch(self, lab: Lab, switch: Router, number: int, made: set[str]) -> Iterator[Object]:
        namespace = namespace_of(lab.name, switch.name)
        yield Sysctls(namespace=namespace, settings=_BRIDGE_ONLY, if_there=True)
        device = Device(
            name=BRIDGE,
            index=BRIDGE_INDEX,
            mac=interfaces.device_mac(switch.name, BRIDGE),
            mtu=lab.network.mtu,
        )
        tree = SpanningTree(priority=4096 * (number + 1), hello=HELLO, forward_delay=FORWARD_DELAY, max_age=MAX_AGE)
        yield BridgeAdd(namespace=namespace, device=device, spanning_tree=tree)
        for link in lab.links:
            one, other = link.ends
            if switch.name in (one.part, other.part) and {one.part, other.part} <= made:
                here, away = (one, other) if one.part == switch.name else (other, one)
                yield VethAdd(
                    namespace=namespace,
                    device=_device(lab, here),
                    peer=_device(lab, away),
                    peer_namespace=namespace_of(lab.name, away.part),
                    bridge=(BRIDGE, BRIDGE_INDEX),
                )
                yield from _join(lab, away)

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        namespace = namespace_of(lab.name, node.name)
        here, away = uplink_of(lab, node)
        knows = (other for other in lab.nodes if other is not node)
        return NodeObjects(
            says=f"uplink {node.address}, on {away.part}",
            links=(
                VethAdd(
                    namespace=namespace_of(lab.name, away.part),
                    device=_device(lab, away),
                    peer=_device(lab, here),
                    peer_namespace=namespace,
                    bridge=(BRIDGE, BRIDGE_INDEX),
                ),
            ),
            up=(LinkUp(namespace=namespace, device=UPLINK, index=UPLINK_INDEX),),
            addresses=(AddressAdd(namespace=namespace, device=UPLINK, index=UPLINK_INDEX, address=node.address),),
            neighbours=tuple(
                NeighbourAdd(
                    namespace=namespace, device=UPLINK, index=UPLINK_INDEX, address=other.address.ip, mac=other.mac
                )
                for other in knows
            ),
        )

    def outside(self, lab: Lab, host: Outside) -> Iterable[Object]:
        raise no_outside(lab)

    def learned(self, lab: Lab) -> Iterator[Object]:
        """The wait until every port forwards but the one that is blocked."""
        for switch in lab.routers:
            yield PortsAwait(namespace=namespace_of(lab.name, switch.name))

    def taps(self, lab: Lab, pair: Pair) -> tuple[TapPlace, ...]:
        if pair.placement is not Placement.CROSS_NODE:
            return ()
        first, last = (uplink_of(lab, lab.node(lab.pod(name).node))[1] for name in (pair.client, pair.server))
        between = [end for link in lab.links for end in link.ends if all(lab.is_router(one.part) for one in link.ends)]
        return (
            (Role.CLIENT_BRIDGE_PORT, first.part, first.device),
            *((Role.FABRIC, end.part, end.device) for end in between),
            (Role.SERVER_BRIDGE_PORT, last.part, last.device),
        )


def _device(lab: Lab, end: LinkEnd) -> Device:
    return Device(name=end.device, index=end.index, mac=end.mac, mtu=lab.network.mtu)


def _join(lab: Lab, end: LinkEnd) -> Iterator[Object]:
    """Makes the far end a port of its own bridge."""
    yield PortAdd(
        namespace=namespace_of(lab.name, end.part), device=end.device, index=end.index, bridge=(BRIDGE, BRIDGE_INDEX)
    )
