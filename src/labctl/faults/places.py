"""Where each fault is put in a lab, and the acts that break and mend it there. Pure.

What mends puts back what the lab's plan has, whatever was there before: it can be repeated, and it needs no record of
what was broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from labctl.datapath.layout import (
    CONFIG_KEY,
    Config,
    ConfigFlag,
    pack_address,
    pack_config,
    pack_ipcache,
    pack_tunnel_key,
)
from labctl.fabrics import fabric_of
from labctl.fabrics.frr import nodes_announce
from labctl.model.fabric import FabricType, Routing
from labctl.model.fault import Command, FaultAct, FaultSite, MapEntry, XdpProgram
from labctl.model.interfaces import UPLINK, UPLINK_INDEX
from labctl.model.lab import Encapsulation, HostRouting, Lab, Masquerade, Node, Pod
from labctl.model.pod_network import NetworkType
from labctl.names import namespace_of
from labctl.networks import network_of
from labctl.networks.cilium.contents import config_of
from labctl.planning.topology import LINKS, MESH_ASN, node_asn
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.daemon import vtysh
from labctl.providers.netns.kinds.routing import RouteAdd, TunnelEntryAdd
from labctl.values import dataclass


class Unfit(ValueError):
    """Why a fault would show nothing in a lab: a sentence."""


_MOST_PODS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """Two pods on different nodes."""

    client: Pod
    server: Pod
    here: Node
    there: Node


def _site(across: Across, where: str, breaks: Iterable[FaultAct], mends: Iterable[FaultAct]) -> FaultSite:
    pair = (across.client.name, across.server.name)
    return FaultSite(where=where, pair=pair, breaks=tuple(breaks), mends=tuple(mends))


def _ip(part: str, words: str, *, may_fail: bool = False) -> Command:
    return Command(part=part, argv=("ip", *words.split()), may_fail=may_fail)


def _sysctl(part: str, *settings: str) -> Command:
    return Command(part=part, argv=("sysctl", "-qw", *settings))


def is_cilium(lab: Lab) -> bool:
    return lab.pod_network.type is NetworkType.CILIUM


def _is_switched_by_frame(lab: Lab) -> bool:
    """The nodes of such a network bridge between pods and route nothing."""
    return lab.pod_network.type in (NetworkType.VXLAN, NetworkType.MACVLAN, NetworkType.IPVLAN)


def _walks_through_the_stack(lab: Lab) -> bool:
    """Whether a pod's packet to another node is forwarded by the kernel of its own node."""
    if is_cilium(lab):
        return (lab.in_force.host_routing, lab.datapath.encapsulation) == (HostRouting.LEGACY, Encapsulation.NATIVE)
    return not _is_switched_by_frame(lab)


def _require_stack(lab: Lab) -> None:
    if not _walks_through_the_stack(lab):
        raise Unfit(
            "eBPF programs, or a bridge, move packets between pods past the node's own forwarding"
            if is_cilium(lab) or _is_switched_by_frame(lab)
            else "the node does not forward"
        )


def _require_cilium(lab: Lab, what: str) -> None:
    if not is_cilium(lab):
        raise Unfit(f"{what} is of labctl's eBPF programs, and this network has none")


def missing_neighbour(lab: Lab, across: Across) -> FaultSite:
    if lab.fabric.type not in (FabricType.BRIDGE, FabricType.SWITCHED):
        raise Unfit("the nodes are not on one wire: they are no neighbours")
    if lab.pod_network.type in (NetworkType.MACVLAN, NetworkType.IPVLAN):
        raise Unfit("pods are on the wire themselves, and ask for each other by ARP")
    node, other = across.here, across.there
    entry = f"neigh replace {other.address.ip} lladdr {{mac}} dev {UPLINK} nud permanent"
    return _site(
        across,
        f"{node.name}:{UPLINK}",
        (_ip(node.name, entry.format(mac=node.mac)),),
        (_ip(node.name, entry.format(mac=other.mac)),),
    )


def _objects(lab: Lab, node: Node) -> Iterator[Object]:
    of_fabric, of_network = fabric_of(lab).node(lab, node), network_of(lab).node(lab, node)
    yield from (*of_fabric.routes, *of_network.routes)


def wrong_route(lab: Lab, across: Across) -> FaultSite:
    """On one wire by a third node, or by nobody; behind a router back to the node that it came from."""
    if _is_switched_by_frame(lab) or (
        is_cilium(lab) and lab.datapath.encapsulation.is_tunnel and not lab.fabric.is_routed
    ):
        raise Unfit("no route decides where packets between the pods go: a bridge or a tunnel map does")
    node, other = across.here, across.there
    if not lab.fabric.is_routed:
        third = next((one for one in lab.nodes if one not in (node, other)), None)
        wrong = third.address.ip if third else lab.network.underlay_cidr.broadcast_address - 1
        destination = _route_at(lab, node, other)
        if destination.device != UPLINK:
            raise Unfit("the route to the other node's pods is by the tunnel's device")
        return _rerouted(across, node.name, destination.destination, str(wrong), destination)
    one_hop = next((link for link in lab.links if node.name in {end.part for end in link.ends}), None)
    if one_hop is None:
        raise Unfit("no link of the client's node is known")
    away = next(end for end in one_hop.ends if end.part != node.name)
    here = next(end for end in one_hop.ends if end.part == node.name)
    is_tunnelled = lab.datapath.encapsulation.is_tunnel or (lab.fabric.learns and not nodes_announce(lab))
    prefix = IPv4Network(other.address.ip) if is_tunnelled else other.pod_cidr
    assert here.address is not None
    return _rerouted(across, away.part, prefix, str(here.address.ip), None)


def missing_route(lab: Lab, across: Across) -> FaultSite:
    """Of the way back: the request arrives, and nobody knows where its answer is to go."""
    node, other = across.there, across.here
    _require_stack(lab)
    if lab.fabric.is_routed:
        raise Unfit("nodes have one route for everything, and routers have the others")
    if lab.pod_network.translates:
        raise Unfit("the server sees the node's address, and that is on its own node's wire")
    route = _route_at(lab, node, other)
    if route.device != UPLINK or route.gateway is None:
        raise Unfit("the route to the other node's pods is a tunnel's, or a daemon's")
    mends = _rerouted(across, node.name, route.destination, str(route.gateway), route).mends
    delete = _ip(node.name, f"route del {route.destination}", may_fail=True)
    return _site(across, f"{node.name}: {route.destination}", (delete,), mends)


def _route_at(lab: Lab, node: Node, other: Node) -> RouteAdd:
    namespace = namespace_of(lab.name, node.name)
    for one in _objects(lab, node):
        if isinstance(one, RouteAdd) and one.namespace == namespace and other.pod_cidr == one.destination:
            return one
    return RouteAdd(namespace=namespace, device=UPLINK, index=UPLINK_INDEX, destination=other.pod_cidr)


def _rerouted(across: Across, part: str, prefix: IPv4Network, wrong: str, planned: RouteAdd | None) -> FaultSite:
    """A route that a daemon learned has a metric, and the wrong one, without, comes before it."""
    if planned is not None and planned.gateway is not None:
        source = f" src {planned.source}" if planned.source else ""
        mtu = f" mtu {planned.mtu}" if planned.mtu else ""
        mends = (_ip(part, f"route replace {prefix} via {planned.gateway} dev {planned.device}{source}{mtu}"),)
    else:
        mends = (_ip(part, f"route del {prefix} via {wrong} metric 0", may_fail=True),)
    return _site(across, f"{part}: {prefix}", (_ip(part, f"route replace {prefix} via {wrong}"),), mends)


def missing_fdb(lab: Lab, across: Across) -> FaultSite:
    namespace, there = namespace_of(lab.name, across.here.name), across.there.address.ip
    entries = [
        one
        for one in network_of(lab).node(lab, across.here).neighbours
        if isinstance(one, TunnelEntryAdd) and one.namespace == namespace and one.node == there
    ]
    if not entries:
        raise Unfit("no vxlan device of this network was told its FDB when the lab was built")
    part = across.here.name

    def command(act: str, one: TunnelEntryAdd, *, may_fail: bool) -> Command:
        words = f"fdb {act} {one.mac} dev {one.device} dst {one.node}"
        return Command(part=part, argv=("bridge", *words.split()), may_fail=may_fail)

    return _site(
        across,
        f"{part}:{entries[0].device}",
        [command("del", one, may_fail=True) for one in entries],
        [
            act
            for one in entries
            for act in (command("del", one, may_fail=True), command("append", one, may_fail=False))
        ],
    )


def small_mtu(lab: Lab, across: Across) -> FaultSite:
    part, mtu = across.here.name, lab.network.mtu
    if lab.pod_network.type in (NetworkType.MACVLAN, NetworkType.IPVLAN):
        raise Unfit("pods' devices share the uplink, and would shrink with it")
    if mtu - 50 < 1280:
        raise Unfit("the lab's MTU is too small already to be made smaller")
    return _site(
        across,
        f"{part}:{UPLINK}",
        (_ip(part, f"link set dev {UPLINK} mtu {mtu - 50}"),),
        (
            _ip(part, f"link set dev {UPLINK} mtu {mtu}"),
            # What a pod was told of the smaller MTU it would believe for ten minutes.
            *(_ip(pod.name, "route flush cache") for pod in lab.pods_on(part)[:_MOST_PODS]),
        ),
    )


def strict_rp_filter(lab: Lab, across: Across) -> FaultSite:
    if not is_cilium(lab):
        raise Unfit("the route back to each pod is by its own device: the strict filter lets it pass")
    _require_stack(lab)
    part = across.here.name
    return _site(
        across,
        part,
        (_sysctl(part, "net.ipv4.conf.all.rp_filter=1"),),
        (_sysctl(part, "net.ipv4.conf.all.rp_filter=0"),),
    )


def ip_forward_off(lab: Lab, across: Across) -> FaultSite:
    part = across.here.name
    if lab.fabric.is_routed:
        link = next(link for link in lab.links if part in {end.part for end in link.ends})
        part = next(end.part for end in link.ends if end.part != part)
    else:
        _require_stack(lab)
    return _site(
        across,
        part,
        (_sysctl(part, "net.ipv4.ip_forward=0"),),
        # Written, this setting changes those of every device; `all` and `default` of rp_filter stay.
        (_sysctl(part, "net.ipv4.ip_forward=1"),),
    )


def wrong_proxy_arp(lab: Lab, across: Across) -> FaultSite:
    node = across.here
    if lab.pod_network.type is NetworkType.CALICO:
        setting = f"net.ipv4.conf.{across.client.lxc}.proxy_arp"
        flush = _ip(across.client.name, "neigh flush dev eth0", may_fail=True)
        return _site(
            across,
            f"{node.name}:{across.client.lxc}",
            (_sysctl(node.name, f"{setting}=0"), flush),
            (_sysctl(node.name, f"{setting}=1"),),
        )
    raise Unfit(
        "the nodes of this network answer no ARP for the pods' gateway: it is a device of theirs, or a program does"
    )


def duplicate_address(lab: Lab, across: Across) -> FaultSite:
    """Where the node's own kernel looks the address up."""
    _require_stack(lab)
    part, address = across.here.name, across.server.address
    return _site(
        across,
        f"{part}:lo",
        (_ip(part, f"address replace {address}/32 dev lo"),),
        (_ip(part, f"address del {address}/32 dev lo", may_fail=True),),
    )


def xdp_drop(lab: Lab, across: Across) -> FaultSite:
    part = across.there.name
    program = XdpProgram(part=part, device=UPLINK, index=UPLINK_INDEX, is_there=True)
    return _site(across, f"{part}:{UPLINK}", (program,), (replace(program, is_there=False),))


def netfilter_drop(lab: Lab, across: Across) -> FaultSite:
    return _ruled(lab, across, ("DROP",))


def netfilter_reject(lab: Lab, across: Across) -> FaultSite:
    return _ruled(lab, across, ("REJECT", "--reject-with", "icmp-port-unreachable"))


def _ruled(lab: Lab, across: Across, target: tuple[str, ...]) -> FaultSite:
    _require_stack(lab)
    part, pods = across.here.name, str(lab.network.pod_cidr)
    rule = ("FORWARD", "-s", pods, "-d", pods, "-m", "comment", "--comment", "pods are kept apart", "-j", *target)

    def iptables(act: str, *, may_fail: bool) -> Command:
        return Command(part=part, argv=("iptables", "-w", act, *rule), may_fail=may_fail)

    return _site(
        across,
        f"{part}: FORWARD",
        (iptables("-D", may_fail=True), iptables("-I", may_fail=False)),
        (iptables("-D", may_fail=True),),
    )


def wrong_native_cidr(lab: Lab, across: Across) -> FaultSite:
    _require_cilium(lab, "the native routing CIDR")
    if lab.in_force.masquerade is not Masquerade.BPF or lab.datapath.encapsulation is not Encapsulation.NATIVE:
        raise Unfit("only eBPF masquerading of packets that are not tunnelled looks at it")
    sound = config_of(lab, across.here.name)
    return _configured(lab, across, across.here, replace(sound, pod_cidr=across.here.pod_cidr))


def no_redirect_peer(lab: Lab, across: Across) -> FaultSite:
    _require_cilium(lab, "bpf_redirect_peer")
    if lab.in_force.host_routing is not HostRouting.BPF:
        raise Unfit("only BPF host routing redirects to the peer")
    sound = config_of(lab, across.there.name)
    return _configured(lab, across, across.there, replace(sound, flags=sound.flags | ConfigFlag.NO_REDIRECT_PEER))


def wrong_vni(lab: Lab, across: Across) -> FaultSite:
    _require_cilium(lab, "the VNI that is the sender's identity")
    if not lab.datapath.encapsulation.is_tunnel:
        raise Unfit("without a tunnel there is no VNI")
    sound = config_of(lab, across.here.name)
    return _configured(lab, across, across.here, replace(sound, flags=sound.flags | ConfigFlag.WRONG_VNI))


def _configured(lab: Lab, across: Across, node: Node, broken: Config) -> FaultSite:
    def entry(value: Config) -> MapEntry:
        return MapEntry(part=node.name, map="config", key=CONFIG_KEY, value=pack_config(value))

    return _site(across, f"{node.name}: config", (entry(broken),), (entry(config_of(lab, node.name)),))


def wrong_vtep(lab: Lab, across: Across) -> FaultSite:
    """The node after the right one; where there is no third one, an address that no node has."""
    _require_cilium(lab, "the tunnel map")
    if not lab.datapath.encapsulation.is_tunnel:
        raise Unfit("without a tunnel there is no VTEP")
    node, other = across.here, across.there
    third = next((one for one in lab.nodes if one not in (node, other)), None)
    wrong = third.address.ip if third else lab.network.underlay_cidr.broadcast_address - 1

    def entries(vtep: IPv4Address) -> Iterator[MapEntry]:
        part = node.name
        yield MapEntry(part=part, map="tunnel", key=pack_tunnel_key(other.pod_cidr), value=pack_address(vtep))
        for pod in lab.pods_on(other.name):
            yield MapEntry(
                part=part, map="ipcache", key=pack_address(pod.address), value=pack_ipcache(pod.identity, vtep)
            )

    return _site(across, f"{node.name}: tunnel", entries(wrong), entries(other.address.ip))


def _announcer(lab: Lab, across: Across) -> tuple[str, int, IPv4Network]:
    """Who tells the others of the server's pods or node, the number of its system, and what it tells."""
    if lab.pod_network.type is NetworkType.CALICO and lab.pod_network.needs_frr:
        return across.there.name, MESH_ASN, across.there.pod_cidr
    if lab.fabric.routing is not Routing.BGP:
        raise Unfit("nobody announces the pods by BGP")
    if nodes_announce(lab):
        return across.there.name, node_asn(across.there), across.there.pod_cidr
    link = next(link for link in lab.links if across.there.name in {end.part for end in link.ends})
    edge = next(end.part for end in link.ends if end.part != across.there.name)
    if edge in _edges_of(lab, across.here.name):
        raise Unfit("both nodes are behind one router, which needs no announcement")
    router = next(router for router in lab.routers if router.name == edge)
    return edge, router.asn, IPv4Network(across.there.address.ip)


def _edges_of(lab: Lab, node: str) -> set[str]:
    return {end.part for link in lab.links for end in link.ends if node in {one.part for one in link.ends}} - {node}


def withdrawn_prefix(lab: Lab, across: Across) -> FaultSite:
    part, asn, prefix = _announcer(lab, across)
    inside = (f"router bgp {asn}", "address-family ipv4 unicast")
    return _site(
        across,
        f"{part}: {prefix}",
        (_told(lab, part, *inside, f"no network {prefix}"),),
        (_told(lab, part, *inside, f"network {prefix}"),),
    )


def _told(lab: Lab, part: str, *lines: str) -> Command:
    words = [word for line in ("configure terminal", *lines) for word in ("-c", line)]
    return Command(part=part, argv=vtysh(namespace_of(lab.name, part), words))


def _ospf_end(lab: Lab, across: Across) -> tuple[str, tuple[str, ...]]:
    """The router, or node, of the server's side, with its devices towards those that speak OSPF."""
    if lab.fabric.routing is not Routing.OSPF:
        raise Unfit("no routers of the lab speak OSPF")
    part = across.there.name
    if not nodes_announce(lab):
        part = next(iter(sorted(_edges_of(lab, part))))
    if part in _edges_of(lab, across.here.name):
        raise Unfit("both nodes are behind one router, which learns nothing of them")
    silent = set() if nodes_announce(lab) else {node.name for node in lab.nodes}
    devices = tuple(
        here.device
        for link in lab.links
        for here, away in (link.ends, link.ends[::-1])
        if here.part == part and away.part not in silent
    )
    return part, devices


def ospf_area(lab: Lab, across: Across) -> FaultSite:
    part, _ = _ospf_end(lab, across)
    return _site(
        across,
        part,
        (_told(lab, part, "router ospf", f"no network {LINKS} area 0", f"network {LINKS} area 1"),),
        (
            replace(_told(lab, part, "router ospf", f"no network {LINKS} area 1"), may_fail=True),
            replace(_told(lab, part, "router ospf", f"network {LINKS} area 0"), may_fail=True),
        ),
    )


def ospf_timers(lab: Lab, across: Across) -> FaultSite:
    part, devices = _ospf_end(lab, across)

    def timers(hello: int, dead: int) -> Command:
        lines = (
            line
            for device in devices
            for line in (f"interface {device}", f"ip ospf hello-interval {hello}", f"ip ospf dead-interval {dead}")
        )
        return _told(lab, part, *lines)

    return _site(across, part, (timers(7, 28),), (timers(1, 4),))
