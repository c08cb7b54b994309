"""Where packets go: addresses, routes and neighbours of devices, and the VTEPs that vxlan devices know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.planning.shell import word
from labctl.providers.netns.kinds.base import BuildContext, Kind, NamespaceReader, NetlinkObject, ObjectKind, Thing
from labctl.providers.netns.kinds.link import OnDevice, device_name, ip, up_name
from labctl.system import rtnetlink
from labctl.system.netlink import Request
from labctl.system.rtnetlink import ANY_MAC as ANY_MAC
from labctl.system.rtnetlink import RouteScope as RouteScope


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
        yield Thing(self.namespace, ObjectKind.ADDRESS, name, (device_name(self.device),))


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
        name = _route_name(
            str(self.destination.network_address),
            self.destination.prefixlen,
            str(self.gateway or ""),
            self.device,
            str(self.source or ""),
            self.mtu or 0,
        )
        yield Thing(self.namespace, ObjectKind.ROUTE, name, (device_name(self.device), up_name(self.device)))


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
        devices = [hop.device for hop in self.hops]
        name = _multipath_name(
            str(self.destination.network_address),
            self.destination.prefixlen,
            ((str(hop.gateway), hop.device) for hop in self.hops),
        )
        needs = tuple(made(device) for device in devices for made in (device_name, up_name))
        yield Thing(self.namespace, ObjectKind.ROUTE, name, needs)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackholeAdd(NetlinkObject):
    """A route that drops what goes there and that no longer route takes. It is not read back."""

    namespace: str
    destination: IPv4Network

    def shell(self) -> str:
        return f"{ip(self.namespace)} route add blackhole {self.destination}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.blackhole_add(self.destination)


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
        name = _neighbour_name(str(self.address), self.mac, self.device)
        yield Thing(self.namespace, ObjectKind.NEIGHBOUR, name, (device_name(self.device),))


def _scope(scope: RouteScope) -> str:
    return "" if scope is RouteScope.UNIVERSE else f" scope {scope.name.lower()}"


def _address_name(address: str, prefix: int, device: str) -> str:
    return f"address {address}/{prefix} dev {device}"


def _route_name(destination: str, prefix: int, gateway: str, device: str, source: str, mtu: int) -> str:
    to = f"{destination}/{prefix}" if prefix else "default"
    via = f" via {gateway}" if gateway else ""
    return f"route {to}{via} dev {device}" + (f" src {source}" if source else "") + (f" mtu {mtu}" if mtu else "")


def _multipath_name(destination: str, prefix: int, hops: Iterable[tuple[str, str]]) -> str:
    return f"route {destination}/{prefix} via " + " and ".join(f"{gateway} dev {device}" for gateway, device in hops)


def _neighbour_name(address: str, mac: str, device: str) -> str:
    return f"neighbour {address} lladdr {mac} dev {device}"


def _tunnel_entry_name(mac: str, node: str, device: str) -> str:
    return f"tunnel of {mac} dev {device} dst {node}"


def _tunnel_entries(look: NamespaceReader) -> Iterator[str]:
    for found in map(rtnetlink.parse_tunnel_entry, look.channel.ask(rtnetlink.all_tunnel_entries())):
        if found is not None and found.is_permanent:
            yield _tunnel_entry_name(found.mac, found.node, look.device(found.index))


def _addresses(look: NamespaceReader) -> Iterator[str]:
    for found in map(rtnetlink.parse_address, look.channel.ask(rtnetlink.all_addresses())):
        yield _address_name(found.address, found.prefix, look.device(found.index))


def _routes(look: NamespaceReader) -> Iterator[str]:
    for found in map(rtnetlink.parse_route, look.channel.ask(rtnetlink.all_routes())):
        if found is not None and found.hops:
            hops = ((gateway, look.device(index)) for index, gateway in found.hops)
            yield _multipath_name(found.destination, found.prefix, hops)
        elif found is not None:
            device = look.device(found.index)
            yield _route_name(found.destination, found.prefix, found.gateway, device, found.source, found.mtu)


def _neighbours(look: NamespaceReader) -> Iterator[str]:
    for found in map(rtnetlink.parse_neighbour, look.channel.ask(rtnetlink.all_neighbours())):
        if found is not None:
            yield _neighbour_name(found.address, found.mac, look.device(found.index))


ADDRESSES = Kind(name=ObjectKind.ADDRESS, objects=(AddressAdd,), read=_addresses)
ROUTES = Kind(name=ObjectKind.ROUTE, objects=(RouteAdd, MultipathAdd, BlackholeAdd), read=_routes)
TUNNELS = Kind(name=ObjectKind.TUNNEL, objects=(TunnelEntryAdd,), read=_tunnel_entries)
NEIGHBOURS = Kind(name=ObjectKind.NEIGHBOUR, objects=(NeighbourAdd,), read=_neighbours)
