"""Makes packets and capture files, byte by byte, for tests of what reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from labctl.model.interfaces import VXLAN_PORT


def pcap_file(
    frames: Iterable[tuple[int, bytes]], *, order: str = "<", nanoseconds: bool = False, link_type: int = 1
) -> bytes:
    """A classic pcap file of (time in ns, frame). `order` is that of struct: `<` or `>`."""
    magic, tick_ns = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1_000)
    data = bytearray(struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262_144, link_type))
    for time_ns, frame in frames:
        seconds, rest = divmod(time_ns, 1_000_000_000)
        data += struct.pack(order + "IIII", seconds, rest // tick_ns, len(frame), len(frame)) + frame
    return bytes(data)


def ethernet(src_mac: str, dst_mac: str, payload: bytes, *, ether_type: int = 0x0800) -> bytes:
    return _mac(dst_mac) + _mac(src_mac) + struct.pack("!H", ether_type) + payload


def ipv4(src: str, dst: str, payload: bytes, *, protocol: int, ttl: int = 64, fragment: int = 0x4000) -> bytes:
    """An IPv4 packet with a right header checksum. `fragment` is the field of flags and offset (default: DF)."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, fragment, ttl, protocol, 0, _ip(src), _ip(dst))
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def icmp_echo(*, is_request: bool, identifier: int, sequence: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHHH", 8 if is_request else 0, 0, 0, identifier, sequence)
    return head[:2] + struct.pack("!H", checksum(head + payload)) + head[4:] + payload


def tcp(src_port: int, dst_port: int, *, flags: int = 0x02, payload: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", src_port, dst_port, 1, 0, 5 << 4, flags, 65_535, 0, 0) + payload


def udp(src_port: int, dst_port: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", src_port, dst_port, 8 + len(payload), 0) + payload


def vxlan(vni: int, frame: bytes) -> bytes:
    """The VXLAN header (RFC 7348) and the frame in it: what goes into UDP."""
    return struct.pack("!BBHI", 0x08, 0, 0, vni << 8) + frame


def geneve(vni: int, frame: bytes, *, options: bytes = b"") -> bytes:
    """The Geneve header (RFC 8926) and the frame in it: what goes into UDP. `options` are whole words of 4 bytes."""
    return struct.pack("!BBHI", len(options) // 4, 0, 0x6558, vni << 8) + options + frame


def enveloped(
    frame: bytes, *, src: str, dst: str, src_mac: str, dst_mac: str, vni: int, port: int = VXLAN_PORT, ttl: int = 64
) -> bytes:
    """`frame` as it crosses the underlay inside VXLAN."""
    datagram = udp(43_593, port, vxlan(vni, frame))
    return ethernet(src_mac, dst_mac, ipv4(src, dst, datagram, protocol=17, ttl=ttl, fragment=0))


def arp(*, operation: int, sender_mac: str, sender_ip: str, target_mac: str, target_ip: str) -> bytes:
    addresses = _mac(sender_mac) + _ip(sender_ip) + _mac(target_mac) + _ip(target_ip)
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + addresses


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _ip(text: str) -> bytes:
    return bytes(int(part) for part in text.split("."))
