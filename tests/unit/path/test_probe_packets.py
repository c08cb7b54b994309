"""The packets of a trace are known again by their content, at every tap, and no others are."""

from __future__ import annotations

import shutil
import struct
import subprocess
from ipaddress import IPv4Address

import pytest

from labctl.model.trace import ProbeProtocol, Way
from labctl.path.frame import decode
from labctl.path.probe_packets import ProbePackets
from labctl.testing import packets

A, B = "10.244.0.10", "10.244.1.10"
MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
SYN, RST, ACK = 0x02, 0x04, 0x10


def marked(protocol: ProbeProtocol, count: int = 3) -> ProbePackets:
    return ProbePackets(
        protocol=protocol,
        client=IPv4Address(A),
        server=IPv4Address(B),
        count=count,
        token=b"\xab" * 16,
        port=20_000,
    )


def frame(payload: bytes, protocol: int, *, src: str = A, dst: str = B) -> bytes:
    return packets.ethernet(MAC_A, MAC_B, packets.ipv4(src, dst, payload, protocol=protocol))


def unreachable(port: int) -> bytes:
    quoted = packets.ipv4(A, B, packets.udp(40_000, port, b"x"), protocol=17)
    return struct.pack("!BBHI", 3, 3, 0, 0) + quoted


def found(kind: ProbePackets, data: bytes) -> tuple[Way, int, str] | None:
    opened = decode(data)
    assert opened is not None
    match = kind.matcher()(opened)
    return None if match is None else (match.way, match.number, match.what)


def test_a_connection_attempt_and_its_refusal_have_one_number() -> None:
    tcp = marked(ProbeProtocol.TCP)
    assert found(tcp, frame(packets.tcp(40_000, 20_001, flags=SYN), 6)) == (Way.REQUEST, 2, "TCP SYN")
    answer = frame(packets.tcp(20_001, 40_000, flags=RST | ACK), 6, src=B, dst=A)
    assert found(tcp, answer) == (Way.REPLY, 2, "TCP RST, ACK")


def test_a_datagram_and_the_error_that_quotes_it_have_one_number() -> None:
    udp = marked(ProbeProtocol.UDP)
    assert found(udp, frame(packets.udp(40_000, 20_002, b"x"), 17)) == (Way.REQUEST, 3, "UDP datagram")
    error = frame(unreachable(20_002), 1, src=B, dst=A)
    assert found(udp, error) == (Way.REPLY, 3, "ICMP port unreachable")


@pytest.mark.parametrize(
    "data",
    [
        frame(packets.tcp(40_000, 20_003, flags=SYN), 6),  # a port too far
        frame(packets.tcp(40_000, 20_001, flags=ACK), 6),  # of another connection's life
        frame(packets.tcp(20_001, 40_000, flags=RST), 6),  # the wrong way round
        frame(packets.tcp(40_000, 20_001, flags=SYN), 6, src="10.244.0.99"),  # another pod
        frame(packets.udp(40_000, 20_001, b"x"), 17),  # another protocol
    ],
)
def test_other_packets_are_not_taken_for_connection_attempts(data: bytes) -> None:
    assert found(marked(ProbeProtocol.TCP), data) is None


def test_an_error_about_another_port_is_not_taken_for_an_answer() -> None:
    assert found(marked(ProbeProtocol.UDP), frame(unreachable(20_003), 1, src=B, dst=A)) is None
    assert found(marked(ProbeProtocol.UDP), frame(unreachable(20_002)[:20], 1, src=B, dst=A)) is None


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs tcpdump: apt-get install tcpdump")
@pytest.mark.parametrize("protocol", ProbeProtocol)
@pytest.mark.parametrize("is_enveloped", [False, True])
def test_the_filter_lets_the_marked_packets_through_and_no_others(protocol: ProbeProtocol, is_enveloped: bool) -> None:
    ours = {
        ProbeProtocol.ICMP: [packets.icmp_echo(is_request=True, identifier=1, sequence=1, payload=b"\xab" * 16)],
        ProbeProtocol.TCP: [packets.tcp(40_000, 20_002, flags=SYN)],
        ProbeProtocol.UDP: [packets.udp(40_000, 20_002, b"x")],
    }
    numbers = {ProbeProtocol.ICMP: 1, ProbeProtocol.TCP: 6, ProbeProtocol.UDP: 17}
    wanted = [frame(payload, numbers[protocol]) for payload in ours[protocol]]
    if protocol is ProbeProtocol.UDP:
        wanted.append(frame(unreachable(20_002), 1, src=B, dst=A))
    if protocol is ProbeProtocol.TCP:
        wanted.append(frame(packets.tcp(20_002, 40_000, flags=RST), 6, src=B, dst=A))
    other = [
        frame(packets.tcp(40_000, 5201, flags=SYN), 6),
        frame(packets.udp(40_000, 5201, b"x"), 17),
        frame(packets.icmp_echo(is_request=True, identifier=1, sequence=1, payload=b""), 1, src="10.244.0.99"),
    ]

    def wrap(data: bytes) -> bytes:
        place = {"src": "172.30.0.3", "dst": "172.30.0.4", "src_mac": MAC_A, "dst_mac": MAC_B}
        return packets.enveloped(data, vni=300, **place) if is_enveloped else data  # type: ignore[arg-type]

    stream = packets.pcap_file([(number, wrap(data)) for number, data in enumerate((*wanted, *other))])
    done = subprocess.run(
        ("tcpdump", "-n", "-r", "-", "-w", "-", marked(protocol).expression()),
        input=stream,
        capture_output=True,
        timeout=10,
        check=True,
    )
    assert (
        done.stdout
        == packets.pcap_file([(number, wrap(data)) for number, data in enumerate(wanted)])[:24] + done.stdout[24:]
    )
    assert done.stdout[24:] == packets.pcap_file([(n, wrap(data)) for n, data in enumerate(wanted)])[24:]
