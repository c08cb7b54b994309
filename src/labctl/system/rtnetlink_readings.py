"""What the kernel answers of a namespace when all of it is asked for: what each device is, every route of every table,
policy rules, qdiscs, filters of any kind, and the settings that netlink knows.

`rtnetlink` reads as much as a check or a list needs; this reads what an owner of the lab may have changed. Pure: an
answer's body to a value. Formats are those of linux/rtnetlink.h, if_link.h, fib_rules.h, netconf.h and pkt_sched.h.
"""

from __future__ import annotations

import functools
import socket
import struct
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address

from labctl.system.netlink import ALL, CHANGE, Request, attributes, number_attribute, selected, string
from labctl.system.rtnetlink import Hook
from labctl.units import BITS_PER_BYTE, NANO
from labctl.values import dataclass

_NDMSG = struct.Struct("=BxxxiHBB")
_RTM_GETNEIGH = 30
_NDA_DST = 1
NTF_PROXY = 0x08

_RTM_GETLINK, _RTM_GETROUTE, _RTM_GETRULE, _RTM_GETQDISC, _RTM_GETTFILTER, _RTM_GETNETCONF = 18, 26, 34, 38, 46, 82
_IFINFO = struct.Struct("=BxHiII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_TCMSG = struct.Struct("=BxxxiIII")
_NETCONF = struct.Struct("=B")
_NETCONF_BYTES = 4
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_NAME, _TCA_BPF_TAG, _TCA_BPF_ID = 7, 10, 11
_IFLA_LINK, _IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_EXT_MASK, _IFLA_XDP = 5, 18, 26, 29, 43
_SKIP_STATS = 8
_IFLA_INET6_CONF, _DEVCONF_DISABLE_IPV6 = 2, 26
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_XDP_ATTACHED, _IFLA_XDP_PROG_ID = 2, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS = 1, 4, 5, 6, 7, 8
_RTA_MULTIPATH, _RTA_TABLE = 9, 15
_RTAX_MTU = 2
_RTNH = struct.Struct("=HBBi")
_FRA_SRC, _FRA_DST, _FRA_PRIORITY, _FRA_TABLE = 2, 1, 6, 15
_NETCONFA_IFINDEX, _NETCONFA_FORWARDING, _NETCONFA_RP_FILTER, _NETCONFA_PROXY_NEIGH = 1, 2, 3, 5
CONF_ALL, CONF_DEFAULT = -1, -2
"""The indexes under which the settings `all` and `default` are listed."""

RTN_UNICAST, RTN_BLACKHOLE = 1, 6
ROUTE_TYPES = {
    1: "unicast",
    2: "local",
    3: "broadcast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
}
RTPROT_KERNEL, RTPROT_BOOT, RTPROT_STATIC = 2, 3, 4
BY_HAND = frozenset({RTPROT_BOOT, RTPROT_STATIC})
"""Protocols of routes that a person or a script added: `ip route` says boot or static; daemons have their own."""
TABLE_DEFAULT, TABLE_MAIN, TABLE_LOCAL = 253, 254, 255
_SCOPES = {0: "", 253: "link", 254: "host", 255: "nowhere"}
_ONLINK = 4


_remembered = functools.lru_cache(maxsize=1024)
"""What many namespaces say in the same bytes (policy rules, the loopback's routes and settings) is read once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDetail:
    """What a device is. `kind` is the kernel's word (`veth`, `bridge`, ""), `data` what is particular to that kind, by
    attribute; `xdp` is the id of the XDP program on it, 0 for none, and `xdp_mode` how it is attached (XDP_ATTACHED_DRV
    1, XDP_ATTACHED_SKB 2, XDP_ATTACHED_HW 3)."""

    kind: str
    data: dict[int, bytes]
    lower: int
    xdp: int
    xdp_mode: int = 0
    peer_namespace: int | None = None
    """Its number for the namespace that the other end of a veth is in; None where that is this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyRoute:
    """A route of any table and kind. `hops` are (gateway, device's index), one where it is not multipath; the gateway
    is empty where there is none."""

    table: int
    type: int
    protocol: int
    scope: str
    destination: str
    prefix: int
    hops: tuple[tuple[str, int], ...]
    source: str
    mtu: int
    metric: int
    is_onlink: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """A rule of `ip rule`: which table is looked into, in the order of priorities."""

    priority: int
    table: int
    source: str
    destination: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Qdisc:
    """A queueing discipline of the device of that index. A `handle` of 0 is the kernel's own default."""

    index: int
    kind: str
    handle: int
    parent: int
    options: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyFilter:
    """A tc filter of any kind. `name`, `tag` and `program` (its id) are those of eBPF programs."""

    kind: str
    handle: int
    info: int
    name: str = ""
    tag: str = ""
    program: int = 0

    @property
    def priority(self) -> int:
        return self.info >> 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConf:
    """IPv4 settings of the device of that index, or of `all` and `default`."""

    index: int
    forwarding: int
    rp_filter: int
    proxy_arp: int


def every_device() -> Request:
    """Answered by one `parse_link` and `parse_link_detail` each, without counters."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + number_attribute(_IFLA_EXT_MASK, _SKIP_STATS)
    return Request(_RTM_GETLINK, ALL, body)


def every_route() -> Request:
    """Answered by one `parse_any_route` each."""
    return Request(_RTM_GETROUTE, ALL, _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))


def every_policy_rule() -> Request:
    """Answered by one `parse_policy_rule` each."""
    return Request(_RTM_GETRULE, ALL, _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))


def every_qdisc() -> Request:
    """Answered by one `parse_qdisc` each."""
    return Request(_RTM_GETQDISC, ALL, _TCMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def every_filter_of(index: int, hook: Hook) -> Request:
    """Answered by one `parse_any_filter` each; refused where the device has no such hook."""
    return Request(_RTM_GETTFILTER, ALL, _TCMSG.pack(socket.AF_UNSPEC, index, 0, hook, 0))


def every_conf() -> Request:
    """Answered by one `parse_conf` each."""
    return Request(_RTM_GETNETCONF, ALL, _NETCONF.pack(socket.AF_INET) + bytes(_NETCONF_BYTES - 1))


_IFLA_LINK_NETNSID = 37
_OF_LINK = frozenset({_IFLA_LINK, _IFLA_LINK_NETNSID, _IFLA_LINKINFO, _IFLA_XDP, _IFLA_AF_SPEC})


@_remembered
def _known(body: bytes) -> dict[int, bytes]:
    """What is read of a device: of its fifty attributes once."""
    return selected(body, _IFINFO.size, _OF_LINK)


@_remembered
def parse_link_detail(body: bytes) -> LinkDetail:
    known = _known(body)
    information = attributes(known.get(_IFLA_LINKINFO, b""))
    xdp = attributes(known[_IFLA_XDP]) if _IFLA_XDP in known else {}
    mode = _number(xdp.get(_IFLA_XDP_ATTACHED))
    return LinkDetail(
        kind=string(information.get(_IFLA_INFO_KIND, b"")),
        data=attributes(information.get(_IFLA_INFO_DATA, b"")),
        lower=_number(known.get(_IFLA_LINK)),
        xdp=_number(xdp.get(_IFLA_XDP_PROG_ID)) if mode else 0,
        xdp_mode=mode,
        peer_namespace=_number(known[_IFLA_LINK_NETNSID]) if _IFLA_LINK_NETNSID in known else None,
    )


@_remembered
def has_no_ipv6(body: bytes) -> bool | None:
    """Whether IPv6 is off on the device; None where it has no settings of IPv6 (an MTU below 1280)."""
    families = selected(_known(body).get(_IFLA_AF_SPEC, b""), 0, (socket.AF_INET6,))
    settings = selected(families.get(socket.AF_INET6, b""), 0, (_IFLA_INET6_CONF,)).get(_IFLA_INET6_CONF, b"")
    at = 4 * _DEVCONF_DISABLE_IPV6
    return None if len(settings) < at + 4 else bool(_number(settings[at : at + 4]))


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelDetail:
    """What a vxlan device was made with. Texts are dotted, empty where it has none."""

    vni: int
    remote: str
    local: str
    link: int
    port: int
    learning: bool
    is_external: bool


def tunnel_of(data: Mapping[int, bytes]) -> TunnelDetail:
    """From the `data` of a vxlan device (if_link.h, IFLA_VXLAN_…)."""
    return TunnelDetail(
        vni=_number(data.get(1)),
        remote=_dotted(data.get(2)),
        local=_dotted(data.get(4)),
        link=_number(data.get(3)),
        port=int.from_bytes(data.get(15, b""), "big"),
        learning=bool(_number(data.get(7))),
        is_external=bool(_number(data.get(25))),
    )


def geneve_of(data: Mapping[int, bytes]) -> tuple[int, bool]:
    """The UDP port of a geneve device, and whether programs choose each packet's tunnel (IFLA_GENEVE_…)."""
    return int.from_bytes(data.get(5, b""), "big"), 6 in data


def spanning_tree_of(data: Mapping[int, bytes]) -> tuple[int, int, int, int] | None:
    """Priority, hello time, forward delay and maximum age of a bridge (IFLA_BR_…), times in hundredths of a second;
    None where it runs no spanning tree."""
    if not _number(data.get(5)):
        return None
    return _number(data.get(6)), _number(data.get(2)), _number(data.get(1)), _number(data.get(3))


def sharing_mode_of(kind: str, data: Mapping[int, bytes]) -> str:
    """The mode of a macvlan or ipvlan device, as `ip` calls it."""
    number = _number(data.get(1))
    names = {1: "private", 2: "vepa", 4: "bridge", 8: "passthru"} if kind == "macvlan" else {0: "l2", 1: "l3", 2: "l3s"}
    return names.get(number, str(number))


@_remembered
def parse_any_route(body: bytes) -> AnyRoute:
    _, prefix, _, _, table, protocol, scope, kind, flags = _RTMSG.unpack_from(body)
    known = attributes(body, _RTMSG.size)
    hops = tuple(_hops(known[_RTA_MULTIPATH])) if _RTA_MULTIPATH in known else ()
    return AnyRoute(
        table=_number(known.get(_RTA_TABLE)) or table,
        type=kind,
        protocol=protocol,
        scope=_SCOPES.get(scope, str(scope)),
        destination=_dotted(known.get(_RTA_DST)),
        prefix=prefix,
        hops=hops or ((_dotted(known.get(_RTA_GATEWAY)), _number(known.get(_RTA_OIF))),),
        source=_dotted(known.get(_RTA_PREFSRC)),
        mtu=_number(attributes(known.get(_RTA_METRICS, b"")).get(_RTAX_MTU)),
        metric=_number(known.get(_RTA_PRIORITY)),
        is_onlink=bool(flags & _ONLINK),
    )


def _hops(data: bytes) -> list[tuple[str, int]]:
    found, offset = [], 0
    while offset + _RTNH.size <= len(data):
        length, _, _, index = _RTNH.unpack_from(data, offset)
        if length < _RTNH.size:
            break
        own = attributes(data[offset + _RTNH.size : offset + length])
        found.append((_dotted(own.get(_RTA_GATEWAY)), index))
        offset += (length + 3) & ~3
    return found


@_remembered
def parse_policy_rule(body: bytes) -> PolicyRule:
    _, destination, source, _, table, *_ = _RTMSG.unpack_from(body)
    known = attributes(body, _RTMSG.size)
    return PolicyRule(
        priority=_number(known.get(_FRA_PRIORITY)),
        table=_number(known.get(_FRA_TABLE)) or table,
        source=f"{_dotted(known.get(_FRA_SRC))}/{source}" if source else "all",
        destination=f"{_dotted(known.get(_FRA_DST))}/{destination}" if destination else "all",
    )


@_remembered
def parse_qdisc(body: bytes) -> Qdisc:
    _, index, handle, parent, _ = _TCMSG.unpack_from(body)
    known = attributes(body, _TCMSG.size)
    kind, options = string(known.get(_TCA_KIND, b"")), known.get(_TCA_OPTIONS, b"")
    return Qdisc(index=index, kind=kind, handle=handle, parent=parent, options=options)


_TBF_PARMS, _TBF_RATE64 = 1, 4
_NETEM_RATE, _NETEM_RATE64, _NETEM_LATENCY64, _NETEM_JITTER64 = 6, 8, 10, 11
_NETEM_BYTES = 24
_RATE_AT = 8
"""Where the rate is in struct tc_ratespec (linux/pkt_sched.h)."""


def queue_of(qdisc: Qdisc) -> tuple[float, float, int]:
    """Delay and jitter in seconds, and the rate in bit/s, of a netem or tbf. Pure."""
    if qdisc.kind == "netem":
        known = attributes(qdisc.options, _NETEM_BYTES)
        delay_ns, jitter_ns = (int.from_bytes(known.get(n, b""), "little") for n in (_NETEM_LATENCY64, _NETEM_JITTER64))
        rate_byte_per_s = int.from_bytes(known.get(_NETEM_RATE64) or known.get(_NETEM_RATE, b"")[:4], "little")
        return delay_ns * NANO, jitter_ns * NANO, rate_byte_per_s * BITS_PER_BYTE
    known = attributes(qdisc.options)
    wide, parms = known.get(_TBF_RATE64), known.get(_TBF_PARMS, b"")
    rate_byte_per_s = int.from_bytes(wide or parms[_RATE_AT : _RATE_AT + 4], "little")
    return 0.0, 0.0, rate_byte_per_s * BITS_PER_BYTE


@_remembered
def parse_any_filter(body: bytes) -> AnyFilter | None:
    """None for the heads of lists, which are no filters."""
    _, _, handle, _, info = _TCMSG.unpack_from(body)
    known = attributes(body, _TCMSG.size)
    if _TCA_OPTIONS not in known:
        return None
    options = attributes(known[_TCA_OPTIONS])
    kind = string(known.get(_TCA_KIND, b""))
    if kind != "bpf":
        return AnyFilter(kind=kind, handle=handle, info=info)
    return AnyFilter(
        kind=kind,
        handle=handle,
        info=info,
        name=string(options.get(_TCA_BPF_NAME, b"")),
        tag=options.get(_TCA_BPF_TAG, b"").hex(),
        program=_number(options.get(_TCA_BPF_ID)),
    )


@_remembered
def parse_conf(body: bytes) -> DeviceConf:
    known = attributes(body, _NETCONF_BYTES)
    index = int.from_bytes(known.get(_NETCONFA_IFINDEX, b""), sys.byteorder, signed=True)
    return DeviceConf(
        index=index,
        forwarding=_number(known.get(_NETCONFA_FORWARDING)),
        rp_filter=_number(known.get(_NETCONFA_RP_FILTER)),
        proxy_arp=_number(known.get(_NETCONFA_PROXY_NEIGH)),
    )


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", sys.byteorder)


def _dotted(value: bytes | None) -> str:
    return socket.inet_ntoa(value) if value else ""


def all_proxies() -> Request:
    """The addresses for which the kernel answers ARP (`ip neigh add proxy`). Answered by one `parse_proxy` each."""
    return Request(_RTM_GETNEIGH, ALL, _NDMSG.pack(socket.AF_INET, 0, 0, NTF_PROXY, 0))


def parse_proxy(body: bytes) -> tuple[int, str] | None:
    """The device's index and the address; None for what is no such entry."""
    _, index, _, flags, _ = _NDMSG.unpack_from(body)
    address = attributes(body, _NDMSG.size).get(_NDA_DST, b"")
    return (index, str(IPv4Address(address))) if flags & NTF_PROXY and len(address) == 4 else None


_RTM_GETNSID = 90
_NETNSA_NSID, _NETNSA_FD = 1, 3


def namespace_number(descriptor: int) -> Request:
    """Answered by one `parse_namespace_number`."""
    return Request(_RTM_GETNSID, CHANGE, bytes(4) + number_attribute(_NETNSA_FD, descriptor))


def parse_namespace_number(body: bytes) -> int | None:
    """None where this namespace has no number for that one."""
    found = attributes(body, 4).get(_NETNSA_NSID)
    number = struct.unpack("=i", found)[0] if found else -1
    return None if number < 0 else int(number)
