"""Traffic beyond the eight cells, in every mode: nodes, the outside, ARP, sizes, TCP, and packets that must not pass.

The expectations are those recorded on a real cluster (Kubernetes v1.20.2, Cilium v1.16.0-rc.0): see docs/datapath.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address

import pytest
from datapath_frames import Frame, echo_request, make_frame, parse_frame
from datapath_topology import OUTSIDE, Cluster, capturing, cluster, inside, make_lab

from labctl.datapath.layout import PacketVerdict, Program, ProgramCounter, difference, read_metrics
from labctl.model.interfaces import CILIUM_HOST, CILIUM_HOST_INDEX, CILIUM_NET, CILIUM_VXLAN, UPLINK
from labctl.model.lab import Encapsulation, HostRouting, Masquerade
from labctl.testing.labs import RECORDED

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: eBPF programs and namespaces"),
    *(
        pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}")
        for tool in ("ping", "iperf3", "sysctl", "nsenter")
    ),
]

MODES = [(routing, encapsulation) for routing in HostRouting for encapsulation in RECORDED]
BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: "-".join(mode))
def built(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    host_routing, encapsulation = request.param
    with cluster(make_lab(host_routing, encapsulation)) as built:
        yield built


def mode_of(cluster: Cluster) -> tuple[HostRouting, Encapsulation]:
    return cluster.lab.datapath.host_routing, cluster.lab.datapath.encapsulation


def address_of(cluster: Cluster, name: str) -> IPv4Address:
    if name == "outside":
        return OUTSIDE
    if name.startswith("node"):
        return cluster.lab.node(name).address.ip
    if name.startswith("router"):
        return cluster.lab.node(name.replace("router", "node")).router
    return cluster.lab.pod(name).address


def ping_ttl(cluster: Cluster, source: str, target: str) -> int:
    done = cluster.ping(source, address_of(cluster, target))
    assert done.returncode == 0, done.stdout + done.stderr
    (ttl,) = set(re.findall(r"ttl=(\d+)", done.stdout))
    return int(ttl)


def counted(cluster: Cluster, node: str) -> tuple[ProgramCounter, ...]:
    return read_metrics(cluster.loaded[node].maps["metrics"])


def packets(metrics: tuple[ProgramCounter, ...], program: Program, verdict: PacketVerdict) -> int:
    return sum(m.packets for m in metrics if m.program is program and m.verdict is verdict)


def echoes(frames: list[bytes], kind: int) -> list[Frame]:
    return [frame for frame in map(parse_frame, frames) if frame is not None and frame.icmp_type == kind]


def eventually(look: Callable[[], object], expected: object) -> None:
    """Waits until `look` gives that: on a busy machine a packet takes its time."""
    deadline = time.monotonic() + 60
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"{seen} in place of {expected}"
        time.sleep(0.01)


RECORDED_TTL = {
    # (source, target): TTL that ping prints, for legacy-vxlan, bpf-vxlan, legacy-native, bpf-native
    ("node1", "a"): (63, 63, 63, 63),
    ("node1", "c"): (63, 63, 62, 63),
    ("a", "node1"): (63, 63, 63, 63),
    ("a", "node2"): (62, 63, 62, 63),
    ("a", "outside"): (62, 63, 62, 63),
}


@pytest.mark.parametrize(("source", "target"), RECORDED_TTL, ids=lambda name: str(name))
def test_ping_prints_the_recorded_ttl(built: Cluster, source: str, target: str) -> None:
    order = [(LEGACY, VXLAN), (BPF, VXLAN), (LEGACY, NATIVE), (BPF, NATIVE)]
    assert ping_ttl(built, source, target) == RECORDED_TTL[source, target][order.index(mode_of(built))]


@pytest.mark.parametrize("target", ["router1", "router2"])
def test_a_pod_reaches_the_routers_of_both_nodes(built: Cluster, target: str) -> None:
    ping_ttl(built, "a", target)


def test_a_nodes_packets_to_its_own_pod_are_seen_on_the_lxc_in_both_directions(built: Cluster) -> None:
    taps = [("node1", built.lab.pod("a").lxc), ("node1", CILIUM_HOST), ("node1", CILIUM_NET)]
    with capturing(built, taps) as captured:
        ping_ttl(built, "node1", "a")
        seen = {device: captured["node1", device]() for _, device in taps}
    lxc = built.lab.pod("a").lxc
    assert [len(echoes(seen[lxc], kind)) for kind in (8, 0)] == [3, 3]
    assert [len(echoes(seen[device], kind)) for device in (CILIUM_HOST, CILIUM_NET) for kind in (8, 0)] == [0] * 4


def test_a_nodes_packets_to_a_remote_pod_come_as_recorded(built: Cluster) -> None:
    lab = built.lab
    routing, encapsulation = mode_of(built)
    taps = [
        ("node1", CILIUM_HOST),
        ("node1", CILIUM_NET),
        ("node1", UPLINK),
        ("c", "eth0"),
        ("node2", lab.pod("c").lxc),
    ]
    with capturing(built, taps) as captured:
        ping_ttl(built, "node1", "c")
        seen = {tap: captured[tap]() for tap in taps}
    requests = echoes(seen["c", "eth0"], 8)
    uplink = seen["node1", UPLINK]
    lxc = seen["node2", lab.pod("c").lxc]
    host_replies = [echoes(seen["node1", device], 0) for device in (CILIUM_NET, CILIUM_HOST)]
    host_requests = [echoes(seen["node1", device], 8) for device in (CILIUM_NET, CILIUM_HOST)]
    assert host_requests == [[], []]
    assert (len(echoes(lxc, 8)), len(echoes(lxc, 0))) == ((3 if routing is LEGACY else 0), 3)
    if encapsulation is VXLAN:
        assert {frame.source for frame in requests} == {lab.node("node1").router}
        assert {frame.vni for frame in echoes(uplink, 8)} == {6}
        assert {frame.vni for frame in echoes(uplink, 0)} == {lab.pod("c").identity}
        assert [[frame.ttl for frame in replies] for replies in host_replies] == [[63] * 3, [63] * 3]
    else:
        assert {frame.source for frame in requests} == {lab.node("node1").address.ip}
        assert {frame.vni for frame in echoes(uplink, 8)} == {None}
        assert host_replies == [[], []]


@pytest.mark.parametrize("target", ["node2", "outside"])
def test_what_leaves_the_cluster_is_masqueraded_as_recorded(built: Cluster, target: str) -> None:
    lab = built.lab
    routing, encapsulation = mode_of(built)
    device = UPLINK
    with capturing(built, [(target, device)]) as captured:
        ping_ttl(built, "a", target)
        requests = echoes(captured[target, device](), 8)
    masqueraded = target == "outside" or encapsulation is VXLAN
    expected = lab.node("node1").address.ip if masqueraded else lab.pod("a").address
    assert {frame.source for frame in requests} == {expected}
    assert {frame.vni for frame in requests} == {None}
    assert {frame.ttl for frame in requests} == {63 if (routing, encapsulation) == (BPF, NATIVE) else 62}
    if masqueraded:  # an id below 32768 is never kept
        assert all(int.from_bytes(frame.payload[4:6], "big") >= 32768 for frame in requests)


def test_masquerading_keeps_a_port_that_is_free_and_gives_another_when_it_is_taken(built: Cluster) -> None:
    def serve() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((str(OUTSIDE), 5300))
        server.settimeout(2)
        return server

    def connect() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind(("0.0.0.0", 40000))
        client.connect((str(OUTSIDE), 5300))
        client.settimeout(2)
        return client

    node = str(built.lab.node("node1").address.ip)
    with inside(built.namespace("outside"), serve) as server:
        sources = []
        for who in ("a", "b", "node1"):
            with inside(built.namespace(who), connect) as client:
                for _ in range(2):
                    client.send(who.encode())
                    text, source = server.recvfrom(100)
                    assert text == who.encode()
                    server.sendto(b"to " + text, source)
                    assert client.recv(100) == b"to " + text
            sources.append(source)
    assert [address for address, _ in sources] == [node] * 3
    assert sources[0][1] == 40000
    assert len({port for _, port in sources}) == 3


def test_the_outside_can_say_that_a_port_is_closed(built: Cluster) -> None:
    def knock() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.connect((str(OUTSIDE), 9))
            client.send(b"x")
            try:
                client.recv(10)
            except OSError as error:
                return type(error).__name__
        return "answered"

    assert inside(built.namespace("a"), knock) == "ConnectionRefusedError"


def test_arp_for_the_gateway_is_answered_with_the_lxcs_mac(built: Cluster) -> None:
    pod = built.lab.pod("a")
    built.run("a", "ip", "neigh", "flush", "dev", "eth0")
    taps = [("a", "eth0"), ("node1", pod.lxc), ("node1", CILIUM_HOST), ("node1", UPLINK)]
    with capturing(built, taps) as captured:
        ping_ttl(built, "a", "b")
        arps = {
            tap: [frame for frame in captured[tap]() if frame[12:14] == b"\x08\x06" and pod.address.packed in frame]
            for tap in taps
        }
    assert [int.from_bytes(frame[20:22], "big") for frame in arps["a", "eth0"]] == [1, 2]
    assert [int.from_bytes(frame[20:22], "big") for frame in arps["node1", pod.lxc]] == [1, 2]
    answer = arps["a", "eth0"][1]
    assert answer[22:28].hex(":") == pod.lxc_mac
    assert answer[28:32] == built.lab.node("node1").router.packed
    assert arps["node1", CILIUM_HOST] == arps["node1", UPLINK] == []
    neighbour = built.run("a", "ip", "neigh", "show", "dev", "eth0").stdout
    assert f"{built.lab.node('node1').router} lladdr {pod.lxc_mac}" in neighbour


@pytest.mark.parametrize("target", ["b", "c"])
def test_the_largest_packet_is_the_routes_mtu(built: Cluster, target: str) -> None:
    largest = built.lab.network.route_mtu - 28
    address = address_of(built, target)
    assert built.ping("a", address, "-M", "do", "-s", str(largest)).returncode == 0
    refused = built.ping("a", address, "-M", "do", "-s", str(largest + 1))
    assert refused.returncode == 1
    assert "message too long" in (refused.stderr + refused.stdout).lower()


def test_a_fragmented_ping_is_not_answered_and_its_second_fragment_is_counted(built: Cluster) -> None:
    before = counted(built, "node1")
    done = built.run("a", "ping", "-n", "-c", "1", "-W", "0.3", "-M", "dont", "-s", "1600", str(address_of(built, "c")))
    assert done.returncode == 1
    assert packets(difference(before, counted(built, "node1")), Program.FROM_CONTAINER, PacketVerdict.INVALID) == 1


@pytest.mark.parametrize("target", ["b", "c", "outside"])
def test_fragmented_udp_arrives(built: Cluster, target: str) -> None:
    def serve() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((str(address_of(built, target)), 5301))
        server.settimeout(2)
        return server

    def open_client() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(2)
        return client

    message = os.urandom(4000)
    with inside(built.namespace(target), serve) as server, inside(built.namespace("a"), open_client) as client:
        client.sendto(message, (str(address_of(built, target)), 5301))
        received, source = server.recvfrom(5000)
        assert received == message
        server.sendto(message[::-1], source)
        assert client.recv(5000) == message[::-1]


@pytest.mark.parametrize("target", ["b", "c", "outside", "node2"])
def test_tcp_carries_data_both_ways(built: Cluster, target: str) -> None:
    address = str(address_of(built, target))
    server = subprocess.Popen(
        ("nsenter", f"--net=/run/netns/{built.namespace(target)}", "iperf3", "-s", "-1", "-B", address),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 60
        while ":5201" not in built.run(target, "ss", "-Hltn").stdout:
            assert time.monotonic() < deadline, "the iperf3 server did not listen within 60 s"
            time.sleep(0.02)
        done = built.run("a", "iperf3", "-c", address, "-t", "1", "--bidir", "--json")
        report = json.loads(done.stdout)
        assert "error" not in report, report.get("error")
        for name in ("sum_sent", "sum_sent_bidir_reverse"):
            assert report["end"][name]["bytes"] > 10_000_000, name
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("source", ["a", "node1"])
@pytest.mark.parametrize("unknown", ["10.244.0.200", "10.244.1.200"])
def test_packets_to_an_unused_address_are_dropped_once_each_without_a_loop(
    built: Cluster, source: str, unknown: str
) -> None:
    count = 10

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(count):
                client.sendto(b"x", (unknown, 9))

    before = {node: counted(built, node) for node in ("node1", "node2")}
    inside(built.namespace(source), send)

    def dropped() -> int:
        after = (difference(before[node], counted(built, node)) for node in before)
        return sum(packets(metrics, Program.FROM_HOST, PacketVerdict.UNROUTABLE) for metrics in after)

    eventually(dropped, count)
    after = {node: difference(before[node], counted(built, node)) for node in before}
    # Seven programs on the longest way there. The last node may answer a few of them with an ICMP redirect, which has
    # as long a way back. A loop would show as up to 64 hops a packet.
    assert sum(m.packets for metrics in after.values() for m in metrics) <= 2 * 7 * count


def test_a_spoofed_source_address_is_dropped(built: Cluster) -> None:
    pod, victim, target = (built.lab.pod(name) for name in ("a", "b", "c"))
    frame = make_frame(
        source_mac=pod.mac,
        destination_mac=pod.lxc_mac,
        source=victim.address,
        destination=target.address,
        payload=echo_request(),
    )
    before = counted(built, "node1")
    with capturing(built, [("c", "eth0"), ("node1", UPLINK)]) as captured:
        inject(built, "a", frame)
        eventually(
            lambda: packets(
                difference(before, counted(built, "node1")), Program.FROM_CONTAINER, PacketVerdict.INVALID_SOURCE
            ),
            1,
        )
        assert [echoes(captured[tap](), 8) for tap in (("c", "eth0"), ("node1", UPLINK))] == [[], []]


@pytest.mark.parametrize("target", ["b", "node1"])
def test_a_packet_with_no_hop_left_is_dropped_and_counted(built: Cluster, target: str) -> None:
    before = counted(built, "node1")
    assert built.ping("a", address_of(built, target), "-t", "1", "-W", "0.2").returncode == 1
    assert packets(difference(before, counted(built, "node1")), Program.FROM_CONTAINER, PacketVerdict.TTL_EXCEEDED) == 3


def test_what_is_neither_ipv4_nor_arp_is_dropped_at_the_lxc(built: Cluster) -> None:
    pod = built.lab.pod("a")
    head = bytes.fromhex((pod.lxc_mac + pod.mac).replace(":", ""))
    before = counted(built, "node1")
    inject(built, "a", head + b"\x86\xdd" + bytes(40))
    eventually(
        lambda: packets(
            difference(before, counted(built, "node1")), Program.FROM_CONTAINER, PacketVerdict.UNSUPPORTED_L3
        ),
        1,
    )


def test_the_host_routing_helper_shows_in_the_counters(built: Cluster) -> None:
    routing, encapsulation = mode_of(built)
    before = {node: counted(built, node) for node in ("node1", "node2")}
    ping_ttl(built, "a", "c")
    grown = {node: difference(before[node], counted(built, node)) for node in before}
    into_pod = PacketVerdict.REDIRECT_PEER if routing is BPF else PacketVerdict.REDIRECT
    arrival = Program.FROM_OVERLAY if encapsulation is VXLAN else Program.FROM_NETDEV
    if (routing, encapsulation) == (LEGACY, NATIVE):
        assert packets(grown["node2"], Program.FROM_NETDEV, PacketVerdict.TO_STACK) >= 3
        arrival = Program.FROM_HOST
    assert packets(grown["node2"], arrival, into_pod) == 3
    leaving = {
        (LEGACY, VXLAN): PacketVerdict.TUNNEL,
        (BPF, VXLAN): PacketVerdict.TUNNEL,
        (LEGACY, NATIVE): PacketVerdict.TO_STACK,
        (BPF, NATIVE): PacketVerdict.REDIRECT_NEIGH,
    }[routing, encapsulation]
    assert packets(grown["node1"], Program.FROM_CONTAINER, leaving) == 3


def test_with_iptables_masquerading_the_programs_rewrite_nothing() -> None:
    lab = make_lab(BPF, NATIVE)
    lab = replace(lab, datapath=replace(lab.datapath, masquerade=Masquerade.IPTABLES))
    with cluster(lab) as built, capturing(built, [("outside", UPLINK)]) as captured:
        built.ping("a", OUTSIDE, "-W", "0.2")
        assert {frame.source for frame in echoes(captured["outside", UPLINK](), 8)} == {lab.pod("a").address}
        assert packets(counted(built, "node1"), Program.TO_NETDEV, PacketVerdict.MASQUERADED) == 0


@pytest.mark.parametrize("built", [mode for mode in MODES if mode[1] is VXLAN], ids="-".join, indirect=True)
def test_a_tunnelled_packet_that_claims_to_be_from_the_host_is_dropped(built: Cluster) -> None:
    a, c = built.lab.pod("a"), built.lab.pod("c")
    node1, node2 = built.lab.node("node1"), built.lab.node("node2")
    inner = make_frame(
        source_mac=a.mac,
        destination_mac=a.lxc_mac,
        source=a.address,
        destination=c.address,
        payload=echo_request(),
    )
    vxlan = b"\x08\0\0\0" + (1).to_bytes(3, "big") + b"\0" + inner
    udp = b"\xc3\x50\x21\x18" + (8 + len(vxlan)).to_bytes(2, "big") + b"\0\0" + vxlan
    outer = make_frame(
        source_mac=node1.mac,
        destination_mac=node2.mac,
        source=node1.address.ip,
        destination=node2.address.ip,
        payload=udp,
        protocol=17,
    )
    before = counted(built, "node2")
    with capturing(built, [("c", "eth0"), ("node2", CILIUM_VXLAN)]) as captured:
        inject(built, "node1", outer, device=UPLINK)
        eventually(
            lambda: packets(
                difference(before, counted(built, "node2")), Program.FROM_OVERLAY, PacketVerdict.INVALID_IDENTITY
            ),
            1,
        )
        eventually(lambda: len(echoes(captured["node2", CILIUM_VXLAN](), 8)), 1)
        assert echoes(captured["c", "eth0"](), 8) == []


def test_counters_name_the_device(built: Cluster) -> None:
    ping_ttl(built, "node1", "a")
    devices = {m.ifindex for m in counted(built, "node1") if m.program is Program.FROM_HOST}
    assert devices == {CILIUM_HOST_INDEX}


def inject(cluster: Cluster, part: str, frame: bytes, device: str = "eth0") -> None:
    """Sends the frame out of the device as it is."""

    def send(raw: bytes) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
            opened.bind((device, 0x0800))
            opened.send(raw)

    inside(cluster.namespace(part), partial(send, frame))
