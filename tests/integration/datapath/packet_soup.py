"""Random frames for the programs, from a seed: well-formed ones to every end that a node knows, answers to what came
out, errors about it, and all of them cut short, with bits turned or with a header that lies about itself."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

from packet_frames import ACK, ETHERNET, FIN, ICMP, IPV4, RST, SCTP, SYN, TCP, UDP, checksum, header_bytes

from labctl.model.lab import Lab

_OUTSIDE = [bytes((172, 30, 0, 200)), bytes((192, 0, 2, 7)), bytes((127, 0, 0, 1)), bytes(4), b"\xff" * 4]
_PORTS = [80, 443, 5205, 5353, 8472, 6081, 30201, 30204, 30205, 30206, 32768, 40000, 65535]
_KEPT = 40


@dataclass(slots=True)
class Soup:
    """`sent` is what came out of the programs: what there can be answers to."""

    lab: Lab
    node: str
    chance: random.Random
    sent: list[bytes] = field(default_factory=list)

    def keep(self, frame: bytes) -> None:
        if len(frame) >= ETHERNET + IPV4 + 8:
            self.sent.append(frame)
            del self.sent[:-_KEPT]

    def frame(self, source: bytes | None = None) -> bytes:
        """`source` is the address that a pod should send from; it sometimes does not."""
        chance = self.chance
        made = chance.choice((self.fresh, self.fresh, self.answer, self.error))(source)
        how = chance.randrange(12)
        if how == 0:
            return self.arp(source)
        if how == 1:
            return made[: chance.randrange(ETHERNET, len(made) + 1)]
        if how == 2:
            return self.turned(made)
        if how == 3:
            return self.lying(made)
        if how == 4:
            return (
                chance.randbytes(12)
                + chance.choice((b"\x08\0", b"\x08\6", b"\x86\xdd", b"\0\x20"))
                + chance.randbytes(chance.randrange(80))
            )
        return made

    def address(self) -> bytes:
        nodes = [end for node in self.lab.nodes for end in (node.address.ip.packed, node.router.packed)]
        pods = [pod.address.packed for pod in self.lab.pods]
        services = [service.address.packed for service in self.lab.services]
        unknown = [bytes((10, 244, self.chance.randrange(3), self.chance.randrange(256))), self.chance.randbytes(4)]
        return self.chance.choice(self.chance.choice((nodes, pods, pods, services or pods, _OUTSIDE, unknown)))

    def fresh(self, source: bytes | None) -> bytes:
        chance = self.chance
        if source is None or chance.randrange(10) == 0:
            source = self.address()
        protocol = chance.choice((ICMP, TCP, TCP, UDP, UDP, SCTP, 47, chance.randrange(256)))
        return self.packet(source, self.address(), protocol, self.transport(protocol, self.port(), self.port()))

    def port(self) -> int:
        return self.chance.choice((*_PORTS, self.chance.randrange(65536)))

    def transport(self, protocol: int, source: int, destination: int) -> bytes:
        chance = self.chance
        body = chance.randbytes(chance.choice((0, 0, 8, 33, 64)))
        if protocol == TCP:
            flags = chance.choice((SYN, SYN | ACK, ACK, ACK | FIN, RST))
            return (
                struct.pack("!HHIIBBHHH", source, destination, 7, 9, 80, flags, 512, chance.choice((0, 77)), 0) + body
            )
        if protocol in (UDP, SCTP):
            return struct.pack("!HHHH", source, destination, 8 + len(body), chance.choice((0, 1, 0xFFFF))) + body
        kind = chance.choice((0, 8, 8, 3, 11, 12, 5))
        return struct.pack("!BBHHH", kind, 0, 0, destination, 1) + body

    def packet(self, source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
        chance = self.chance
        fragment = chance.choice((0x4000, 0x4000, 0x4000, 0, 0x2000, 1, 0x2001, 0x8000))
        head = bytearray(
            struct.pack(
                "!BBHHHBBH4s4s",
                0x45,
                chance.choice((0, 0, 0x10)),
                IPV4 + len(payload),
                chance.randrange(4),
                fragment,
                chance.choice((64, 64, 255, 2, 1, 0)),
                protocol,
                0,
                source,
                destination,
            )
        )
        head[10:12] = checksum(head).to_bytes(2, "big")
        return chance.choice((chance.randbytes(12), bytes(12), b"\xff" * 6 + bytes(6))) + b"\x08\0" + head + payload

    def answer(self, source: bytes | None) -> bytes:
        """To one of the last packets that came out."""
        if not self.sent:
            return self.fresh(source)
        asked = self.chance.choice(self.sent)
        at = ETHERNET + max(header_bytes(asked), IPV4)
        protocol, ends = asked[ETHERNET + 9], asked[at : at + 4].ljust(4, b"\0")
        payload = bytearray(self.transport(protocol, *reversed(struct.unpack("!HH", ends))))
        if protocol == ICMP:
            payload[0], payload[4:8] = 0, asked[at + 4 : at + 8].ljust(4, b"\0")
        return self.packet(asked[30:34], asked[26:30], protocol, bytes(payload))

    def error(self, source: bytes | None) -> bytes:
        """About one of the last packets that came out."""
        if not self.sent:
            return self.fresh(source)
        chance, quoted = self.chance, self.chance.choice(self.sent)[ETHERNET:]
        reporter = chance.choice((quoted[16:20], self.address()))
        size = chance.choice((28, 28, 40, 26, 20, 3))
        body = struct.pack("!BBHI", chance.choice((3, 11, 12)), 3, 0, 0) + quoted[:size]
        return self.packet(reporter, quoted[12:16], ICMP, body)

    def turned(self, frame: bytes) -> bytes:
        """With some bits the other way round, anywhere behind the Ethernet type."""
        changed = bytearray(frame)
        for _ in range(self.chance.randrange(1, 4)):
            changed[self.chance.randrange(ETHERNET, len(changed))] ^= 1 << self.chance.randrange(8)
        return bytes(changed)

    def lying(self, frame: bytes) -> bytes:
        """With another version, header length, total length or protocol than it has."""
        changed, chance = bytearray(frame), self.chance
        what = chance.randrange(3)
        if what == 0:
            changed[ETHERNET] = chance.randrange(256)
        elif what == 1:
            changed[ETHERNET + 2 : ETHERNET + 4] = chance.choice((0, 19, 80, 5205, 65535)).to_bytes(2, "big")
        else:
            changed[ETHERNET + 9] = chance.choice((ICMP, TCP, UDP, SCTP, chance.randrange(256)))
        return bytes(changed)

    def arp(self, source: bytes | None) -> bytes:
        chance = self.chance
        sender = source if source is not None and chance.randrange(4) else self.address()
        target = chance.choice((self.lab.node(self.node).router.packed, sender, self.address()))
        head = chance.choice((bytes.fromhex("000108000604"),) * 4 + (bytes.fromhex("000608000604"),))
        body = head + chance.choice((b"\0\1", b"\0\1", b"\0\2")) + bytes(6) + sender + bytes(6) + target
        return b"\xff" * 6 + bytes(6) + b"\x08\6" + body[: chance.choice((28, 28, 28, chance.randrange(29)))]
