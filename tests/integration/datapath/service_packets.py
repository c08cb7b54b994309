"""Packets to Services and a model of what one node makes of them, in Python: nothing of the programs is used.

The model knows the Services, follows every connection from its first packet, and says which packet must come out. What
the programs choose at random (a backend, a source port) it reads from the first packet that comes out, checks that it
could be chosen, and holds them to it from then on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from labctl.testing.packets import checksum

ICMP, TCP, UDP = 1, 6, 17
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
FIRST_NAT_PORT = 32768
_IP = struct.Struct("!BBHHHBBH4s4s")

End = tuple[IPv4Address, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One IPv4 packet, whole. `fragment` are the bits and the offset of its header; checksums are not kept: they are
    made when it is written, and must be right when it is read. `has_sum` false: UDP without a checksum."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    payload: bytes
    ttl: int = 64
    tos: int = 0
    id: int = 1
    fragment: int = 0x4000
    has_sum: bool = True

    def header(self) -> bytes:
        raw = _IP.pack(
            0x45,
            self.tos,
            20 + len(self.payload),
            self.id,
            self.fragment,
            self.ttl,
            self.protocol,
            0,
            self.source.packed,
            self.destination.packed,
        )
        return raw[:10] + struct.pack("!H", checksum(raw)) + raw[12:]

    def bytes(self) -> bytes:
        return self.header() + self.payload

    def with_tuple(self, source: End, destination: End) -> Packet:
        """The same packet between other ends, its transport checksum made anew. Not for later fragments."""
        ports = struct.pack("!HH", source[1], destination[1])
        changed = replace(self, source=source[0], destination=destination[0], payload=ports + self.payload[4:])
        return changed.summed()

    def summed(self) -> Packet:
        at = {TCP: 16, UDP: 6}[self.protocol]
        blank = self.payload[:at] + b"\0\0" + self.payload[at + 2 :]
        if not self.has_sum:
            return replace(self, payload=blank)
        pseudo = self.source.packed + self.destination.packed + struct.pack("!BBH", 0, self.protocol, len(blank))
        number = checksum(pseudo + blank)
        if self.protocol == UDP and number == 0:
            number = 0xFFFF
        return replace(self, payload=blank[:at] + struct.pack("!H", number) + blank[at + 2 :])

    @property
    def ends(self) -> tuple[End, End]:
        source, destination = struct.unpack_from("!HH", self.payload)
        return (self.source, source), (self.destination, destination)

    def fragments(self, size: int) -> list[Packet]:
        """Two fragments, the first with `size` bytes (a multiple of 8)."""
        first = replace(self, payload=self.payload[:size], fragment=0x2000)
        return [first, replace(self, payload=self.payload[size:], fragment=size // 8)]


def parse(data: bytes) -> Packet:
    """Raises AssertionError for a packet whose header's checksum is wrong or whose length is not what it says."""
    first, tos, length, number, fragment, ttl, protocol, _, source, destination = _IP.unpack_from(data)
    assert first == 0x45
    assert length == len(data)
    assert checksum(data[:20]) in (0, 0xFFFF), "the header's checksum is wrong"
    return Packet(
        source=IPv4Address(source),
        destination=IPv4Address(destination),
        protocol=protocol,
        payload=data[20:],
        ttl=ttl,
        tos=tos,
        id=number,
        fragment=fragment,
    )


def reassembled(parts: list[Packet]) -> Packet:
    return replace(parts[0], payload=b"".join(part.payload for part in parts), fragment=0)


def transport(
    source: End, destination: End, protocol: int, body: bytes, *, flags: int = SYN, has_sum: bool = True, **header: int
) -> Packet:
    if protocol == TCP:
        payload = struct.pack("!HHIIBBHHH", source[1], destination[1], 7, 9, 5 << 4, flags, 1024, 0, 0) + body
    else:
        payload = struct.pack("!HHHH", source[1], destination[1], 8 + len(body), 0) + body
    return Packet(
        source=source[0], destination=destination[0], protocol=protocol, payload=payload, has_sum=has_sum, **header
    ).summed()


def icmp_error(source: IPv4Address, destination: IPv4Address, quoted: Packet, *, kind: int, code: int) -> Packet:
    """Quotes the header and 8 bytes, as RFC 792 has it."""
    body = struct.pack("!BBHI", kind, code, 0, 0) + quoted.bytes()[:28]
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return Packet(source=source, destination=destination, protocol=ICMP, payload=body)


@dataclass(slots=True)
class Connection:
    """One translated connection: who asked for what, and which ends the node gave it."""

    protocol: int
    client: End
    asked: End
    inner_client: End
    backend: End
    is_replied: bool = False
    has_client_fin: bool = False
    has_backend_fin: bool = False
    is_reset: bool = False

    @property
    def is_closing(self) -> bool:
        return self.is_reset or (self.has_client_fin and self.has_backend_fin)

    def saw(self, flags: int, *, from_backend: bool) -> None:
        self.is_replied |= from_backend
        if self.protocol == TCP:
            self.is_reset |= bool(flags & RST)
            if flags & FIN:
                self.has_backend_fin |= from_backend
                self.has_client_fin |= not from_backend


@dataclass(slots=True)
class NodeModel:
    """A node that translates `services` ((protocol, address and port) → its backends) and gives `node_source` to what it
    sends to other nodes' backends; `local` are the addresses of its own pods."""

    services: dict[tuple[int, End], tuple[End, ...]]
    local: frozenset[IPv4Address]
    node_source: IPv4Address
    loopback: IPv4Address = IPv4Address("169.254.42.1")
    connections: dict[tuple[int, End, End], Connection] = field(default_factory=dict)

    def request(self, sent: Packet, flags: int, came: Packet | None) -> Packet | None:
        """The packet that must come out, of a packet to a Service. `came` is what did: a new connection's choices are
        read from it."""
        client, asked = sent.ends
        key = (sent.protocol, client, asked)
        known = self.connections.get(key)
        if known is not None and known.is_closing and flags & (SYN | ACK) == SYN and sent.protocol == TCP:
            del self.connections[key]
            known = None
        if known is None:
            backends = self.services[sent.protocol, asked]
            if not backends:
                return None
            assert came is not None
            known = self._begun(sent, came, client, asked, backends)
            self.connections[key] = known
        known.saw(flags, from_backend=False)
        return sent.with_tuple(known.inner_client, known.backend)

    def _begun(self, sent: Packet, came: Packet, client: End, asked: End, backends: tuple[End, ...]) -> Connection:
        inner, backend = came.ends
        assert backend in backends, f"{backend} is no backend"
        if backend[0] == client[0]:
            address, keeps = self.loopback, True
        elif backend[0] in self.local or self.node_source == IPv4Address(0):
            address, keeps = client[0], True
        else:
            address, keeps = self.node_source, client[1] >= FIRST_NAT_PORT
        taken = {
            one.inner_client[1]
            for one in self.connections.values()
            if (one.protocol, one.inner_client[0], one.backend) == (sent.protocol, address, backend)
        }
        assert inner[0] == address
        assert inner[1] not in taken, "two connections would get each other's answers"
        if keeps and client[1] not in taken:
            assert inner[1] == client[1], "a source port that was free is kept"
        else:
            assert inner[1] >= FIRST_NAT_PORT
        return Connection(sent.protocol, client, asked, inner, backend)

    def reply(self, of: Connection, sent: Packet, flags: int) -> Packet:
        of.saw(flags, from_backend=True)
        return sent.with_tuple(of.asked, of.client)
