"""What `routers:`, `links:` and `timers:` of a fabric mean together, and with the scenario's nodes and pods. Tolerant
of what `shape` has found already.

First what each entry says of others; where that is in order, whether every node is reached from every other one, and
whether it is known how many routers a packet passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from labctl.codec import typed
from labctl.errors import Problem, UsageError
from labctl.loading.messages import listed, nearest, problem_at, shown
from labctl.loading.rules import NameFacts
from labctl.loading.tree import KeyPath, Scalar, Tree, find, items_of, place_of, plain, text_of
from labctl.model.fabric import (
    DEAD_S,
    HELLO_S,
    HOLD_S,
    KEEPALIVE_S,
    FabricChoice,
    Router,
    Routing,
    is_endpoint,
)
from labctl.model.interfaces import LO, UPLINK
from labctl.model.pod_network import CILIUM
from labctl.names import UNDERLAY, is_name, stable_mac
from labctl.planning.topology import FIRST_NODE_ASN, LINKS, end_of, links_of, port_name, routers_of
from labctl.planning.ways import Ways, lengths_of, ways_to

_ROUTERS: KeyPath = ("fabric", "routers")
_LINKS: KeyPath = ("fabric", "links")


def custom_problems(tree: Tree, facts: NameFacts) -> tuple[Problem, ...]:
    """Of a fabric `custom`: every problem between its values, and with the nodes."""
    missing = [key for key in ("routers", "links") if find(tree, "fabric", key) is None]
    if missing:
        place = place_of(tree, ("fabric",))
        example = {"routers": "[{name: r1}, {name: r2}]", "links": "[{endpoints: [r1, r2]}, {endpoints: [r1, node1]}]"}
        return tuple(
            problem_at(place, ("fabric", key), f"a fabric of type custom has a list of {key}", f"{key}: {example[key]}")
            for key in missing
        )
    if facts.nodes is None:
        return ()
    found = (*_routers(tree, facts), *_links(tree, facts))
    return found or tuple(_reach(tree, facts))


def timer_problems(tree: Tree, routing: str | None) -> Iterator[Problem]:
    """Timers of the other protocol, and a neighbour that is given up before it can have spoken."""
    section = find(tree, "fabric", "timers")
    if section is None:
        return
    keys = {Routing.BGP: ("keepaliveS", "holdS"), Routing.OSPF: ("helloS", "deadS")}
    if routing not in keys:
        path: KeyPath = ("fabric", "timers")
        yield problem_at(place_of(tree, path), path, "nothing has timers without a protocol", "routing: bgp or ospf")
        return
    chosen = Routing(routing)
    for protocol, names in keys.items():
        for key in names:
            if protocol is not chosen and find(section, key) is not None:
                path = ("fabric", "timers", key)
                yield problem_at(
                    place_of(tree, path), path, f"{key} is {protocol}'s, and routing is {routing}", listed(keys[chosen])
                )
    often, long = keys[chosen]
    first, last = (KEEPALIVE_S, HOLD_S) if chosen is Routing.BGP else (HELLO_S, DEAD_S)
    interval, patience = _whole(find(section, often)) or first, _whole(find(section, long)) or last
    if interval >= patience:
        path = ("fabric", "timers", long if find(section, long) is not None else often)
        message = f"a neighbour that speaks every {interval} s is given up after {patience} s of silence"
        yield problem_at(place_of(tree, path), path, message, f"{long} above {often}")


def _whole(tree: Tree | None) -> int | None:
    value = tree.value if isinstance(tree, Scalar) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _routing(tree: Tree) -> Routing | None:
    said = text_of(find(tree, "fabric", "routing"))
    return Routing(said) if said in tuple(Routing) else None


def _routers(tree: Tree, facts: NameFacts) -> Iterator[Problem]:
    """Names, numbers and addresses of routers, each once; and what only BGP has."""
    taken = {
        entry.name: f"a {kind}"
        for kind, entries in (("host outside", facts.outside), ("pod", facts.pods), ("node", facts.nodes))
        for entry in entries or ()
    }
    taken[UNDERLAY] = "the lab's own bridge"
    is_bgp = _routing(tree) is Routing.BGP
    ids: dict[str, str] = {}
    for index, item in items_of(find(tree, *_ROUTERS)):
        name = text_of(find(item, "name"))
        if name is None or not is_name(name):
            continue
        path: KeyPath = (*_ROUTERS, index, "name")
        if name in taken:
            yield problem_at(place_of(tree, path), path, f"the name '{name}' is taken by {taken[name]}")
        taken.setdefault(name, f"the router on line {place_of(tree, path).line}")
        for key in ("asn", "routeReflector"):
            if not is_bgp and find(item, key) is not None:
                path = (*_ROUTERS, index, key)
                yield problem_at(place_of(tree, path), path, f"{key} is BGP's", "routing: bgp, or no such key")
        yield from _router_id(tree, index, item, name, ids)
        yield from _node_number(tree, index, item, facts)


def _router_id(tree: Tree, index: int, item: Tree, name: str, ids: dict[str, str]) -> Iterator[Problem]:
    said = text_of(find(item, "routerID"))
    if said is None:
        return
    path: KeyPath = (*_ROUTERS, index, "routerID")
    try:
        address = IPv4Address(said)
    except AddressValueError:
        return
    if said in ids:
        message = f"{said} is the router id of {ids[said]} too: each router has one of its own"
        yield problem_at(place_of(tree, path), path, message)
    ids.setdefault(said, name)
    ranges = {"links": LINKS}
    for key, words in (("underlayCIDR", "nodes"), ("podCIDR", "pods"), ("serviceCIDR", "Services")):
        try:
            ranges[words] = IPv4Network(text_of(find(tree, "network", key)) or "0.0.0.0/32")
        except (AddressValueError, NetmaskValueError, ValueError):
            continue
    for words, network in ranges.items():
        if address in network:
            message = f"{said} is in the range of the {words}, {network}"
            yield problem_at(place_of(tree, path), path, message, "an address of no other range, such as 10.255.0.9")


def _node_number(tree: Tree, index: int, item: Tree, facts: NameFacts) -> Iterator[Problem]:
    """The numbers that nodes have which speak BGP."""
    number = _whole(find(item, "asn"))
    owner = None if number is None else number - FIRST_NODE_ASN
    nodes = facts.nodes or ()
    if owner is not None and 0 <= owner < len(nodes):
        path: KeyPath = (*_ROUTERS, index, "asn")
        message = f"AS {number} is that of {nodes[owner].name}"
        yield problem_at(
            place_of(tree, path), path, message, f"a number outside {FIRST_NODE_ASN} to {FIRST_NODE_ASN + 249}"
        )


@dataclass(slots=True)
class _Seen:
    """What links that came before have used: pairs of parts, the devices of each router, the link of each node."""

    pairs: dict[frozenset[str], int]
    devices: dict[tuple[str, str], int]
    nodes: dict[str, int]
    ports: dict[str, int]


def _links(tree: Tree, facts: NameFacts) -> Iterator[Problem]:
    """Ends that exist and fit, each pair and each device once, and nothing without a link."""
    routers = {name for _, item in items_of(find(tree, *_ROUTERS)) if (name := text_of(find(item, "name")))}
    nodes, pods = {node.name for node in facts.nodes or ()}, {pod.name: pod for pod in facts.pods or ()}
    seen = _Seen(pairs={}, devices={}, nodes={}, ports={})
    is_whole = True
    for index, item in items_of(find(tree, *_LINKS)):
        ends = find(item, "endpoints")
        said = [text_of(each) for _, each in items_of(ends)]
        if len(said) != 2 or not all(each and is_endpoint(each) for each in said):
            is_whole = False
            continue
        parts = [end_of(str(each)) for each in said]
        unknown = [number for number, (part, _) in enumerate(parts) if part not in routers | nodes]
        for number in unknown:
            is_whole = False
            yield _unknown_part(tree, (*_LINKS, index, "endpoints", number), parts[number][0], routers | nodes, pods)
        if not unknown:
            yield from _link(tree, index, parts, nodes, seen)
        cost: KeyPath = (*_LINKS, index, "cost")
        if _routing(tree) is Routing.BGP and find(tree, *cost) is not None:
            message = "BGP counts systems, not costs"
            yield problem_at(place_of(tree, cost), cost, message, "routing: ospf or static, or no such key")
    if is_whole:
        yield from _in_the_air(tree, facts, {part for pair in seen.pairs for part in pair})


def _unknown_part(tree: Tree, path: KeyPath, part: str, known: set[str], pods: Mapping[str, object]) -> Problem:
    if part in pods:
        message = f"{shown(part)} is a pod: pods hang on their nodes, links join routers and nodes"
        return problem_at(place_of(tree, path), path, message, listed(sorted(known)))
    message = f"there is no router or node {shown(part)}"
    return problem_at(place_of(tree, path), path, message, listed(sorted(known)), nearest(part, known))


def _link(tree: Tree, index: int, ends: list[tuple[str, str]], nodes: set[str], seen: _Seen) -> Iterator[Problem]:
    path: KeyPath = (*_LINKS, index)
    place = place_of(tree, path)
    (one, _), (other, _) = ends
    if one == other:
        yield problem_at(place, path, f"both ends are {shown(one)}: a link joins two parts")
        return
    if one in nodes and other in nodes:
        message = f"{one} and {other} are both nodes: a link joins two routers, or a router and a node"
        yield problem_at(place, path, message, "fabric: {type: bridge} for nodes on one wire")
        return
    if (first := seen.pairs.setdefault(frozenset((one, other)), index)) != index:
        message = f"{one} and {other} are joined already, by {_line(tree, first)}"
        yield problem_at(place, path, message)
        return
    for number, (part, said) in enumerate(ends):
        at: KeyPath = (*path, "endpoints", number)
        away = ends[1 - number][0]
        if part in nodes:
            if said not in ("", UPLINK):
                yield problem_at(place_of(tree, at), at, f"{part}'s uplink is {UPLINK}, not {shown(said)}", f"{part}")
            if (first := seen.nodes.setdefault(part, index)) != index:
                message = f"{part} has a link already, by {_line(tree, first)}: a node has one uplink"
                yield problem_at(place_of(tree, at), at, message, "a router between")
            continue
        seen.ports[part] = seen.ports.get(part, 0) + 1
        device = said or port_name(away, seen.ports[part])
        if device == LO:
            yield problem_at(place_of(tree, at), at, f"{LO} is the loopback device of every router")
        elif (first := seen.devices.setdefault((part, device), index)) != index:
            message = f"{part} has a device {shown(device)} already, by {_line(tree, first)}"
            yield problem_at(place_of(tree, at), at, message, f"{part}, or {part}: with another device")


def _line(tree: Tree, index: int) -> str:
    return f"the link on line {place_of(tree, (*_LINKS, index)).line}"


def _in_the_air(tree: Tree, facts: NameFacts, joined: set[str]) -> Iterator[Problem]:
    for node in facts.nodes or ():
        if node.name not in joined:
            message = f"no link leads to {node.name}: it hangs in the air"
            example = f"a link such as {{endpoints: [r1, {node.name}]}}"
            yield problem_at(place_of(tree, _LINKS), _LINKS, message, example)
    for index, item in items_of(find(tree, *_ROUTERS)):
        name = text_of(find(item, "name"))
        if name is not None and name not in joined:
            path: KeyPath = (*_ROUTERS, index)
            yield problem_at(place_of(tree, path), path, f"no link leads to {name}: it hangs in the air")


def _reach(tree: Tree, facts: NameFacts) -> Iterator[Problem]:
    """Whether every node's router has a way to every other one's, and of which length."""
    choice = _choice(tree)
    if choice is None or any(len(link.endpoints) != 2 for link in choice.links):
        return
    macs = {node.name: stable_mac("node", node.name) for node in facts.nodes or ()}
    routers = routers_of(choice, CILIUM)
    links = links_of(choice, routers, macs)
    edges: dict[str, str] = {}
    for link in links:
        one, other = (end.part for end in link.ends)
        if other in macs:
            edges.setdefault(one, other)
    yield from _reflectors(tree, choice, routers)
    for edge, node in edges.items():
        ways = ways_to(edge, choice.routing, routers, links)
        plain = ways if choice.routing is not Routing.BGP else ways_to(edge, Routing.OSPF, routers, links)
        for other, its_node in edges.items():
            if other not in plain:
                message = f"no way leads from {its_node} (on {other}) to {node} (on {edge})"
                yield problem_at(place_of(tree, _LINKS), _LINKS, message, f"links that join {other} with {edge}")
                return
            if other not in ways:
                yield _cut_by_systems(tree, routers, (edge, node), (other, its_node))
                return
            if (wrong := _lengths(tree, ways, (edge, node), (other, its_node))) is not None:
                yield wrong
                return


def _reflectors(tree: Tree, choice: FabricChoice, routers: tuple[Router, ...]) -> Iterator[Problem]:
    """Two reflectors of one system that are joined tell each other what each knows itself: packets would go round."""
    by_name = {router.name: router for router in routers}
    for index, link in enumerate(choice.links):
        one, other = (by_name.get(end_of(each)[0]) for each in link.endpoints)
        if one and other and one.is_reflector and other.is_reflector and one.asn == other.asn:
            path: KeyPath = (*_LINKS, index)
            message = (
                f"{one.name} and {other.name} are route reflectors of one system (AS {one.asn}): "
                "what each reflects to the other leads back to itself"
            )
            yield problem_at(place_of(tree, path), path, message, "no link between reflectors, or another asn")


def _cut_by_systems(tree: Tree, routers: tuple[Router, ...], to: tuple[str, str], of: tuple[str, str]) -> Problem:
    numbers = {router.name: router.asn for router in routers}
    names = [router.name for router in routers]
    (edge, node), (other, its_node) = to, of
    path: KeyPath = (*_ROUTERS, names.index(other), "asn")
    if numbers[edge] == numbers[other]:
        message = (
            f"{other} and {edge} have the same AS {numbers[edge]}, and no way between them stays within it: "
            f"BGP drops what names its own system, so {its_node} would not reach {node}"
        )
        return problem_at(place_of(tree, path), path, message, "an AS of its own, a link between them, or a reflector")
    message = (
        f"{other} (AS {numbers[other]}) would learn no way to {node} (on {edge}): each passes one system twice, or two "
        "of its routers that only a route reflector would join"
    )
    return problem_at(place_of(tree, _ROUTERS), _ROUTERS, message, "other AS numbers, or routeReflector: true")


def _lengths(tree: Tree, ways: Ways, to: tuple[str, str], of: tuple[str, str]) -> Problem | None:
    (_, node), (other, its_node) = to, of
    found = sorted(lengths_of(ways, other))
    if len(found) == 1:
        return None
    if not found:
        message = f"packets from {its_node} to {node} would go round"
        return problem_at(place_of(tree, _LINKS), _LINKS, message, "other AS numbers, or other links")
    message = (
        f"between {its_node} and {node} are equal ways of {listed(map(str, found))} routers: the TTL of a packet would "
        "depend on its flow"
    )
    return problem_at(place_of(tree, _LINKS), _LINKS, message, "another cost for a link of one of them")


def _choice(tree: Tree) -> FabricChoice | None:
    """As the file says it; None where an entry is of the wrong form."""
    section = find(tree, "fabric")
    try:
        return None if section is None else typed(FabricChoice, plain(section), where="fabric")
    except UsageError:
        return None
