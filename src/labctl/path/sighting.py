"""Sightings: one packet seen at one tap, with what a path is told by. Which packets count is the matcher's to say.

A packet is known by its own content (the token that the sender put into its payload, and its sequence number), never
by the time alone: other traffic may cross the same tap at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from labctl.model.movement import PacketKey
from labctl.model.path import Direction as Direction
from labctl.model.path import Way as Way
from labctl.model.signature import Role
from labctl.path.frame import (
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Frame,
    Icmp,
    Ipv4,
    Tcp,
    Udp,
    decode,
    ip_text,
    mac_text,
)
from labctl.path.pcap import Record

_ECHO_REQUEST = 8
_ECHO_REPLY = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A packet that counts: its half of the exchange, its number in it (both halves have the same number), and what it
    is in words."""

    way: Way
    number: int
    what: str = ""


Matcher = Callable[[Frame], Match | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The outer header of a frame that was seen inside VXLAN, as it stood on the wire."""

    src: str
    dst: str
    src_port: int
    dst_port: int
    ttl: int
    vni: int
    src_mac: str
    dst_mac: str
    ip_id: int = 0

    @property
    def key(self) -> PacketKey:
        return PacketKey(
            src=self.src, dst=self.dst, protocol="udp", first=self.src_port, second=self.dst_port, ip_id=self.ip_id
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One packet at one tap. TTL, addresses and MACs are the inner frame's when it came in an envelope.

    `direction` is None where the capture did not tell it. `key` is how witnesses of other kinds know the packet.
    """

    tap: str
    role: Role
    time_ns: int
    direction: Direction | None
    way: Way
    number: int
    src: str
    dst: str
    ttl: int
    src_mac: str
    dst_mac: str
    envelope: Envelope | None = None
    key: PacketKey | None = None
    what: str = ""


def match_echo(client: IPv4Address, server: IPv4Address, token: bytes) -> Matcher:
    """Matches the echo requests from client to server that carry `token`, and the replies to them."""
    if not token:
        raise ValueError("an empty token would match every packet")
    client_bytes, server_bytes = client.packed, server.packed

    def match(frame: Frame) -> Match | None:
        network, transport = frame.network, frame.transport
        if not isinstance(transport, Icmp) or not isinstance(network, Ipv4) or token not in transport.payload:
            return None
        if transport.kind == _ECHO_REQUEST and network.src == client_bytes and network.dst == server_bytes:
            return Match(way=Way.REQUEST, number=transport.sequence, what="ICMP echo request")
        if transport.kind == _ECHO_REPLY and network.src == server_bytes and network.dst == client_bytes:
            return Match(way=Way.REPLY, number=transport.sequence, what="ICMP echo reply")
        return None

    return match


def sightings(
    records: Iterable[Record], matcher: Matcher, *, tap: str, role: Role, direction: Direction | None = None
) -> Iterator[Sighting]:
    """The records that the matcher knows, in the order of the capture. Envelopes are opened first."""
    for record in records:
        frame = decode(record.frame)
        if frame is None:
            continue
        subject = frame if frame.inner is None else frame.inner
        match = matcher(subject)
        if match is None or not isinstance(subject.network, Ipv4):
            continue
        yield Sighting(
            tap=tap,
            role=role,
            time_ns=record.time_ns,
            direction=direction,
            way=match.way,
            number=match.number,
            src=ip_text(subject.network.src),
            dst=ip_text(subject.network.dst),
            ttl=subject.network.ttl,
            src_mac=mac_text(subject.src_mac),
            dst_mac=mac_text(subject.dst_mac),
            envelope=_envelope(frame),
            key=packet_key(subject),
            what=match.what,
        )


_PROTOCOL_NAMES = {PROTOCOL_ICMP: "icmp", PROTOCOL_TCP: "tcp", PROTOCOL_UDP: "udp"}


def packet_key(frame: Frame) -> PacketKey | None:
    """What any witness would call this packet; None for a frame that is not IPv4."""
    network, transport = frame.network, frame.transport
    if not isinstance(network, Ipv4):
        return None
    first, second = 0, 0
    if isinstance(transport, Icmp):
        if transport.kind in (_ECHO_REQUEST, _ECHO_REPLY):
            first, second = transport.identifier, transport.sequence
    elif isinstance(transport, Tcp | Udp):
        first, second = transport.src_port, transport.dst_port
    return PacketKey(
        src=ip_text(network.src),
        dst=ip_text(network.dst),
        protocol=_PROTOCOL_NAMES.get(network.protocol, str(network.protocol)),
        first=first,
        second=second,
        ip_id=network.identification,
    )


def _envelope(frame: Frame) -> Envelope | None:
    network, transport, vni = frame.network, frame.transport, frame.vni
    if vni is None or not isinstance(network, Ipv4) or not isinstance(transport, Udp):
        return None
    return Envelope(
        src=ip_text(network.src),
        dst=ip_text(network.dst),
        src_port=transport.src_port,
        dst_port=transport.dst_port,
        ttl=network.ttl,
        vni=vni,
        src_mac=mac_text(frame.src_mac),
        dst_mac=mac_text(frame.dst_mac),
        ip_id=network.identification,
    )
