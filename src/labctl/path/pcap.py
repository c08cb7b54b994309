"""Reads capture files in the classic pcap format, record by record; what is inside a frame is `frame`'s.

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

MAGICS = {
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


class PcapReader:
    """Iterates over the records of one stream, once, holding no more than a chunk of it in memory.

    `is_truncated` is true after the iteration when the stream ended inside a record.
    """

    def __init__(self, stream: BinaryIO) -> None:
        header = _read_exactly(stream, _FILE_HEADER_BYTE)
        if header[:4] == _PCAPNG_MAGIC:
            raise PcapError("this is a pcapng file; a classic pcap file was expected")
        if header[:4] not in MAGICS:
            raise PcapError(f"not a pcap file: it begins with {header[:4].hex(' ') or 'nothing'}")
        if len(header) < _FILE_HEADER_BYTE:
            raise PcapError(f"the file header is cut short after {len(header)} bytes")
        self._order, self._tick_ns = MAGICS[header[:4]]
        self.snap_byte: int
        self.link_type: int
        self.snap_byte, link = struct.unpack(self._order + "II", header[16:24])
        self.link_type = link & 0x0FFF_FFFF
        self.is_truncated = False
        self._stream = stream

    def __iter__(self) -> Iterator[Record]:
        unpack = struct.Struct(self._order + "IIII").unpack_from
        tick_ns = self._tick_ns
        read = self._stream.read
        new = tuple.__new__  # a third of the time of Record's own
        buffer, position, passed = b"", 0, _FILE_HEADER_BYTE
        while True:
            end = position + _RECORD_HEADER_BYTE
            if end <= len(buffer):
                seconds, fraction, kept, wire = unpack(buffer, position)
                if kept > _LONGEST_FRAME_BYTE:
                    raise PcapError(f"the record at byte {passed + position} claims a frame of {kept} bytes")
                stop = end + kept
                if stop <= len(buffer):
                    yield new(Record, (seconds * 1_000_000_000 + fraction * tick_ns, buffer[end:stop], wire))
                    position = stop
                    continue
            chunk = read(_CHUNK_BYTE)
            if not chunk:
                self.is_truncated = position < len(buffer)
                return
            passed += position
            buffer, position = buffer[position:] + chunk, 0


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
