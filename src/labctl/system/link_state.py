"""The messages of rtnetlink that change a device that is there, and how it is: up or down, carrier, counters.

Pure: arguments to a `Request`, an answer's body to a value. Formats are those of linux/rtnetlink.h and if_link.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from labctl.system.netlink import CHANGE, Request, selected, string
from labctl.system.rtnetlink import IFF_UP

_RTM_NEWLINK = 16
_RTM_DELLINK = 17
_IFINFO = struct.Struct("=BxHiII")
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_STATS64 = 23
_IFLA_CARRIER = 33
_WANTED = frozenset({_IFLA_IFNAME, _IFLA_MTU, _IFLA_STATS64, _IFLA_CARRIER})
_STATS = struct.Struct("=8Q")


def link_down(index: int) -> Request:
    """Takes a device down. Its addresses stay, its routes and neighbours go."""
    return Request(_RTM_NEWLINK, CHANGE, _IFINFO.pack(0, 0, index, 0, IFF_UP))


def link_delete(index: int) -> Request:
    """Removes a device, and the other end of a veth pair with it. Done when the kernel answers."""
    return Request(_RTM_DELLINK, CHANGE, _IFINFO.pack(0, 0, index, 0, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A device as it is. `has_carrier`: the other end of its wire is up too. Counters are since it was made, of whole
    packets and bytes; `rx` is what came in."""

    index: int
    name: str
    is_up: bool
    has_carrier: bool
    mtu: int
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    errors: int
    dropped: int


def parse_state(body: bytes) -> DeviceState:
    """Of an answer to `rtnetlink.all_links` or `one_link`, and of a notice of RTMGRP_LINK."""
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    known = selected(body, _IFINFO.size, _WANTED)
    stats = _STATS.unpack_from(known.get(_IFLA_STATS64, bytes(_STATS.size)))
    rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped = stats
    return DeviceState(
        index=index,
        name=string(known.get(_IFLA_IFNAME, b"")),
        is_up=bool(flags & IFF_UP),
        has_carrier=known.get(_IFLA_CARRIER, b"\0")[:1] == b"\1",
        mtu=struct.unpack("=I", known[_IFLA_MTU])[0] if _IFLA_MTU in known else 0,
        rx_packets=rx_packets,
        tx_packets=tx_packets,
        rx_bytes=rx_bytes,
        tx_bytes=tx_bytes,
        errors=rx_errors + tx_errors,
        dropped=rx_dropped + tx_dropped,
    )
