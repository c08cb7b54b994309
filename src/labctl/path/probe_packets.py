"""The packets that a trace sends: how the client's pod makes them, and how they are known again at every tap. Pure.

An ICMP echo carries a token in its payload. TCP and UDP packets are known by their server port, a closed one chosen at
random, one per packet: a connection attempt is answered with RST, a datagram with ICMP port unreachable, which quotes
it. So nothing has to listen in the server's pod, and each half of the exchange is one packet.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from labctl.errors import MeasureFailed
from labctl.model.flow import Flow
from labctl.model.interfaces import TUNNEL_PORTS
from labctl.model.result import Completed
from labctl.model.tools import is_of_the_network, require_success
from labctl.model.trace import ProbeProtocol
from labctl.path.frame import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Frame, Icmp, Ipv4, Tcp, Udp
from labctl.path.sent import NO_WAY, has_no_way, has_outstanding, require_sent
from labctl.path.sighting import Match, Matcher, Way, match_echo
from labctl.values import dataclass

MOST_PACKETS = 100
MOST_DATAGRAMS = 6
"""Linux answers at most so many datagrams to closed ports at once (icmp_ratelimit: one a second, six saved up)."""
FIRST_PORT, LAST_PORT = 20_000, 29_900
"""Below the range that Linux takes client ports from, above the ports of labctl's own servers."""
PAYLOAD_BYTE = 56

_UNREACHABLE, _PORT = 3, 3
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_INNER = 8 + 8 + 14  # the UDP and VXLAN headers and the inner Ethernet header, counted from the outer UDP header
_CONNECT = (
    'for ((n = 0; n < $3; n++)); do exec 3< <(echo; : 4<>"/dev/tcp/$1/$(($2 + n * $6))"); read -r -u 3; '
    'read -r -t "$4" -u 3; (($? > 128)) && { kill "$!"; wait "$!"; } 2>/dev/null; exec 3<&-; done; true'
)
"""The time to wait runs from when a subshell says that it connects next: a busy machine may need longer than that to
start a program, and a packet that was never sent would be called lost. `read` whose time is up gives more than 128."""
_SEND = (
    'for ((n = 0; n < $3; n++)); do { { printf %s "$5" >&3; read -r -t "$4" -n 1 -u 3; } 2>/dev/null; } '
    '3<>"/dev/udp/$1/$(($2 + n * $6))"; done; true'
)
"""Waits for each datagram's answer: reading ends with the ICMP error, which the kernel hands to a connected socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePackets:
    """`count` packets of one protocol to the server; `flows` are the addresses under which they may be seen, those that
    the client uses first. `token` marks ICMP, `port` is the first server port of TCP and UDP; packets are numbered from
    1. A Service has one port: all packets go to it, `seen_ports` are those that it may be seen as, and a packet is
    known by its client's port, which stays. `wait_s`: how long an answer is waited for; Linux repeats a SYN after 1 s,
    and the repetition would be taken for the packet."""

    protocol: ProbeProtocol
    flows: tuple[Flow, ...]
    count: int
    token: bytes
    port: int
    seen_ports: tuple[int, ...] = ()
    interval_s: float = 0.01
    wait_s: float = 0.9

    @property
    def server(self) -> IPv4Address:
        return self.flows[0][1]

    @property
    def last_port(self) -> int:
        return self.port + self.count - 1

    @property
    def timeout_s(self) -> float:
        """When sending has surely ended."""
        return self.count * (self.interval_s + self.wait_s) + 10.0

    def argv(self) -> tuple[str, ...]:
        """What sends them. Exits with 0 or 1; with anything else, nothing can be said about the network."""
        count, wait = str(self.count), f"{self.wait_s:g}"
        if self.protocol is ProbeProtocol.ICMP:
            interval, size, fill = f"{self.interval_s:g}", str(PAYLOAD_BYTE), self.token.hex()
            options = ("-n", "-c", count, "-i", interval, "-s", size, "-W", wait, "-p", fill)
            return ("ping", *options, str(self.server))
        script = _CONNECT if self.protocol is ProbeProtocol.TCP else _SEND
        step = "0" if self.seen_ports else "1"
        numbers = (str(self.port), count, wait, self.token.hex(), step)
        return ("bash", "-c", script, "labctl-trace", str(self.server), *numbers)

    def late_s(self, sent: Completed) -> float:
        """How long after the sender's end an answer may still come."""
        return self.wait_s if self.protocol is ProbeProtocol.ICMP and has_outstanding(sent) else 0.0

    def require_sent(self, sent: Completed) -> str:
        """The kernel's words when it had no way for the packets, else nothing. Raises MeasureFailed when the sender
        failed: that nothing was seen is then no finding.

        ping counts what it sent. The shell's loop goes on whatever becomes of a packet, and says on standard error
        what the kernel reported of each; anything else there is a complaint of the shell.
        """
        if self.protocol is ProbeProtocol.ICMP:
            require_sent(sent, self.count)
            return has_no_way(sent)
        require_success(sent)
        lines = [line.strip() for line in sent.error_text.splitlines() if line.strip()]
        if (failed := next((line for line in lines if not _is_answer(line)), None)) is not None:
            sender = f"the sender of {self.protocol} packets (bash) failed"
            raise MeasureFailed(sender, f"it said: {failed[:300]}", "bash has to be in the client's pod")
        return next((words for words in NO_WAY for line in lines if words in line), "")

    def matcher(self) -> Matcher:
        if self.protocol is ProbeProtocol.ICMP:
            return match_echo(self.flows, self.token)
        if self.seen_ports:
            return _ServiceMatcher(self)
        return self._match_tcp if self.protocol is ProbeProtocol.TCP else self._match_udp

    def expression(self) -> str:
        """The pcap filter for these packets, as they are and inside an envelope.

        Inside the envelope everything is found by its offset from the outer UDP header: tcpdump's own `vxlan` keyword
        would move every offset after it.
        """
        # `and` and `or` have one precedence in a pcap expression.
        hosts = " or ".join(
            f"host {client} and host {server}" if len(self.flows) == 1 else f"(host {client} and host {server})"
            for client, server in self.flows
        )
        plain = f"{hosts if len(self.flows) == 1 else f'({hosts})'} and ({self._plain()})"
        src, dst = f"udp[{_INNER + 12}:4]", f"udp[{_INNER + 16}:4]"
        ports = " or ".join(f"udp port {port}" for port in TUNNEL_PORTS)
        either = " or ".join(
            f"({src} = {a:#x} and {dst} = {b:#x}) or ({src} = {b:#x} and {dst} = {a:#x})"
            for a, b in ((int(client), int(server)) for client, server in self.flows)
        )
        return f"({plain}) or (({ports}) and ({either}) and ({self._inside()}))"

    def _plain(self) -> str:
        if self.seen_ports and self.protocol is not ProbeProtocol.ICMP:
            ports = " or ".join(f"port {port}" for port in self.seen_ports)
            return f"{'icmp or ' if self.protocol is ProbeProtocol.UDP else ''}({self.protocol} and ({ports}))"
        ports = f"portrange {self.port}-{self.last_port}"
        return {
            ProbeProtocol.ICMP: "icmp",
            ProbeProtocol.TCP: f"tcp {ports}",
            ProbeProtocol.UDP: f"icmp or udp dst {ports}",
        }[self.protocol]

    def _inside(self) -> str:
        protocol, src, dst = f"udp[{_INNER + 9}]", f"udp[{_INNER + 20}:2]", f"udp[{_INNER + 22}:2]"
        is_icmp = f"{protocol} = {PROTOCOL_ICMP}"

        def ours(port: str) -> str:
            if self.seen_ports:
                return f"({' or '.join(f'{port} = {number}' for number in self.seen_ports)})"
            return f"({port} >= {self.port} and {port} <= {self.last_port})"

        return {
            ProbeProtocol.ICMP: is_icmp,
            ProbeProtocol.TCP: f"{protocol} = {PROTOCOL_TCP} and ({ours(src)} or {ours(dst)})",
            ProbeProtocol.UDP: f"({is_icmp}) or ({protocol} = {PROTOCOL_UDP} and ({ours(src)} or {ours(dst)}))"
            if self.seen_ports
            else f"({is_icmp}) or ({protocol} = {PROTOCOL_UDP} and {ours(dst)})",
        }[self.protocol]

    def _number(self, port: int) -> int | None:
        return port - self.port + 1 if self.port <= port <= self.last_port else None

    def is_way(self, source: bytes, destination: bytes) -> bool:
        return any(one.packed == source and other.packed == destination for one, other in self.flows)

    def _match_tcp(self, frame: Frame) -> Match | None:
        network, transport = frame.network, frame.transport
        if not isinstance(network, Ipv4) or not isinstance(transport, Tcp):
            return None
        flags = transport.flags & (_SYN | _RST | _ACK)
        if self.is_way(network.src, network.dst) and flags == _SYN:
            number = self._number(transport.dst_port)
            return None if number is None else Match(way=Way.REQUEST, number=number, what="TCP SYN")
        if self.is_way(network.dst, network.src) and flags & (_SYN | _RST):
            number = self._number(transport.src_port)
            return None if number is None else Match(way=Way.REPLY, number=number, what=f"TCP {_flag_words(flags)}")
        return None

    def _match_udp(self, frame: Frame) -> Match | None:
        network, transport = frame.network, frame.transport
        if not isinstance(network, Ipv4):
            return None
        if self.is_way(network.src, network.dst) and isinstance(transport, Udp):
            number = self._number(transport.dst_port)
            return None if number is None else Match(way=Way.REQUEST, number=number, what="UDP datagram")
        if self.is_way(network.dst, network.src) and isinstance(transport, Icmp):
            port = quoted_udp_port(transport)
            number = None if port is None else self._number(port)
            return None if number is None else Match(way=Way.REPLY, number=number, what="ICMP port unreachable")
        return None


class _ServiceMatcher:
    """Packets to one port of a Service, and their answers: numbered by the client's ports, in the order in which
    requests from them are first seen (the captures are read from the client on)."""

    def __init__(self, probe: ProbePackets) -> None:
        self._probe = probe
        self._numbers: dict[int, int] = {}

    def __call__(self, frame: Frame) -> Match | None:
        network, transport, probe = frame.network, frame.transport, self._probe
        if not isinstance(network, Ipv4) or transport is None:
            return None
        there = probe.is_way(network.src, network.dst)
        if not there and not probe.is_way(network.dst, network.src):
            return None
        if isinstance(transport, Icmp):
            ports = quoted_udp_ports(transport)
            is_ours = not there and ports is not None and probe.protocol is ProbeProtocol.UDP
            return self._match(Way.REPLY, ports[0], "ICMP port unreachable") if is_ours and ports else None
        client, service = (transport.src_port, transport.dst_port)[:: 1 if there else -1]
        if service not in probe.seen_ports:
            return None
        way = Way.REQUEST if there else Way.REPLY
        if isinstance(transport, Tcp) and probe.protocol is ProbeProtocol.TCP:
            flags = transport.flags & (_SYN | _RST | _ACK)
            is_first = flags == _SYN if there else bool(flags & (_SYN | _RST))
            return self._match(way, client, f"TCP {_flag_words(flags)}") if is_first else None
        if isinstance(transport, Udp) and probe.protocol is ProbeProtocol.UDP:
            return self._match(way, client, "UDP datagram")
        return None

    def _match(self, way: Way, client: int, what: str) -> Match | None:
        if client not in self._numbers and way is Way.REPLY:
            return None
        number = self._numbers.setdefault(client, len(self._numbers) + 1)
        return Match(way=way, number=number, what=what) if number <= self._probe.count else None


def quoted_udp_port(error: Icmp) -> int | None:
    """The destination port of the UDP datagram that an ICMP port unreachable quotes (RFC 792), else None."""
    ports = quoted_udp_ports(error)
    return None if ports is None else ports[1]


def quoted_udp_ports(error: Icmp) -> tuple[int, int] | None:
    """Source and destination port of that datagram."""
    quoted = error.payload
    if error.kind != _UNREACHABLE or error.code != _PORT or len(quoted) < 20:
        return None
    header_byte = (quoted[0] & 0x0F) << 2
    if quoted[9] != PROTOCOL_UDP or len(quoted) < header_byte + 4:
        return None
    ports = quoted[header_byte : header_byte + 4]
    return int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")


def _is_answer(line: str) -> bool:
    """Whether a line of the shell tells what became of a packet, or only warns. (A rule on the way out: EPERM.)"""
    is_refused = "Operation not permitted" in line and ("connect:" in line or "/dev/tcp/" in line)
    return is_refused or "warning:" in line or is_of_the_network(line)


def _flag_words(flags: int) -> str:
    names = ((_SYN, "SYN"), (_RST, "RST"), (_ACK, "ACK"))
    return ", ".join(name for bit, name in names if flags & bit)
