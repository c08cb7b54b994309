"""Random connections from outside to a node's port in a live lab, captured at both ends and held against the model.

What `test_datapath_services` does with single programs, here the kernel does too: every packet of the client that was
captured at its own device must have come out at the backend's as the model says, and every answer at the client's. The
transport's checksums are left out: between namespaces they are filled in by nobody. Packets are small, since captures
keep the first 512 bytes; fragments are in `test_datapath_services`.
"""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from service_packets import ICMP, TCP, UDP, NodeModel, Packet, parse

from labctl.checks.captures import capturing, packets_left_behind, require_trustworthy
from labctl.engine.build import build, remove
from labctl.model.lab import Encapsulation, HostRouting, Lab, Outside, Service, ServiceProtocol, ServiceType
from labctl.model.signature import Role
from labctl.names import stable_mac
from labctl.providers.base import OpenLab, Tap
from labctl.providers.netns.provider import NetnsProvider
from labctl.testing.labs import sample_lab

pytestmark = pytest.mark.root

SENDER = textwrap.dedent(
    """
    import json, socket, sys
    host, flows = sys.argv[1], json.loads(sys.argv[2])
    for kind, node_port, port, size, tos, ttl in flows:
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        if kind != "tcp":
            one.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: fragments where they are needed
        one.settimeout(10)
        try:
            one.bind(("0.0.0.0", port))
            one.connect((host, node_port))
            one.sendall(bytes(number % 251 for number in range(size)))
            one.recv(65535)
        except OSError:
            pass
        one.close()
    """
)
SERVER = textwrap.dedent(
    """
    import socket, threading
    tcp = socket.create_server(("0.0.0.0", 5205), backlog=64)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("0.0.0.0", 5353))
    def datagrams():
        while True:
            data, peer = udp.recvfrom(65535)
            udp.sendto(data, peer)
    threading.Thread(target=datagrams, daemon=True).start()
    print("ready", flush=True)
    while True:
        one, _ = tcp.accept()
        try:
            one.sendall(one.recv(65535))
        except OSError:
            pass
        one.close()
    """
)
WORLD = IPv4Address("172.30.0.200")
WEB, NAMES, CLOSED = 30201, 30202, 30203


def service(number: int, name: str, target: int, protocol: ServiceProtocol) -> Service:
    return Service(
        name=name,
        address=IPv4Address("10.96.0.10") + number,
        port=80,
        target_port=target,
        protocol=protocol,
        backends=("server",),
        selector={},
        type=ServiceType.NODE_PORT,
        node_port=30200 + number,
    )


SERVICES = (
    service(1, "web", 5205, ServiceProtocol.TCP),
    service(2, "names", 5353, ServiceProtocol.UDP),
    service(3, "closed", 5999, ServiceProtocol.UDP),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    lab: Lab
    open_lab: OpenLab
    hops: tuple[int, int]
    """How much less the TTL is of a request in the pod, and of an answer at the client."""

    def taps(self) -> tuple[Tap, Tap]:
        world, server = self.open_lab.target("world"), self.open_lab.target("server")
        return (
            Tap(name="world:eth0", role=Role.CLIENT_ETH0, target=world, interface="eth0"),
            Tap(name="server:eth0", role=Role.SERVER_ETH0, target=server, interface="eth0"),
        )


HOPS = {HostRouting.BPF: (2, 2), HostRouting.LEGACY: (3, 3)}


@pytest.fixture(params=list(HostRouting))
def live(host_as_found: str, request: pytest.FixtureRequest) -> Iterator[Live]:
    plain = sample_lab(host_as_found, host_routing=request.param, encapsulation=Encapsulation.NATIVE)
    world = Outside(name="world", address=WORLD, mac=stable_mac("world", "eth0"))
    lab, provider = replace(plain, services=SERVICES, outside=(world,)), NetnsProvider()
    build(provider, lab, lambda event: None)
    try:
        with (
            provider.open(lab) as open_lab,
            open_lab.target("server").start((sys.executable, "-c", SERVER)) as server,
        ):
            server.wait_for_output("ready", timeout_s=60)
            yield Live(lab=lab, open_lab=open_lab, hops=HOPS[request.param])
    finally:
        remove(provider, lab.name, lambda event: None)


def captured(live: Live, flows: Sequence[Sequence[object]]) -> tuple[list[Packet], list[Packet]]:
    """Every IPv4 packet at the client's device, and at the backend's, in their order: without the reports on multicast
    groups (IGMP) that a bridge sends whenever it likes."""
    argv = (sys.executable, "-c", SENDER, str(live.lab.node("node1").address.ip), json.dumps(flows))
    with capturing(live.taps(), "ip and (tcp or udp or icmp)") as taken:
        done = live.open_lab.target("world").run(argv, timeout_s=300)
        assert done.returncode == 0, done.error_text
        time.sleep(1)
        captures = taken.stop()
    require_trustworthy(captures)
    assert not packets_left_behind(captures)
    world, server = ([parse(record.frame[14:]) for record in one.records()] for one in captures)
    return world, server


Key = tuple[int, bytes]
"""A protocol, and what is the same of a packet at both ends: identification; of TCP, where it may be 0, the numbers and
flags; of an ICMP error the identification of what it quotes."""


def key_of(packet: Packet) -> Key:
    if packet.protocol == TCP:
        return TCP, packet.payload[4:14] + len(packet.payload).to_bytes(2, "big")
    return packet.protocol, packet.payload[12:14] if packet.protocol == ICMP else packet.id.to_bytes(2, "big")


def by_key(packets: Sequence[Packet]) -> dict[Key, Packet]:
    return {key_of(packet): packet for packet in packets}


def require_all(there: dict[Key, Packet], here: dict[Key, Packet]) -> None:
    """Whatever came was sent, and what was sent came; the end of a TCP connection may be cut off by that of the
    capture."""
    assert set(here) <= set(there)
    assert all(key[0] == TCP and not packet.payload[13] & 0x02 for key, packet in there.items() if key not in here)


def without_sum(packet: Packet) -> Packet:
    at = {TCP: 16, UDP: 6, ICMP: 2}[packet.protocol]
    return replace(packet, payload=packet.payload[:at] + b"\0\0" + packet.payload[at + 2 :], has_sum=True)


ports, marks, ttls = st.integers(1024, 65535), st.sampled_from([0, 0x10, 0xB8]), st.integers(8, 255)
flow = st.one_of(
    st.tuples(st.just("tcp"), st.just(WEB), ports, st.integers(1, 300), marks, ttls),
    st.tuples(st.just("udp"), st.just(NAMES), ports, st.integers(1, 400), marks, ttls),
    st.tuples(st.just("udp"), st.just(CLOSED), ports, st.integers(20, 300), st.just(0), ttls),
)


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a history takes seconds: none is made smaller
)
@given(flows=st.lists(flow, min_size=3, max_size=10, unique_by=lambda one: one[2]))
def test_every_packet_at_both_ends_is_what_the_model_says(live: Live, flows: list[tuple[Any, ...]]) -> None:
    node, server = live.lab.node("node1").address.ip, live.lab.pod("server").address
    numbers = {ServiceProtocol.TCP: TCP, ServiceProtocol.UDP: UDP}
    model = NodeModel(
        services={
            (numbers[one.protocol], (node, one.node_port or 0)): ((server, one.target_port),) for one in SERVICES
        },
        local=frozenset(pod.address for pod in live.lab.pods_on("node1")),
        node_source=node,
    )
    at_world, at_server = captured(live, flows)
    sent = by_key([one for one in at_world if (one.source, one.destination) == (WORLD, node)])
    came = by_key([one for one in at_server if one.source == node])
    require_all(sent, came)
    for key, packet in sent.items():
        if key not in came:
            continue
        wanted = model.request(packet, packet.payload[13] if packet.protocol == TCP else 0, came[key])
        assert wanted is not None
        assert without_sum(came[key]) == without_sum(replace(wanted, ttl=packet.ttl - live.hops[0]))
    answers = by_key([one for one in at_server if one.source == server])
    # The underlay's bridge floods what it has not learned yet: other packets of the node come by, too.
    heard = by_key([one for one in at_world if (one.source, one.destination) == (node, WORLD)])
    require_all(answers, heard)
    of = {(one.protocol, one.inner_client): one for one in model.connections.values()}
    errors = 0
    for key, packet in answers.items():
        if key not in heard:
            continue
        if packet.protocol == ICMP:
            errors += 1
            require_error(heard[key], packet, sent, live)
            continue
        connection = of[packet.protocol, packet.ends[1]]
        wanted = model.reply(connection, packet, packet.payload[13] if packet.protocol == TCP else 0)
        assert without_sum(heard[key]) == without_sum(replace(wanted, ttl=packet.ttl - live.hops[1]))
    assert errors <= sum(one[1] == CLOSED for one in flows)


def require_error(heard: Packet, told: Packet, sent: dict[Key, Packet], live: Live) -> None:
    """The client gets the error about what it sent itself, from the address that it sent to."""
    assert (heard.source, heard.destination) == (live.lab.node("node1").address.ip, WORLD)
    assert heard.ttl == told.ttl - live.hops[1]
    quoted = heard.payload[8:]
    original = sent[UDP, quoted[4:6]].bytes()
    assert quoted[12:20] == original[12:20]  # addresses
    assert quoted[20:26] == original[20:26]  # ports and length
    assert quoted[28:] == original[28 : len(quoted)]
    assert len(heard.payload) == len(told.payload)
