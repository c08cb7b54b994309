"""Where packets go: addresses, routes, policy rules and neighbours of devices, and the VTEPs that vxlan devices know.

What the kernel adds by itself (local and broadcast routes, those of an address's network), what it or a vxlan device
learns, and what a routing daemon writes is read as none of these.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.model.interfaces import LO
from labctl.planning.shell import word
from labctl.providers.netns.kinds.base import (
    Batch,
    BuildContext,
    Found,
    Kind,
    NamespaceReader,
    NetlinkObject,
    Object,
    ObjectKind,
    Thing,
    failed,
    replacement,
)
from labctl.providers.netns.kinds.link import OnDevice, device_name, ip, up_name
from labctl.system import rtnetlink, rtnetlink_changes, rtnetlink_readings
from labctl.system.netlink import NetlinkError, Request
from labctl.system.rtnetlink import ANY_MAC as ANY_MAC
from labctl.system.rtnetlink import RouteScope as RouteScope
from labctl.system.rtnetlink_readings import AnyRoute
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressAdd(OnDevice):
    address: IPv4Interface
    scope: RouteScope = RouteScope.UNIVERSE

    def shell(self) -> str:
        return f"{ip(self.namespace)} address add {self.address} dev {word(self.device)}{_scope(self.scope)}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.address_add(self.index, self.address, scope=self.scope)

    def things(self) -> Iterator[Thing]:
        name = _address_name(str(self.address.ip), self.address.network.prefixlen, self.device)
        key, value = _address_key(str(self.address.ip), self.device), f"/{self.address.network.prefixlen}"
        yield Thing(self.namespace, ObjectKind.ADDRESS, name, (device_name(self.device),), (), key, value)

    def details(self) -> Iterator[Thing]:
        """The route to its network, which the kernel adds with it, and a person may remove."""
        if self.address.network.prefixlen < 32:
            needs = (device_name(self.device), up_name(self.device), _address_key(str(self.address.ip), self.device))
            name = _connected_name(str(self.address.network), self.device)
            yield Thing(self.namespace, ObjectKind.ROUTE, name, needs, (), name, "", partial(_connected, self))


def _connected_name(network: str, device: str) -> str:
    return f"route {network} dev {device} proto kernel"


def _connected(of: AddressAdd) -> tuple[Object, ...]:
    return (
        ConnectedReplace(
            namespace=of.namespace,
            device=of.device,
            index=of.index,
            destination=of.address.network,
            source=of.address.ip,
            scope=RouteScope.LINK,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteAdd(OnDevice):
    """A route of the main table. `mtu` is in bytes, for packets on this route; `onlink`: the gateway is on that device,
    whatever its addresses say."""

    destination: IPv4Network
    gateway: IPv4Address | None = None
    source: IPv4Address | None = None
    mtu: int | None = None
    scope: RouteScope = RouteScope.UNIVERSE
    onlink: bool = False

    def shell(self) -> str:
        destination = str(self.destination) if self.destination.prefixlen else "default"
        via = f" via {self.gateway}" if self.gateway else ""
        source = f" src {self.source}" if self.source else ""
        mtu = f" mtu {self.mtu}" if self.mtu else ""
        device = f" dev {word(self.device)}{_scope(self.scope)}{' onlink' if self.onlink else ''}"
        return f"{ip(self.namespace)} route add {destination}{via}{device}{source}{mtu}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.route_add(
            self.index,
            self.destination,
            gateway=self.gateway,
            source=self.source,
            mtu=self.mtu,
            scope=self.scope,
            onlink=self.onlink,
        )

    def things(self) -> Iterator[Thing]:
        to = str(self.destination) if self.destination.prefixlen else "default"
        value = _route_words(
            ((str(self.gateway or ""), self.device),), str(self.source or ""), self.mtu or 0, onlink=self.onlink
        )
        yield Thing(
            self.namespace,
            ObjectKind.ROUTE,
            f"route {to} {value}",
            (device_name(self.device), up_name(self.device)),
            (),
            f"route {to}",
            value,
            self.mends,
        )

    def in_place(self) -> RouteReplace:
        return replacement(self, RouteReplace)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteReplace(RouteAdd):
    """The route in place of the one to that destination, without a moment in which there is none."""

    def shell(self) -> str:
        return RouteAdd.shell(self).replace(" route add ", " route replace ", 1)

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.replacing(RouteAdd.request(self, context))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedReplace(RouteReplace):
    """The route to the network of an address, as the kernel adds it."""

    def shell(self) -> str:
        return f"{RouteReplace.shell(self)} proto kernel"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.of_kernel(RouteReplace.request(self, context))


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """A gateway, and the device that it is reached by."""

    device: str
    index: int
    gateway: IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipathAdd(NetlinkObject):
    """A route of the main table by several next hops, each for some of the flows."""

    namespace: str
    destination: IPv4Network
    hops: tuple[NextHop, ...]

    def shell(self) -> str:
        hops = " ".join(f"nexthop via {hop.gateway} dev {word(hop.device)}" for hop in self.hops)
        return f"{ip(self.namespace)} route add {self.destination} {hops}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.route_add(None, self.destination, hops=((hop.index, hop.gateway) for hop in self.hops))

    def things(self) -> Iterator[Thing]:
        key = f"route {self.destination}"
        value = _route_words([(str(hop.gateway), hop.device) for hop in self.hops], "", 0, onlink=False)
        needs = tuple(made(hop.device) for hop in self.hops for made in (device_name, up_name))
        yield Thing(self.namespace, ObjectKind.ROUTE, f"{key} {value}", needs, (), key, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackholeAdd(NetlinkObject):
    """A route that drops what goes there and that no longer route takes."""

    namespace: str
    destination: IPv4Network

    def shell(self) -> str:
        return f"{ip(self.namespace)} route add blackhole {self.destination}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.blackhole_add(self.destination)

    def things(self) -> Iterator[Thing]:
        key = f"route {self.destination}"
        yield Thing(self.namespace, ObjectKind.ROUTE, f"{key} blackhole", (), (), key, "blackhole", self.mends)

    def in_place(self) -> BlackholeReplace:
        return replacement(self, BlackholeReplace)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackholeReplace(BlackholeAdd):
    """The same, in place of the route to that destination."""

    def shell(self) -> str:
        return f"{ip(self.namespace)} route replace blackhole {self.destination}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.replacing(BlackholeAdd.request(self, context))


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelEntryAdd(OnDevice):
    """An entry of a vxlan device's forwarding database: frames to that MAC go to that VTEP, those to `ANY_MAC` to each
    that it names."""

    mac: str
    node: IPv4Address

    def shell(self) -> str:
        return f"bridge -n {word(self.namespace)} fdb append {word(self.mac)} dev {word(self.device)} dst {self.node}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.fdb_add(self.index, self.mac, self.node)

    def things(self) -> Iterator[Thing]:
        name = _tunnel_entry_name(self.mac, str(self.node), self.device)
        yield Thing(self.namespace, ObjectKind.TUNNEL, name, (device_name(self.device),))


def flooding_to(namespace: str, device: str, remote: IPv4Address) -> Thing:
    """The entry that the kernel adds for the one VTEP, or the group, that a vxlan device is made with."""
    name = _tunnel_entry_name(ANY_MAC, str(remote), device)
    return Thing(namespace, ObjectKind.TUNNEL, name, (device_name(device),))


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourAdd(OnDevice):
    """A permanent neighbour, so that no ARP between nodes appears in a capture or in a measurement."""

    address: IPv4Address
    mac: str

    def shell(self) -> str:
        device = f"lladdr {word(self.mac)} dev {word(self.device)}"
        return f"{ip(self.namespace)} neighbour add {self.address} {device} nud permanent"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.neighbour_add(self.index, self.address, self.mac)

    def things(self) -> Iterator[Thing]:
        name = f"neighbour {self.address} lladdr {self.mac} dev {self.device}"
        needs, key = (device_name(self.device),), _neighbour_key(str(self.address), self.device)
        yield Thing(self.namespace, ObjectKind.NEIGHBOUR, name, needs, (), key, self.mac, self.mends)

    def in_place(self) -> NeighbourReplace:
        return replacement(self, NeighbourReplace)


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourReplace(NeighbourAdd):
    """The same, in place of the entry of that address."""

    def shell(self) -> str:
        return NeighbourAdd.shell(self).replace(" neighbour add ", " neighbour replace ", 1)

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.replacing(NeighbourAdd.request(self, context))


KERNELS = " proto kernel"
"""What ends the name of a route that the kernel adds with an address."""


class _Removal(NetlinkObject):
    """An object that removes. What is gone already, with its device perhaps, is no error."""

    __slots__ = ()

    def batch(self) -> Batch:
        return (_remove_all, self.namespace)


LEARNED = "learned route "
"""What begins the name of a route that a routing daemon must have found; whichever way it leads."""
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})


def _remove_all(objects: Sequence[_Removal], context: BuildContext) -> None:
    for one in objects:
        try:
            context.namespaces.channel(one.namespace).send([one.request(context)])
        except NetlinkError as refused:
            if refused.errno not in _GONE:
                raise failed(one, refused) from refused


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressDelete(_Removal):
    namespace: str
    device: str
    index: int
    address: IPv4Interface

    def shell(self) -> str:
        return f"{ip(self.namespace)} address delete {self.address} dev {word(self.device)}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.address_delete(self.index, self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDelete(_Removal):
    """Of several routes to that destination the one with that metric."""

    namespace: str
    destination: str
    metric: int = 0
    table: int = rtnetlink_readings.TABLE_MAIN
    type: str = ""

    def shell(self) -> str:
        table = "" if self.table == rtnetlink_readings.TABLE_MAIN else f" table {self.table}"
        metric = f" metric {self.metric}" if self.metric else ""
        return (
            f"{ip(self.namespace)} route delete {self.type}{' ' if self.type else ''}{self.destination}{metric}{table}"
        )

    def request(self, context: BuildContext) -> Request:
        destination = IPv4Network("0.0.0.0/0" if self.destination == "default" else self.destination)
        return rtnetlink_changes.route_delete(destination, metric=self.metric, table=self.table)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRuleDelete(_Removal):
    namespace: str
    priority: int
    table: int

    def shell(self) -> str:
        return f"{ip(self.namespace)} rule delete priority {self.priority}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.policy_rule_delete(self.priority, self.table)


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourDelete(_Removal):
    namespace: str
    device: str
    index: int
    address: IPv4Address

    def shell(self) -> str:
        return f"{ip(self.namespace)} neighbour delete {self.address} dev {word(self.device)}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.neighbour_delete(self.index, self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyDelete(_Removal):
    """Of an address for which the kernel answers ARP on that device."""

    namespace: str
    device: str
    index: int
    address: IPv4Address

    def shell(self) -> str:
        return f"{ip(self.namespace)} neighbour delete proxy {self.address} dev {word(self.device)}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.proxy_delete(self.index, self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelEntryDelete(_Removal):
    namespace: str
    device: str
    index: int
    mac: str
    node: IPv4Address

    def shell(self) -> str:
        return f"bridge -n {word(self.namespace)} fdb delete {word(self.mac)} dev {word(self.device)} dst {self.node}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.fdb_delete(self.index, self.mac, self.node)


def _scope(scope: RouteScope) -> str:
    return "" if scope is RouteScope.UNIVERSE else f" scope {scope.name.lower()}"


def _address_name(address: str, prefix: int, device: str) -> str:
    return f"address {address}/{prefix} dev {device}"


def _address_key(address: str, device: str) -> str:
    return f"address {address} dev {device}"


def _neighbour_key(address: str, device: str) -> str:
    return f"neighbour {address} dev {device}"


def _tunnel_entry_name(mac: str, node: str, device: str) -> str:
    return f"tunnel of {mac} dev {device} dst {node}"


def _route_words(hops: Sequence[tuple[str, str]], source: str, mtu: int, *, onlink: bool) -> str:
    """`via 10.0.0.1 dev eth0 src … mtu … onlink`; several hops stand one after the other."""
    ways = [(f"via {gateway} " if gateway else "") + f"dev {device}" for gateway, device in hops]
    return (
        " nexthop ".join(ways)
        + (f" src {source}" if source else "")
        + (f" mtu {mtu}" if mtu else "")
        + (" onlink" if onlink else "")
    )


def _tunnel_entries(look: NamespaceReader) -> Iterator[Found]:
    for found in map(rtnetlink.parse_tunnel_entry, look.channel.ask(rtnetlink.all_tunnel_entries())):
        if found is not None and found.is_permanent and not found.is_external:
            device = look.device(found.index)
            yield Found(
                _tunnel_entry_name(found.mac, found.node, device),
                "",
                partial(_tunnel_removal, look.namespace, found, device),
            )


def _tunnel_removal(namespace: str, found: rtnetlink.TunnelEntry, device: str) -> Object:
    return TunnelEntryDelete(
        namespace=namespace, device=device, index=found.index, mac=found.mac, node=IPv4Address(found.node)
    )


def _addresses(look: NamespaceReader) -> Iterator[Found]:
    for found in map(rtnetlink.parse_address, look.channel.ask(rtnetlink.all_addresses())):
        device = look.device(found.index)
        # The loopback's own address comes with the namespace.
        is_own = device == LO and found.address == "127.0.0.1"
        removal = None if is_own else partial(_address_removal, look.namespace, found, device)
        yield Found(_address_key(found.address, device), f"/{found.prefix}", removal)


def _address_removal(namespace: str, found: rtnetlink.Address, device: str) -> Object:
    address = IPv4Interface((found.address, found.prefix))
    return AddressDelete(namespace=namespace, device=device, index=found.index, address=address)


def _routes(look: NamespaceReader) -> Iterator[Found]:
    learned = {thing.of for thing in look.things if thing.of.startswith(LEARNED)} if look.closely else frozenset()
    for body in look.channel.ask(rtnetlink.all_routes()):
        route = rtnetlink_readings.parse_any_route(body)
        network = f"{route.destination}/{route.prefix}"
        if f"{LEARNED}{network}" in learned and route.table == rtnetlink_readings.TABLE_MAIN:
            yield Found(f"{LEARNED}{network}")
        if look.closely and route.protocol == rtnetlink_readings.RTPROT_KERNEL:
            if route.table == rtnetlink_readings.TABLE_MAIN:
                yield Found(_connected_name(network, look.device(route.hops[0][1])))
            continue
        if route.table == rtnetlink_readings.TABLE_LOCAL or route.protocol not in rtnetlink_readings.BY_HAND:
            continue
        to = f"{route.destination}/{route.prefix}" if route.prefix else "default"
        kind = rtnetlink_readings.ROUTE_TYPES.get(route.type, str(route.type))
        value = kind
        if route.type == rtnetlink_readings.RTN_UNICAST:
            hops = [(gateway, look.device(index)) for gateway, index in route.hops]
            value = _route_words(hops, route.source, route.mtu, onlink=route.is_onlink)
        yield Found(_route_key(route, to), value, partial(_route_removal, look.namespace, route, to))


def _route_key(route: AnyRoute, to: str) -> str:
    table = "" if route.table == rtnetlink_readings.TABLE_MAIN else f" table {route.table}"
    return f"route {to}" + (f" metric {route.metric}" if route.metric else "") + table


def _route_removal(namespace: str, route: AnyRoute, to: str) -> Object:
    kind = "" if route.type == rtnetlink_readings.RTN_UNICAST else rtnetlink_readings.ROUTE_TYPES.get(route.type, "")
    return RouteDelete(namespace=namespace, destination=to, metric=route.metric, table=route.table, type=kind)


_OWN_RULES = frozenset({(0, rtnetlink_readings.TABLE_LOCAL), (32766, rtnetlink_readings.TABLE_MAIN),
                        (32767, rtnetlink_readings.TABLE_DEFAULT)})  # fmt: skip


def _policy_rules(look: NamespaceReader) -> Iterator[Found]:
    if not look.closely:
        return
    for body in look.channel.ask(rtnetlink_readings.every_policy_rule()):
        rule = rtnetlink_readings.parse_policy_rule(body)
        if (rule.priority, rule.table) not in _OWN_RULES:
            key = f"rule {rule.priority}: from {rule.source} to {rule.destination} lookup {rule.table}"
            remove = partial(PolicyRuleDelete, namespace=look.namespace, priority=rule.priority, table=rule.table)
            yield Found(key, "", remove)


def _neighbours(look: NamespaceReader) -> Iterator[Found]:
    for found in map(rtnetlink.parse_neighbour, look.channel.ask(rtnetlink.all_neighbours())):
        if found is not None:
            device = look.device(found.index)
            removal = partial(_neighbour_removal, look.namespace, found, device)
            yield Found(_neighbour_key(found.address, device), found.mac, removal)
    if not look.closely or len(look.links) <= _OF_A_POD:
        return
    for proxy in map(rtnetlink_readings.parse_proxy, look.channel.ask(rtnetlink_readings.all_proxies())):
        if proxy is not None:
            index, address = proxy
            yield Found(
                f"neighbour proxy {address} dev {look.device(index)}", "",
                partial(_proxy_removal, look.namespace, index, look.device(index), IPv4Address(address)),
            )  # fmt: skip


_OF_A_POD = 2
"""lo and eth0: nobody is behind a pod, for whom it could answer."""


def _proxy_removal(namespace: str, index: int, device: str, address: IPv4Address) -> Object:
    return ProxyDelete(namespace=namespace, device=device, index=index, address=address)


def _neighbour_removal(namespace: str, found: rtnetlink.Neighbour, device: str) -> Object:
    return NeighbourDelete(namespace=namespace, device=device, index=found.index, address=IPv4Address(found.address))


ADDRESSES = Kind(name=ObjectKind.ADDRESS, objects=(AddressAdd, AddressDelete), read=_addresses)
ROUTES = Kind(
    name=ObjectKind.ROUTE,
    objects=(RouteAdd, MultipathAdd, RouteReplace, ConnectedReplace, RouteDelete, BlackholeAdd, BlackholeReplace),
    read=_routes,
)
POLICY_RULES = Kind(name=ObjectKind.POLICY_RULE, objects=(PolicyRuleDelete,), read=_policy_rules)
TUNNELS = Kind(name=ObjectKind.TUNNEL, objects=(TunnelEntryAdd, TunnelEntryDelete), read=_tunnel_entries)
NEIGHBOURS = Kind(
    name=ObjectKind.NEIGHBOUR, objects=(NeighbourAdd, NeighbourReplace, NeighbourDelete, ProxyDelete), read=_neighbours
)
