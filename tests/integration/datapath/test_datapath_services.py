"""The programs that translate Services, on random packets, held against a model of them in Python (`service_packets`).

`BPF_PROG_TEST_RUN` runs a program on one packet without sending it; the routes that it asks the kernel for are those of
a namespace made here. Every byte of what comes out is compared: addresses, ports, TTL, checksums, payload, MACs.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_packets import (
    ACK,
    FIN,
    FIRST_NAT_PORT,
    ICMP,
    RST,
    SYN,
    TCP,
    UDP,
    Connection,
    End,
    NodeModel,
    Packet,
    icmp_error,
    parse,
    reassembled,
    transport,
)

from labctl.datapath import bpf
from labctl.datapath.layout import PacketVerdict, read_metrics
from labctl.datapath.loader import LoadedDatapath, load
from labctl.datapath.service_maps import FLOW_ENTRY, collect_expired, flows
from labctl.model.interfaces import UPLINK_INDEX, lxc_indexes
from labctl.model.lab import (
    Encapsulation,
    HostRouting,
    Lab,
    Masquerade,
    Service,
    ServiceProtocol,
    ServiceType,
    TrafficPolicy,
)
from labctl.networks.cilium.contents import map_contents
from labctl.system import netns
from labctl.testing import labs
from labctl.testing.packets import checksum

pytestmark = pytest.mark.root

NODE, OTHER = IPv4Address("172.30.0.3"), IPv4Address("172.30.0.4")
NEAR_POD, FAR_POD = IPv4Address("10.244.0.11"), IPv4Address("10.244.1.10")
CLIENTS = [IPv4Address(f"172.30.0.{last}") for last in (200, 201)]
OK, SHOT, REDIRECT = 0, 2, 7
MARK_AT = 8
"""Where `struct __sk_buff` has the mark."""
CLIENT_MAC, NODE_MAC = "02:00:00:00:00:aa", "02:00:00:00:00:03"


def service(name: str, number: int, protocol: ServiceProtocol, backends: tuple[str, ...], **more: Any) -> Service:
    return Service(
        name=name,
        address=IPv4Address("10.96.0.10") + number,
        port=80,
        target_port=5205 if protocol is ServiceProtocol.TCP else 5353,
        protocol=protocol,
        backends=backends,
        selector={},
        type=ServiceType.NODE_PORT,
        node_port=30200 + number,
        **more,
    )


SERVICES = (
    service("web", 1, ServiceProtocol.TCP, ("b", "c")),
    service("again", 2, ServiceProtocol.TCP, ("b", "c")),
    service("names", 3, ServiceProtocol.UDP, ("b", "c")),
    service("near", 4, ServiceProtocol.TCP, ("a", "b")),
    service("local", 5, ServiceProtocol.TCP, ("c",), external_traffic_policy=TrafficPolicy.LOCAL),
    service("nobody", 6, ServiceProtocol.UDP, ()),
    service("far", 7, ServiceProtocol.TCP, ("c",)),
    service("far-names", 8, ServiceProtocol.UDP, ("c",)),
)


def make_lab(host_routing: HostRouting, *, masquerade: Masquerade = Masquerade.BPF) -> Lab:
    pods = (
        labs.make_pod("a", "node1", "10.244.0.10", identity=16843),
        labs.make_pod("b", "node1", str(NEAR_POD), identity=11528),
        labs.make_pod("c", "node2", str(FAR_POD), identity=23579),
    )
    nodes = (labs.make_node(index, host=index + 3) for index in range(2))
    made = labs.make_lab(
        "services-test",
        nodes,
        pods,
        host_routing=host_routing,
        encapsulation=Encapsulation.NATIVE,
        masquerade=masquerade,
        socket_lb=False,
    )
    return replace(made, services=SERVICES)


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


@dataclass(slots=True)
class Node:
    """One node's programs in a namespace with its devices and routes, and nothing behind them."""

    lab: Lab
    loaded: LoadedDatapath
    home: int

    def run(
        self,
        program: str,
        device: int,
        packet: Packet,
        *,
        macs: tuple[str, str] = (CLIENT_MAC, NODE_MAC),
        mark: int = 0,
    ) -> Ran:
        context = bytearray(192)
        struct.pack_into("=I", context, MARK_AT, mark)
        struct.pack_into("=I", context, 40, device)
        frame = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in reversed(macs)) + b"\x08\0" + packet.bytes()
        with netns.entered(self.home):
            ran = bpf.run_program(self.loaded.programs[program], frame, context=bytes(context))
        (left,) = struct.unpack_from("=I", ran.context, MARK_AT)
        return Ran(ran.returned, ran.packet[:12].hex(":"), ran.packet[14:], left)

    def forget(self) -> None:
        for name in ("ct", "fragments", "snat"):
            descriptor = self.loaded.maps[name]
            for key in list(bpf.keys(descriptor, bpf.map_info(descriptor).key_size)):
                bpf.delete(descriptor, key)


@dataclass(frozen=True, slots=True)
class Ran:
    action: int
    macs: str
    data: bytes
    mark: int

    @property
    def packet(self) -> Packet:
        return parse(self.data)


@contextlib.contextmanager
def node_of(lab: Lab) -> Iterator[Node]:
    indexes = lxc_indexes(lab, "node1")
    with contextlib.ExitStack() as stack:
        with netns.throwaway():
            home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, home)
            ip("link", "set", "lo", "up")
            devices = {"eth0": UPLINK_INDEX, **{lab.pod(name).lxc: index for name, index in indexes.items()}}
            for name, index in devices.items():
                ip("link", "add", name, "index", str(index), "up", "type", "veth", "peer", "name", f"far{index}")
                ip("link", "set", f"far{index}", "up")
            subprocess.run(("sysctl", "-qw", "net.ipv4.ip_forward=1"), check=True)
            ip("address", "add", f"{NODE}/24", "dev", "eth0")
            ip("route", "add", "10.244.1.0/24", "via", str(OTHER), "dev", "eth0")
            loaded = stack.enter_context(load(lab.datapath.host_routing, Encapsulation.NATIVE, "lb"))
            for name, entries in map_contents(lab, "node1").items():
                bpf.update(loaded.maps[name], entries)
            for pod in lab.pods:
                index = indexes.get(pod.name, UPLINK_INDEX)
                bpf.update(loaded.maps["alive"], [(pod.address.packed, index.to_bytes(4, "little"))])
        yield Node(lab=lab, loaded=loaded, home=home)


@pytest.fixture(scope="module", params=list(HostRouting))
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    with node_of(make_lab(request.param)) as made:
        yield made


def backends_of(lab: Lab, one: Service, *, on: str = "") -> tuple[End, ...]:
    pods = [lab.pod(name) for name in one.backends]
    return tuple((pod.address, one.target_port) for pod in pods if on in ("", pod.node))


def number_of(one: Service) -> int:
    return TCP if one.protocol is ServiceProtocol.TCP else UDP


def require_same(came: Packet, wanted: Packet) -> None:
    """Every field; of checksums that they are right, since 0 and 0xffff are one number in them."""
    assert replace(came, payload=b"", has_sum=True) == replace(wanted, payload=b"", has_sum=True)
    at = {TCP: 16, UDP: 6, ICMP: 2}[wanted.protocol]
    if came.fragment & 0x1FFF:
        assert came.payload == wanted.payload
        return
    blank = [one.payload[:at] + b"\0\0" + one.payload[at + 2 :] for one in (came, wanted)]
    assert blank[0] == blank[1]
    sums = [struct.unpack_from("!H", one.payload, at)[0] for one in (came, wanted)]
    assert sums[0] == sums[1] or set(sums) == {0, 0xFFFF}, "the transport's checksum is wrong"


ports = st.one_of(st.sampled_from([1024, 30201, 32768, 40000, 65535]), st.integers(1, 65535))
bodies = st.binary(max_size=64) | st.integers(0, 1300).map(lambda size: b"\xa5" * size)
headers = st.fixed_dictionaries(
    {"tos": st.sampled_from([0, 0x10, 0xB8]), "id": st.integers(1, 65535), "ttl": st.integers(2, 255)}
)
flags_of_tcp = st.sampled_from([SYN, SYN, ACK, ACK | FIN, RST, SYN | ACK])
acts = st.lists(
    st.tuples(
        st.sampled_from(["request", "request", "own", "reply", "error", "error back", "fragments", "stranger"]),
        st.integers(0, 63),
        st.sampled_from(CLIENTS),
        ports,
        bodies,
        headers,
        flags_of_tcp,
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


FAR: tuple[tuple[int, End], ...] = ((TCP, (FAR_POD, 5205)), (UDP, (FAR_POD, 5353)))
"""What the node's own connections go to: what it relays to, too."""

PODS: tuple[tuple[int, End], ...] = (*FAR, (TCP, (NEAR_POD, 5205)), (UDP, (NEAR_POD, 5353)))


def is_own(of: Connection) -> bool:
    return of.client[0] == NODE


class NodePortRun:
    """One random history of packets from outside to a node's ports, of the node's own to the same backends, and of the
    answers."""

    def __init__(self, node: Node) -> None:
        self.node, self.lab = node, node.lab
        self.is_bpf = node.lab.datapath.host_routing is HostRouting.BPF
        self.open = [one for one in SERVICES if one.external_traffic_policy is TrafficPolicy.CLUSTER and one.backends]
        self.model = NodeModel(
            services={
                (number_of(one), (NODE, one.node_port or 0)): backends_of(
                    self.lab, one, on="node1" if one.external_traffic_policy is TrafficPolicy.LOCAL else ""
                )
                for one in SERVICES
            }
            | {(number, end): (end,) for number, end in FAR},
            local=frozenset(pod.address for pod in self.lab.pods_on("node1")),
            node_source=NODE,
        )
        self.seen = Counter[str]()

    def carry_out(self, act: tuple[Any, ...]) -> None:
        kind, which, client, port, body, header, flags, has_sum = act
        one = self.open[which % len(self.open)]
        connections = list(self.model.connections.values())
        if kind == "request":
            self.request(one, (client, port), body, header, flags, has_sum)
        elif kind == "own":
            self.own(FAR[which % len(FAR)], port, body, header, flags, has_sum)
        elif kind == "fragments":
            self.fragments(one, (client, port), body, header, has_sum)
        elif kind == "stranger":
            self.stranger((client, port), body, header)
        elif connections:
            chosen = connections[which % len(connections)]
            {"reply": self.reply, "error": self.error, "error back": self.error_back}[kind](
                chosen, body, header, flags, has_sum
            )
        self.seen[kind] += 1

    def request(
        self, one: Service, client: End, body: bytes, header: dict[str, Any], flags: int, has_sum: bool
    ) -> None:
        protocol, asked = number_of(one), (NODE, one.node_port or 0)
        sent = transport(client, asked, protocol, body, flags=flags, has_sum=has_sum or protocol == TCP, **header)
        ran = self.node.run("cil_from_netdev", UPLINK_INDEX, sent)
        wanted = self.model.request(sent, flags, ran.packet)
        assert wanted is not None
        self.require_to_backend(ran, wanted)

    def own(
        self, to: tuple[int, End], port: int, body: bytes, header: dict[str, Any], flags: int, has_sum: bool
    ) -> None:
        """The node itself to another node's pod: its packets are its own, whatever it relays."""
        protocol, backend = to
        has_sum = has_sum or protocol == TCP
        sent = transport((NODE, port), backend, protocol, body, flags=flags, has_sum=has_sum, **header)
        ran = self.node.run("cil_to_netdev", UPLINK_INDEX, sent, macs=(NODE_MAC, CLIENT_MAC))
        wanted: Packet | None = sent
        if port >= FIRST_NAT_PORT:  # others are never given to what is relayed
            wanted = self.model.request(sent, flags, ran.packet)
        assert wanted is not None
        assert ran.action == OK
        require_same(ran.packet, wanted)

    def require_to_backend(self, ran: Ran, wanted: Packet) -> None:
        pod = next(pod for pod in self.lab.pods if pod.address == wanted.destination)
        if pod.node != "node1":
            assert (ran.action, ran.macs) == (REDIRECT, f"{NODE_MAC}:{CLIENT_MAC}")
            require_same(ran.packet, replace(wanted, ttl=wanted.ttl - 1))
        elif self.is_bpf:
            assert (ran.action, ran.macs) == (REDIRECT, f"{pod.mac}:{pod.lxc_mac}")
            require_same(ran.packet, replace(wanted, ttl=wanted.ttl - 1))
        else:
            assert ran.action == OK  # the stack takes it from here
            require_same(ran.packet, wanted)

    def fragments(self, one: Service, client: End, body: bytes, header: dict[str, Any], has_sum: bool) -> None:
        protocol, asked = number_of(one), (NODE, one.node_port or 0)
        whole = transport(
            client, asked, protocol, body + bytes(64), flags=ACK, has_sum=has_sum or protocol == TCP, **header
        )
        came = [self.node.run("cil_from_netdev", UPLINK_INDEX, part) for part in whole.fragments(32)]
        joined = reassembled([ran.packet for ran in came])
        wanted = self.model.request(whole, ACK, joined)
        assert wanted is not None
        for ran, part in zip(came, replace(wanted, fragment=0).fragments(32), strict=True):
            self.require_to_backend(ran, part)

    def stranger(self, client: End, body: bytes, header: dict[str, Any]) -> None:
        """A port that is no Service's: not touched."""
        sent = transport(client, (NODE, 31999), UDP, body, **header)
        ran = self.node.run("cil_from_netdev", UPLINK_INDEX, sent)
        assert (ran.action, ran.data) == (OK, sent.bytes())

    def answer(self, of: Connection, sent: Packet) -> Ran:
        """What the backend's node does with what it sends, if it is this one; else what comes to the uplink."""
        pod = next(pod for pod in self.lab.pods if pod.address == of.backend[0])
        if pod.node == "node1":
            device = lxc_indexes(self.lab, "node1")[pod.name]
            return self.node.run("cil_from_container", device, sent, macs=(pod.mac, pod.lxc_mac))
        return self.node.run("cil_from_netdev", UPLINK_INDEX, sent)

    def reply(self, of: Connection, body: bytes, header: dict[str, Any], flags: int, has_sum: bool) -> None:
        sent = transport(
            of.backend,
            of.inner_client,
            of.protocol,
            body,
            flags=flags | ACK,
            has_sum=has_sum or of.protocol == TCP,
            **header,
        )
        ran = self.answer(of, sent)
        wanted = self.model.reply(of, sent, flags | ACK)
        assert ran.action == (OK if is_own(of) else REDIRECT)
        require_same(ran.packet, replace(wanted, ttl=wanted.ttl - (not is_own(of))))

    def error(self, of: Connection, body: bytes, header: dict[str, Any], flags: int, has_sum: bool) -> None:
        """The backend, or a router before it, reports an error about a request."""
        outer = transport(
            of.client, of.asked, of.protocol, body, flags=flags, has_sum=has_sum or of.protocol == TCP, **header
        )
        inner = outer.with_tuple(of.inner_client, of.backend)
        reporter = of.backend[0] if has_sum or of.backend[0] in self.model.local else OTHER
        sent = icmp_error(reporter, of.inner_client[0], inner, kind=3, code=3 if has_sum else 4)
        ran = self.answer(of, sent)
        told = of.asked[0] if reporter == of.backend[0] else reporter
        wanted = icmp_error(told, of.client[0], outer, kind=3, code=3 if has_sum else 4)
        assert ran.action == (OK if is_own(of) else REDIRECT)
        self.require_error(ran.packet, replace(wanted, ttl=sent.ttl - (not is_own(of))), of)

    def error_back(self, of: Connection, body: bytes, header: dict[str, Any], flags: int, has_sum: bool) -> None:
        """The client reports an error about an answer."""
        inner = transport(
            of.backend, of.inner_client, of.protocol, body, flags=ACK, has_sum=has_sum or of.protocol == TCP, **header
        )
        outer = inner.with_tuple(of.asked, of.client)
        sent = icmp_error(of.client[0], of.asked[0], outer, kind=11, code=1)
        wanted = icmp_error(of.inner_client[0], of.backend[0], inner, kind=11, code=1)
        if is_own(of):
            ran = self.node.run("cil_to_netdev", UPLINK_INDEX, sent, macs=(NODE_MAC, CLIENT_MAC))
            assert ran.action == OK
            self.require_error(ran.packet, wanted, of)
            return
        ran = self.node.run("cil_from_netdev", UPLINK_INDEX, sent)
        is_local = of.backend[0] in self.model.local
        assert ran.action == (OK if is_local and not self.is_bpf else REDIRECT)
        self.require_error(ran.packet, replace(wanted, ttl=sent.ttl - (is_local is False or self.is_bpf)), of)

    def require_error(self, came: Packet, wanted: Packet, of: Connection) -> None:
        assert checksum(came.payload) in (0, 0xFFFF), "the ICMP checksum is wrong"
        assert checksum(came.payload[8:28]) in (0, 0xFFFF), "the quoted header's checksum is wrong"
        require_same(came, wanted)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=acts)
def test_node_ports_treat_every_packet_as_the_model_says(node: Node, history: list[tuple[Any, ...]]) -> None:
    node.forget()
    run = NodePortRun(node)
    for act in history:
        run.carry_out(act)


@pytest.mark.parametrize("is_own_first", [False, True], ids=["relayed-first", "own-first"])
@pytest.mark.parametrize("far", FAR, ids=["tcp", "udp"])
def test_the_nodes_own_connection_and_a_relayed_one_never_get_each_others_answers(
    node: Node, far: tuple[int, End], is_own_first: bool
) -> None:
    """Both have the node's address, the same source port and the same backend. Whichever begins later gets another
    port; both are answered."""
    protocol, backend = far
    one = next(
        one for one in SERVICES if one.backends == ("c",) and number_of(one) == protocol and one.name.startswith("far")
    )
    ways = {
        "relayed": ((CLIENTS[0], 40000), (NODE, one.node_port or 0), "cil_from_netdev", (CLIENT_MAC, NODE_MAC)),
        "own": ((NODE, 40000), backend, "cil_to_netdev", (NODE_MAC, CLIENT_MAC)),
    }
    node.forget()
    given: dict[str, End] = {}
    for way in sorted(ways, reverse=not is_own_first):
        source, asked, program, macs = ways[way]
        sent = transport(source, asked, protocol, b"", flags=SYN)
        came = node.run(program, UPLINK_INDEX, sent, macs=macs).packet
        given[way], to = came.ends
        assert to == backend
    first, second = (given[way] for way in sorted(ways, reverse=not is_own_first))
    assert first == (NODE, 40000)
    assert second[0] == NODE
    assert second[1] >= FIRST_NAT_PORT
    assert second[1] != 40000
    for way, end in given.items():
        source, asked, _, _ = ways[way]
        ran = node.run("cil_from_netdev", UPLINK_INDEX, transport(backend, end, protocol, b"", flags=SYN | ACK))
        assert ran.packet.ends == (asked, source)
        assert ran.action == (OK if way == "own" else REDIRECT)


def test_what_is_relayed_is_known_by_its_mark_on_its_way_out(node: Node) -> None:
    """It has the source that a connection of the node's own would have: only the mark tells them apart."""
    node.forget()
    one = next(one for one in SERVICES if one.name == "far")
    sent = transport((CLIENTS[0], 40000), (NODE, one.node_port or 0), TCP, b"", flags=SYN)
    ran = node.run("cil_from_netdev", UPLINK_INDEX, sent)
    assert ran.mark
    out = node.run("cil_to_netdev", UPLINK_INDEX, ran.packet, mark=ran.mark)
    assert (out.action, out.data) == (OK, ran.data)
    assert node.run("cil_to_netdev", UPLINK_INDEX, ran.packet).packet.ends[0][1] != 40000  # the node's own


class PodRun:
    """One random history of what a pod sends to Services and to pods when its sockets are left alone, and of the
    answers."""

    def __init__(self, node: Node) -> None:
        self.node, self.lab = node, node.lab
        self.pod = node.lab.pod("a")
        self.device = lxc_indexes(node.lab, "node1")["a"]
        self.model = NodeModel(
            services={(number_of(one), (one.address, one.port)): backends_of(self.lab, one) for one in SERVICES}
            | {(number, end): (end,) for number, end in PODS},
            local=frozenset(pod.address for pod in self.lab.pods_on("node1")),
            node_source=IPv4Address(0),
        )

    def request(self, one: Service, port: int, body: bytes, header: dict[str, Any], flags: int) -> None:
        sent = transport((self.pod.address, port), (one.address, one.port), number_of(one), body, flags=flags, **header)
        ran = self.node.run("cil_from_container", self.device, sent, macs=(self.pod.mac, self.pod.lxc_mac))
        if not one.backends:
            assert ran.action == REDIRECT  # back to the pod, as an ICMP error
            came = ran.packet
            assert (came.source, came.destination, came.protocol) == (one.address, self.pod.address, ICMP)
            assert came.payload[:2] == b"\x03\x03"
            assert checksum(came.payload) in (0, 0xFFFF)
            assert came.payload[8:] == sent.bytes()[:28]
            return
        self.require_forwarded(ran, self.model.request(sent, flags, ran.packet))

    def direct(self, to: tuple[int, End], port: int, body: bytes, header: dict[str, Any], flags: int) -> None:
        """To a pod itself: its packets stay as they are, unless a Service's connection has the same port."""
        sent = transport((self.pod.address, port), to[1], to[0], body, flags=flags, **header)
        ran = self.node.run("cil_from_container", self.device, sent, macs=(self.pod.mac, self.pod.lxc_mac))
        self.require_forwarded(ran, self.model.request(sent, flags, ran.packet))

    def require_forwarded(self, ran: Ran, wanted: Packet | None) -> None:
        assert wanted is not None
        is_local = wanted.destination in self.model.local
        forwards = self.lab.datapath.host_routing is HostRouting.BPF
        assert ran.action == (REDIRECT if is_local or forwards else OK)
        require_same(ran.packet, replace(wanted, ttl=wanted.ttl - 1))

    def reply(self, of: Connection, body: bytes, header: dict[str, Any], flags: int) -> None:
        sent = transport(of.backend, of.inner_client, of.protocol, body, flags=flags | ACK, **header)
        wanted = self.model.reply(of, sent, flags | ACK)
        owner = next(pod for pod in self.lab.pods if pod.address == of.backend[0])
        if owner.node == "node1":
            device = lxc_indexes(self.lab, "node1")[owner.name]
            ran = self.node.run("cil_from_container", device, sent, macs=(owner.mac, owner.lxc_mac))
        elif self.lab.datapath.host_routing is HostRouting.BPF:
            ran = self.node.run("cil_from_netdev", UPLINK_INDEX, sent)
        else:
            ran = self.node.run("cil_from_host", UPLINK_INDEX, sent)
        assert (ran.action, ran.macs) == (REDIRECT, f"{self.pod.mac}:{self.pod.lxc_mac}")
        require_same(ran.packet, replace(wanted, ttl=wanted.ttl - 1))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=acts)
def test_pods_packets_are_treated_as_the_model_says(node: Node, history: list[tuple[Any, ...]]) -> None:
    node.forget()
    run = PodRun(node)
    for kind, which, _, port, body, header, flags, _ in history:
        connections = list(run.model.connections.values())
        if kind in ("reply", "error", "error back") and connections:
            run.reply(connections[which % len(connections)], body, header, flags)
        elif kind == "own":
            run.direct(PODS[which % len(PODS)], port, body, header, flags)
        else:
            run.request(SERVICES[which % len(SERVICES)], port, body, header, flags)


def test_backends_are_chosen_evenly(node: Node) -> None:
    """1,000 connections to two backends: a share beyond 440 to 560 has a chance below 1 in 5,000."""
    node.forget()
    chosen = Counter[IPv4Address]()
    for number in range(1000):
        sent = transport((CLIENTS[0], 33000 + number), (NODE, 30201), TCP, b"")
        chosen[node.run("cil_from_netdev", UPLINK_INDEX, sent).packet.destination] += 1
    assert set(chosen) == {pod.address for pod in node.lab.pods if pod.name in ("b", "c")}
    assert all(440 <= count <= 560 for count in chosen.values()), chosen


def test_a_backend_without_its_device_is_not_chosen(node: Node) -> None:
    node.forget()
    gone = node.lab.pod("b").address.packed
    alive = node.loaded.maps["alive"]
    assert bpf.delete(alive, gone)
    try:
        for number in range(50):
            sent = transport((CLIENTS[0], 33000 + number), (NODE, 30201), TCP, b"")
            ran = node.run("cil_from_netdev", UPLINK_INDEX, sent)
            assert ran.packet.destination == node.lab.pod("c").address
    finally:
        with netns.entered(node.home):
            index = lxc_indexes(node.lab, "node1")["b"]
            bpf.update(alive, [(gone, index.to_bytes(4, "little"))])


def test_the_kernel_removes_a_backend_together_with_its_device() -> None:
    lab = make_lab(HostRouting.BPF)
    with node_of(lab) as made:
        before = {key for key, _ in bpf.dump(made.loaded.maps["alive"])}
        with netns.entered(made.home):
            ip("link", "delete", lab.pod("b").lxc)
        after = {key for key, _ in bpf.dump(made.loaded.maps["alive"])}
    assert before - after == {lab.pod("b").address.packed}


def test_a_connection_that_has_expired_begins_anew_and_is_collected(node: Node) -> None:
    node.forget()
    sent = transport((CLIENTS[0], 40001), (NODE, 30203), UDP, b"x")
    assert node.run("cil_from_netdev", UPLINK_INDEX, sent).action in (OK, REDIRECT)
    ct = node.loaded.maps["ct"]
    assert len(list(flows(ct))) == 2
    assert collect_expired(ct) == 0
    for key, (value,) in list(bpf.dump(ct)):
        bpf.update(ct, [(key, struct.pack("<Q", 1) + value[8:])])
    assert len(value) == FLOW_ENTRY.size
    assert node.run("cil_from_netdev", UPLINK_INDEX, sent).action in (OK, REDIRECT)
    assert all(flow.expires_ns > 1 for flow in flows(ct))
    assert collect_expired(ct, now_ns=2**62) == 2
    assert list(flows(ct)) == []


def test_without_a_local_backend_the_client_is_told_and_masquerading_in_ebpf_drops_the_message(node: Node) -> None:
    """Recorded on Cilium v1.16.0-rc.0: the datapath's own ICMP error leaves only where iptables masquerades."""
    node.forget()
    sent = transport((CLIENTS[0], 40001), (NODE, 30205), TCP, b"")
    ran = node.run("cil_from_netdev", UPLINK_INDEX, sent)
    assert ran.action == REDIRECT
    came = ran.packet
    assert (came.source, came.destination, came.protocol, came.ttl) == (NODE, CLIENTS[0], ICMP, 64)
    assert came.payload[:2] == b"\x03\x03"
    assert checksum(came.payload) in (0, 0xFFFF)
    assert came.payload[8:] == sent.bytes()[:40]
    assert ran.macs == f"{CLIENT_MAC}:{NODE_MAC}"
    told = {metric.verdict for metric in read_metrics(node.loaded.maps["metrics"])}
    assert PacketVerdict.NO_BACKEND_ANSWERED in told
