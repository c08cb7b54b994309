"""Sightings: one packet seen at one tap, with what a path is told by. Which packets count is the matcher's to say.

A packet is known by its own content (the token that the sender put into its payload, and its sequence number), never
by the time alone: other traffic may cross the same tap at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from labctl.model.signature import Role
from labctl.path.frame import Frame, Icmp, Ipv4, Udp, decode, ip_text, mac_text
from labctl.path.pcap import Record

_ECHO_REQUEST = 8
_ECHO_REPLY = 0


class Way(StrEnum):
    """Which half of an exchange a packet belongs to."""

    REQUEST = "request"
    REPLY = "reply"


class Direction(StrEnum):
    """How a packet met the tap's device, from the device's own side (as `tcpdump -Q` has it)."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A packet that counts: its half of the exchange, and its number in it (both halves have the same number)."""

    way: Way
    number: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One packet at one tap. TTL, addresses and MACs are the inner frame's when it came in an envelope.

    `direction` is None where the capture did not tell it.
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
            return Match(way=Way.REQUEST, number=transport.sequence)
        if transport.kind == _ECHO_REPLY and network.src == server_bytes and network.dst == client_bytes:
            return Match(way=Way.REPLY, number=transport.sequence)
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
    )
