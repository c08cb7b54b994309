"""The routers of a fabric and their links: names, numbers and addresses decided. Pure.

Of a fabric `custom` what the file says is kept, and the rest decided. Numbers are those of a data centre's fabric
(RFC 7938): every leaf and every node is an autonomous system of its own, the spines are one together, so that no path
goes through two of them. Links have addresses of a range of their own, two each (RFC 3021).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import count

from labctl.model.fabric import FabricChoice, FabricType, Link, LinkEnd, Router, RouterChoice, Routing
from labctl.model.interfaces import UPLINK, UPLINK_INDEX, device_mac
from labctl.model.lab import Node
from labctl.model.pod_network import Flooding, PodNetworkChoice

LINKS = IPv4Network("10.254.0.0/16")
ROUTER_IDS = IPv4Network("10.255.0.0/16")
REFLECTOR, MESH_ASN = "rr1", 64_512
SPINES_ASN, FIRST_LEAF_ASN, FIRST_NODE_ASN = 65_000, 65_101, 65_501
DEFAULT_SPINES, DEFAULT_LEAVES, DEFAULT_SWITCHES = 2, 3, 3
_FIRST_PORT_INDEX = 10


def routers_of(choice: FabricChoice, network: PodNetworkChoice) -> tuple[Router, ...]:
    """The routers or switches, in the order in which they are made: spines before leaves. On one bridge there are none,
    but for EVPN's route reflector."""
    by_bgp = choice.routing is Routing.BGP
    match choice.type:
        case FabricType.ROUTED:
            return (_router("router1", 0, FIRST_LEAF_ASN if by_bgp else 0),)
        case FabricType.CLOS:
            spines, leaves = choice.spines or DEFAULT_SPINES, choice.leaves or DEFAULT_LEAVES
            return (
                *(_router(f"spine{n + 1}", n, SPINES_ASN if by_bgp else 0) for n in range(spines)),
                *(_router(f"leaf{n + 1}", spines + n, FIRST_LEAF_ASN + n if by_bgp else 0) for n in range(leaves)),
            )
        case FabricType.CUSTOM:
            return tuple(_as_listed(choice.routers, by_bgp=by_bgp))
        case FabricType.SWITCHED:
            return tuple(_router(f"switch{n + 1}", n, 0) for n in range(choice.switches or DEFAULT_SWITCHES))
        case FabricType.BRIDGE:
            return (_router(REFLECTOR, 0, MESH_ASN),) if network.mode is Flooding.EVPN else ()


def _router(name: str, number: int, asn: int) -> Router:
    return Router(name=name, router_id=ROUTER_IDS.network_address + 1 + number, asn=asn)


def _as_listed(routers: Sequence[RouterChoice], *, by_bgp: bool) -> Iterator[Router]:
    """Numbers that are not written are the next that nobody has chosen."""
    ids, numbers = {router.router_id for router in routers}, {router.asn for router in routers}
    own_ids = (one for number in count(1) if (one := ROUTER_IDS.network_address + number) not in ids)
    own_numbers = (number for number in count(FIRST_LEAF_ASN) if number not in numbers)
    for router in routers:
        asn = (router.asn or next(own_numbers)) if by_bgp else 0
        router_id = router.router_id or next(own_ids)
        yield Router(name=router.name, router_id=router_id, asn=asn, is_reflector=router.route_reflector)


def links_of(choice: FabricChoice, routers: Sequence[Router], macs: Mapping[str, str]) -> tuple[Link, ...]:
    """Every wire once: those between routers, then each node's. Nodes are spread over the leaves (the switches) in
    turn. `macs` are the nodes' uplinks', by the nodes' names, in their order."""
    ports: dict[str, int] = {}
    numbers = iter(range(2**15))
    if choice.type is FabricType.CUSTOM:
        return tuple(
            _link(one, other, ports, numbers, macs, choice, cost) for one, other, cost in listed_ends(choice, macs)
        )
    pairs = (*_between_routers(choice, [router.name for router in routers]), *_to_nodes(choice, routers, macs))
    return tuple(_link((one, ""), (other, ""), ports, numbers, macs, choice) for one, other in pairs)


End = tuple[str, str]
"""A part and the device that the file names there, which may be none."""


def listed_ends(choice: FabricChoice, nodes: Collection[str]) -> Iterator[tuple[End, End, int]]:
    """The links of a fabric `custom` with their costs; where one is a node's, the router's end first."""
    for link in choice.links:
        one, other = (end_of(said) for said in link.endpoints)
        if one[0] in nodes:
            one, other = other, one
        yield one, other, link.cost or 1


def end_of(said: str) -> End:
    """`r1:eth1` or `r1`."""
    part, _, device = said.partition(":")
    return part, device


def _between_routers(choice: FabricChoice, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    if choice.type is FabricType.CLOS:
        spines = choice.spines or DEFAULT_SPINES
        yield from ((spine, leaf) for leaf in names[spines:] for spine in names[:spines])
    elif choice.type is FabricType.SWITCHED:
        yield from zip(names, (*names[1:], names[0]), strict=True)


def _to_nodes(choice: FabricChoice, routers: Sequence[Router], nodes: Iterable[str]) -> Iterator[tuple[str, str]]:
    if choice.type is FabricType.BRIDGE:
        return
    edge = routers[choice.spines or DEFAULT_SPINES :] if choice.type is FabricType.CLOS else routers
    yield from ((edge[number % len(edge)].name, node) for number, node in enumerate(nodes))


def _link(
    one: End,
    other: End,
    ports: dict[str, int],
    numbers: Iterator[int],
    macs: Mapping[str, str],
    choice: FabricChoice,
    cost: int = 1,
) -> Link:
    addresses: tuple[IPv4Interface | None, IPv4Interface | None] = (None, None)
    if choice.is_routed:
        first = int(LINKS.network_address) + 2 * next(numbers)
        addresses = IPv4Interface((first, 31)), IPv4Interface((first + 1, 31))
    ends = tuple(
        _end(end, away[0], ports, address, macs)
        for end, away, address in zip((one, other), (other, one), addresses, strict=True)
    )
    return Link(ends=(ends[0], ends[1]), cost=cost)


def _end(end: End, away: str, ports: dict[str, int], address: IPv4Interface | None, macs: Mapping[str, str]) -> LinkEnd:
    """A node has one device, its uplink; a router's are numbered."""
    name, said = end
    if name in macs:
        return LinkEnd(part=name, device=UPLINK, index=UPLINK_INDEX, mac=macs[name], address=address)
    ports[name] = ports.get(name, 0) + 1
    device = said or port_name(away, ports[name])
    index = _FIRST_PORT_INDEX + ports[name]
    return LinkEnd(part=name, device=device, index=index, mac=device_mac(name, device), address=address)


def port_name(away: str, number: int) -> str:
    """What a router's device is called: after what it leads to where that fits, else by its number (from 1)."""
    return f"to-{away}" if len(away) <= 12 else f"port{number}"


def node_asn(node: Node) -> int:
    """The number of a node that speaks BGP."""
    return FIRST_NODE_ASN + node.index


def is_free(address: IPv4Address) -> bool:
    """Whether the fabric uses none of its own addresses there."""
    return address not in LINKS and address not in ROUTER_IDS
