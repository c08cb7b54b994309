"""The model of what a node translates for Services, and of what it records so that no answer gets lost."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from packet_frames import (
    ACK,
    ERRORS,
    ETHERNET,
    FIN,
    FIRST_NAT_PORT,
    ICMP,
    IPV4,
    LOOPBACK,
    REDIRECTED,
    RST,
    SYN,
    TCP,
    UDP,
    Dropped,
    Key,
    addresses,
    back_of,
    checksum,
    fragment_word,
    header_bytes,
    number,
    part,
    replaced,
    required,
    stored,
)
from packet_known import Flow, Known, Read, State

from labctl.datapath.layout import PacketVerdict, Program


@dataclass(slots=True)
class Services(Known):
    """Translates as one node does."""

    def read(self, frame: bytearray) -> Read:
        source, destination = addresses(frame)
        length, protocol = header_bytes(frame), frame[ETHERNET + 9]
        transport = ETHERNET + length
        if protocol in (TCP, UDP):
            one, other, has_header = self.ports(frame)
            flags = required(frame, transport + 13, 1)[0] if protocol == TCP and has_header else 0
            return Read((source, destination, one, other, protocol), transport, flags=flags, has_header=has_header)
        nothing = Read(None, transport)
        if protocol != ICMP or fragment_word(frame) & 0x3FFF:
            return nothing
        if length < IPV4:
            raise Dropped(PacketVerdict.INVALID)
        if required(frame, transport, 1)[0] not in ERRORS:
            return nothing
        at = transport + 8
        quoted = part(frame, at, IPV4)
        if quoted is None or quoted[0] >> 4 != 4 or (quoted[0] & 0xF) < 5:
            return nothing
        inner = at + (quoted[0] & 0xF) * 4
        ports = part(frame, inner, 4)
        if quoted[9] not in (TCP, UDP) or number(quoted[6:8]) & 0x1FFF or ports is None:
            return nothing
        return Read((quoted[16:20], quoted[12:16], ports[2:], ports[:2], quoted[9]), inner, quoted=at, has_header=False)

    def balance(
        self,
        frame: bytearray,
        *,
        program: Program,
        begins: bool = False,
        own: bool = False,
        is_inside: bool = False,
        is_of_node: bool = False,
        node_source: bytes | None = None,
    ) -> Flow | None:
        try:
            read = self.read(frame)
        except Dropped:
            if is_of_node:
                return None
            raise
        if read.key is None:
            return None
        flow = self.connections.get(read.key)
        if flow is not None and not self.refreshed(read, flow):
            flow = None
        if flow is None:
            flow = self.begun(read, is_inside=is_inside, node_source=node_source) if begins else None
            if flow is None and own:
                flow = self.recorded(read, is_pods=is_inside)
            if flow is None:
                return None
        key, becomes = read.key, flow.becomes
        if flow.is_own:
            if key[2:4] == becomes[2:]:
                return flow
            verdict = PacketVerdict.UNMASQUERADED if flow.is_reply else PacketVerdict.MASQUERADED
        else:
            verdict = PacketVerdict.BACKEND_TO_SERVICE if flow.is_reply else PacketVerdict.SERVICE_TO_BACKEND
        self.translate(frame, read, becomes)
        self.counted.append(verdict)
        return flow

    def refreshed(self, read: Read, flow: Flow) -> bool:
        assert read.key is not None
        if read.quoted:
            return True
        protocol, state = read.key[4], flow.state
        if read.flags & (SYN | ACK) == SYN and not flow.is_reply and state.is_closing(protocol):
            del self.connections[read.key]
            self.connections.pop(back_of(flow.becomes, protocol), None)
            return False
        if read.flags & FIN:
            state.fins.add(flow.is_reply)
        state.is_reset |= bool(read.flags & RST)
        return True

    def begun(self, read: Read, *, is_inside: bool, node_source: bytes | None) -> Flow | None:
        assert read.key is not None
        if read.quoted:
            return None
        backends = self.service(read.key, is_inside=is_inside)
        if backends is None:
            return None
        if not backends:
            raise Dropped(PacketVerdict.NO_BACKEND)
        source, destination, source_port, port = self.chosen(read.key)
        assert (destination, port) in backends, "that is no backend of the Service"
        is_relayed = node_source is not None and self.pod(destination) is None
        wanted = node_source if is_relayed and node_source is not None else read.key[0]
        if wanted == destination:
            wanted = LOOPBACK
        assert source == wanted, "the backend would answer someone else"
        return self.entered(read.key, (source, destination, source_port, port), is_own=False, is_relayed=is_relayed)

    def recorded(self, read: Read, *, is_pods: bool) -> Flow | None:
        assert read.key is not None
        source, destination, port, other, _ = read.key
        if read.quoted or not self.is_any_pod(destination) or (not is_pods and number(port) < FIRST_NAT_PORT):
            return None
        chosen = self.chosen(read.key)
        assert (chosen[0], chosen[1], chosen[3]) == (source, destination, other)
        return self.entered(read.key, chosen, is_own=True, is_relayed=False)

    def chosen(self, key: Key) -> tuple[bytes, bytes, bytes, bytes]:
        entry = self.look("ct", b"".join(key[:4]) + bytes([key[4], 0, 0, 0]))
        assert entry is not None, "the connection was not kept"
        _, source, destination, source_port, port = struct.unpack_from("<Q4s4s2s2s", entry)
        return source, destination, source_port, port

    def entered(self, key: Key, becomes: tuple[bytes, bytes, bytes, bytes], *, is_own: bool, is_relayed: bool) -> Flow:
        back = back_of(becomes, key[4])
        assert back not in self.connections, "two connections would get each other's answers"
        kept = back_of((becomes[0], becomes[1], key[2], becomes[3]), key[4])
        if kept not in self.connections and not (is_relayed and number(key[2]) < FIRST_NAT_PORT):
            assert becomes[2] == key[2], "a source port that was free is kept"
        else:
            assert number(becomes[2]) >= FIRST_NAT_PORT
        state = State()
        self.connections[back] = Flow((key[1], key[0], key[3], key[2]), state, is_reply=True, is_own=is_own)
        self.connections[key] = flow = Flow(becomes, state, is_reply=False, is_own=is_own)
        # The packet that begins a connection does not yet count as one of it.
        return flow

    def translate(self, frame: bytearray, read: Read, becomes: tuple[bytes, bytes, bytes, bytes]) -> None:
        key = read.key
        assert key is not None
        ends = (
            ((key[0], key[2]), (becomes[0], becomes[2]), True),
            ((key[1], key[3]), (becomes[1], becomes[3]), False),
        )
        if not read.quoted:
            for old, new, is_source in ends:
                if new != old:
                    self.rewrite(frame, key, read, new, is_source=is_source)
            return
        for old, new, is_source in ends:  # of the answer to the quoted packet: its ends are the other way round
            if new != old:
                self.rewrite_quoted(frame, read, old, new, is_source=not is_source)
        reporter = addresses(frame)[0]
        self.readdressed(frame, 16, key[1], becomes[1])
        if reporter == key[0]:
            self.readdressed(frame, 12, key[0], becomes[0])

    def readdressed(self, frame: bytearray, at: int, old: bytes, new: bytes) -> None:
        if old != new:
            replaced(frame, ETHERNET + 10, old, new)
            stored(frame, ETHERNET + at, new)

    def rewrite_quoted(
        self, frame: bytearray, read: Read, old: tuple[bytes, bytes], new: tuple[bytes, bytes], *, is_source: bool
    ) -> None:
        assert read.key is not None
        sum_at, inner = read.quoted - 6, read.transport + 6
        if read.key[4] == UDP:
            before = part(frame, inner, 2)
            if before is None:
                raise Dropped(PacketVerdict.INVALID)
            replaced(frame, inner, old[0], new[0], keeps_zero=True)
            replaced(frame, inner, old[1], new[1], keeps_zero=True)
            if frame[inner : inner + 2] != before:
                replaced(frame, sum_at, before, bytes(frame[inner : inner + 2]))
        replaced(frame, read.quoted + 10, old[0], new[0])
        stored(frame, read.quoted + (12 if is_source else 16), new[0])
        if new[1] != old[1]:
            replaced(frame, sum_at, old[1], new[1])
            stored(frame, read.transport + (0 if is_source else 2), new[1])

    def keep_apart(self, frame: bytearray, program: Program) -> None:
        self.balance(frame, own=True, is_of_node=True, program=program)

    def refuse(self, frame: bytearray, device: int) -> tuple[PacketVerdict, int, int]:
        """ICMP port unreachable, back to where the packet came from."""
        size = IPV4 + (20 if frame[ETHERNET + 9] == TCP else 8)
        quoted = part(frame, ETHERNET, size)
        if header_bytes(frame) != IPV4 or quoted is None or number(quoted[2:4]) < size:
            raise Dropped(PacketVerdict.NO_BACKEND)
        source, destination = addresses(frame)
        body = bytearray(b"\3\3\0\0\0\0\0\0" + quoted)
        body[2:4] = checksum(body).to_bytes(2, "big")
        head = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + size, 0, 0, 64, ICMP, 0, destination, source))
        head[10:12] = checksum(head).to_bytes(2, "big")
        frame[:] = frame[6:12] + frame[:6] + frame[12:14] + head + body
        return PacketVerdict.NO_BACKEND_ANSWERED, REDIRECTED, device
