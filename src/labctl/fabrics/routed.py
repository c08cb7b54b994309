"""The fabrics `routed` and `clos`: routers between the nodes, each a namespace; a wire from each node to one. Pure.

A node keeps its address, as /32 on its uplink, and has a second one on the /31 of its wire. Without a protocol the one
router is told where nodes and their pods are; with one, FRR's daemons tell each other (`frr`), and traffic is
spread over paths of equal length by its addresses and ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.fabrics.base import NodeObjects, TapPlace, no_outside
from labctl.fabrics.frr import node_daemons, nodes_announce, router_daemons
from labctl.model.fabric import LinkEnd, Router
from labctl.model.interfaces import LO, LO_INDEX, UPLINK, UPLINK_INDEX
from labctl.model.lab import Lab, Node, Outside, Pair, Placement
from labctl.model.signature import ExpectedSignature, Role, Seen, TapSight
from labctl.model.ways import ExpectedRoute
from labctl.names import namespace_of
from labctl.planning.ways import Ways, ways_to
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.daemon import FrrStart, NextHopsAwait, RoutesAwait
from labctl.providers.netns.kinds.link import Device, LinkUp, VethAdd
from labctl.providers.netns.kinds.namespace import Sysctls
from labctl.providers.netns.kinds.routing import AddressAdd, NeighbourAdd, RouteAdd

_ANYWHERE = IPv4Network("0.0.0.0/0")
_SPREAD = (("net.ipv4.fib_multipath_hash_policy", "1"),)
"""By addresses and ports, so that several connections of one pair of pods take several paths."""


class RoutedFabric:
    """`Fabric` of the seam."""

    says = "nothing is in it, the nodes are joined by routers"

    def underlay(self, lab: Lab) -> Iterable[Object]:
        return ()

    def routers(self, lab: Lab) -> Iterator[tuple[Router, Iterable[Object]]]:
        """Each with its wires to those before it, which are there already."""
        made: set[str] = set()
        for router in lab.routers:
            made.add(router.name)
            yield router, tuple(self._router(lab, router, made))

    def _router(self, lab: Lab, router: Router, made: set[str]) -> Iterator[Object]:
        namespace = namespace_of(lab.name, router.name)
        yield Sysctls(namespace=namespace, settings=_SPREAD)
        own = IPv4Interface(router.router_id)
        yield AddressAdd(namespace=namespace, device=LO, index=LO_INDEX, address=own)
        for link in lab.links:
            one, other = link.ends
            if router.name in (one.part, other.part) and {one.part, other.part} <= made:
                here, away = (one, other) if one.part == router.name else (other, one)
                yield from wire(lab, here, away)

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        namespace = namespace_of(lab.name, node.name)
        here, away = uplink_of(lab, node)
        assert here.address is not None
        assert away.address is not None
        on_uplink = partial(RouteAdd, namespace=namespace, device=UPLINK, index=UPLINK_INDEX)
        address = partial(AddressAdd, namespace=namespace, device=UPLINK, index=UPLINK_INDEX)
        knows = partial(NeighbourAdd, namespace=namespace, device=UPLINK, index=UPLINK_INDEX)
        return NodeObjects(
            says=f"uplink {node.address.ip}, by {away.part}",
            links=(_veth(lab, away, here),),
            up=(LinkUp(namespace=namespace, device=UPLINK, index=UPLINK_INDEX),),
            settings=(Sysctls(namespace=namespace, settings=_SPREAD),),
            addresses=(address(address=IPv4Interface(node.address.ip)), address(address=here.address)),
            routes=(on_uplink(destination=_ANYWHERE, gateway=away.address.ip, source=node.address.ip),),
            neighbours=(knows(address=away.address.ip, mac=away.mac), *self._at_router(lab, node, here, away)),
        )

    def _at_router(self, lab: Lab, node: Node, here: LinkEnd, away: LinkEnd) -> Iterator[Object]:
        """What the router has on the node's wire: its address, the node's MAC, and the routes that nobody announces."""
        assert here.address is not None
        assert away.address is not None
        namespace = namespace_of(lab.name, away.part)
        device, index = away.device, away.index
        yield AddressAdd(namespace=namespace, device=device, index=index, address=away.address)
        yield NeighbourAdd(namespace=namespace, device=device, index=index, address=here.address.ip, mac=here.mac)
        route = partial(RouteAdd, namespace=namespace, device=device, index=index, gateway=here.address.ip)
        if not nodes_announce(lab):
            yield route(destination=IPv4Network(node.address.ip))
        if not lab.fabric.learns:
            yield route(destination=node.pod_cidr)

    def outside(self, lab: Lab, host: Outside) -> Iterable[Object]:
        raise no_outside(lab)

    def next_hop(self, lab: Lab, node: Node, other: Node) -> IPv4Address | None:
        """By the router that the node is attached to, whichever it is for."""
        away = uplink_of(lab, node)[1].address
        return None if nodes_announce(lab) or away is None else away.ip

    def gateway(self, lab: Lab, node: Node) -> IPv4Address:
        away = uplink_of(lab, node)[1].address
        if away is None:
            raise KeyError(node.name)
        return away.ip

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        """At each end's router: to the other end's pods where nodes announce them, else to the node. By every spine, or
        by the node's own wire where it is the same router."""
        if pair.placement is not Placement.CROSS_NODE:
            return ()
        client, server = (lab.node(lab.pod(name).node) for name in (pair.client, pair.server))
        return tuple(self._route(lab, node, other) for node, other in ((client, server), (server, client)))

    def _route(self, lab: Lab, node: Node, other: Node) -> ExpectedRoute:
        away, last = uplink_of(lab, node)[1], uplink_of(lab, other)
        to_pods = nodes_announce(lab) or not lab.fabric.learns
        destination = other.pod_cidr if to_pods else IPv4Network(other.address.ip)
        if away.part == last[1].part:
            hops = {last[0].address.ip} if last[0].address is not None else set()
        else:
            hops = {far.address.ip for far in self.onward(lab, away.part, last[1].part) if far.address is not None}
        return ExpectedRoute(part=away.part, destination=destination, next_hops=frozenset(hops))

    def onward(self, lab: Lab, router: str, edge: str) -> Iterator[LinkEnd]:
        """The far ends of the wires by which a router sends to what another router has: all spines."""
        for link in lab.links:
            for here, far in (link.ends, link.ends[::-1]):
                if here.part == router and lab.is_router(far.part):
                    yield far

    def hops(self, lab: Lab, first: str, last: str) -> int:
        """How many routers a packet passes from one edge to the other, both among them."""
        return 1 if first == last else 3

    def between(self, lab: Lab, first: str, last: str) -> Iterator[LinkEnd]:
        """Both ends of every wire that packets from one edge to the other can go by."""
        for link in lab.links:
            one, other = link.ends
            for edge in (first, last):
                if edge in (one.part, other.part) and lab.is_router(one.part) and lab.is_router(other.part):
                    yield from (one, other)

    def told(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def daemons(self, lab: Lab) -> Iterator[Object]:
        """Those of routers and nodes, started at the same time, then the routes that every node and edge must have."""
        if not lab.fabric.learns:
            return
        for router in lab.routers:
            yield FrrStart(namespace=namespace_of(lab.name, router.name), daemons=router_daemons(lab, router))
        for node in lab.nodes:
            if daemons := node_daemons(lab, node):
                yield FrrStart(namespace=namespace_of(lab.name, node.name), daemons=daemons)

    def learned(self, lab: Lab) -> Iterator[Object]:
        """The wait until every router has all the ways to every node, and no others; then for what nodes, or the
        routers that they are attached to, learn."""
        if not lab.fabric.learns:
            return
        yield from _await_ways(lab)
        edges = {uplink_of(lab, node)[1].part for node in lab.nodes}
        if nodes_announce(lab):
            for node in lab.nodes:
                others = (other for other in lab.nodes if other is not node and lab.pods_on(other.name))
                wanted = tuple(other.pod_cidr for other in others)
                yield RoutesAwait(namespace=namespace_of(lab.name, node.name), destinations=wanted)
            return
        for edge in sorted(edges):
            away = tuple(IPv4Network(node.address.ip) for node in lab.nodes if uplink_of(lab, node)[1].part != edge)
            yield RoutesAwait(namespace=namespace_of(lab.name, edge), destinations=away)

    def taps(self, lab: Lab, pair: Pair) -> tuple[TapPlace, ...]:
        """Every port of every router that the pair's packets can go by, from the client's side to the server's."""
        if pair.placement is not Placement.CROSS_NODE:
            return ()
        first, last = (uplink_of(lab, lab.node(lab.pod(name).node))[1] for name in (pair.client, pair.server))
        between = () if first.part == last.part else self.between(lab, first.part, last.part)
        return (
            (Role.CLIENT_GATEWAY, first.part, first.device),
            *((Role.FABRIC, end.part, end.device) for end in dict.fromkeys(between)),
            (Role.SERVER_GATEWAY, last.part, last.device),
        )

    def seen_through(self, lab: Lab, pair: Pair, expected: ExpectedSignature) -> ExpectedSignature:
        """What a network says that two nodes on one wire see, as it is seen across routers: each counts a hop, and the
        MACs are those of the next wire."""
        if pair.placement is not Placement.CROSS_NODE:
            return expected
        first, last = (uplink_of(lab, lab.node(lab.pod(name).node))[1].part for name in (pair.client, pair.server))
        there, back = self.hops(lab, first, last), self.hops(lab, last, first)
        is_tunnelled = lab.datapath.encapsulation.is_tunnel
        taps = tuple(_across(sight, there, back, is_tunnelled=is_tunnelled) for sight in expected.signature.taps)
        ttl = expected.signature.ping_ttl
        signature = replace(expected.signature, taps=taps, ping_ttl=ttl if ttl is None or is_tunnelled else ttl - back)
        return replace(expected, signature=signature)


_UPLINKS = (Role.CLIENT_UPLINK, Role.SERVER_UPLINK)


def _across(sight: TapSight, there: int, back: int, *, is_tunnelled: bool) -> TapSight:
    """The request arrives at the server's side after so many hops, the reply at the client's."""
    at_client = sight.role.value.startswith("client")
    gateway = str(Role.CLIENT_GATEWAY if at_client else Role.SERVER_GATEWAY)

    def rerouted(seen: Seen | None, *, arrives: bool) -> Seen | None:
        if seen is None or (is_tunnelled and seen.outer is None):
            return seen
        less = (back if at_client else there) if arrives else 0
        if (outer := seen.outer) is not None:
            moved = replace(outer, src_mac=gateway) if arrives else replace(outer, dst_mac=gateway)
            return replace(seen, outer=replace(moved, ttl=outer.ttl - less))
        if sight.role in _UPLINKS:
            seen = replace(seen, src_mac=gateway) if arrives else replace(seen, dst_mac=gateway)
        return replace(seen, ttl=seen.ttl - less)

    return replace(
        sight,
        request=rerouted(sight.request, arrives=not at_client),
        reply=rerouted(sight.reply, arrives=at_client),
    )


def uplink_of(lab: Lab, node: Node) -> tuple[LinkEnd, LinkEnd]:
    """The node's end of its wire, and the router's."""
    for link in lab.links:
        one, other = link.ends
        if other.part == node.name:
            return other, one
    raise KeyError(node.name)


Ends = Mapping[tuple[str, str], tuple[LinkEnd, LinkEnd]]
"""The two ends of each wire between routers, seen from either: by the routers' names."""


def ends_of(lab: Lab) -> Ends:
    routers = {router.name for router in lab.routers}
    return {
        (here.part, far.part): (here, far)
        for link in lab.links
        for here, far in (link.ends, link.ends[::-1])
        if here.part in routers and far.part in routers
    }


def ways(lab: Lab, edge: str) -> Ways:
    """To what is attached to that router."""
    return ways_to(edge, lab.fabric.routing, lab.routers, lab.links)


def _await_ways(lab: Lab) -> Iterator[Object]:
    ends = ends_of(lab)
    wanted: dict[str, list[tuple[IPv4Network, tuple[IPv4Address, ...]]]] = {}
    for node in lab.nodes:
        destination = node.pod_cidr if nodes_announce(lab) else IPv4Network(node.address.ip)
        for router, following in ways(lab, uplink_of(lab, node)[1].part).items():
            hops = (ends[router, other][1].address for other in sorted(following))
            if following:
                addresses = tuple(sorted(hop.ip for hop in hops if hop is not None))
                wanted.setdefault(router, []).append((destination, addresses))
    for router, routes in wanted.items():
        yield NextHopsAwait(namespace=namespace_of(lab.name, router), routes=tuple(routes))


def wire(lab: Lab, here: LinkEnd, away: LinkEnd) -> Iterator[Object]:
    """A wire between two routers, with both addresses."""
    yield _veth(lab, here, away)
    for end in (here, away):
        namespace = namespace_of(lab.name, end.part)
        if end is away:
            yield LinkUp(namespace=namespace, device=end.device, index=end.index)
        if end.address is not None:
            yield AddressAdd(namespace=namespace, device=end.device, index=end.index, address=end.address)


def _veth(lab: Lab, here: LinkEnd, away: LinkEnd) -> VethAdd:
    def device(end: LinkEnd) -> Device:
        return Device(name=end.device, index=end.index, mac=end.mac, mtu=lab.network.mtu)

    return VethAdd(
        namespace=namespace_of(lab.name, here.part),
        device=device(here),
        peer=device(away),
        peer_namespace=namespace_of(lab.name, away.part),
    )
