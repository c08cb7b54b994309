"""The routers of a fabric and their links: names, numbers and addresses decided. Pure.

Numbers are those of a data centre's fabric (RFC 7938): every leaf and every node is an autonomous system of its own,
the spines are one together, so that no path goes through two of them. Links have addresses of a range of their own,
two each (RFC 3021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.model.fabric import FabricChoice, FabricType, Link, LinkEnd, Router, Routing
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
        case FabricType.SWITCHED:
            return tuple(_router(f"switch{n + 1}", n, 0) for n in range(choice.switches or DEFAULT_SWITCHES))
        case FabricType.BRIDGE:
            return (_router(REFLECTOR, 0, MESH_ASN),) if network.mode is Flooding.EVPN else ()


def _router(name: str, number: int, asn: int) -> Router:
    return Router(name=name, router_id=ROUTER_IDS.network_address + 1 + number, asn=asn)


def links_of(choice: FabricChoice, routers: Sequence[Router], nodes: Sequence[Node]) -> tuple[Link, ...]:
    """Every wire once: those between routers, then each node's. Nodes are spread over the leaves (the switches) in
    turn."""
    ports: dict[str, int] = {}
    numbers = iter(range(2**15))
    pairs = (*_between_routers(choice, [router.name for router in routers]), *_to_nodes(choice, routers, nodes))
    macs = {node.name: node.mac for node in nodes}
    return tuple(_link(one, other, ports, numbers, macs, choice) for one, other in pairs)


def _between_routers(choice: FabricChoice, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    if choice.type is FabricType.CLOS:
        spines = choice.spines or DEFAULT_SPINES
        yield from ((spine, leaf) for leaf in names[spines:] for spine in names[:spines])
    elif choice.type is FabricType.SWITCHED:
        yield from zip(names, (*names[1:], names[0]), strict=True)


def _to_nodes(choice: FabricChoice, routers: Sequence[Router], nodes: Sequence[Node]) -> Iterator[tuple[str, str]]:
    if choice.type is FabricType.BRIDGE:
        return
    edge = routers[choice.spines or DEFAULT_SPINES :] if choice.type is FabricType.CLOS else routers
    yield from ((edge[number % len(edge)].name, node.name) for number, node in enumerate(nodes))


def _link(
    one: str, other: str, ports: dict[str, int], numbers: Iterator[int], macs: dict[str, str], choice: FabricChoice
) -> Link:
    addresses: tuple[IPv4Interface | None, IPv4Interface | None] = (None, None)
    if choice.is_routed:
        first = int(LINKS.network_address) + 2 * next(numbers)
        addresses = IPv4Interface((first, 31)), IPv4Interface((first + 1, 31))
    ends = tuple(
        _end(name, away, ports, address, macs)
        for name, away, address in zip((one, other), (other, one), addresses, strict=True)
    )
    return Link(ends=(ends[0], ends[1]))


def _end(name: str, away: str, ports: dict[str, int], address: IPv4Interface | None, macs: dict[str, str]) -> LinkEnd:
    """A node has one device, its uplink; a router's are numbered, and named after what they lead to where that fits."""
    if name in macs:
        return LinkEnd(part=name, device=UPLINK, index=UPLINK_INDEX, mac=macs[name], address=address)
    ports[name] = ports.get(name, 0) + 1
    device = f"to-{away}" if len(away) <= 12 else f"port{ports[name]}"
    index = _FIRST_PORT_INDEX + ports[name]
    return LinkEnd(part=name, device=device, index=index, mac=device_mac(name, device), address=address)


def node_asn(node: Node) -> int:
    """The number of a node that speaks BGP."""
    return FIRST_NODE_ASN + node.index


def is_free(address: IPv4Address) -> bool:
    """Whether the fabric uses none of its own addresses there."""
    return address not in LINKS and address not in ROUTER_IDS
