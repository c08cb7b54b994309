"""Writes pcapng (draft-ietf-opsawg-pcapng): an interface per tap, ns times, directions, drops at the end.

It stands alone because a format is bytes out and pure, and its reader is a file that grows. Blocks are whole and stand
by themselves, so that a file may end after any of them and is still valid.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

from labctl.path.pcap import ETHERNET
from labctl.path.sighting import TapDirection
from labctl.values import dataclass

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_MAGIC = 0x1A2B3C4D
_END = struct.pack("<HH", 0, 0)
_APPLICATION = 4
_IF_NAME, _IF_DESCRIPTION, _IF_TIME_UNIT, _IF_FILTER = 2, 3, 9, 11
_NANOSECONDS = b"\x09"
_FILTER_IS_TEXT = b"\x00"
_ISB_RECEIVED, _ISB_DROPPED = 4, 5
_COMMENT, _EPB_FLAGS = 1, 2
_INBOUND, _OUTBOUND = 1, 2
_packet_head = struct.Struct("<IIIIIII").pack
_packet_body = struct.Struct("<IIIII").pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One tap in the file."""

    name: str
    description: str
    filter: str = ""
    snap_byte: int = 0


def section(application: str) -> bytes:
    """The block that a file starts with."""
    body = struct.pack("<IHHq", _MAGIC, 1, 0, -1) + _option(_APPLICATION, application.encode()) + _END
    return _block(_SECTION, body)


def interface(about: Interface) -> bytes:
    """Interfaces are numbered from 0 in the order in which they are written, before their first packet."""
    options = (
        _option(_IF_NAME, about.name.encode())
        + _option(_IF_DESCRIPTION, about.description.encode())
        + _option(_IF_TIME_UNIT, _NANOSECONDS)
        + (_option(_IF_FILTER, _FILTER_IS_TEXT + about.filter.encode()) if about.filter else b"")
        + _END
    )
    return _block(_INTERFACE, struct.pack("<HHI", ETHERNET, 0, about.snap_byte) + options)


def packet_maker(
    number: int, direction: TapDirection | None, comment: Callable[[bytes], str] | None = None
) -> Callable[[int, bytes, int], bytes]:
    """What makes the blocks of one interface's packets in one direction: (time in ns, frame, length on the wire).
    `comment` gives a packet's comment, empty for none."""
    flags = {TapDirection.IN: _INBOUND, TapDirection.OUT: _OUTBOUND, None: 0}[direction]
    options = struct.pack("<HHI", _EPB_FLAGS, 4, flags) + _END

    @cache
    def tail(kept: int) -> tuple[int, bytes]:
        pad = b"\0" * (-kept & 3)
        length = 32 + kept + len(pad) + len(options)
        return length, pad + options + struct.pack("<I", length)

    def make(time_ns: int, frame: bytes, wire_byte: int) -> bytes:
        kept = len(frame)
        length, end = tail(kept)
        head = _packet_head(_PACKET, length, number, time_ns >> 32, time_ns & 0xFFFF_FFFF, kept, wire_byte)
        return head + frame + end

    def make_with_comment(time_ns: int, frame: bytes, wire_byte: int) -> bytes:
        words = comment(frame) if comment is not None else ""
        if not words:
            return make(time_ns, frame, wire_byte)
        kept = len(frame)
        body = _packet_body(number, time_ns >> 32, time_ns & 0xFFFF_FFFF, kept, wire_byte) + frame + b"\0" * (-kept & 3)
        return _block(_PACKET, body + _option(_COMMENT, words.encode()) + options)

    return make if comment is None else make_with_comment


def statistics(number: int, *, time_ns: int, received: int, dropped: int) -> bytes:
    """What one interface counted until then."""
    counts = _option(_ISB_RECEIVED, struct.pack("<Q", received)) + _option(_ISB_DROPPED, struct.pack("<Q", dropped))
    return _block(_STATISTICS, struct.pack("<III", number, time_ns >> 32, time_ns & 0xFFFF_FFFF) + counts + _END)


def _block(kind: int, body: bytes) -> bytes:
    length = 12 + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + b"\0" * (-len(value) & 3)
