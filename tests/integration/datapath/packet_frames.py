"""Frames as bytes, for the model of the programs: what is read of them, and what is changed in them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from labctl.datapath.layout import PacketVerdict

ICMP, TCP, UDP, SCTP = 1, 6, 17, 132
ETHERNET, IPV4 = 14, 20
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
FIRST_NAT_PORT = 32768
TUNNEL_PORTS = (8472, 6081)
HOST_IDENTITY = 1
ERRORS = (3, 11, 12)
OK, SHOT, REDIRECTED = 0, 2, 7
LOOPBACK = IPv4Address("169.254.42.1").packed
MARK_NO_BACKEND, MARK_RELAYED = 0x4E4F4245, 0x534E4154


Key = tuple[bytes, bytes, bytes, bytes, int]
"""Source and destination address, source and destination port, protocol."""


class Dropped(Exception):
    def __init__(self, verdict: PacketVerdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


def replaced(frame: bytearray, at: int, old: bytes, new: bytes, *, keeps_zero: bool = False) -> None:
    """RFC 1624 on the checksum at `at`; one of UDP that is 0 is none, and none becomes 0."""
    if at + 2 > len(frame):
        raise Dropped(PacketVerdict.WRITE)
    now = int.from_bytes(frame[at : at + 2], "big")
    if keeps_zero and now == 0:
        return
    total = ~now & 0xFFFF
    for place in range(0, len(old), 2):
        total += (~int.from_bytes(old[place : place + 2], "big") & 0xFFFF) + int.from_bytes(
            new[place : place + 2], "big"
        )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    made = ~total & 0xFFFF
    if keeps_zero and made == 0:
        made = 0xFFFF
    frame[at : at + 2] = made.to_bytes(2, "big")


def stored(frame: bytearray, at: int, data: bytes) -> None:
    if at + len(data) > len(frame):
        raise Dropped(PacketVerdict.WRITE)
    frame[at : at + len(data)] = data


def part(frame: bytes | bytearray, at: int, size: int) -> bytes | None:
    return bytes(frame[at : at + size]) if at + size <= len(frame) else None


def required(frame: bytes | bytearray, at: int, size: int) -> bytes:
    found = part(frame, at, size)
    if found is None:
        raise Dropped(PacketVerdict.INVALID)
    return found


def header_bytes(frame: bytes | bytearray, at: int = ETHERNET) -> int:
    return (frame[at] & 0xF) * 4


def fragment_word(frame: bytes | bytearray, at: int = ETHERNET) -> int:
    return int.from_bytes(frame[at + 6 : at + 8], "big")


def is_first(frame: bytes | bytearray, at: int = ETHERNET) -> bool:
    return not fragment_word(frame, at) & 0x1FFF


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def ether_type(frame: bytes | bytearray) -> int:
    return number(bytes(frame[12:14]))


def is_arp(frame: bytes | bytearray) -> bool:
    return ether_type(frame) == 0x0806


def is_ipv4(frame: bytes | bytearray) -> bool:
    return ether_type(frame) == 0x0800


def addresses(frame: bytes | bytearray) -> tuple[bytes, bytes]:
    """Raises Dropped for a frame that is too short for an IPv4 header."""
    header = required(frame, ETHERNET, IPV4)
    return header[12:16], header[16:20]


def back_of(becomes: tuple[bytes, bytes, bytes, bytes], protocol: int) -> Key:
    return becomes[1], becomes[0], becomes[3], becomes[2], protocol


def checksum(data: bytes | bytearray) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
