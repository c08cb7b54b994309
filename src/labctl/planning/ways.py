"""Which ways packets take over the routers of a fabric: by whom each router sends to a node. Pure.

With OSPF and static routes those of least cost, all of them together (Dijkstra). With BGP as its decision process
chooses: the fewest autonomous systems, then what came from another system before what came from within, all that are
equal together; a path that names the receiver's own system is dropped (RFC 4271, 9.1.2), and what was learned within a
system is passed on there by a route reflector alone (RFC 4456).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from labctl.model.fabric import Link, Router, Routing
from labctl.values import dataclass

Ways = Mapping[str, frozenset[str]]
"""By whom each router sends: its next routers; none at the router that the node is attached to. A router without a way
is missing."""


def ways_to(edge: str, routing: Routing | None, routers: Sequence[Router], links: Sequence[Link]) -> Ways:
    """To what is attached to the router `edge`."""
    by_name = {router.name: router for router in routers}
    costs: dict[str, dict[str, int]] = defaultdict(dict)
    for link in links:
        one, other = (end.part for end in link.ends)
        if one in by_name and other in by_name:
            costs[one][other] = costs[other][one] = link.cost
    if routing is Routing.BGP:
        return _by_systems(edge, by_name, costs)
    return _by_cost(edge, costs)


def _by_cost(edge: str, costs: Mapping[str, Mapping[str, int]]) -> Ways:
    away, waiting = {edge: 0}, [(0, edge)]
    while waiting:
        cost, router = heapq.heappop(waiting)
        if cost > away[router]:
            continue
        for other, more in costs.get(router, {}).items():
            if cost + more < away.get(other, cost + more + 1):
                away[other] = cost + more
                heapq.heappush(waiting, (cost + more, other))
    return {
        router: frozenset(
            other for other, more in costs.get(router, {}).items() if other in away and away[other] + more == cost
        )
        for router, cost in away.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """What a router was told: the systems on the way, by whom, and whether that one is of another system."""

    systems: tuple[int, ...]
    by: str
    is_external: bool

    @property
    def rank(self) -> tuple[int, bool]:
        return len(self.systems), not self.is_external


def _by_systems(edge: str, routers: Mapping[str, Router], costs: Mapping[str, Mapping[str, int]]) -> Ways:
    """Everyone tells its neighbours its best path, until nobody has another. Of equal ones the best is that of the
    lowest router id."""
    own = _Path(systems=(), by="", is_external=True)
    best: dict[str, _Path] = {edge: own}
    equal: dict[str, frozenset[str]] = {edge: frozenset()}
    for _ in range(2 * len(routers) + 2):
        told = {
            name: [path for other in costs.get(name, {}) if (path := _told(routers, best, other, name)) is not None]
            for name in routers
            if name != edge
        }
        before = dict(best), dict(equal)
        for name, paths in told.items():
            best.pop(name, None)
            equal.pop(name, None)
            if paths:
                rank = min(path.rank for path in paths)
                there = [path for path in paths if path.rank == rank]
                best[name] = min(there, key=lambda path: routers[path.by].router_id)
                equal[name] = frozenset(path.by for path in there)
        if (best, equal) == before:
            break
    return equal


def _told(routers: Mapping[str, Router], best: Mapping[str, _Path], teller: str, hearer: str) -> _Path | None:
    """What one router says to another; None where it has nothing to say, or says what must not be taken."""
    path = best.get(teller)
    if path is None or path.by == hearer:
        return None
    one, other = routers[teller], routers[hearer]
    if one.asn == other.asn:
        is_from_within = path.by != "" and not path.is_external
        if is_from_within and not one.is_reflector:
            return None
        return _Path(systems=path.systems, by=teller, is_external=False)
    systems = (one.asn, *path.systems)
    return None if other.asn in systems else _Path(systems=systems, by=teller, is_external=True)


def steps_of(ways: Ways, first: str) -> Iterator[tuple[str, str]]:
    """Every step from a router to the next one that packets from the router `first` can take, in their order."""
    seen, turn = {first}, [first]
    while turn:
        following: list[str] = []
        for router in turn:
            for other in sorted(ways.get(router, ())):
                yield router, other
                if other not in seen:
                    seen.add(other)
                    following.append(other)
        turn = following


def lengths_of(ways: Ways, first: str) -> frozenset[int]:
    """How many routers packets from `first` pass, itself and the last one among them: one number for each length of
    way. Empty where there is no way, or one that goes round."""
    known: dict[str, frozenset[int]] = {}

    def length(router: str, above: frozenset[str]) -> frozenset[int]:
        if router not in known:
            following = ways.get(router)
            if following is None or router in above:
                return frozenset()
            below = [length(other, above | {router}) for other in sorted(following)]
            known[router] = frozenset(1 + each for one in below for each in one) if following else frozenset({1})
        return known[router]

    return length(first, frozenset())
