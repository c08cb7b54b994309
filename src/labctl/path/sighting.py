"""Sightings: one packet seen at one tap, with what a path is read from. Which packets count is up to the matcher.

A packet is known by its own content (the token that the sender put into its payload, and its sequence number), never
by the time alone: other traffic may cross the same tap at the same moment. Tuples, as in `frame` and for its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from labctl.model.flow import Flow
from labctl.model.signature import Role
from labctl.model.trace import PacketKey
from labctl.model.trace import TapDirection as TapDirection
from labctl.model.trace import Way as Way
from labctl.path.frame import (
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Frame,
    Icmp,
    Ipv4,
    Transport,
    Udp,
    decode,
    ip_text,
    mac_text,
)
from labctl.path.pcap import Record

_ECHO_REQUEST = 8
_ECHO_REPLY = 0
_ECHOES = (_ECHO_REQUEST, _ECHO_REPLY)


class Match(NamedTuple):
    """A packet that counts: its half of the exchange, its number in it (both halves have the same number), and what it
    is in words."""

    way: Way
    number: int
    what: str = ""


Matcher = Callable[[Frame], Match | None]


class Envelope(NamedTuple):
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


class Sighting(NamedTuple):
    """One packet at one tap. TTL, addresses and MACs are the inner frame's when it came in an envelope.

    `direction` is None where the capture did not tell it. `key` is how witnesses of other kinds know the packet.
    """

    tap: str
    role: Role
    time_ns: int
    direction: TapDirection | None
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


def match_echo(flows: Iterable[Flow], token: bytes) -> Matcher:
    """Matches the echo requests of these flows that carry `token`, and the replies to them."""
    if not token:
        raise ValueError("an empty token would match every packet")
    requests = {(source.packed, destination.packed) for source, destination in flows}

    def match(frame: Frame) -> Match | None:
        network, transport = frame.network, frame.transport
        if not isinstance(transport, Icmp) or not isinstance(network, Ipv4) or token not in transport.payload:
            return None
        if transport.kind == _ECHO_REQUEST and (network.src, network.dst) in requests:
            return Match(way=Way.REQUEST, number=transport.sequence, what="ICMP echo request")
        if transport.kind == _ECHO_REPLY and (network.dst, network.src) in requests:
            return Match(way=Way.REPLY, number=transport.sequence, what="ICMP echo reply")
        return None

    return match


def sightings(
    records: Iterable[Record], matcher: Matcher, *, tap: str, role: Role, direction: TapDirection | None = None
) -> Iterator[Sighting]:
    """The records that the matcher knows, in the order of the capture. Envelopes are opened first."""
    for time_ns, data, _wire_byte in records:
        frame = decode(data)
        if frame is None:
            continue
        subject = frame.inner or frame
        match, network = matcher(subject), subject.network
        if match is None or not isinstance(network, Ipv4):
            continue
        key = packet_key(network, subject.transport)
        yield Sighting(
            tap=tap,
            role=role,
            time_ns=time_ns,
            direction=direction,
            way=match.way,
            number=match.number,
            src=key.src,
            dst=key.dst,
            ttl=network.ttl,
            src_mac=mac_text(subject.src_mac),
            dst_mac=mac_text(subject.dst_mac),
            envelope=None if frame.vni is None else _envelope(frame),
            key=key,
            what=match.what,
        )


_PROTOCOL_NAMES = {number: str(number) for number in range(256)} | {
    PROTOCOL_ICMP: "icmp",
    PROTOCOL_TCP: "tcp",
    PROTOCOL_UDP: "udp",
}


def packet_key(network: Ipv4, transport: Transport) -> PacketKey:
    """What any witness would call this packet."""
    src, dst, protocol, _ttl, ip_id, *_ = network
    first, second = 0, 0
    if isinstance(transport, Icmp):
        if transport.kind in _ECHOES:
            first, second = transport.identifier, transport.sequence
    elif transport is not None:
        first, second = transport.src_port, transport.dst_port
    return PacketKey(ip_text(src), ip_text(dst), _PROTOCOL_NAMES[protocol], first, second, ip_id)


def _envelope(frame: Frame) -> Envelope | None:
    dst_mac, src_mac, _type, network, transport, vni, _inner = frame
    if vni is None or not isinstance(network, Ipv4) or not isinstance(transport, Udp):
        return None
    return Envelope(
        ip_text(network.src),
        ip_text(network.dst),
        transport.src_port,
        transport.dst_port,
        network.ttl,
        vni,
        mac_text(src_mac),
        mac_text(dst_mac),
        network.identification,
    )
