"""Masquerading by the programs: how long a connection is remembered, what is full and gets room again, ICMP errors."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest
from datapath_frames import IPV4, checksum
from datapath_topology import OUTSIDE, Cluster, capturing, cluster, inside, make_lab

from labctl.datapath import bpf
from labctl.datapath.layout import SNAT_ENTRY, SNAT_KEY, PacketVerdict, read_metrics
from labctl.datapath.masquerading import FIRST_PORT, LAST_PORT, Masqueraded, collect_expired, masqueraded
from labctl.datapath.service_maps import FlowState
from labctl.model.interfaces import UPLINK
from labctl.model.lab import Encapsulation, HostRouting

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: eBPF programs and namespaces"),
    *(pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}") for tool in ("ping", "sysctl", "nsenter")),
]

# The four objects have the same masquerading; the way back differs most between these two.
MODES = [(HostRouting.LEGACY, Encapsulation.VXLAN), (HostRouting.BPF, Encapsulation.NATIVE)]
PORT = 5300
SECOND_NS = 1_000_000_000
OPEN = FlowState.REPLIED
ENDED = FlowState.REQUEST_FIN | FlowState.REPLY_FIN


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: "-".join(mode))
def built(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(make_lab(*request.param)) as built:
        yield built


@pytest.fixture(autouse=True)
def _nothing_before(built: Cluster) -> None:
    for key, _ in list(bpf.dump(snat(built))):
        bpf.delete(snat(built), key)


def snat(built: Cluster) -> int:
    return built.loaded["node1"].maps["snat"]


def node(built: Cluster) -> IPv4Address:
    return built.lab.node("node1").address.ip


def entries(built: Cluster, *, to_port: int = PORT) -> list[Masqueraded]:
    """The ways out to that port of the host outside."""
    return [one for one in masqueraded(snat(built)) if not one.is_back and one.destination_port == to_port]


def dropped(built: Cluster, verdict: PacketVerdict) -> int:
    metrics = read_metrics(built.loaded["node1"].maps["metrics"])
    return sum(metric.packets for metric in metrics if metric.verdict is verdict)


def udp_server(port: int = PORT) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((str(OUTSIDE), port))
    server.settimeout(5)
    return server


def udp_client(port: int = 0, to_port: int = PORT) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind(("0.0.0.0", port))
        client.connect((str(OUTSIDE), to_port))
        client.settimeout(1)
        return client

    return connect


def exchange(client: socket.socket, server: socket.socket) -> tuple[str, int] | None:
    """Whom the server saw; None when nothing came."""
    client.send(b"hello")
    server.settimeout(0.5)
    try:
        _, source = server.recvfrom(100)
    except TimeoutError:
        return None
    server.sendto(b"hello", source)
    assert client.recv(100) == b"hello"
    return (str(source[0]), int(source[1]))


def test_a_tcp_connection_is_remembered_for_hours_while_it_is_open_and_for_seconds_after_it(built: Cluster) -> None:
    def listen() -> socket.socket:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.bind((str(OUTSIDE), PORT))
        listening.listen()
        listening.settimeout(5)
        return listening

    def connect() -> socket.socket:
        return socket.create_connection((str(OUTSIDE), PORT), timeout=5)

    with inside(built.namespace("outside"), listen) as listening, inside(built.namespace("a"), connect) as client:
        accepted, source = listening.accept()
        client.send(b"x")
        assert accepted.recv(1) == b"x"
        (open_one,) = entries(built)
        assert (open_one.address, open_one.port) == (node(built), source[1])
        assert open_one.state == OPEN
        left_s = (open_one.expires_ns - time.monotonic_ns()) / SECOND_NS
        assert 7_000 < left_s <= 8_000
        accepted.close()
        client.close()
        deadline = time.monotonic() + 10
        while entries(built)[0].state & ENDED != ENDED and time.monotonic() < deadline:
            time.sleep(0.01)
    (ended,) = entries(built)
    assert ended.state == OPEN | ENDED
    left_s = (ended.expires_ns - time.monotonic_ns()) / SECOND_NS
    assert 0 < left_s <= 10
    both = len(list(masqueraded(snat(built))))
    assert both == 2
    assert collect_expired(snat(built)) == 0
    assert collect_expired(snat(built), now_ns=ended.expires_ns) == 2
    assert list(masqueraded(snat(built))) == []


def test_udp_and_icmp_are_remembered_for_a_minute(built: Cluster) -> None:
    with inside(built.namespace("outside"), udp_server) as server, inside(built.namespace("a"), udp_client()) as client:
        assert exchange(client, server) is not None
    assert built.ping("a", OUTSIDE).returncode == 0
    (datagram,), (echo,) = entries(built), entries(built, to_port=0)
    for one in (datagram, echo):
        assert 50 < (one.expires_ns - time.monotonic_ns()) / SECOND_NS <= 60


def test_a_packet_makes_its_connection_young_again(built: Cluster) -> None:
    with inside(built.namespace("outside"), udp_server) as server, inside(built.namespace("a"), udp_client()) as client:
        exchange(client, server)
        (first,) = entries(built)
        soon = time.monotonic_ns() + 2 * SECOND_NS
        set_expiry(built, soon)
        exchange(client, server)
        ways = [one for one in masqueraded(snat(built)) if PORT in (one.destination_port, one.source_port)]
    assert len(ways) == 2
    assert all(one.expires_ns >= first.expires_ns for one in ways)


def set_expiry(built: Cluster, expires_ns: int) -> None:
    """Of every entry."""
    changed = []
    for key, (value, *_) in list(bpf.dump(snat(built))):
        created, _, *rest = SNAT_ENTRY.unpack(value)
        changed.append((key, SNAT_ENTRY.pack(created, expires_ns, *rest)))
    bpf.update(snat(built), changed)


def test_the_port_of_a_connection_whose_time_is_up_is_given_to_another_pod(built: Cluster) -> None:
    with inside(built.namespace("outside"), udp_server) as server:
        with inside(built.namespace("a"), udp_client(40_000)) as client:
            assert exchange(client, server) == (str(node(built)), 40_000)
        with inside(built.namespace("b"), udp_client(40_000)) as client:
            taken = exchange(client, server)
            assert taken is not None
            assert taken[1] != 40_000
        set_expiry(built, 1)
        with inside(built.namespace("b"), udp_client(40_000)) as client:
            assert exchange(client, server) == (str(node(built)), 40_000)
    # What was there is gone, with its way back; b's old mapping went with the queue.
    assert {(str(one.source), one.source_port) for one in entries(built)} == {("10.244.0.11", 40_000)}


def test_new_connections_collect_old_ones(built: Cluster) -> None:
    with inside(built.namespace("outside"), udp_server) as server:
        for _ in range(20):
            with inside(built.namespace("a"), udp_client()) as client:
                exchange(client, server)
        assert len(entries(built)) == 20
        set_expiry(built, 1)
        for _ in range(10):
            with inside(built.namespace("a"), udp_client()) as client:
                exchange(client, server)
    left = entries(built)
    assert len(left) == 10
    assert all(one.expires_ns > 1 for one in left)


def occupied(built: Cluster, ports: range, *, to: IPv4Address, to_port: int) -> list[tuple[bytes, bytes]]:
    """Ways back as a pod's connections have them, in use for an hour."""
    later = time.monotonic_ns() + 3600 * SECOND_NS
    value = SNAT_ENTRY.pack(0, later, IPv4Address("10.244.0.11").packed, struct.pack("!H", 1), 0)
    return [
        (
            SNAT_KEY.pack(
                to.packed,
                node(built).packed,
                struct.pack("!H", to_port),
                struct.pack("!H", port),
                socket.IPPROTO_UDP,
                1,
            ),
            value,
        )
        for port in ports
    ]


def test_without_a_free_port_packets_are_dropped_and_counted_until_there_is_one_again(built: Cluster) -> None:
    with inside(built.namespace("outside"), udp_server) as server, inside(built.namespace("a"), udp_client()) as client:
        bpf.update(snat(built), occupied(built, range(FIRST_PORT, LAST_PORT + 1), to=OUTSIDE, to_port=PORT))
        before = dropped(built, PacketVerdict.NAT_NO_PORT)
        assert exchange(client, server) is None
        assert dropped(built, PacketVerdict.NAT_NO_PORT) == before + 1
        # Another destination has ports of its own.
        with (
            inside(built.namespace("outside"), lambda: udp_server(PORT + 1)) as other,
            inside(built.namespace("a"), udp_client(to_port=PORT + 1)) as to_other,
        ):
            assert exchange(to_other, other) is not None
        set_expiry(built, 1)
        assert exchange(client, server) is not None
        assert dropped(built, PacketVerdict.NAT_NO_PORT) == before + 1


def test_a_full_table_is_an_error_of_its_own_until_it_was_collected(built: Cluster) -> None:
    elsewhere = IPv4Address("172.30.0.77")
    with inside(built.namespace("outside"), udp_server) as server, inside(built.namespace("a"), udp_client()) as client:
        for to_port in (1, 2):
            bpf.update(snat(built), occupied(built, range(FIRST_PORT, LAST_PORT + 1), to=elsewhere, to_port=to_port))
        before = dropped(built, PacketVerdict.NAT_FULL)
        assert exchange(client, server) is None
        assert dropped(built, PacketVerdict.NAT_FULL) == before + 1
        set_expiry(built, 1)
        assert collect_expired(snat(built)) == 2 * (LAST_PORT - FIRST_PORT + 1)
        assert exchange(client, server) is not None


def test_a_pods_icmp_error_about_an_answer_names_the_address_that_the_answer_was_sent_to(built: Cluster) -> None:
    """The pod's socket is gone when the answer comes: the host outside is told so, about its own packet."""
    with inside(built.namespace("outside"), udp_server) as server:
        with inside(built.namespace("a"), udp_client(1234)) as client:
            client.send(b"hello")
            _, source = server.recvfrom(100)
        assert source[0] == str(node(built))
        assert source[1] >= FIRST_PORT  # 1234 is not in the range
        with capturing(built, [("outside", UPLINK)]) as captured:
            server.connect(source)
            server.send(b"too late")
            with pytest.raises(ConnectionRefusedError):
                server.recv(10)
            errors = [data for data in captured["outside", UPLINK]() if data[23] == 1 and data[34] == 3]
    (error,) = errors
    outer, quoted = error[14:34], error[42:]
    assert checksum(outer) == 0
    assert checksum(error[34 : 14 + int.from_bytes(outer[2:4], "big")]) == 0
    assert IPv4Address(outer[12:16]) == node(built)
    assert IPv4Address(IPV4.unpack_from(quoted)[9]) == node(built)
    assert checksum(quoted[:20]) == 0
    assert struct.unpack_from("!HH", quoted, 20) == (PORT, source[1])


def test_a_hundred_pods_connections_at_once_never_share_a_port(built: Cluster) -> None:
    """Two pods that use the same ports at the same time, in threads, against one server."""
    seen: list[tuple[str, str, int]] = []
    with inside(built.namespace("outside"), udp_server) as server:
        clients: list[tuple[str, socket.socket]] = []
        lock = threading.Lock()

        def open_from(pod: str) -> None:
            for port in range(45_000, 45_050):
                one = inside(built.namespace(pod), udp_client(port))
                one.send(f"{pod}:{port}".encode())
                with lock:
                    clients.append((pod, one))

        threads = [threading.Thread(target=open_from, args=(pod,)) for pod in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(100):
            text, source = server.recvfrom(100)
            pod, _, port = text.decode().partition(":")
            seen.append((pod, port, source[1]))
            server.sendto(text, source)
        for pod, one in clients:
            assert one.recv(100).decode().startswith(f"{pod}:")
            one.close()
    assert len({source for _, _, source in seen}) == 100
