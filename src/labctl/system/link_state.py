"""The messages of rtnetlink that change a device that is there, and how it is: up or down, carrier, counters.

Pure: arguments to a `Request`, an answer's body to a value. Formats are those of linux/rtnetlink.h and if_link.h.
"""

from __future__ import annotations

import socket
import struct

from labctl.system.netlink import (
    CHANGE,
    NEW,
    Request,
    attribute,
    attributes,
    number_attribute,
    selected,
    string,
    text_attribute,
)
from labctl.system.rtnetlink import IFF_UP, Hook
from labctl.values import dataclass

_RTM_NEWLINK = 16
_RTM_DELLINK = 17
_RTM_DELQDISC = 37
_RTM_NEWTFILTER = 44
_RTM_DELTFILTER = 45
_TCA_KIND = 1
_TCA_OPTIONS = 2
_TCA_BPF_FD = 6
_TCA_BPF_NAME = 7
_TCA_BPF_FLAGS = 8
_TCA_BPF_FLAG_ACT_DIRECT = 1
_TC_H_CLSACT = 0xFFFFFFF1
_FIRST_HANDLE = 2
"""Beside the lab's own program, which has 1: of programs of one priority the kernel runs the newest first."""
_TCMSG = struct.Struct("=BxxxiIII")
_INFO = 1 << 16 | socket.htons(3)
"""Priority 1, ETH_P_ALL."""
_IFINFO = struct.Struct("=BxHiII")
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_STATS64 = 23
_IFLA_CARRIER = 33
_IFLA_XDP = 43
_IFLA_XDP_FD = 1
_IFLA_XDP_FLAGS = 3
_IFLA_XDP_PROG_ID = 4
_XDP_FLAGS_SKB_MODE = 2
_NESTED = 0x8000
_WANTED = frozenset({_IFLA_IFNAME, _IFLA_MTU, _IFLA_STATS64, _IFLA_CARRIER, _IFLA_XDP})
_STATS = struct.Struct("=8Q")


def link_down(index: int) -> Request:
    """Takes a device down. Its addresses stay, its routes and neighbours go."""
    return Request(_RTM_NEWLINK, CHANGE, _IFINFO.pack(0, 0, index, 0, IFF_UP))


def link_delete(index: int) -> Request:
    """Removes a device, and the other end of a veth pair with it. Done when the kernel answers."""
    return Request(_RTM_DELLINK, CHANGE, _IFINFO.pack(0, 0, index, 0, 0))


def filter_first(index: int, hook: Hook, *, program: int, name: str) -> Request:
    """Attaches the program of that descriptor before those that are there, in direct-action mode."""
    options = (
        number_attribute(_TCA_BPF_FD, program)
        + text_attribute(_TCA_BPF_NAME, name)
        + number_attribute(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT)
    )
    header = _TCMSG.pack(socket.AF_UNSPEC, index, _FIRST_HANDLE, hook, _INFO)
    return Request(_RTM_NEWTFILTER, NEW, header + text_attribute(_TCA_KIND, "bpf") + attribute(_TCA_OPTIONS, options))


def filter_first_delete(index: int, hook: Hook) -> Request:
    """Removes what `filter_first` attached; refused with ENOENT or EINVAL where there is nothing."""
    header = _TCMSG.pack(socket.AF_UNSPEC, index, _FIRST_HANDLE, hook, _INFO)
    return Request(_RTM_DELTFILTER, CHANGE, header + text_attribute(_TCA_KIND, "bpf"))


def clsact_delete(index: int) -> Request:
    """Removes the qdisc that gives a device its tc hooks, and the programs on them."""
    return Request(_RTM_DELQDISC, CHANGE, _TCMSG.pack(socket.AF_UNSPEC, index, 0, _TC_H_CLSACT, 0))


def xdp_set(index: int, program: int | None) -> Request:
    """Puts the XDP program of that descriptor on a device, in generic mode, which every device has; None removes what
    is there."""
    data = attribute(_IFLA_XDP_FD, struct.pack("=i", -1 if program is None else program))
    data += number_attribute(_IFLA_XDP_FLAGS, _XDP_FLAGS_SKB_MODE)
    return Request(_RTM_NEWLINK, CHANGE, _IFINFO.pack(0, 0, index, 0, 0) + attribute(_IFLA_XDP | _NESTED, data))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A device as it is. `has_carrier`: the other end of its wire is up too. Counters are since it was made, of whole
    packets and bytes; `rx` is what came in. `xdp_id` is the XDP program's on it, 0 for none."""

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
    xdp_id: int = 0


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
        xdp_id=_xdp_id(known.get(_IFLA_XDP, b"")),
    )


def _xdp_id(data: bytes) -> int:
    found = attributes(data).get(_IFLA_XDP_PROG_ID, bytes(4))
    return int(struct.unpack("=I", found)[0])
