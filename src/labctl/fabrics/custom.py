"""The fabric `custom`: routers and links as the scenario lists them. Pure.

It is `routed` but for the ways, which are worked out (`planning.ways`): without a protocol every router gets all of
them, and with one the lab is whole when every router has exactly those that it should come to. It stands alone because
every fabric is one module behind `base`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network

from labctl.fabrics.routed import RoutedFabric, ends_of, uplink_of, ways
from labctl.model.fabric import LinkEnd
from labctl.model.lab import Lab
from labctl.names import namespace_of
from labctl.planning.ways import lengths_of, steps_of
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.routing import MultipathAdd, NextHop, RouteAdd


class CustomFabric(RoutedFabric):
    """`Fabric` of the seam."""

    def onward(self, lab: Lab, router: str, edge: str) -> Iterator[LinkEnd]:
        ends = ends_of(lab)
        yield from (ends[router, other][1] for other in sorted(ways(lab, edge).get(router, ())))

    def hops(self, lab: Lab, first: str, last: str) -> int:
        return max(lengths_of(ways(lab, last), first), default=0)

    def between(self, lab: Lab, first: str, last: str) -> Iterator[LinkEnd]:
        """In the order in which requests pass them, then those that only replies pass."""
        ends = ends_of(lab)
        for step in steps_of(ways(lab, last), first):
            yield from ends[step]
        for one, other in reversed([*steps_of(ways(lab, first), last)]):
            yield from ends[other, one]

    def told(self, lab: Lab) -> Iterator[Object]:
        """Each router's routes to every node, its pods, and every other router's own address; none where a protocol
        finds them."""
        if lab.fabric.learns:
            return
        ends, own = ends_of(lab), {router.name: IPv4Network(router.router_id) for router in lab.routers}
        behind: dict[str, list[IPv4Network]] = {name: [network] for name, network in own.items()}
        for node in lab.nodes:
            behind[uplink_of(lab, node)[1].part] += [IPv4Network(node.address.ip), node.pod_cidr]
        for edge, networks in behind.items():
            for router, following in sorted(ways(lab, edge).items()):
                if following:
                    yield from _routes(lab, router, [ends[router, other] for other in sorted(following)], networks)


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
