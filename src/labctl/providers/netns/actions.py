"""The acts that build a netns lab, as frozen values: what each one does, and the command that a person would type.

Every action says `shell()` and `record()`; those that are netlink messages also give their `request`. Carrying
them out is `execute`'s; those of the datapath's programs are in `datapath_actions`.

The acts that put labctl's eBPF programs into a node, as frozen values with the bpftool and tc commands.

By hand, programs and maps have to be pinned to be found again by the next command; `executor` keeps descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum, StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Protocol, runtime_checkable

from labctl.model.lab import Encapsulation, HostRouting
from labctl.planning.shell import fed, quoted, word, written
from labctl.system import netns, rtnetlink
from labctl.system.netlink import Request
from labctl.system.rtnetlink import RouteScope

Descriptors = Callable[[str], int]
"""Gives an open descriptor of the namespace of that name."""


def _plain(value: object) -> object:
    """A field as JSON-ready data."""
    match value:
        case Device():
            return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        case Enum():
            return value.name.lower()
        case IPv4Address() | IPv4Interface() | IPv4Network() | Path():
            return str(value)
        case bytes():
            return value.hex()
        case tuple():
            return [_plain(item) for item in value]
        case _:
            return value


class Recorded:
    """Gives an action its record: its kind and its fields."""

    __slots__ = ()

    def record(self) -> Mapping[str, object]:
        return {
            "kind": type(self).__name__,
            **{field.name: _plain(getattr(self, field.name)) for field in fields(self)},  # type: ignore[arg-type]
        }


@runtime_checkable
class NetlinkAction(Protocol):
    """An action that is one rtnetlink message in one namespace."""

    @property
    def namespace(self) -> str: ...

    def request(self, descriptor_of: Descriptors) -> Request: ...

    def shell(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device to be made. `mtu` in bytes; `arp` false is for devices that resolve nobody (IFF_NOARP)."""

    name: str
    index: int
    mac: str
    mtu: int
    arp: bool = True

    def words(self) -> str:
        return f"name {word(self.name)} index {self.index} address {word(self.mac)} mtu {self.mtu}" + (
            "" if self.arp else " arp off"
        )

    def encoded(self, *, up: bool) -> rtnetlink.NetDevice:
        flags = (rtnetlink.IFF_UP if up else 0) | (0 if self.arp else rtnetlink.IFF_NOARP)
        return rtnetlink.NetDevice(name=self.name, index=self.index, mac=self.mac, mtu=self.mtu, flags=flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceAdd(Recorded):
    """A namespace whose loopback is up and carries `alias`, the mark by which labctl knows its own."""

    namespace: str
    alias: str

    def shell(self) -> str:
        return f"ip netns add {word(self.namespace)}\n{_ip(self.namespace)} link set dev lo up alias {word(self.alias)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceDelete(Recorded):
    """Drops a namespace, and with it every device in it."""

    namespace: str

    def shell(self) -> str:
        return f"ip netns delete {word(self.namespace)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sysctls(Recorded):
    """Settings of one namespace, in order: (`net.ipv4.ip_forward`, `1`). With `if_there`, those that this kernel
    does not have are passed over."""

    namespace: str
    settings: tuple[tuple[str, str], ...]
    if_there: bool = False

    def shell(self) -> str:
        words = " ".join(word(f"{key}={value}") for key, value in self.settings)
        place = word(f"--net={netns.path_of(self.namespace)}")
        return f"nsenter {place} sysctl -{'e' if self.if_there else ''}qw {words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeAdd(Recorded):
    """A bridge, up."""

    namespace: str
    device: Device

    def shell(self) -> str:
        return f"{_ip(self.namespace)} link add {self.device.words()} up type bridge"

    def request(self, descriptor_of: Descriptors) -> Request:
        return rtnetlink.bridge_add(self.device.encoded(up=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class VethAdd(Recorded):
    """A veth pair: `device` here and up, `peer` in `peer_namespace` (None: here too) and still down.

    `bridge` is the name and index of the bridge that `device` is a port of.
    """

    namespace: str
    device: Device
    peer: Device
    peer_namespace: str | None = None
    bridge: tuple[str, int] | None = None

    def shell(self) -> str:
        master = f" master {word(self.bridge[0])}" if self.bridge else ""
        away = f" netns {word(self.peer_namespace)}" if self.peer_namespace else ""
        return (
            f"{_ip(self.namespace)} link add {self.device.words()}{master} up type veth peer {self.peer.words()}{away}"
        )

    def request(self, descriptor_of: Descriptors) -> Request:
        return rtnetlink.veth_add(
            self.device.encoded(up=True),
            self.peer.encoded(up=False),
            peer_namespace=descriptor_of(self.peer_namespace) if self.peer_namespace else None,
            master=self.bridge[1] if self.bridge else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanAdd(Recorded):
    """A vxlan device whose tunnels the eBPF programs choose, packet by packet (collect-metadata mode), up."""

    namespace: str
    device: Device
    port: int

    def shell(self) -> str:
        return (
            f"{_ip(self.namespace)} link add {self.device.words()} up "
            f"type vxlan external nolearning dstport {self.port}"
        )

    def request(self, descriptor_of: Descriptors) -> Request:
        return rtnetlink.vxlan_add(self.device.encoded(up=True), port=self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUp(Recorded):
    namespace: str
    device: str
    index: int

    def shell(self) -> str:
        return f"{_ip(self.namespace)} link set dev {word(self.device)} up"

    def request(self, descriptor_of: Descriptors) -> Request:
        return rtnetlink.link_up(self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressAdd(Recorded):
    namespace: str
    device: str
    index: int
    address: IPv4Interface
    scope: RouteScope = RouteScope.UNIVERSE

    def shell(self) -> str:
        return f"{_ip(self.namespace)} address add {self.address} dev {word(self.device)}{_scope(self.scope)}"

    def request(self, descriptor_of: Descriptors) -> Request:
        return rtnetlink.address_add(self.index, self.address, scope=self.scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteAdd(Recorded):
    """A route of the main table. `mtu` in bytes is what a packet by this route may be long."""

    namespace: str
    device: str
    index: int
    destination: IPv4Network
    gateway: IPv4Address | None = None
    source: IPv4Address | None = None
    mtu: int | None = None
    scope: RouteScope = RouteScope.UNIVERSE

    def shell(self) -> str:
        destination = str(self.destination) if self.destination.prefixlen else "default"
        via = f" via {self.gateway}" if self.gateway else ""
        source = f" src {self.source}" if self.source else ""
        mtu = f" mtu {self.mtu}" if self.mtu else ""
        device = f" dev {word(self.device)}{_scope(self.scope)}"
        return f"{_ip(self.namespace)} route add {destination}{via}{device}{source}{mtu}"

    def request(self, descriptor_of: Descriptors) -> Request:
        return rtnetlink.route_add(
            self.index, self.destination, gateway=self.gateway, source=self.source, mtu=self.mtu, scope=self.scope
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourAdd(Recorded):
    """A permanent neighbour, so that no ARP between nodes stands in a capture or in a measurement."""

    namespace: str
    device: str
    index: int
    address: IPv4Address
    mac: str

    def shell(self) -> str:
        device = f"lladdr {word(self.mac)} dev {word(self.device)}"
        return f"{_ip(self.namespace)} neighbour add {self.address} {device} nud permanent"

    def request(self, descriptor_of: Descriptors) -> Request:
        return rtnetlink.neighbour_add(self.index, self.address, self.mac)


@dataclass(frozen=True, slots=True, kw_only=True)
class IptablesRestore(Recorded):
    """A node's netfilter rules, as the text that iptables-restore reads.

    `optional` are lines of it that a kernel may lack the match for; they are left out where it does.
    """

    namespace: str
    rules: str
    optional: tuple[str, ...] = ()

    def argv(self) -> tuple[str, ...]:
        return ("iptables-restore",)

    def without_optional(self) -> str:
        return "".join(f"{line}\n" for line in self.rules.splitlines() if line not in self.optional)

    def shell(self) -> str:
        return fed(quoted(netns.command(self.namespace, self.argv())), self.rules, end="RULES")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordWrite(Recorded):
    """The lab's facts in a file, for `labctl status`; written last, so its presence says that the lab is whole."""

    path: Path
    document: str

    def shell(self) -> str:
        return "\n".join((f"mkdir -p {word(self.path.parent)}", written(self.path, f"{self.document}\n")))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDelete(Recorded):
    path: Path

    def shell(self) -> str:
        return f"rm -rf {word(self.path.parent)}"


def _ip(namespace: str) -> str:
    """The beginning of an ip command inside a namespace."""
    return f"ip -n {word(namespace)}"


def _scope(scope: RouteScope) -> str:
    return "" if scope is RouteScope.UNIVERSE else f" scope {scope.name.lower()}"


class Direction(StrEnum):
    """The side of a device that a program is attached to, as tc calls it."""

    INGRESS = "ingress"
    EGRESS = "egress"

    @property
    def hook(self) -> rtnetlink.Hook:
        return rtnetlink.Hook[self.name]


Programs = Callable[[str, str], int]
"""Gives the descriptor of a node's program: (namespace, program)."""


def pins(lab: str) -> Path:
    """Where the script of `plan --shell` mounts a bpffs while it runs. No dots: libbpf makes them underscores."""
    return netns.RUN_DIRECTORY / f"bpf-{lab}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathLoad(Recorded):
    """Loads the programs and makes the maps of one node."""

    namespace: str
    host_routing: HostRouting
    encapsulation: Encapsulation
    object: Path
    pins: Path

    def shell(self) -> str:
        programs, maps = word(self.pins / "programs"), word(self.pins / "maps")
        return f"mkdir {word(self.pins)}\nbpftool prog loadall {word(self.object)} {programs} pinmaps {maps}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapsFill(Recorded):
    """Entries (key, value) of one map of one node."""

    namespace: str
    map: str
    entries: tuple[tuple[bytes, bytes], ...]
    pins: Path

    def shell(self) -> str:
        lines = "".join(
            f"map update pinned {self.pins}/maps/{self.map} key hex {key.hex(' ')} value hex {value.hex(' ')}\n"
            for key, value in self.entries
        )
        return fed("bpftool batch file - >/dev/null", lines, end="ENTRIES")


@dataclass(frozen=True, slots=True, kw_only=True)
class HooksAdd(Recorded):
    """Gives a device its two tc hooks."""

    namespace: str
    device: str
    index: int

    def shell(self) -> str:
        return f"tc -n {word(self.namespace)} qdisc add dev {word(self.device)} clsact"

    def request(self, descriptor_of: Callable[[str], int]) -> Request:
        return rtnetlink.clsact_add(self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterAttach(Recorded):
    """Attaches a program of the node to one side of a device.

    `name` is what `tc filter show` prints, as Cilium's agent gives it; the tc command has no option for it and
    shows the pin's name instead.
    """

    namespace: str
    device: str
    index: int
    direction: Direction
    program: str
    name: str
    pins: Path

    def shell(self) -> str:
        return (
            f"tc -n {word(self.namespace)} filter add dev {word(self.device)} {self.direction} "
            f"prio 1 protocol all bpf direct-action object-pinned {word(self.pins / 'programs' / self.program)}"
        )

    def request_with(self, program_of: Programs) -> Request:
        return rtnetlink.filter_add(
            self.index,
            self.direction.hook,
            program=program_of(self.namespace, self.program),
            name=self.name,
        )
