"""The model of what a node masquerades in eBPF, and of the way back."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from packet_frames import (
    ERRORS,
    ETHERNET,
    FIRST_NAT_PORT,
    ICMP,
    IPV4,
    TCP,
    TUNNEL_PORTS,
    UDP,
    Dropped,
    Key,
    addresses,
    header_bytes,
    number,
    part,
    replaced,
    required,
    stored,
)
from packet_known import Known, Read

from labctl.datapath.layout import PacketVerdict


@dataclass(slots=True)
class Masquerading(Known):
    """Masquerades as one node does."""

    def masquerade(self, frame: bytearray) -> None:
        source, destination = addresses(frame)
        protocol, transport = frame[ETHERNET + 9], ETHERNET + header_bytes(frame)
        is_own = source == self.address
        nodes = {node.address.ip.packed for node in self.lab.nodes} | {node.router.packed for node in self.lab.nodes}
        if IPv4Address(destination) in self.lab.network.pod_cidr or (
            not self.is_tunnelled and destination in nodes - {self.address, self.router}
        ):
            return
        if not is_own and source != self.router and self.pod(source) is None:
            return
        if is_own and protocol not in (TCP, UDP, ICMP):
            return
        try:
            port, other, has_header = self.ports(frame)
        except Dropped:
            if is_own:
                return
            raise
        if protocol == ICMP:
            kind, port = required(frame, transport, 1)[0], required(frame, transport + 4, 2)
            if kind == 0:
                return
            if kind in ERRORS and not is_own:
                self.masquerade_error(frame, transport)
                return
            if kind != 8:
                if is_own:
                    return
                raise Dropped(PacketVerdict.NAT_UNSUPPORTED)
            other = b"\0\0"
        if protocol == TCP and has_header:
            required(frame, transport + 13, 1)
        if is_own and (number(port) < FIRST_NAT_PORT or number(other) in TUNNEL_PORTS):
            return
        key: Key = (source, destination, port, other, protocol)
        mapped = self.mappings.get((0, key)) or self.mapped(key)
        if mapped == (source, port):
            return
        self.counted.append(PacketVerdict.MASQUERADED)
        read = Read(key, transport, has_header=has_header)
        self.rewrite(frame, key, read, mapped, is_source=True)

    def mapped(self, key: Key) -> tuple[bytes, bytes]:
        """A new mapping, whose port is read from the node's map."""
        source, destination, port, other, protocol = key
        entry = self.look("snat", source + destination + port + other + bytes([protocol, 0, 0, 0]))
        assert entry is not None, "the connection was not kept"
        _, _, address, given = struct.unpack_from("<QQ4s2s", entry)
        assert address == self.address
        back: Key = (destination, self.address, other, given, protocol)
        kept: Key = (destination, self.address, other, port, protocol)
        assert (1, back) not in self.mappings, "two connections would get each other's answers"
        assert number(given) >= FIRST_NAT_PORT
        if number(port) >= FIRST_NAT_PORT and (1, kept) not in self.mappings:
            assert given == port, "a port that was free is kept"
        self.mappings[0, key] = (address, given)
        self.mappings[1, back] = (source, port)
        return address, given

    def quoted(self, frame: bytearray, transport: int, *, was_sent: bool) -> tuple[Key, int, int, bytes] | None:
        """The key of the mapping, where the quoted header is, where its port is, and the port."""
        at = transport + 8
        header = part(frame, at, IPV4)
        if header is None or header[0] >> 4 != 4 or (header[0] & 0xF) < 5 or number(header[6:8]) & 0x1FFF:
            return None
        inner = at + (header[0] & 0xF) * 4
        if header[9] == ICMP:
            place, found = inner + 4, part(frame, inner + 4, 2)
            if found is None:
                return None
            one, other = (found, b"\0\0") if was_sent else (b"\0\0", found)
        elif header[9] in (TCP, UDP):
            place, found = inner + (0 if was_sent else 2), part(frame, inner, 4)
            if found is None:
                return None
            one, other = found[:2], found[2:]
        else:
            return None
        key: Key = (header[16:20], header[12:16], other, one, header[9])
        return key, at, place, one if was_sent else other

    def masquerade_error(self, frame: bytearray, transport: int) -> None:
        found = self.quoted(frame, transport, was_sent=False)
        mapped = self.mappings.get((0, found[0])) if found is not None else None
        if found is None or mapped is None:
            raise Dropped(PacketVerdict.NAT_UNSUPPORTED)
        self.counted.append(PacketVerdict.MASQUERADED)
        self.rewrite_error(frame, found, mapped, was_sent=False)

    def rewrite_error(
        self, frame: bytearray, found: tuple[Key, int, int, bytes], new: tuple[bytes, bytes], *, was_sent: bool
    ) -> None:
        key, at, place, old_port = found
        old = key[1] if was_sent else key[0]
        replaced(frame, at + 10, old, new[0])
        stored(frame, at + (12 if was_sent else 16), new[0])
        if new[1] != old_port:
            replaced(frame, at - 6, old_port, new[1])
            stored(frame, place, new[1])
        replaced(frame, ETHERNET + 10, old, new[0])
        stored(frame, ETHERNET + (16 if was_sent else 12), new[0])

    def unmasquerade(self, frame: bytearray) -> None:
        source, destination = addresses(frame)
        protocol, transport = frame[ETHERNET + 9], ETHERNET + header_bytes(frame)
        try:
            other, port, has_header = self.ports(frame)
        except Dropped:
            return
        if protocol == ICMP:
            kind = part(frame, transport, 1)
            if kind is not None and kind[0] in ERRORS:
                found = self.quoted(frame, transport, was_sent=True)
                mapped = self.mappings.get((1, found[0])) if found is not None else None
                if found is None or found[0][1] != self.address or mapped is None or mapped == (self.address, found[3]):
                    return
                self.counted.append(PacketVerdict.UNMASQUERADED)
                self.rewrite_error(frame, found, mapped, was_sent=True)
                return
            identifier = part(frame, transport + 4, 2)
            if kind is None or kind[0] != 0 or identifier is None:
                return
            port = identifier
        key: Key = (source, destination, other, port, protocol)
        mapped = self.mappings.get((1, key)) if number(port) >= FIRST_NAT_PORT else None
        if mapped is None:
            return
        if protocol == TCP and has_header:
            required(frame, transport + 13, 1)
        if mapped == (destination, port):
            return
        self.counted.append(PacketVerdict.UNMASQUERADED)
        self.rewrite(frame, key, Read(key, transport, has_header=has_header), mapped, is_source=False)
