"""What the kernel tells by itself: changes of devices, addresses, routes, neighbours and tc in a namespace (rtnetlink),
and files that come and go in a folder (inotify). Nothing is asked, nothing is polled: descriptors become readable.

Formats are those of linux/rtnetlink.h, neighbour.h and inotify.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from labctl.system.link_state import DeviceState, parse_state
from labctl.system.netlink import attributes, string
from labctl.values import dataclass

_HEADER = struct.Struct("=IHHII")
_GROUPS = 0x1 | 0x4 | 0x8 | 0x10 | 0x40
"""RTMGRP_LINK, NEIGH, TC, IPV4_IFADDR, IPV4_ROUTE."""
_RECEIVE_BYTES = 256 * 1024
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 4 << 20
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_TCMSG = struct.Struct("=BxxxiIII")
_IN_CREATE, _IN_DELETE, _IN_MOVED = 0x100, 0x200, 0xC0
_INOTIFY = struct.Struct("=iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Notice(IntEnum):
    """The messages that are read."""

    NEWLINK = 16
    DELLINK = 17
    NEWADDR = 20
    DELADDR = 21
    NEWROUTE = 24
    DELROUTE = 25
    NEWNEIGH = 28
    DELNEIGH = 29
    NEWQDISC = 36
    DELQDISC = 37
    NEWTFILTER = 44
    DELTFILTER = 45


_KNOWN = frozenset(map(int, Notice))


class Overrun(OSError):
    """The kernel had to drop notices: what is known of the namespace is old."""


class NoticeSocket:
    """The notices of the namespace that the calling thread is in when it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            self._socket.bind((0, _GROUPS))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> Iterator[tuple[Notice, bytes]]:
        """What has come; does not wait. Raises Overrun when some was lost."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as failed:
                if failed.errno == errno.ENOBUFS:
                    raise Overrun(failed.errno, "notices were lost") from failed
                raise
            offset = 0
            while offset + 16 <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, offset)
                if kind in _KNOWN:
                    yield Notice(kind), data[offset + 16 : offset + length]
                offset += max((length + 3) & ~3, 16)


def device_of(body: bytes) -> DeviceState:
    """Of NEWLINK and DELLINK."""
    return parse_state(body)


def address_of(body: bytes) -> tuple[int, str]:
    """The device's index, and the address with its prefix. Of NEWADDR and DELADDR."""
    _, prefix, _, _, index = _IFADDR.unpack_from(body)
    known = attributes(body, _IFADDR.size)
    return index, f"{_dotted(known.get(2) or known.get(1))}/{prefix}"


def route_of(body: bytes) -> tuple[int, str, str] | None:
    """The device's index (0 for several), the destination, and who told of it; None for what is no unicast route of
    the main table. Of NEWROUTE and DELROUTE."""
    _, prefix, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(body)
    if table != 254 or kind != 1:
        return None
    known = attributes(body, _RTMSG.size)
    index = struct.unpack("=I", known[4])[0] if 4 in known else 0
    destination = f"{_dotted(known.get(1))}/{prefix}" if 1 in known else "default"
    via = f" via {_dotted(known[5])}" if 5 in known else ""
    return index, destination + via, {186: "BGP", 188: "OSPF", 2: "the kernel", 11: "zebra"}.get(protocol, "")


def failed_neighbour_of(body: bytes) -> tuple[int, str] | None:
    """The device's index and the address that nobody answered for; None for other states. Of NEWNEIGH."""
    family, index, state, _, _ = _NDMSG.unpack_from(body)
    known = attributes(body, _NDMSG.size)
    if family != socket.AF_INET or not state & 0x20 or 1 not in known:
        return None
    return index, _dotted(known[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficControl:
    """A program on a hook of a device, or a queue. `name` is empty where the kernel does not say."""

    index: int
    kind: str
    name: str
    is_ingress: bool


def traffic_control_of(body: bytes) -> TrafficControl:
    """Of NEWQDISC, DELQDISC, NEWTFILTER and DELTFILTER."""
    _, index, _, parent, _ = _TCMSG.unpack_from(body)
    known = attributes(body, _TCMSG.size)
    name = string(attributes(known.get(2, b"")).get(7, b"")) if known.get(1) == b"bpf\0" else ""
    return TrafficControl(index=index, kind=string(known.get(1, b"")), name=name, is_ingress=parent == 0xFFFFFFF2)


def _dotted(value: bytes | None) -> str:
    return socket.inet_ntoa(value) if value and len(value) == 4 else ""


class FolderNotices:
    """Names that come and go in a folder. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._descriptor: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        wanted = _IN_CREATE | _IN_DELETE | _IN_MOVED
        if self._descriptor < 0 or _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), wanted) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, os.strerror(number), str(folder))

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self) -> Iterator[tuple[str, bool]]:
        """Each name with whether it came; does not wait."""
        while True:
            try:
                data = os.read(self._descriptor, 64 * 1024)
            except BlockingIOError:
                return
            offset = 0
            while offset + _INOTIFY.size <= len(data):
                _, mask, _, length = _INOTIFY.unpack_from(data, offset)
                name = data[offset + _INOTIFY.size : offset + _INOTIFY.size + length].rstrip(b"\0")
                offset += _INOTIFY.size + length
                yield os.fsdecode(name), bool(mask & (_IN_CREATE | 0x80))
