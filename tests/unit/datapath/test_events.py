"""Counters and events: bytes of the kernel to records for people."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest

from labctl.datapath.bpf import possible_cpus
from labctl.datapath.events import decode_event
from labctl.datapath.layout import (
    EVENT,
    METRIC,
    METRIC_KEY,
    PacketVerdict,
    Program,
    ProgramCounter,
    decode_metrics,
    difference,
)


def metric(packets: int, *, ifindex: int = 10, verdict: PacketVerdict = PacketVerdict.REDIRECT_PEER) -> ProgramCounter:
    return ProgramCounter(
        ifindex=ifindex, program=Program.FROM_CONTAINER, verdict=verdict, packets=packets, bytes=packets * 98
    )


def test_a_counter_is_the_sum_over_the_cpus() -> None:
    entries = [
        (METRIC_KEY.pack(10, 1, 3), (METRIC.pack(2, 196), METRIC.pack(1, 98))),
        (METRIC_KEY.pack(4, 4, 64), (METRIC.pack(0, 0), METRIC.pack(5, 300))),
    ]
    first, second = decode_metrics(entries)
    assert (first.ifindex, first.program, first.verdict) == (4, Program.FROM_NETDEV, PacketVerdict.INVALID_SOURCE)
    assert (second.packets, second.bytes) == (3, 294)


def test_a_counter_reads_as_a_sentence() -> None:
    assert metric(3).words == "cil_from_container: 3 packets, bpf_redirect_peer"
    assert metric(1, verdict=PacketVerdict.UNROUTABLE).words == (
        "cil_from_container: 1 packet, dropped: no pod has the destination address"
    )


def test_a_difference_leaves_out_what_stood_still() -> None:
    before = [metric(3), metric(7, ifindex=11)]
    after = [metric(3), metric(9, ifindex=11), metric(4, ifindex=12)]
    assert difference(before, after) == (metric(2, ifindex=11), metric(4, ifindex=12))


def test_an_event_is_decoded_field_by_field() -> None:
    data = EVENT.pack(
        123456789,
        10,
        5,
        IPv4Address("10.244.0.10").packed,
        IPv4Address("10.244.1.10").packed,
        IPv4Address("10.244.0.10").packed,
        IPv4Address("172.30.0.3").packed,
        84,
        16843,
        (0xBEEF).to_bytes(2, "big"),
        (462).to_bytes(2, "big"),
        (3).to_bytes(2, "big"),
        1,
        5,
        1,
        64,
        63,
        8,
        1,
        2,
        (4711).to_bytes(2, "big"),
        (30205).to_bytes(2, "big"),
    )
    event = decode_event(data)
    assert event.time_ns == 123456789
    assert (event.ifindex, event.target_ifindex, event.cpu) == (10, 5, 2)
    assert (event.program, event.verdict, event.hook) == (Program.FROM_CONTAINER, PacketVerdict.TUNNEL, "ingress")
    assert (str(event.source), str(event.destination)) == ("10.244.0.10", "10.244.1.10")
    assert (str(event.original_source), str(event.original_destination)) == ("10.244.0.10", "172.30.0.3")
    assert (event.length, event.identity, event.ip_id) == (84, 16843, 0xBEEF)
    assert (event.protocol, event.icmp_type, event.source_port, event.destination_port) == (1, 8, 462, 3)
    assert (event.ttl_in, event.ttl_out, event.encapsulated) == (64, 63, True)


def test_a_cut_event_is_an_error() -> None:
    with pytest.raises(struct.error):
        decode_event(bytes(EVENT.size - 1))


@pytest.mark.parametrize(("listing", "count"), [("0-1\n", 2), ("0", 1), ("0-127", 128), ("0,2-3", 4)])
def test_a_per_cpu_value_has_a_copy_for_every_possible_cpu(listing: str, count: int) -> None:
    assert possible_cpus(listing) == count
