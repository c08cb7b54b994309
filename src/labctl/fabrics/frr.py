"""What FRR's daemons are told: the configuration of every router and of the nodes that announce their pods. Pure.

The statements are FRR's own (docs.frrouting.org); timers are short, since a lab is there to be watched. A node
announces its own address and its range of pods where packets between pods cross as they are; through a tunnel, only
nodes have to be reached, and the leaf says where those are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from labctl.fabrics.bridge import reflector_address
from labctl.model.fabric import DEAD_S, HELLO_S, HOLD_S, KEEPALIVE_S, FabricType, LinkEnd, Router, Routing, Timers
from labctl.model.lab import Encapsulation, Lab, Node
from labctl.planning.topology import LINKS, MESH_ASN, ROUTER_IDS, node_asn
from labctl.providers.netns.kinds.daemon import Daemon

ZEBRA, BGPD, OSPFD = "zebra", "bgpd", "ospfd"
_LOCAL = "LOCAL"
_SOURCE = "SOURCE"


def nodes_announce(lab: Lab) -> bool:
    """Whether the nodes themselves take part in routing."""
    return lab.fabric.learns and lab.datapath.encapsulation is Encapsulation.NATIVE


def mesh_daemons(lab: Lab, node: Node) -> tuple[Daemon, ...]:
    """Of a node that tells every other one its range of pods, itself being the next hop: one system, a full mesh."""
    peers = [other.address.ip for other in lab.nodes if other is not node]
    lines = (
        *_internal(node.name, node.address.ip, peers),
        " address-family ipv4 unicast",
        f"  network {node.pod_cidr}",
        *(f"  neighbor {peer} next-hop-self" for peer in peers),
        " exit-address-family",
    )
    return (_of_zebra(node.name), Daemon(name=BGPD, configuration=_text(lines)))


def evpn_daemons(
    lab: Lab, name: str, address: IPv4Address, *, reflects_to: Iterable[IPv4Address] = ()
) -> tuple[Daemon, ...]:
    """Of a VTEP that tells its VNIs and MACs to the route reflector; or of that, which passes on what each says."""
    clients = tuple(reflects_to)
    peers = clients or (reflector_address(lab),)
    lines = (
        *_internal(name, address, peers),
        " address-family ipv4 unicast",
        *(f"  no neighbor {peer} activate" for peer in peers),
        " exit-address-family",
        " address-family l2vpn evpn",
        *(f"  neighbor {peer} activate" for peer in peers),
        *(f"  neighbor {peer} route-reflector-client" for peer in clients),
        *(() if clients else ("  advertise-all-vni",)),
        " exit-address-family",
    )
    return (_of_zebra(name), Daemon(name=BGPD, configuration=_text(lines)))


def argv_announce(*, is_announced: bool) -> tuple[str, ...]:
    """What has a VTEP's bgpd announce its VNIs and MACs, or withdraw all of them."""
    said = "advertise-all-vni" if is_announced else "no advertise-all-vni"
    lines = ("configure terminal", f"router bgp {MESH_ASN}", "address-family l2vpn evpn", said)
    return ("vtysh", *(word for line in lines for word in ("-c", line)))


def _of_zebra(name: str) -> Daemon:
    return Daemon(name=ZEBRA, configuration=_text((f"hostname {name}",)))


def _internal(name: str, router_id: IPv4Address, peers: Iterable[IPv4Address]) -> Iterator[str]:
    """Sessions within one system."""
    yield "frr defaults datacenter"
    yield f"hostname {name}"
    yield f"router bgp {MESH_ASN}"
    yield f" bgp router-id {router_id}"
    yield " no bgp network import-check"
    yield " timers bgp 1 3"
    for peer in peers:
        yield f" neighbor {peer} remote-as {MESH_ASN}"
        yield f" neighbor {peer} timers connect 1"


def router_daemons(lab: Lab, router: Router) -> tuple[Daemon, ...]:
    """zebra, and what the fabric's routing needs."""
    ends = _wires_of(lab, router.name)
    attached = [node for node in lab.nodes if any(away.part == node.name for _, away, _ in ends)]
    silent = () if nodes_announce(lab) else attached
    quiet = {node.name for node in silent}
    speaking = tuple(wire for wire in ends if wire[1].part not in quiet)
    own = [IPv4Network(router.router_id), *(IPv4Network(node.address.ip) for node in silent)]
    return _daemons(lab, router.name, router.router_id, router.asn, speaking, own)


def node_daemons(lab: Lab, node: Node) -> tuple[Daemon, ...]:
    """The same for a node that announces its pods; none for others."""
    if not nodes_announce(lab):
        return ()
    ends = _wires_of(lab, node.name)
    own = [IPv4Network(node.address.ip), node.pod_cidr]
    return _daemons(lab, node.name, node.address.ip, node_asn(node), ends, own, source=node.address.ip)


_Wire = tuple[LinkEnd, LinkEnd, int]
"""The end here, the end away, and the cost."""


def _wires_of(lab: Lab, part: str) -> tuple[_Wire, ...]:
    return tuple(
        (here, away, link.cost)
        for link in lab.links
        for here, away in (link.ends, link.ends[::-1])
        if here.part == part
    )


def _daemons(
    lab: Lab,
    name: str,
    router_id: IPv4Address,
    asn: int,
    ends: tuple[_Wire, ...],
    own: Iterable[IPv4Network],
    *,
    source: IPv4Address | None = None,
) -> tuple[Daemon, ...]:
    is_bgp = lab.fabric.routing is Routing.BGP
    of_protocol = _bgp(lab, name, router_id, asn, ends, own) if is_bgp else _ospf(lab, name, router_id, ends, own)
    protocol = BGPD if is_bgp else OSPFD
    return (
        Daemon(name=ZEBRA, configuration=_text(_zebra(name, "bgp" if is_bgp else "ospf", source))),
        Daemon(name=protocol, configuration=_text(of_protocol)),
    )


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _zebra(name: str, protocol: str, source: IPv4Address | None) -> Iterator[str]:
    """Routes carry their next hops themselves: FRR 8 does not put back into a group of the kernel what a link that was
    down took out of it."""
    yield f"hostname {name}"
    yield "no zebra nexthop kernel enable"
    if source is not None:
        yield f"route-map {_SOURCE} permit 10"
        yield f" set src {source}"
        yield f"ip protocol {protocol} route-map {_SOURCE}"


def _bgp(
    lab: Lab,
    name: str,
    router_id: IPv4Address,
    asn: int,
    ends: tuple[_Wire, ...],
    own: Iterable[IPv4Network],
) -> Iterator[str]:
    """Sessions with every neighbour. Paths of equal length through different systems are used together. Within a system
    every router is the next hop of what it passes on, and a reflector passes on all."""
    timers = lab.fabric.timers or Timers()
    is_listed = lab.fabric.type is FabricType.CUSTOM
    systems = {router.name: router.asn for router in lab.routers}
    yield "frr defaults datacenter"
    yield f"hostname {name}"
    yield f"router bgp {asn}"
    yield f" bgp router-id {router_id}"
    yield " no bgp ebgp-requires-policy"
    yield " no bgp network import-check"
    yield " bgp bestpath as-path multipath-relax"
    if is_listed:
        yield " bgp bestpath compare-routerid"
    yield f" timers bgp {timers.keepalive_s or KEEPALIVE_S} {timers.hold_s or HOLD_S}"
    within = []
    for _, away, _ in ends:
        assert away.address is not None
        address = away.address.ip
        is_within = systems.get(away.part) == asn
        within += [address] if is_within else []
        yield f" neighbor {address} remote-as {'internal' if is_within else 'external'}"
        yield f" neighbor {address} description {away.part}"
        yield f" neighbor {address} timers connect 1"
    yield " address-family ipv4 unicast"
    yield from (f"  network {network}" for network in own)
    is_reflector = any(router.name == name and router.is_reflector for router in lab.routers)
    for address in within:
        yield f"  neighbor {address} next-hop-self force"
        if is_reflector:
            yield f"  neighbor {address} route-reflector-client"
    yield "  maximum-paths 64"
    if within:
        yield "  maximum-paths ibgp 64"
    yield " exit-address-family"


def _ospf(
    lab: Lab, name: str, router_id: IPv4Address, ends: tuple[_Wire, ...], own: Iterable[IPv4Network]
) -> Iterator[str]:
    """One area; every link is point to point, so that nobody is elected. What is announced besides the links are the
    networks of one's own that the kernel has."""
    timers = lab.fabric.timers or Timers()
    yield f"hostname {name}"
    for here, _, cost in ends:
        yield f"interface {here.device}"
        yield " ip ospf network point-to-point"
        if lab.fabric.type is FabricType.CUSTOM:
            yield f" ip ospf cost {cost}"
        yield f" ip ospf hello-interval {timers.hello_s or HELLO_S}"
        yield f" ip ospf dead-interval {timers.dead_s or DEAD_S}"
        yield " ip ospf retransmit-interval 1"
    yield from (f"ip prefix-list {_LOCAL} permit {network}" for network in own)
    yield f"route-map {_LOCAL} permit 10"
    yield f" match ip address prefix-list {_LOCAL}"
    yield "router ospf"
    yield f" ospf router-id {router_id}"
    yield " timers throttle spf 0 20 200"
    yield " timers throttle lsa all 0"
    yield " timers lsa min-arrival 0"
    yield " no proactive-arp"
    yield " maximum-paths 64"
    yield f" redistribute connected route-map {_LOCAL}"
    yield f" redistribute kernel route-map {_LOCAL}"
    yield f" network {LINKS} area 0"
    yield f" network {ROUTER_IDS} area 0"


def speaks(lab: Lab, protocol: Routing) -> dict[str, int]:
    """The routers and nodes that run that protocol, and how many neighbours each has."""
    if lab.fabric.routing is protocol:
        announcing = {node.name for node in lab.nodes} if nodes_announce(lab) else set()
        silent = {node.name for node in lab.nodes} - announcing
        counts: dict[str, int] = {}
        for link in lab.links:
            parts = [end.part for end in link.ends]
            if not silent.intersection(parts):
                for part in parts:
                    counts[part] = counts.get(part, 0) + 1
        return counts
    if protocol is not Routing.BGP or not lab.pod_network.needs_frr:
        return {}
    if lab.routers:
        return {lab.routers[0].name: len(lab.nodes), **{node.name: 1 for node in lab.nodes}}
    return {node.name: len(lab.nodes) - 1 for node in lab.nodes}
