"""The messages of rtnetlink that change what is there, or remove it: the other half of `rtnetlink`, which makes things.

Pure: arguments to a `Request`. Formats are those of linux/rtnetlink.h, if_link.h, neighbour.h, fib_rules.h and
pkt_sched.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.system.netlink import CHANGE, CREATED_OR_REPLACED, Request, attribute, mac_attribute, number_attribute
from labctl.system.rtnetlink import (
    IFF_NOARP,
    IFF_UP,
    Hook,
    address_add,
    clsact_add,
    fdb_add,
)
from labctl.system.rtnetlink_readings import NTF_PROXY

_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_RTM_DELADDR, _RTM_DELROUTE, _RTM_DELNEIGH, _RTM_DELRULE = 21, 25, 29, 33
_RTM_DELQDISC, _RTM_DELTFILTER = 37, 45
_IFLA_ADDRESS, _IFLA_MTU, _IFLA_MASTER, _IFLA_TXQLEN, _IFLA_IFALIAS, _IFLA_XDP = 1, 4, 10, 13, 20, 43
_IFLA_XDP_FD, _IFLA_XDP_FLAGS = 1, 3
_XDP_FLAGS = {1: 1 << 2, 2: 1 << 1, 3: 1 << 3}
"""By the mode that a program is attached in: XDP_FLAGS_DRV_MODE, _SKB_MODE, _HW_MODE."""
_IFINFO = struct.Struct("=BxHiII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_TCMSG = struct.Struct("=BxxxiIII")
_NDA_DST = 1
_PROTOCOL_AT, _RTPROT_KERNEL = 5, 2
"""Where in a route's message its protocol stands (linux/rtnetlink.h, struct rtmsg)."""
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 5, 6, 15
_FRA_PRIORITY = 6


def link_delete(index: int) -> Request:
    """With it go its addresses, routes, neighbours, hooks, and the other end of a veth pair."""
    return Request(_RTM_DELLINK, CHANGE, _IFINFO.pack(0, 0, index, 0, 0))


def link_set(
    index: int,
    *,
    mtu: int | None = None,
    mac: str | None = None,
    up: bool | None = None,
    arp: bool | None = None,
    bridge: int | None = None,
    alias: str | None = None,
    queue: int | None = None,
) -> Request:
    """Changes what is given of a device; `bridge` is the index of the bridge that it becomes a port of, 0 for none;
    `queue` is how many packets may wait in it."""
    flags = (IFF_UP if up else 0) | (IFF_NOARP if arp is False else 0)
    changed = (IFF_UP if up is not None else 0) | (IFF_NOARP if arp is not None else 0)
    body = _IFINFO.pack(0, 0, index, flags, changed)
    if mtu is not None:
        body += number_attribute(_IFLA_MTU, mtu)
    if mac is not None:
        body += mac_attribute(_IFLA_ADDRESS, mac)
    if queue is not None:
        body += number_attribute(_IFLA_TXQLEN, queue)
    if bridge is not None:
        body += number_attribute(_IFLA_MASTER, bridge)
    if alias is not None:
        body += attribute(_IFLA_IFALIAS, alias.encode())
    return Request(_RTM_NEWLINK, CHANGE, body)


def xdp_remove(index: int, mode: int) -> Request:
    """Detaches the XDP program that is attached in that mode (`LinkDetail.xdp_mode`). Without flags the kernel would
    take the driver's, wherever the driver has XDP (veth), and leave one in generic mode where it is, without an error
    (net/core/dev.c, dev_xdp_mode)."""
    flags = number_attribute(_IFLA_XDP_FLAGS, _XDP_FLAGS[mode]) if mode in _XDP_FLAGS else b""
    data = attribute(_IFLA_XDP_FD, struct.pack("=i", -1)) + flags
    return Request(_RTM_NEWLINK, CHANGE, _IFINFO.pack(0, 0, index, 0, 0) + attribute(_IFLA_XDP, data))


def address_replace(index: int, address: IPv4Interface) -> Request:
    """Changes nothing of an address that the device has; the kernel tells everybody of it again."""
    made = address_add(index, address)
    return Request(made.type, CREATED_OR_REPLACED, made.body)


def address_delete(index: int, address: IPv4Interface) -> Request:
    return Request(_RTM_DELADDR, CHANGE, address_add(index, address).body)


def route_delete(
    destination: IPv4Network, *, index: int = 0, gateway: IPv4Address | None = None, metric: int = 0, table: int = 254
) -> Request:
    """A route of that table; what is not given is not looked at."""
    body = _RTMSG.pack(socket.AF_INET, destination.prefixlen, 0, 0, min(table, 255), 0, 255, 0, 0)
    if table > 255:
        body += number_attribute(_RTA_TABLE, table)
    if destination.prefixlen:
        body += attribute(_RTA_DST, destination.network_address.packed)
    if gateway is not None:
        body += attribute(_RTA_GATEWAY, gateway.packed)
    if metric:
        body += number_attribute(_RTA_PRIORITY, metric)
    if index:
        body += number_attribute(_RTA_OIF, index)
    return Request(_RTM_DELROUTE, CHANGE, body)


def replacing(made: Request) -> Request:
    """What makes a route, a neighbour or a filter, in place of the one that is there: no packet finds none."""
    return Request(made.type, CREATED_OR_REPLACED, made.body)


def of_kernel(made: Request) -> Request:
    """The same route, said to be the kernel's own (`proto kernel`)."""
    body = bytearray(made.body)
    body[_PROTOCOL_AT] = _RTPROT_KERNEL
    return Request(made.type, made.flags, bytes(body))


def neighbour_delete(index: int, address: IPv4Address) -> Request:
    body = _NDMSG.pack(socket.AF_INET, index, 0, 0, 0) + attribute(_NDA_DST, address.packed)
    return Request(_RTM_DELNEIGH, CHANGE, body)


def proxy_delete(index: int, address: IPv4Address) -> Request:
    body = _NDMSG.pack(socket.AF_INET, index, 0, NTF_PROXY, 0) + attribute(_NDA_DST, address.packed)
    return Request(_RTM_DELNEIGH, CHANGE, body)


def fdb_delete(index: int, mac: str, node: IPv4Address) -> Request:
    return Request(_RTM_DELNEIGH, CHANGE, fdb_add(index, mac, node).body)


def policy_rule_delete(priority: int, table: int) -> Request:
    """The rule of that priority that looks into that table."""
    body = _RTMSG.pack(socket.AF_INET, 0, 0, 0, min(table, 255), 0, 0, 0, 0)
    return Request(_RTM_DELRULE, CHANGE, body + number_attribute(_FRA_PRIORITY, priority))


def qdisc_delete(index: int, *, parent: int, handle: int = 0) -> Request:
    return Request(_RTM_DELQDISC, CHANGE, _TCMSG.pack(socket.AF_UNSPEC, index, handle, parent, 0))


def clsact_delete(index: int) -> Request:
    """With it go the filters on both hooks."""
    return Request(_RTM_DELQDISC, CHANGE, clsact_add(index).body)


def filter_delete(index: int, hook: Hook, *, info: int, handle: int) -> Request:
    """`info` is the filter's priority and protocol, as the kernel lists them."""
    return Request(_RTM_DELTFILTER, CHANGE, _TCMSG.pack(socket.AF_UNSPEC, index, handle, hook, info))
