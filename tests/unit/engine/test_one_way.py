"""The pointer from a capture to `trace`: only where an lxc certainly saw one direction of a conversation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from labctl.engine.capture import Ended, Source, sources_of
from labctl.engine.one_way import LONGEST_ANSWER_NS, OneWay
from labctl.model.signature import Role
from labctl.path.pcap import Record
from labctl.providers.base import Tap
from labctl.testing import packets
from labctl.testing.labs import sample_lab
from labctl.testing.scripted import ScriptedTarget

LAB = sample_lab("mine")
ADDRESS = {pod.name: str(pod.address) for pod in LAB.pods}
MAC = "02:00:00:00:00:01"
LATE_NS = 10 * LONGEST_ANSWER_NS
LXC, FAR_LXC, INSIDE = "node1:lxc1", "node2:lxc2", "client:eth0"


def sources() -> tuple[Source, ...]:
    roles = {LXC: Role.CLIENT_LXC, FAR_LXC: Role.SERVER_LXC, INSIDE: Role.CLIENT_ETH0}
    taps = [
        Tap(name=name, role=role, target=ScriptedTarget(name.partition(":")[0]), interface=name.partition(":")[2])
        for name, role in roles.items()
    ]
    return sources_of(taps)


SOURCES = sources()
TRACE = "labctl trace mine client server shows where they went"


def frame(source: str, destination: str, payload: bytes, protocol: int) -> bytes:
    body = packets.ipv4(ADDRESS.get(source, source), ADDRESS.get(destination, destination), payload, protocol=protocol)
    return packets.ethernet(MAC, MAC, body)


def echo(source: str, destination: str, *, is_request: bool) -> bytes:
    payload = packets.icmp_echo(is_request=is_request, identifier=7, sequence=1, payload=b"")
    return frame(source, destination, payload, 1)


REQUEST = echo("client", "server", is_request=True)
REPLY = echo("server", "client", is_request=False)
SYN = frame("client", "server", packets.tcp(40000, 80), 6)
DATAGRAM = frame("client", "server", packets.udp(40000, 53, b""), 17)
BACK = frame("server", "client", packets.udp(53, 40000, b""), 17)


def said(
    *seen: tuple[str, bytes], expression: str = "", dropped: int = 0, trouble: str = "", end_ns: int | None = LATE_NS
) -> tuple[str, ...]:
    """What is said of a capture in which these taps saw these frames, a nanosecond apart."""
    watched = OneWay(LAB, SOURCES, expression)
    for time_ns, (tap, data) in enumerate(seen):
        number = next(number for number, source in enumerate(SOURCES) if source.tap.name == tap)
        watched.watch([(time_ns, number, Record(time_ns, data, len(data)))])
    return watched.sentences(tuple(ends(dropped, trouble)), end_ns)


def ends(dropped: int, trouble: str) -> Iterator[Ended]:
    for source in SOURCES:
        yield Ended(source=source, received=dropped, captured=0, dropped=dropped, trouble=trouble)


def test_requests_without_replies_at_an_lxc_point_to_trace() -> None:
    (sentence,) = said((LXC, REQUEST), (INSIDE, REQUEST), (INSIDE, REPLY))
    assert sentence == f"{LXC} saw requests and no replies of client → server (icmp): {TRACE}"


def test_replies_without_requests_at_the_servers_lxc_point_to_the_same_trace() -> None:
    (sentence,) = said((FAR_LXC, REPLY))
    assert sentence == f"{FAR_LXC} saw replies and no requests of client → server (icmp): {TRACE}"


def test_each_lxc_is_told_once_however_many_packets_it_saw() -> None:
    assert len(said(*[(LXC, REQUEST)] * 3, *[(FAR_LXC, REPLY)] * 3)) == 2


def test_both_directions_at_the_lxc_say_nothing() -> None:
    assert said((LXC, REQUEST), (LXC, REPLY)) == ()


def test_a_tap_that_is_no_lxc_says_nothing() -> None:
    assert said((INSIDE, REQUEST)) == ()


@pytest.mark.parametrize(
    "expression",
    ["src host 10.244.0.10", "ether dst 02:00:00:00:00:01", "icmp[0] == 8", "inbound", "ip[8] > 63", "less 100"],
)
def test_a_filter_that_may_hide_a_direction_says_nothing(expression: str) -> None:
    assert said((LXC, REQUEST), expression=expression) == ()


@pytest.mark.parametrize(
    "expression", ["icmp", "icmp and host 10.244.0.10", "(tcp port 80) or not udp", "net 10.0.0.0/8"]
)
def test_a_filter_that_treats_both_directions_alike_does_not_matter(expression: str) -> None:
    assert len(said((LXC, REQUEST), expression=expression)) == 1


def test_lost_packets_or_a_capture_that_broke_off_say_nothing() -> None:
    assert said((LXC, REQUEST), dropped=1) == ()
    assert said((LXC, REQUEST), trouble="tcpdump ended") == ()


def test_a_request_just_before_the_end_may_still_be_answered() -> None:
    assert said((LXC, REQUEST), end_ns=LONGEST_ANSWER_NS - 1) == ()
    assert said((LXC, REQUEST), end_ns=None) == ()


def test_tcp_is_told_with_the_option_that_traces_it() -> None:
    (sentence,) = said((LXC, SYN))
    assert "labctl trace mine client server --protocol tcp " in sentence


def test_a_datagram_needs_no_answer_unless_one_was_seen_elsewhere() -> None:
    assert said((LXC, DATAGRAM)) == ()
    assert len(said((LXC, DATAGRAM), (INSIDE, BACK))) == 1


def test_others_than_the_labs_pods_and_odd_frames_are_passed_over() -> None:
    stranger = echo("192.0.2.1", "server", is_request=True)
    assert said((LXC, stranger), (LXC, b""), (LXC, REQUEST[:30]), (LXC, b"\xff" * 60)) == ()
