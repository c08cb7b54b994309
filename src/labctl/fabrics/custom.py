"""The fabric `custom`: routers and links as the scenario lists them. Pure.

It is `routed` but for the ways, which are worked out (`planning.ways`): without a protocol every router gets all of
them, and with one the lab is whole when every router has exactly those that it should come to. It stands alone because
every fabric is one module behind `base`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from labctl.fabrics.frr import nodes_announce
from labctl.fabrics.routed import RoutedFabric, uplink_of
from labctl.model.fabric import LinkEnd
from labctl.model.lab import Lab
from labctl.names import namespace_of
from labctl.planning.ways import Ways, lengths_of, steps_of, ways_to
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.daemon import NextHopsAwait, RoutesAwait
from labctl.providers.netns.kinds.routing import MultipathAdd, NextHop, RouteAdd

Ends = Mapping[tuple[str, str], tuple[LinkEnd, LinkEnd]]
"""The two ends of each wire between routers, seen from either: by the routers' names."""


class CustomFabric(RoutedFabric):
    """`Fabric` of the seam."""

    def onward(self, lab: Lab, router: str, edge: str) -> Iterator[LinkEnd]:
        ends = _ends(lab)
        yield from (ends[router, other][1] for other in sorted(_ways(lab, edge).get(router, ())))

    def hops(self, lab: Lab, first: str, last: str) -> int:
        return max(lengths_of(_ways(lab, last), first), default=0)

    def between(self, lab: Lab, first: str, last: str) -> Iterator[LinkEnd]:
        """In the order in which requests pass them, then those that only replies pass."""
        ends = _ends(lab)
        for step in steps_of(_ways(lab, last), first):
            yield from ends[step]
        for one, other in reversed([*steps_of(_ways(lab, first), last)]):
            yield from ends[other, one]

    def told(self, lab: Lab) -> Iterator[Object]:
        """Each router's routes to every node, its pods, and every other router's own address; none where a protocol
        finds them."""
        if lab.fabric.learns:
            return
        ends, own = _ends(lab), {router.name: IPv4Network(router.router_id) for router in lab.routers}
        behind: dict[str, list[IPv4Network]] = {name: [network] for name, network in own.items()}
        for node in lab.nodes:
            behind[uplink_of(lab, node)[1].part] += [IPv4Network(node.address.ip), node.pod_cidr]
        for edge, networks in behind.items():
            for router, following in sorted(_ways(lab, edge).items()):
                if following:
                    yield from _routes(lab, router, [ends[router, other] for other in sorted(following)], networks)

    def learned(self, lab: Lab) -> Iterator[Object]:
        """The wait until every router has the ways to every node, and no others; then what nodes wait for."""
        if not lab.fabric.learns:
            return
        ends = _ends(lab)
        wanted: dict[str, list[tuple[IPv4Network, tuple[IPv4Address, ...]]]] = {}
        for node in lab.nodes:
            destination = node.pod_cidr if nodes_announce(lab) else IPv4Network(node.address.ip)
            for router, following in _ways(lab, uplink_of(lab, node)[1].part).items():
                hops = (ends[router, other][1].address for other in sorted(following))
                if following:
                    addresses = tuple(sorted(hop.ip for hop in hops if hop is not None))
                    wanted.setdefault(router, []).append((destination, addresses))
        for router, routes in wanted.items():
            yield NextHopsAwait(namespace=namespace_of(lab.name, router), routes=tuple(routes))
        if nodes_announce(lab):
            yield from (one for one in super().learned(lab) if isinstance(one, RoutesAwait))


def _ways(lab: Lab, edge: str) -> Ways:
    return ways_to(edge, lab.fabric.routing, lab.routers, lab.links)


def _ends(lab: Lab) -> Ends:
    routers = {router.name for router in lab.routers}
    return {
        (here.part, far.part): (here, far)
        for link in lab.links
        for here, far in (link.ends, link.ends[::-1])
        if here.part in routers and far.part in routers
    }


def _routes(
    lab: Lab, router: str, ends: Sequence[tuple[LinkEnd, LinkEnd]], networks: Iterable[IPv4Network]
) -> Iterator[Object]:
    namespace = namespace_of(lab.name, router)
    hops = tuple(
        NextHop(device=here.device, index=here.index, gateway=far.address.ip)
        for here, far in ends
        if far.address is not None
    )
    for network in networks:
        if len(hops) > 1:
            yield MultipathAdd(namespace=namespace, destination=network, hops=hops)
        else:
            hop = hops[0]
            yield RouteAdd(
                namespace=namespace, device=hop.device, index=hop.index, destination=network, gateway=hop.gateway
            )
