"""Capture files and frames: what is read, and that nonsense never gets further than the reader's own error."""

from __future__ import annotations

import random
import struct
from io import BytesIO
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from labctl.model.signature import Role
from labctl.path.frame import Arp, Frame, Icmp, Ipv4, Tcp, Udp, decode, ip_text, mac_text
from labctl.path.pcap import PcapError, PcapFeed, PcapReader, Record, read_pcap
from labctl.path.sighting import Way, match_echo, sightings
from labctl.testing import packets

A_MAC, B_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
A, B = "10.244.0.10", "10.244.1.20"
RECORDED = Path(__file__).parents[2] / "fixtures" / "checks" / "echo.pcap"


def echo(payload: bytes = b"x" * 56, *, is_request: bool = True, sequence: int = 1, ttl: int = 64) -> bytes:
    icmp = packets.icmp_echo(is_request=is_request, identifier=7, sequence=sequence, payload=payload)
    src, dst = (A, B) if is_request else (B, A)
    return packets.ethernet(A_MAC, B_MAC, packets.ipv4(src, dst, icmp, protocol=1, ttl=ttl))


def envelope(frame: bytes, vni: int = 300, port: int = 8472) -> bytes:
    return packets.enveloped(
        frame, src="172.30.0.3", dst="172.30.0.4", src_mac=A_MAC, dst_mac=B_MAC, vni=vni, port=port
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_both_byte_orders_and_both_resolutions_are_read(order: str, nanoseconds: bool) -> None:
    time_ns = 1_795_343_592_144_125_000
    data = packets.pcap_file([(time_ns, b"one"), (time_ns + 5_000, b"three")], order=order, nanoseconds=nanoseconds)
    reader = read_pcap(data)
    assert list(reader) == [Record(time_ns, b"one", 3), Record(time_ns + 5_000, b"three", 5)]
    assert (reader.link_type, reader.is_truncated) == (1, False)


def test_a_capture_that_was_cut_gives_every_whole_record_and_says_so() -> None:
    data = packets.pcap_file([(0, b"first"), (0, b"second")])
    for cut in range(1, 22):
        reader = read_pcap(data[:-cut])
        assert [record.frame for record in reader] == [b"first"]
        assert reader.is_truncated
    assert not read_pcap(data[:-22]).is_truncated


def test_records_across_the_readers_chunks_stay_whole() -> None:
    frames = [bytes([number % 251]) * (number % 3_000) for number in range(2_000)]

    class Dribble(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size, 1_009) if size is not None and size > 0 else size)

    reader = PcapReader(Dribble(packets.pcap_file([(0, frame) for frame in frames])))
    assert [record.frame for record in reader] == frames


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "begins with nothing"),
        (b"hello", "begins with 68 65 6c 6c"),
        (b"\x0a\x0d\x0d\x0a" + b"\0" * 30, "pcapng"),
        (packets.pcap_file([])[:20], "cut short after 20 bytes"),
    ],
)
def test_what_is_no_pcap_file_is_said_to_be_none(data: bytes, complaint: str) -> None:
    with pytest.raises(PcapError, match=complaint):
        read_pcap(data)


def test_an_impossible_length_is_an_error_that_names_the_place() -> None:
    data = packets.pcap_file([(0, b"ok")]) + b"\0" * 8 + b"\xff\xff\xff\x7f" + b"\0" * 4
    with pytest.raises(PcapError, match="record at byte 42 claims"):
        list(read_pcap(data))


def test_a_recorded_capture_of_three_echoes_is_read() -> None:
    frames = [decode(record.frame) for record in read_pcap(RECORDED.read_bytes())]
    kinds = [frame.transport.kind for frame in frames if frame and isinstance(frame.transport, Icmp)]
    assert kinds == [8, 0, 8, 0, 8, 0]
    first = frames[0]
    assert first is not None
    assert isinstance(first.network, Ipv4)
    assert isinstance(first.transport, Icmp)
    assert (ip_text(first.network.src), ip_text(first.network.dst), first.network.ttl) == ("10.9.0.1", "10.9.0.2", 64)
    assert (mac_text(first.src_mac), first.transport.identifier) == ("82:f0:bd:ec:b5:41", 4242)
    assert len(first.transport.payload) == 56


def test_tcp_udp_and_arp_are_opened() -> None:
    frame = decode(packets.ethernet(A_MAC, B_MAC, packets.ipv4(A, B, packets.tcp(80, 90, payload=b"hi"), protocol=6)))
    assert frame is not None
    assert frame.transport == Tcp(80, 90, 1, 0, 0x02, b"hi")
    frame = decode(packets.ethernet(A_MAC, B_MAC, packets.ipv4(A, B, packets.udp(53, 54, b"hi"), protocol=17)))
    assert frame is not None
    assert frame.transport == Udp(53, 54, b"hi")
    message = packets.arp(operation=2, sender_mac=A_MAC, sender_ip=A, target_mac=B_MAC, target_ip=B)
    frame = decode(packets.ethernet(A_MAC, B_MAC, message, ether_type=0x0806))
    assert frame is not None
    assert isinstance(frame.network, Arp)
    assert (frame.network.operation, mac_text(frame.network.sender_mac)) == (2, A_MAC)


def test_an_envelope_is_opened_once_and_only_on_its_port() -> None:
    frame = decode(envelope(echo()))
    assert frame is not None
    assert frame.vni == 300
    assert frame.inner == decode(echo())
    twice = decode(envelope(envelope(echo())))
    assert twice is not None
    assert twice.inner is not None
    assert twice.inner.inner is None
    iana = decode(envelope(echo(), port=4789))
    assert iana is not None
    assert iana.inner == decode(echo())
    elsewhere = decode(envelope(echo(), port=4790))
    assert elsewhere is not None
    assert elsewhere.inner is None


def test_a_geneve_envelope_is_opened_behind_its_options() -> None:
    def sent(payload: bytes) -> Frame | None:
        datagram = packets.ipv4("172.30.0.2", "172.30.0.3", packets.udp(43_593, 6081, payload), protocol=17)
        return decode(packets.ethernet(A_MAC, B_MAC, datagram))

    for options in (b"", b"\1\2\3\4" * 3):
        frame = sent(packets.geneve(300, echo(), options=options))
        assert frame is not None
        assert frame.vni == 300
        assert frame.inner == decode(echo())
    other_version = sent(b"\x40" + packets.geneve(300, echo())[1:])
    of_vxlan = sent(packets.vxlan(300, echo()))
    cut_off = sent(packets.geneve(300, b"", options=b"\0" * 8)[:10])
    for frame in (other_version, of_vxlan, cut_off):
        assert frame is not None
        assert frame.inner is None


def test_padding_and_tags_and_later_fragments_do_not_mislead() -> None:
    padded = decode(echo(b"ab") + b"\xee" * 20)
    assert padded is not None
    assert isinstance(padded.transport, Icmp)
    assert padded.transport.payload == b"ab"
    tagged = decode(echo()[:12] + b"\x81\x00\x00\x05" + echo()[12:])
    assert tagged is not None
    assert isinstance(tagged.transport, Icmp)
    fragment = decode(packets.ethernet(A_MAC, B_MAC, packets.ipv4(A, B, b"z" * 40, protocol=1, fragment=3)))
    assert fragment is not None
    assert isinstance(fragment.network, Ipv4)
    assert (fragment.network.fragment_byte, fragment.transport) == (24, None)


def test_short_frames_lose_layers_but_raise_nothing() -> None:
    whole = envelope(echo())
    for length in range(len(whole)):
        frame = decode(whole[:length])
        assert (frame is None) == (length < 14)


def test_random_bytes_never_raise_anything_but_the_readers_own_error() -> None:
    chance = random.Random(20221126)
    seeds = [
        packets.pcap_file([(0, envelope(echo())), (1, echo(is_request=False)), (2, b"")], order=order)
        for order in ("<", ">")
    ]
    seeds.append(RECORDED.read_bytes())
    matcher = match_echo([(IPv4Address(A), IPv4Address(B))], b"xxxx")
    whole = 0
    for _ in range(4_000):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 9)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        try:
            list(sightings(read_pcap(bytes(data)), matcher, tap="t", role=Role.CLIENT_ETH0))
            whole += 1
        except PcapError:
            pass
    assert 1_000 < whole < 4_000


def test_only_the_marked_echo_between_the_pair_is_a_sighting() -> None:
    token = b"0123456789abcdef"
    matcher = match_echo([(IPv4Address(A), IPv4Address(B))], token)
    records = [
        Record(1, echo(b"t" * 16 + token), 0),
        Record(2, echo(b"t" * 16 + b"another ping...."), 0),
        Record(3, echo(b"t" * 16 + token, is_request=False, ttl=60), 0),
        Record(4, envelope(echo(b"t" * 16 + token, sequence=2)), 0),
        Record(5, packets.ethernet(A_MAC, B_MAC, packets.ipv4("10.0.0.1", B, b"\x08" + token, protocol=1)), 0),
    ]
    seen = list(sightings(records, matcher, tap="node1:eth0", role=Role.CLIENT_UPLINK))
    assert [(one.time_ns, one.way, one.number, one.ttl) for one in seen] == [
        (1, Way.REQUEST, 1, 64),
        (3, Way.REPLY, 1, 60),
        (4, Way.REQUEST, 2, 64),
    ]
    assert seen[0].envelope is None
    assert seen[2].envelope is not None
    assert (seen[2].envelope.src, seen[2].envelope.vni, seen[2].envelope.dst_port) == ("172.30.0.3", 300, 8472)


def test_an_empty_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="every packet"):
        match_echo([(IPv4Address(A), IPv4Address(B))], b"")


@pytest.mark.parametrize("length", [(1 << 20) + 1, 1 << 31, 0xFFFFFFFF])
def test_a_record_that_claims_gigabytes_is_refused_and_not_waited_for(length: int) -> None:
    header = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
    stream = header + struct.pack("<IIII", 0, 0, length, length) + bytes(100)
    with pytest.raises(PcapError, match=f"claims a frame of {length} bytes"):
        list(read_pcap(stream))
    with pytest.raises(PcapError, match=f"claims a frame of {length} bytes"):
        list(PcapFeed().feed(stream))
