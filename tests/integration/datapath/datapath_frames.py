"""Frames as bytes: the little that the datapath tests read of them, and ICMP echo frames to put into a program."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

ETHERNET = struct.Struct("!6s6sH")
IPV4 = struct.Struct("!BBHHHBBH4s4s")
VXLAN_PORT = 8472
ICMP, TCP, UDP = 1, 6, 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """An IPv4 frame; with `outer` where it came inside a vxlan envelope."""

    source_mac: str
    destination_mac: str
    source: IPv4Address
    destination: IPv4Address
    ttl: int
    protocol: int
    payload: bytes
    vni: int | None = None
    outer: Frame | None = None

    @property
    def icmp_type(self) -> int | None:
        return self.payload[0] if self.protocol == ICMP and self.payload else None

    @property
    def destination_port(self) -> int:
        return int.from_bytes(self.payload[2:4], "big")


def parse_frame(data: bytes) -> Frame | None:
    """None for anything but IPv4."""
    if len(data) < 34:
        return None
    destination_mac, source_mac, kind = ETHERNET.unpack_from(data)
    if kind != 0x0800:
        return None
    first, _, _, _, _, ttl, protocol, _, source, destination = IPV4.unpack_from(data, 14)
    frame = Frame(
        source_mac=source_mac.hex(":"),
        destination_mac=destination_mac.hex(":"),
        source=IPv4Address(source),
        destination=IPv4Address(destination),
        ttl=ttl,
        protocol=protocol,
        payload=data[14 + (first & 15) * 4 :],
    )
    if protocol == UDP and frame.destination_port == VXLAN_PORT:
        inner = parse_frame(frame.payload[16:])
        if inner is not None:
            return Frame(
                source_mac=inner.source_mac,
                destination_mac=inner.destination_mac,
                source=inner.source,
                destination=inner.destination,
                ttl=inner.ttl,
                protocol=inner.protocol,
                payload=inner.payload,
                vni=int.from_bytes(frame.payload[12:15], "big"),
                outer=frame,
            )
    return frame


def checksum(data: bytes) -> int:
    """RFC 1071; 0 over a header that carries its own right sum."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def make_frame(
    *,
    source_mac: str,
    destination_mac: str,
    source: IPv4Address,
    destination: IPv4Address,
    payload: bytes,
    protocol: int = ICMP,
    ttl: int = 64,
    fragment: int = 0,
) -> bytes:
    """`fragment` is the header's word of flags and offset."""
    header = IPV4.pack(0x45, 0, 20 + len(payload), 7, fragment, ttl, protocol, 0, source.packed, destination.packed)
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    macs = bytes.fromhex(destination_mac.replace(":", "")) + bytes.fromhex(source_mac.replace(":", ""))
    return macs + b"\x08\x00" + header + payload


def echo_request(identifier: int = 9, sequence: int = 1) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, identifier, sequence) + bytes(16)
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]
