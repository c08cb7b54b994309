"""Bytes from tcpdump to packets, to pcapng, to lines: whatever the pieces are that they come in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from labctl.checks.captures import without_own
from labctl.engine import capture as capture_module
from labctl.engine.capture import (
    Ended,
    Source,
    Stream,
    TapCounts,
    clocks_of,
    counts_by_tap,
    left_out,
    sources_of,
)
from labctl.errors import MeasureFailed
from labctl.model.signature import Role
from labctl.model.trace import TapDirection
from labctl.path import pcapng
from labctl.path.decode_text import packet_text
from labctl.path.pcap import PcapError, PcapFeed, read_pcap
from labctl.providers.base import ClockOffset, Completed, Tap, TargetKind
from labctl.testing import packets
from labctl.testing.labs import example_lab
from labctl.testing.scripted import Answer, ScriptedLab, ScriptedRunning, ScriptedTarget

MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
ECHO = packets.ethernet(
    MAC_A,
    MAC_B,
    packets.ipv4(
        "10.244.0.10",
        "10.244.1.10",
        packets.icmp_echo(is_request=True, identifier=7, sequence=3, payload=b"x" * 56),
        protocol=1,
    ),
)
FRAMES = [(1_700_000_000_123_456_789 + n, ECHO[: 40 + n]) for n in range(40)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [True, False])
@pytest.mark.parametrize("piece_byte", [1, 7, 16, 24, 100, 10_000])
def test_pieces_of_any_size_give_what_the_whole_gives(order: str, nanoseconds: bool, piece_byte: int) -> None:
    data = packets.pcap_file(FRAMES, order=order, nanoseconds=nanoseconds)
    feed = PcapFeed()
    pieces = [record for at in range(0, len(data), piece_byte) for record in feed.feed(data[at : at + piece_byte])]
    assert pieces == list(read_pcap(data))
    assert len(pieces) == 40
    assert not feed.is_inside_packet


def test_a_stream_that_ends_inside_a_packet_is_known_to() -> None:
    feed = PcapFeed()
    assert len(list(feed.feed(packets.pcap_file(FRAMES)[:-1]))) == 39
    assert feed.is_inside_packet


def test_what_is_no_pcap_is_refused() -> None:
    with pytest.raises(PcapError, match="not a pcap file"):
        list(PcapFeed().feed(b"tcpdump: permission denied, and so on"))


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, length - 4) == (length,)
        found.append((kind, data[8 : length - 4]))
        data = data[length:]
    return found


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 60, 61])
@pytest.mark.parametrize(("direction", "flags"), [(TapDirection.IN, 1), (TapDirection.OUT, 2), (None, 0)])
def test_a_packet_block_says_interface_time_lengths_and_direction(
    kept: int, direction: TapDirection | None, flags: int
) -> None:
    time_ns = 1_700_000_000_123_456_789
    ((kind, body),) = blocks(pcapng.packet_maker(3, direction)(time_ns, b"\xee" * kept, 1514))
    number, high, low, captured, wire = struct.unpack_from("<IIIII", body)
    assert (kind, number, high << 32 | low, captured, wire) == (6, 3, time_ns, kept, 1514)
    assert body[20 : 20 + kept] == b"\xee" * kept
    padded = 20 + kept + (-kept & 3)
    assert struct.unpack_from("<HHI", body, padded) == (2, 4, flags)


def test_a_file_begins_with_a_section_and_its_interfaces() -> None:
    about = pcapng.Interface(name="node1:eth0", description="node node1", filter="icmp", snap_byte=64)
    data = pcapng.section("labctl") + pcapng.interface(about) + pcapng.statistics(0, time_ns=1, received=9, dropped=2)
    kinds = [kind for kind, _ in blocks(data)]
    assert kinds == [0x0A0D0D0A, 1, 5]
    assert b"node1:eth0" in data
    assert b"\x00icmp" in data


def test_a_line_opens_the_envelope() -> None:
    wrapped = packets.enveloped(ECHO, src="172.30.0.3", dst="172.30.0.4", src_mac=MAC_A, dst_mac=MAC_B, vni=16843)
    assert packet_text(wrapped, len(wrapped)) == (
        f"{MAC_A} > {MAC_B} 172.30.0.3.43593 > 172.30.0.4.8472 ttl 64 VXLAN vni 16843 length 148 | "
        f"{MAC_A} > {MAC_B} 10.244.0.10 > 10.244.1.10 ttl 64 ICMP echo request id 7 seq 3"
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"abc", "3 bytes, too short for an Ethernet header"),
        (packets.ethernet(MAC_A, MAC_B, b"", ether_type=0x86DD), f"{MAC_A} > {MAC_B} ethertype 0x86dd length 14"),
        (
            packets.ethernet(
                MAC_A,
                "ff:ff:ff:ff:ff:ff",
                packets.arp(
                    operation=1, sender_mac=MAC_A, sender_ip="10.0.0.1", target_mac=MAC_B, target_ip="10.0.0.2"
                ),
                ether_type=0x0806,
            ),
            f"{MAC_A} > ff:ff:ff:ff:ff:ff ARP who has 10.0.0.2, tell 10.0.0.1 length 42",
        ),
        (
            packets.ethernet(MAC_A, MAC_B, packets.ipv4("10.0.0.1", "10.0.0.2", packets.tcp(9, 80), protocol=6)),
            f"{MAC_A} > {MAC_B} 10.0.0.1.9 > 10.0.0.2.80 ttl 64 TCP [S] seq 1 ack 0 length 54",
        ),
    ],
)
def test_every_frame_has_a_line(data: bytes, words: str) -> None:
    assert packet_text(data, len(data)) == words


def source(name: str, role: Role, direction: TapDirection) -> Source:
    tap = Tap(name=name, role=role, target=ScriptedTarget("node1", kind=TargetKind.NODE), interface="eth0")
    return Source(tap=tap, direction=direction)


def test_losses_are_what_neither_direction_captured_and_no_more_than_was_dropped() -> None:
    def ended(direction: TapDirection, received: int, captured: int, dropped: int) -> Ended:
        one = source("node1:eth0", Role.CLIENT_UPLINK, direction)
        return Ended(source=one, received=received, captured=captured, dropped=dropped)

    each = (ended(TapDirection.IN, 100, 30, 20), ended(TapDirection.OUT, 100, 50, 10))
    assert counts_by_tap(each) == {"node1:eth0": TapCounts(received=100, lost=20)}
    late = (ended(TapDirection.IN, 100, 30, 0), ended(TapDirection.OUT, 100, 50, 0))
    assert counts_by_tap(late) == {"node1:eth0": TapCounts(received=100, lost=0)}


def test_taps_are_captured_in_both_directions_and_loopbacks_once() -> None:
    taps = [
        source(str(role), role, TapDirection.IN).tap for role in (Role.CLIENT_ETH0, Role.CLIENT_LO, Role.CLIENT_UPLINK)
    ]
    assert [(one.tap.role, one.direction) for one in sources_of(taps)] == [
        (Role.CLIENT_UPLINK, TapDirection.IN),
        (Role.CLIENT_UPLINK, TapDirection.OUT),
        (Role.CLIENT_ETH0, TapDirection.IN),
        (Role.CLIENT_ETH0, TapDirection.OUT),
        (Role.CLIENT_LO, TapDirection.IN),
    ]


CLOCKS = {
    # A tap, how far its machine's clock is ahead of this host's, and by how much that may be wrong.
    "node1:eth0": (0.0, 0.0),
    "node2:eth0": (5.0, 0.0015),
    "node3:eth0": (-3.25, 0.002),
    "node4:eth0": (86_400.0, 0.0005),
}
LISTENING_NS = 1_700_000_000_000_000_000
SENT_MS = (-400, -3, -1, 1, 3, 400)


def test_packets_count_from_the_moment_when_every_tap_listens_by_whatever_clock_they_are_stamped() -> None:
    sources = [source(name, Role.CLIENT_UPLINK, TapDirection.IN) for name in CLOCKS]
    clocks = {
        name: ClockOffset(node=name.partition(":")[0], offset_s=ahead_s, error_s=error_s)
        for name, (ahead_s, error_s) in CLOCKS.items()
        if ahead_s
    }
    pipes = [os.pipe() for _ in sources]
    running = [ScriptedRunning(argv=("tcpdump",), answer=Answer(argv=("tcpdump",))) for _ in sources]
    stream = Stream(sources, running, [reading for reading, _ in pipes], 0.05, since_ns=LISTENING_NS, clocks=clocks)
    try:
        for (ahead_s, _), (_, writing) in zip(CLOCKS.values(), pipes, strict=True):
            stamps = [LISTENING_NS + round(ahead_s * 1e9) + at_ms * 1_000_000 for at_ms in SENT_MS]
            data = packets.pcap_file([(stamp, ECHO) for stamp in stamps], nanoseconds=True)
            os.write(writing, data[:100])
            stream.read(wait_s=0)
            os.write(writing, data[100:])
            os.close(writing)
        batch = stream.drain(timeout_s=5.0)
    finally:
        stream.close()
        for reading, _ in pipes:
            os.close(reading)
    seen = [((time_ns - LISTENING_NS) // 1_000_000, number) for time_ns, number, _ in batch]
    # Two clocks are known to less than 1 ms only: what they stamped 1 ms after the moment may be of before.
    assert seen == [(1, 0), (1, 3), (3, 0), (3, 1), (3, 2), (3, 3), (400, 0), (400, 1), (400, 2), (400, 3)]
    said = b"6 packets captured\n6 packets received by filter\n0 packets dropped by kernel\n"
    done = Completed(argv=("tcpdump",), returncode=0, stdout=b"", stderr=said, duration_s=1.0)
    ended = [stream._ended(number, done) for number in range(len(sources))]
    assert [one.early for one in ended] == [3, 4, 4, 3]
    assert {name: counts.received for name, counts in counts_by_tap(ended).items()} == {
        "node1:eth0": 3, "node2:eth0": 2, "node3:eth0": 2, "node4:eth0": 3,
    }  # fmt: skip
    assert all(counts.lost == 0 for counts in counts_by_tap(ended).values())


def test_the_clock_of_a_tap_is_that_of_the_node_that_its_pod_is_on() -> None:
    lab = example_lab()
    asked: list[tuple[str, ...]] = []

    class Machines(ScriptedLab):
        def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
            asked.append(tuple(nodes))
            return tuple(ClockOffset(node=node, offset_s=1.0, error_s=0.1) for node in nodes)

    pods = {pod.name: pod.node for pod in lab.pods}
    targets = [ScriptedTarget(name) for name in pods] + [ScriptedTarget(lab.nodes[0].name, kind=TargetKind.NODE)]
    taps = [Tap(name=f"{one.name}:eth0", role=Role.CLIENT_ETH0, target=one, interface="eth0") for one in targets]
    found = clocks_of(Machines(lab, targets), taps)
    assert {name: clock.node for name, clock in found.items()} == {
        **{f"{pod}:eth0": node for pod, node in pods.items()},
        f"{lab.nodes[0].name}:eth0": lab.nodes[0].name,
    }
    assert len(asked) == 1
    assert len(set(asked[0])) == len(asked[0])
    assert clocks_of(ScriptedLab(lab, targets), taps) == {}


def test_what_labctl_itself_sends_is_left_out_and_said() -> None:
    own = "(tcp port 22 and host 192.0.2.1 and host 10.0.0.5)"
    plain = Tap(name="client:eth0", role=Role.CLIENT_ETH0, target=ScriptedTarget("client"), interface="eth0")
    uplink = replace(plain, name="node1:eth0", role=Role.CLIENT_UPLINK, own=own)
    assert without_own(plain, "") == ""
    assert without_own(plain, "icmp or udp") == "icmp or udp"
    assert without_own(uplink, "") == without_own(uplink, " ") == f"not ({own})"
    # Alternatives stay together, and keywords that move offsets come last.
    assert without_own(uplink, "vxlan or tcp") == f"not ({own}) and (vxlan or tcp)"
    assert left_out([plain]) == ""
    assert left_out([plain, uplink]) == f"labctl's own connections are left out at node1:eth0: {own}"


@pytest.mark.parametrize(
    "own", ["(tcp port 22 and host 192.0.2.1 and host 10.0.0.5)", "(tcp port 2222 and host 2001:db8::1 and host ::1)"]
)
@pytest.mark.parametrize(
    "expression", ["", "icmp or udp port 8472", "vlan", "ether host 0:1:2:3:4:5", "tcp[13] & 2 != 0"]
)
@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not on this host")
def test_tcpdump_understands_what_is_left_out(own: str, expression: str) -> None:
    tap = Tap(name="n:eth0", role=Role.CLIENT_UPLINK, target=ScriptedTarget("n"), interface="eth0", own=own)
    argv = ("tcpdump", "-y", "EN10MB", "-d", without_own(tap, expression))
    assert subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20).returncode == 0


class SlowToEnd:
    """A tcpdump that gets its signal late (over SSH, with many others before it) and then flushes more than a pipe
    holds."""

    def __init__(self, pipe: int, data: bytes) -> None:
        self._pipe, self._data = pipe, data
        self.argv = ("tcpdump",)

    def is_alive(self) -> bool:
        return True

    def wait_for_output(self, text: str, *, timeout_s: float) -> None: ...

    def wait(self, *, timeout_s: float) -> Completed:
        raise AssertionError

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        time.sleep(1.5)
        os.set_blocking(self._pipe, False)
        data, until_s = memoryview(self._data), time.monotonic() + 3
        while data and time.monotonic() < until_s:
            try:
                data = data[os.write(self._pipe, data) :]
            except BlockingIOError:
                time.sleep(0.01)
        os.close(self._pipe)
        said = b"6000 packets captured\n6000 packets received by filter\n0 packets dropped by kernel\n"
        return Completed(argv=self.argv, returncode=0, stdout=b"", stderr=said, duration_s=1.0)


def test_output_is_read_until_the_last_has_ended_however_late_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "_STOP_TIMEOUT_S", 0.1)
    source = Source(
        tap=Tap(name="n:eth0", role=Role.CLIENT_LXC, target=ScriptedTarget("n"), interface="eth0"), direction=None
    )
    data = packets.pcap_file([(1_700_000_000_000_000_000 + n, ECHO) for n in range(6000)], nanoseconds=True)
    reading, writing = os.pipe()
    stream = Stream([source], [SlowToEnd(writing, data)], [reading], hold_s=0.05)
    try:
        ended, rest = stream.stop()
    finally:
        stream.close()
        os.close(reading)
    assert [one.trouble for one in ended] == [""]
    assert len(rest) == 6000


class Cut(ScriptedRunning):
    """A tcpdump whose connection was lost."""

    def wait(self, *, timeout_s: float) -> Completed:
        raise MeasureFailed(what="the connection to node1 was lost while tcpdump ran")


@pytest.mark.parametrize("kind", [ScriptedRunning, Cut])
def test_a_lost_connection_ends_a_capture_and_a_device_that_is_gone_does_not(kind: type[ScriptedRunning]) -> None:
    sources = [source(f"node{number}:eth0", Role.CLIENT_UPLINK, TapDirection.IN) for number in (1, 2)]
    tcpdump = ("tcpdump",)
    running = [one(argv=tcpdump, answer=Answer(argv=tcpdump)) for one in (kind, ScriptedRunning)]
    pipes = [os.pipe() for _ in sources]
    stream = Stream(sources, running, [reading for reading, _ in pipes], hold_s=0.0)
    os.close(pipes[0][1])
    try:
        with pytest.raises(MeasureFailed, match="was lost") if kind is Cut else contextlib.nullcontext():
            assert stream.read(wait_s=5.0) == []
        assert not stream.is_over
    finally:
        stream.close()
        for pipe in (pipes[0][0], *pipes[1]):
            os.close(pipe)
