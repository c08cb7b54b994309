"""Reads captures in the classic pcap format, whole files and streams that arrive in pieces; what is inside a frame is
`frame`'s.

Format: draft-ietf-opsawg-pcap (24 bytes of file header, then 16 bytes of record header before each frame). Both byte
orders and both resolutions (micro- and nanoseconds) are read. A capture that was cut short, as by a killed tcpdump or
a full disk, gives every whole record and then says that it was cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

ETHERNET = 1
"""LINKTYPE_ETHERNET, the only link type that pods, bridges, veths and VXLAN devices have."""

_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_FILE_HEADER_BYTE = 24
_RECORD_HEADER_BYTE = 16
_LONGEST_FRAME_BYTE = 1 << 20
_CHUNK_BYTE = 1 << 18


class PcapError(Exception):
    """The bytes are not a pcap file, or stop being one. The text says where."""


class Record(NamedTuple):
    """One captured frame: nanoseconds since the epoch, the bytes kept, and the length it had on the wire."""

    time_ns: int
    frame: bytes
    wire_byte: int


class PcapFeed:
    """Give it bytes as they come, and it gives every packet that is whole. It holds at most one packet's bytes back."""

    def __init__(self) -> None:
        self._rest = b""
        self._passed_byte = 0
        self._unpack = struct.Struct("<IIII").unpack_from
        self._tick_ns = 0
        self.snap_byte = 0
        self.link_type = 0

    @property
    def has_begun(self) -> bool:
        """Whether the file header has come."""
        return self._tick_ns > 0

    @property
    def is_inside_packet(self) -> bool:
        """Whether the last bytes are the beginning of a packet whose end has not come."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[Record]:
        """The packets that end in these bytes. Raises PcapError when the bytes are no pcap."""
        buffer = self._rest + data if self._rest else data
        position = 0
        if not self._tick_ns:
            if len(buffer) < _FILE_HEADER_BYTE:
                self._rest = buffer
                return
            self._begin(buffer)
            position = _FILE_HEADER_BYTE
        unpack, tick_ns, length = self._unpack, self._tick_ns, len(buffer)
        new = tuple.__new__  # a third of the time of Record's own
        while (end := position + _RECORD_HEADER_BYTE) <= length:
            seconds, fraction, kept, wire = unpack(buffer, position)
            if kept > _LONGEST_FRAME_BYTE:
                self._rest = b""
                raise PcapError(f"the record at byte {self._passed_byte + position} claims a frame of {kept} bytes")
            stop = end + kept
            if stop > length:
                break
            yield new(Record, (seconds * 1_000_000_000 + fraction * tick_ns, buffer[end:stop], wire))
            position = stop
        self._passed_byte += position
        self._rest = buffer[position:]

    def _begin(self, header: bytes) -> None:
        if header[:4] == _PCAPNG_MAGIC:
            raise PcapError("this is a pcapng file; a classic pcap file was expected")
        if header[:4] not in _MAGICS:
            raise PcapError(f"not a pcap file: it begins with {header[:4].hex(' ') or 'nothing'}")
        if len(header) < _FILE_HEADER_BYTE:
            raise PcapError(f"the file header is cut short after {len(header)} bytes")
        order, self._tick_ns = _MAGICS[header[:4]]
        self._unpack = struct.Struct(order + "IIII").unpack_from
        self.snap_byte, link = struct.unpack_from(order + "II", header, 16)
        self.link_type = link & 0x0FFF_FFFF


class PcapReader:
    """Iterates over the records of one stream, once, holding no more than a chunk of it in memory.

    `is_truncated` is true after the iteration when the stream ended inside a record.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._feed = PcapFeed()
        header = _read_exactly(stream, _FILE_HEADER_BYTE)
        if len(header) < _FILE_HEADER_BYTE:
            self._feed._begin(header)
        list(self._feed.feed(header))
        self.snap_byte = self._feed.snap_byte
        self.link_type = self._feed.link_type
        self.is_truncated = False
        self._stream = stream

    def __iter__(self) -> Iterator[Record]:
        while chunk := self._stream.read(_CHUNK_BYTE):
            yield from self._feed.feed(chunk)
        self.is_truncated = self._feed.is_inside_packet


def read_pcap(data: bytes) -> PcapReader:
    """A reader over a capture that is already in memory. Raises PcapError when its header is not readable."""
    return PcapReader(BytesIO(data))


def _read_exactly(stream: BinaryIO, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = stream.read(length - len(data))
        if not chunk:
            break
        data += chunk
    return data
