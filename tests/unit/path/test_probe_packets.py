"""The packets of a trace are known again by their content, at every tap, and no others are."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from labctl.model.result import Completed
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
        flows=((IPv4Address(A), IPv4Address(B)),),
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
        timeout=120,
        check=True,
    )
    assert (
        done.stdout
        == packets.pcap_file([(number, wrap(data)) for number, data in enumerate(wanted)])[:24] + done.stdout[24:]
    )
    assert done.stdout[24:] == packets.pcap_file([(n, wrap(data)) for n, data in enumerate(wanted)])[24:]


@contextmanager
def on_loopback(kind: socket.SocketKind) -> Iterator[tuple[socket.socket, int]]:
    with socket.socket(socket.AF_INET, kind) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)
        yield server, server.getsockname()[1]


def send(
    protocol: ProbeProtocol, port: int, *, wait_s: float, start: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One packet to loopback. `start` is read by every shell that starts."""
    ours = replace(marked(protocol, 1), flows=((IPv4Address("127.0.0.1"),) * 2,), port=port, wait_s=wait_s)
    environment = os.environ | {"LC_ALL": "C"} | ({} if start is None else {"BASH_ENV": str(start)})
    return subprocess.run(ours.argv(), env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_shell_that_is_slow_to_start_still_connects(tmp_path: Path) -> None:
    """Its start is no part of the time in which an answer has to come."""
    start = tmp_path / "start"
    start.write_text("sleep 3\n")
    with on_loopback(socket.SOCK_STREAM) as (server, port):
        server.listen()
        done = send(ProbeProtocol.TCP, port, wait_s=2.0, start=start)
        connection, _ = server.accept()
        connection.close()
    assert (done.returncode, done.stderr) == (0, "")


def test_a_datagram_is_waited_for_until_its_answer_is_there() -> None:
    answered = threading.Event()

    def answer(server: socket.socket) -> None:
        data, sender = server.recvfrom(100)
        time.sleep(0.5)
        answered.set()
        server.sendto(data, sender)

    with on_loopback(socket.SOCK_DGRAM) as (server, port):
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        done = send(ProbeProtocol.UDP, port, wait_s=60.0)
        was_answered = answered.is_set()
        thread.join()
    assert was_answered
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("protocol", [ProbeProtocol.TCP, ProbeProtocol.UDP])
def test_a_refusal_ends_the_waiting_and_is_no_complaint_of_the_shell(protocol: ProbeProtocol) -> None:
    with on_loopback(socket.SOCK_STREAM if protocol is ProbeProtocol.TCP else socket.SOCK_DGRAM) as (_, port):
        pass  # closed again: nothing listens there
    done = send(protocol, port, wait_s=100.0)
    completed = Completed(
        argv=tuple(done.args), returncode=done.returncode, stdout=b"", stderr=done.stderr.encode(), duration_s=0.1
    )
    assert marked(protocol).require_sent(completed) == ""


def test_a_connection_that_nobody_answers_is_given_up_in_time() -> None:
    """The listener's backlog is full, so that the kernel drops the SYN: what a rule or a lost packet looks like."""
    with on_loopback(socket.SOCK_STREAM) as (server, port), socket.socket() as one, socket.socket() as two:
        server.listen(0)
        for waiting in (one, two):
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        done = send(ProbeProtocol.TCP, port, wait_s=0.2)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("protocol", "received", "late_s"),
    [
        (ProbeProtocol.ICMP, 1, 0.9),  # ping ended a moment after its last request
        (ProbeProtocol.ICMP, 2, 0.9),
        (ProbeProtocol.ICMP, 0, 0.0),  # ping waited as long itself
        (ProbeProtocol.ICMP, 3, 0.0),  # nothing is to come
        (ProbeProtocol.TCP, 1, 0.0),  # the shell waited for each
        (ProbeProtocol.UDP, 1, 0.0),
    ],
)
def test_only_a_ping_that_was_partly_answered_leaves_answers_to_wait_for(
    protocol: ProbeProtocol, received: int, late_s: float
) -> None:
    words = f"\n3 packets transmitted, {received} received, 33.3333% packet loss, time 20ms\n"
    sent = Completed(argv=("ping",), returncode=0, stdout=words.encode(), stderr=b"", duration_s=0.1)
    assert marked(protocol).late_s(sent) == pytest.approx(late_s)
