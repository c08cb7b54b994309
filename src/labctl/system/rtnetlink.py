"""The messages of rtnetlink that build a lab and look at one: devices, addresses, routes, neighbours, tc filters.

Pure: arguments to a `Request`, an answer's body to a value. Formats are those of linux/rtnetlink.h, if_link.h,
neighbour.h and pkt_sched.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.system.multipath import decoded_hops, encoded_hops
from labctl.system.netlink import (
    ALL,
    APPENDED,
    CHANGE,
    NEW,
    Request,
    attribute,
    attributes,
    mac_attribute,
    number_attribute,
    selected,
    string,
    text_attribute,
)
from labctl.values import dataclass

_RTM_NEWLINK = 16
_RTM_GETLINK = 18
_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_RTM_NEWNEIGH = 28
_RTM_GETNEIGH = 30
_RTM_NEWQDISC = 36
_RTM_NEWTFILTER = 44
_RTM_GETTFILTER = 46

IFF_UP = 0x1
IFF_NOARP = 0x80

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_PROTINFO = 12
_IFLA_BRPORT_STATE = 1
_IFLA_LINKINFO = 18
_IFLA_IFALIAS = 20
_IFLA_STATS64 = 23
_IFLA_NET_NS_FD = 28
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_VETH_INFO_PEER = 1
_IFLA_VXLAN_ID = 1
_IFLA_VXLAN_GROUP = 2
_IFLA_VXLAN_LINK = 3
_IFLA_VXLAN_LOCAL = 4
_IFLA_VXLAN_LEARNING = 7
_IFLA_VXLAN_PORT = 15
_IFLA_VXLAN_COLLECT_METADATA = 25
_IFLA_GENEVE_PORT = 5
_IFLA_GENEVE_COLLECT_METADATA = 6

_IFLA_BR_FORWARD_DELAY = 1
_IFLA_BR_HELLO_TIME = 2
_IFLA_BR_MAX_AGE = 3
_IFLA_BR_STP_STATE = 5
_IFLA_BR_PRIORITY = 6
_IFLA_MACVLAN_MODE = 1
_IFLA_IPVLAN_MODE = 1
_MACVLAN_MODE_BRIDGE = 4
_IPVLAN_MODE_L2 = 0

_IFA_ADDRESS = 1
_IFA_LOCAL = 2

_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PREFSRC = 7
_RTA_METRICS = 8
_RTA_MULTIPATH = 9
_RTAX_MTU = 2
_RT_TABLE_MAIN = 254
_RTPROT_BOOT = 3
_RTN_UNICAST = 1
_RTN_BLACKHOLE = 6
_RTNH_F_ONLINK = 4

_NDA_DST = 1
_NDA_LLADDR = 2
_NUD_PERMANENT = 0x80
_NTF_SELF = 0x02
_NTF_EXT_LEARNED = 0x10
_AF_BRIDGE = 7

_TCA_KIND = 1
_TCA_OPTIONS = 2
_TCA_BPF_FD = 6
_TCA_BPF_NAME = 7
_TCA_BPF_FLAGS = 8
_TCA_BPF_TAG = 10
_TCA_BPF_ID = 11
_TCA_BPF_FLAG_ACT_DIRECT = 1
_TC_H_CLSACT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000
_ETH_P_ALL = 0x0003
_FILTER_PRIORITY = 1

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_TCMSG = struct.Struct("=BxxxiIII")


ANY_MAC = "00:00:00:00:00:00"
"""Of an entry of a vxlan device's FDB: every MAC that has no entry of its own."""


class RouteScope(IntEnum):
    """How far the destination is (`ip route … scope`)."""

    UNIVERSE = 0
    LINK = 253


class Hook(IntEnum):
    """The two tc hooks of a device, as the parents that the kernel knows them by."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


def _link(kind: str, data: bytes) -> bytes:
    return attribute(
        _IFLA_LINKINFO, text_attribute(_IFLA_INFO_KIND, kind) + (attribute(_IFLA_INFO_DATA, data) if data else b"")
    )


def _device(index: int, flags: int, name: str, mac: str, mtu: int) -> bytes:
    """The part that a link and its peer have in common: header and attributes."""
    return (
        _IFINFO.pack(0, 0, index, flags, flags)
        + text_attribute(_IFLA_IFNAME, name)
        + mac_attribute(_IFLA_ADDRESS, mac)
        + number_attribute(_IFLA_MTU, mtu)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetDevice:
    """What a device is made with. `mtu` in bytes; `flags` are IFF_UP and IFF_NOARP."""

    name: str
    index: int
    mac: str
    mtu: int
    flags: int


def veth_add(
    end: NetDevice, peer: NetDevice, *, peer_namespace: int | None = None, master: int | None = None
) -> Request:
    """A veth pair. `peer_namespace` is a descriptor of the namespace that the peer is made in (None: the same);
    `master` is the index of the bridge that `end` becomes a port of.

    The kernel takes `end` up at once when asked to. The peer has to be taken up afterwards: veth_open refuses while
    the pair is half made.
    """
    inside = b"" if peer_namespace is None else number_attribute(_IFLA_NET_NS_FD, peer_namespace)
    other = attribute(_VETH_INFO_PEER, _device(peer.index, peer.flags, peer.name, peer.mac, peer.mtu) + inside)
    body = _device(end.index, end.flags, end.name, end.mac, end.mtu) + _link("veth", other)
    return Request(_RTM_NEWLINK, NEW, body if master is None else body + number_attribute(_IFLA_MASTER, master))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanningTree:
    """The spanning tree protocol of a bridge (IEEE 802.1D, the kernel's own). Times in hundredths of a second; the
    bridge of the lowest `priority` becomes the root."""

    priority: int = 32_768
    hello: int = 200
    forward_delay: int = 1_500
    max_age: int = 2_000


def bridge_add(device: NetDevice, *, spanning_tree: SpanningTree | None = None) -> Request:
    data = b""
    if spanning_tree is not None:
        data = (
            number_attribute(_IFLA_BR_FORWARD_DELAY, spanning_tree.forward_delay)
            + number_attribute(_IFLA_BR_HELLO_TIME, spanning_tree.hello)
            + number_attribute(_IFLA_BR_MAX_AGE, spanning_tree.max_age)
            + attribute(_IFLA_BR_PRIORITY, struct.pack("=H", spanning_tree.priority))
            + number_attribute(_IFLA_BR_STP_STATE, 1)
        )
    return _link_add(device, "bridge", data)


def _link_add(device: NetDevice, kind: str, data: bytes, more: bytes = b"") -> Request:
    common = _device(device.index, device.flags, device.name, device.mac, device.mtu)
    return Request(_RTM_NEWLINK, NEW, common + more + _link(kind, data))


def external_tunnel_add(device: NetDevice, kind: str, *, port: int) -> Request:
    """A vxlan or geneve device in collect-metadata mode: the tunnel of each packet is what an eBPF program says."""
    where = struct.pack("!H", port)
    if kind == "geneve":
        data = attribute(_IFLA_GENEVE_COLLECT_METADATA, b"") + attribute(_IFLA_GENEVE_PORT, where)
    else:
        learning = attribute(_IFLA_VXLAN_LEARNING, b"\0")
        data = attribute(_IFLA_VXLAN_COLLECT_METADATA, b"\1") + attribute(_IFLA_VXLAN_PORT, where) + learning
    return _link_add(device, kind, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """What a vxlan device does on its own. `remote` is where what it has no entry for goes: a node, or a multicast
    group, which it joins on the device of index `link`. Without `remote` only entries of the FDB say where to."""

    vni: int
    port: int
    local: IPv4Address
    link: int
    remote: IPv4Address | None = None
    learning: bool = False


def vxlan_tunnel_add(device: NetDevice, tunnel: Tunnel, *, master: int | None = None) -> Request:
    """A vxlan device whose tunnels are in its FDB; `master` is the index of the bridge that it becomes a port of."""
    data = (
        number_attribute(_IFLA_VXLAN_ID, tunnel.vni)
        + attribute(_IFLA_VXLAN_LOCAL, tunnel.local.packed)
        + number_attribute(_IFLA_VXLAN_LINK, tunnel.link)
        + attribute(_IFLA_VXLAN_PORT, struct.pack("!H", tunnel.port))
        + attribute(_IFLA_VXLAN_LEARNING, b"\1" if tunnel.learning else b"\0")
    )
    if tunnel.remote is not None:
        data += attribute(_IFLA_VXLAN_GROUP, tunnel.remote.packed)
    return _link_add(device, "vxlan", data, b"" if master is None else number_attribute(_IFLA_MASTER, master))


class Sharing(StrEnum):
    """How a device shares another one: with a MAC of its own, or with an IP address of its own."""

    MACVLAN = "macvlan"
    IPVLAN = "ipvlan"


def shared_add(device: NetDevice, *, kind: Sharing, lower: int, namespace: int) -> Request:
    """A macvlan (mode bridge) or ipvlan (mode l2) device on the device of index `lower` of this namespace, made in the
    namespace of that descriptor."""
    if kind is Sharing.MACVLAN:
        data = number_attribute(_IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE)
    else:
        data = attribute(_IFLA_IPVLAN_MODE, struct.pack("=H", _IPVLAN_MODE_L2))
    more = number_attribute(_IFLA_LINK, lower) + number_attribute(_IFLA_NET_NS_FD, namespace)
    return _link_add(device, kind, data, more)


def port_add(index: int, *, bridge: int) -> Request:
    """Makes a device a port of the bridge of that index, and takes it up."""
    body = _IFINFO.pack(0, 0, index, IFF_UP, IFF_UP) + number_attribute(_IFLA_MASTER, bridge)
    return Request(_RTM_NEWLINK, CHANGE, body)


def link_up(index: int) -> Request:
    return Request(_RTM_NEWLINK, CHANGE, _IFINFO.pack(0, 0, index, IFF_UP, IFF_UP))


def link_mark(index: int, *, alias: str) -> Request:
    """Sets the alias of a device (at most 255 bytes) and takes it up."""
    return Request(
        _RTM_NEWLINK,
        CHANGE,
        _IFINFO.pack(0, 0, index, IFF_UP, IFF_UP) + attribute(_IFLA_IFALIAS, alias.encode()),
    )


def address_add(index: int, address: IPv4Interface, *, scope: RouteScope = RouteScope.UNIVERSE) -> Request:
    packed = address.ip.packed
    return Request(
        _RTM_NEWADDR,
        NEW,
        _IFADDR.pack(socket.AF_INET, address.network.prefixlen, 0, scope, index)
        + attribute(_IFA_LOCAL, packed)
        + attribute(_IFA_ADDRESS, packed),
    )


def route_add(
    index: int | None,
    destination: IPv4Network,
    *,
    gateway: IPv4Address | None = None,
    source: IPv4Address | None = None,
    mtu: int | None = None,
    scope: RouteScope = RouteScope.UNIVERSE,
    onlink: bool = False,
    hops: Iterable[tuple[int, IPv4Address]] = (),
) -> Request:
    """A route of the main table, by the device of that index, or by several `hops` together. `mtu` in bytes is a metric
    of the route; `onlink`: the gateway is reached on that device, whatever its addresses say."""
    what = (_RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST, _RTNH_F_ONLINK if onlink else 0)
    body = _RTMSG.pack(socket.AF_INET, destination.prefixlen, 0, 0, *what)
    if destination.prefixlen:
        body += attribute(_RTA_DST, destination.network_address.packed)
    if gateway is not None:
        body += attribute(_RTA_GATEWAY, gateway.packed)
    if source is not None:
        body += attribute(_RTA_PREFSRC, source.packed)
    if mtu is not None:
        body += attribute(_RTA_METRICS, number_attribute(_RTAX_MTU, mtu))
    by = attribute(_RTA_MULTIPATH, encoded_hops(hops)) if index is None else number_attribute(_RTA_OIF, index)
    return Request(_RTM_NEWROUTE, NEW, body + by)


def blackhole_add(destination: IPv4Network) -> Request:
    """A route of the main table that drops what no longer one takes."""
    what = (_RT_TABLE_MAIN, _RTPROT_BOOT, 0, _RTN_BLACKHOLE, 0)
    header = _RTMSG.pack(socket.AF_INET, destination.prefixlen, 0, 0, *what)
    return Request(_RTM_NEWROUTE, NEW, header + attribute(_RTA_DST, destination.network_address.packed))


def fdb_add(index: int, mac: str, node: IPv4Address) -> Request:
    """An entry of a vxlan device: frames to that MAC go to that VTEP. Those of `ANY_MAC` go to all that it has."""
    return Request(
        _RTM_NEWNEIGH,
        APPENDED,
        _NDMSG.pack(_AF_BRIDGE, index, _NUD_PERMANENT, _NTF_SELF, 0)
        + mac_attribute(_NDA_LLADDR, mac)
        + attribute(_NDA_DST, node.packed),
    )


def neighbour_add(index: int, address: IPv4Address, mac: str) -> Request:
    """A permanent neighbour: the kernel never asks for it by ARP and never forgets it."""
    return Request(
        _RTM_NEWNEIGH,
        NEW,
        _NDMSG.pack(socket.AF_INET, index, _NUD_PERMANENT, 0, 0)
        + attribute(_NDA_DST, address.packed)
        + mac_attribute(_NDA_LLADDR, mac),
    )


def clsact_add(index: int) -> Request:
    """The qdisc that gives a device its two tc hooks."""
    return Request(
        _RTM_NEWQDISC,
        NEW,
        _TCMSG.pack(socket.AF_UNSPEC, index, _CLSACT_HANDLE, _TC_H_CLSACT, 0) + text_attribute(_TCA_KIND, "clsact"),
    )


def filter_add(index: int, hook: Hook, *, program: int, name: str) -> Request:
    """Attaches the eBPF program of that descriptor in direct-action mode, as `tc filter add` does."""
    options = (
        number_attribute(_TCA_BPF_FD, program)
        + text_attribute(_TCA_BPF_NAME, name)
        + number_attribute(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT)
    )
    return Request(
        _RTM_NEWTFILTER,
        NEW,
        _TCMSG.pack(socket.AF_UNSPEC, index, 1, hook, _FILTER_PRIORITY << 16 | socket.htons(_ETH_P_ALL))
        + text_attribute(_TCA_KIND, "bpf")
        + attribute(_TCA_OPTIONS, options),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A device as the kernel has it. Counters are of whole packets since the device was made."""

    index: int
    name: str
    mac: str
    flags: int
    alias: str
    rx_packets: int
    tx_packets: int
    mtu: int = 0
    master: int = 0
    """The index of the bridge that it is a port of; 0 for none."""
    peer: int = 0
    """The index, in whichever namespace that is, of a veth's other end, or of the device below a macvlan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """An eBPF program that is attached to a hook of a device."""

    name: str
    program_id: int
    tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An IPv4 address of the device of that index."""

    index: int
    address: str
    prefix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A unicast route of the main table. Texts are dotted, empty where it has none; `prefix` and `mtu` are 0 then.
    `hops` are its next hops where it has several, each the index of a device and the gateway there."""

    index: int
    destination: str
    prefix: int
    gateway: str
    source: str
    mtu: int
    hops: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A permanent IPv4 neighbour of the device of that index."""

    index: int
    address: str
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelEntry:
    """An entry of the FDB of the vxlan device of that index: frames to `mac` go to the VTEP `node`. The MAC of zeros
    stands for all that have no entry. One that was learned is not permanent; an `is_external` one, another program
    learned for the kernel (FRR)."""

    index: int
    mac: str
    node: str
    is_permanent: bool
    is_external: bool = False


def all_addresses() -> Request:
    """Answered by one `parse_address` each."""
    return Request(_RTM_GETADDR, ALL, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0))


def all_routes() -> Request:
    """Answered by one `parse_route` each."""
    return Request(_RTM_GETROUTE, ALL, _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))


def all_neighbours() -> Request:
    """Answered by one `parse_neighbour` each."""
    return Request(_RTM_GETNEIGH, ALL, _NDMSG.pack(socket.AF_INET, 0, 0, 0, 0))


def all_tunnel_entries() -> Request:
    """The forwarding databases of bridges and vxlan devices. Answered by one `parse_tunnel_entry` each."""
    return Request(_RTM_GETNEIGH, ALL, _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0))


def all_links() -> Request:
    """Answered by one `parse_link` each."""
    return Request(_RTM_GETLINK, ALL, _IFINFO.pack(0, 0, 0, 0, 0))


def one_link(index: int) -> Request:
    """Answered by one `parse_link`."""
    return Request(_RTM_GETLINK, CHANGE, _IFINFO.pack(0, 0, index, 0, 0))


def all_ports() -> Request:
    """Of bridges. Answered by one `parse_port` each."""
    return Request(_RTM_GETLINK, ALL, _IFINFO.pack(_AF_BRIDGE, 0, 0, 0, 0))


NO_HOOKS = frozenset({errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV})
"""How the kernel refuses to list the filters of a device that has no clsact qdisc, or is gone. Any other error means
that they could not be read."""


def filters_of(index: int, hook: Hook) -> Request:
    """Answered by one `parse_filter` each; refused where the device has no clsact qdisc."""
    return Request(_RTM_GETTFILTER, ALL, _TCMSG.pack(socket.AF_UNSPEC, index, 0, hook, 0))


_OF_LINK = frozenset({_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_IFALIAS, _IFLA_STATS64})


def parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    known = selected(body, _IFINFO.size, _OF_LINK)
    rx_packets, tx_packets = struct.unpack_from("=QQ", known.get(_IFLA_STATS64, bytes(16)))
    return Link(
        index=index,
        name=string(known.get(_IFLA_IFNAME, b"")),
        mac=known.get(_IFLA_ADDRESS, b"").hex(":"),
        flags=flags,
        alias=string(known.get(_IFLA_IFALIAS, b"")),
        rx_packets=rx_packets,
        tx_packets=tx_packets,
        mtu=_number(known.get(_IFLA_MTU)),
        master=_number(known.get(_IFLA_MASTER)),
        peer=_number(known.get(_IFLA_LINK)),
    )


class PortState(IntEnum):
    """What a bridge's port does with frames (linux/if_bridge.h)."""

    DISABLED = 0
    LISTENING = 1
    LEARNING = 2
    FORWARDING = 3
    BLOCKING = 4


def parse_port(body: bytes) -> PortState | None:
    """None for what is no bridge's port."""
    information = attributes(body, _IFINFO.size).get(_IFLA_PROTINFO, b"")
    state = attributes(information).get(_IFLA_BRPORT_STATE)
    return None if state is None else PortState(state[0])


def parse_address(body: bytes) -> Address:
    _, prefix, _, _, index = _IFADDR.unpack_from(body)
    return Address(index=index, address=_dotted(attributes(body, _IFADDR.size).get(_IFA_LOCAL)), prefix=prefix)


def parse_route(body: bytes) -> Route | None:
    """None for what is not a unicast route of the main table."""
    _, prefix, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(body)
    if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
        return None
    known = attributes(body, _RTMSG.size)
    return Route(
        index=_number(known.get(_RTA_OIF)),
        destination=_dotted(known.get(_RTA_DST)),
        prefix=prefix,
        gateway=_dotted(known.get(_RTA_GATEWAY)),
        source=_dotted(known.get(_RTA_PREFSRC)),
        mtu=_number(attributes(known.get(_RTA_METRICS, b"")).get(_RTAX_MTU)),
        hops=decoded_hops(known.get(_RTA_MULTIPATH, b"")),
    )


def parse_neighbour(body: bytes) -> Neighbour | None:
    """None for what is not permanent."""
    _, index, state, _, _ = _NDMSG.unpack_from(body)
    if not state & _NUD_PERMANENT:
        return None
    known = attributes(body, _NDMSG.size)
    return Neighbour(index=index, address=_dotted(known.get(_NDA_DST)), mac=known.get(_NDA_LLADDR, b"").hex(":"))


def parse_tunnel_entry(body: bytes) -> TunnelEntry | None:
    """None for an entry that names no VTEP."""
    _, index, state, flags, _ = _NDMSG.unpack_from(body)
    known = attributes(body, _NDMSG.size)
    if _NDA_DST not in known:
        return None
    return TunnelEntry(
        index=index,
        mac=known.get(_NDA_LLADDR, b"").hex(":"),
        node=_dotted(known[_NDA_DST]),
        is_permanent=bool(state & _NUD_PERMANENT),
        is_external=bool(flags & _NTF_EXT_LEARNED),
    )


def parse_filter(body: bytes) -> Filter | None:
    known = attributes(body, _TCMSG.size)
    options = attributes(known.get(_TCA_OPTIONS, b""))
    if known.get(_TCA_KIND) != b"bpf\0" or _TCA_BPF_ID not in options:
        return None
    return Filter(
        name=string(options.get(_TCA_BPF_NAME, b"")),
        program_id=int.from_bytes(options[_TCA_BPF_ID], sys.byteorder),
        tag=options.get(_TCA_BPF_TAG, b"").hex(),
    )


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", sys.byteorder)


def _dotted(value: bytes | None) -> str:
    return socket.inet_ntoa(value) if value else ""
