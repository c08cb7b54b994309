"""Opens Ethernet frames: ARP, IPv4, ICMP, TCP, UDP, and what VXLAN carries. Pure; what it means is others' business.

Addresses stay as the bytes on the wire, since most frames of a busy capture are looked at and passed over; `mac_text`
and `ip_text` make them readable. Tuples, not dataclasses: they are made a hundred thousand times a second. Nothing here
raises on a frame that is short or nonsense: the layers that cannot be read are None.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from labctl.model.interfaces import GENEVE_PORT, TUNNEL_PORTS

ETHER_IPV4 = 0x0800
ETHER_ARP = 0x0806
_ETHER_TAGS = frozenset((0x8100, 0x88A8))
PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
_VXLAN_HAS_VNI = 0x08

_ethernet = struct.Struct("!6s6sH").unpack_from
_ipv4 = struct.Struct("!BBHHHBBH4s4s").unpack_from
_icmp = struct.Struct("!BBHHH").unpack_from
_tcp = struct.Struct("!HHIIBBH").unpack_from
_udp = struct.Struct("!HHHH").unpack_from
_arp = struct.Struct("!HHBBH6s4s6s4s").unpack_from
# Skips the generated __new__ of named tuples, which costs as much as all the rest of a layer.
_new = tuple.__new__


class Arp(NamedTuple):
    """An ARP message for IPv4 over Ethernet (RFC 826). `operation` is 1 for a request, 2 for a reply."""

    operation: int
    sender_mac: bytes
    sender_ip: bytes
    target_mac: bytes
    target_ip: bytes


class Ipv4(NamedTuple):
    """The parts of an IPv4 header (RFC 791) that identify a packet. `fragment_byte` is the fragment's offset."""

    src: bytes
    dst: bytes
    protocol: int
    ttl: int
    identification: int
    length_byte: int
    fragment_byte: int
    may_fragment: bool


class Icmp(NamedTuple):
    """ICMP (RFC 792). `kind` 8 is an echo request, 0 an echo reply; identifier and sequence hold for those."""

    kind: int
    code: int
    identifier: int
    sequence: int
    payload: bytes


class Tcp(NamedTuple):
    """TCP (RFC 9293). `flags` is the byte with SYN 0x02, ACK 0x10, …"""

    src_port: int
    dst_port: int
    sequence: int
    acknowledgement: int
    flags: int
    payload: bytes


class Udp(NamedTuple):
    """UDP (RFC 768)."""

    src_port: int
    dst_port: int
    payload: bytes


Transport = Icmp | Tcp | Udp | None
"""None: not one of these, cut off, or in the first fragment of several."""


class Frame(NamedTuple):
    """One Ethernet frame. `vni` and `inner` are set when it is a VXLAN or Geneve envelope (RFC 7348, RFC 8926)."""

    dst_mac: bytes
    src_mac: bytes
    ether_type: int
    network: Ipv4 | Arp | None
    transport: Transport
    vni: int | None = None
    inner: Frame | None = None


def decode(data: bytes, *, tunnel_ports: tuple[int, ...] = TUNNEL_PORTS) -> Frame | None:
    """The frame in `data`, or None when it is shorter than an Ethernet header.

    A UDP packet to or from one of `tunnel_ports` with a valid header of VXLAN or, at its port, Geneve is opened, one
    level deep.
    """
    return _decode(data, 0, len(data), tunnel_ports)


@lru_cache(maxsize=4096)
def mac_text(mac: bytes) -> str:
    """`02:00:5e:…`, lower case, as `ip link` prints it."""
    return mac.hex(":")


@lru_cache(maxsize=4096)
def ip_text(address: bytes) -> str:
    """Dotted decimal."""
    return "%d.%d.%d.%d" % tuple(address)  # noqa: UP031 - three times as fast as the alternatives


def _decode(data: bytes, start: int, stop: int, tunnel_ports: tuple[int, ...]) -> Frame | None:
    at = start + 14
    if at > stop:
        return None
    dst_mac, src_mac, ether_type = _ethernet(data, start)
    while ether_type in _ETHER_TAGS and at + 4 <= stop:
        ether_type = (data[at + 2] << 8) | data[at + 3]
        at += 4
    if ether_type != ETHER_IPV4:
        arp = _decode_arp(data, at, stop) if ether_type == ETHER_ARP else None
        return Frame(dst_mac, src_mac, ether_type, arp, None)
    if at + 20 > stop:
        return Frame(dst_mac, src_mac, ETHER_IPV4, None, None)
    first, _tos, length_byte, identification, fragment, ttl, protocol, _sum, src, dst = _ipv4(data, at)
    header_byte = (first & 0x0F) << 2
    if first >> 4 != 4 or header_byte < 20 or at + header_byte > stop or length_byte < header_byte:
        return Frame(dst_mac, src_mac, ETHER_IPV4, None, None)
    fragment_byte = (fragment & 0x1FFF) << 3
    network = _new(Ipv4, (src, dst, protocol, ttl, identification, length_byte, fragment_byte, not fragment & 0x4000))
    # Ethernet pads short frames: what counts ends where the IP header says, or where the capture was cut.
    if at + length_byte < stop:
        stop = at + length_byte
    at += header_byte
    transport: Transport = None
    vni: int | None = None
    inner: Frame | None = None
    if fragment_byte:
        pass  # the transport header was in the first fragment
    elif protocol == PROTOCOL_TCP and at + 20 <= stop:
        src_port, dst_port, sequence, acknowledgement, offset, flags, _window = _tcp(data, at)
        payload = data[at + (offset >> 4 << 2) : stop]
        transport = _new(Tcp, (src_port, dst_port, sequence, acknowledgement, flags, payload))
    elif protocol == PROTOCOL_UDP and at + 8 <= stop:
        src_port, dst_port, _length, _sum = _udp(data, at)
        at += 8
        transport = _new(Udp, (src_port, dst_port, data[at:stop]))
        if (dst_port in tunnel_ports or src_port in tunnel_ports) and at + 8 <= stop:
            is_geneve = GENEVE_PORT in (dst_port, src_port)
            vni, inner = _decode_geneve(data, at, stop) if is_geneve else _decode_vxlan(data, at, stop)
    elif protocol == PROTOCOL_ICMP and at + 8 <= stop:
        kind, code, _sum, identifier, sequence = _icmp(data, at)
        transport = _new(Icmp, (kind, code, identifier, sequence, data[at + 8 : stop]))
    return _new(Frame, (dst_mac, src_mac, ETHER_IPV4, network, transport, vni, inner))


def _decode_arp(data: bytes, at: int, stop: int) -> Arp | None:
    if at + 28 > stop:
        return None
    hardware, protocol, mac_byte, ip_byte, operation, *addresses = _arp(data, at)
    if (hardware, protocol, mac_byte, ip_byte) != (1, ETHER_IPV4, 6, 4):
        return None
    return Arp(operation, *addresses)


def _decode_geneve(data: bytes, at: int, stop: int) -> tuple[int | None, Frame | None]:
    """Version 0 with an Ethernet frame in it, behind however many options."""
    is_frame = data[at] >> 6 == 0 and data[at + 2 : at + 4] == b"\x65\x58"
    inside = at + 8 + ((data[at] & 0x3F) << 2)
    inner = _decode(data, inside, stop, ()) if is_frame else None
    return (None, None) if inner is None else (int.from_bytes(data[at + 4 : at + 7], "big"), inner)


def _decode_vxlan(data: bytes, at: int, stop: int) -> tuple[int | None, Frame | None]:
    inner = _decode(data, at + 8, stop, ()) if data[at] & _VXLAN_HAS_VNI else None
    return (None, None) if inner is None else (int.from_bytes(data[at + 4 : at + 7], "big"), inner)
