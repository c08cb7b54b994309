"""Packets out of a pcap stream that arrives in pieces, as from a running tcpdump. Whole files are `pcap`'s. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from labctl.path.pcap import MAGICS, PcapError, Record

_FILE_HEADER_BYTE = 24
_LONGEST_FRAME_BYTE = 1 << 20


class PcapFeed:
    """Give it bytes as they come; it gives every packet that is whole. Holds at most one packet's bytes back."""

    def __init__(self) -> None:
        self._rest = b""
        self._unpack = struct.Struct("<IIII").unpack_from
        self._tick_ns = 0

    @property
    def has_begun(self) -> bool:
        """Whether the file header has come."""
        return self._tick_ns > 0

    @property
    def is_inside_packet(self) -> bool:
        """Whether the last bytes are the beginning of a packet whose end has not come."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[Record]:
        """Raises PcapError when the bytes are no pcap."""
        buffer = self._rest + data if self._rest else data
        position = 0
        if not self._tick_ns:
            if len(buffer) < _FILE_HEADER_BYTE:
                self._rest = buffer
                return
            if buffer[:4] not in MAGICS:
                raise PcapError(f"not a pcap file: it begins with {buffer[:4].hex(' ')}")
            order, self._tick_ns = MAGICS[buffer[:4]]
            self._unpack = struct.Struct(order + "IIII").unpack_from
            position = _FILE_HEADER_BYTE
        unpack, tick_ns, length = self._unpack, self._tick_ns, len(buffer)
        new = tuple.__new__
        while position + 16 <= length:
            seconds, fraction, kept, wire = unpack(buffer, position)
            if kept > _LONGEST_FRAME_BYTE:
                self._rest = b""
                raise PcapError(f"a record claims a frame of {kept} bytes")
            stop = position + 16 + kept
            if stop > length:
                break
            yield new(Record, (seconds * 1_000_000_000 + fraction * tick_ns, buffer[position + 16 : stop], wire))
            position = stop
        self._rest = buffer[position:]
