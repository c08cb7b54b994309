"""`labctl trace` and `capture` of connections to Services on real labs: every tap shows what was recorded on a real
cluster, in each of the four cells, and who translated is named with what he made of it."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from tracing_labs import needs, tshark

from labctl.datapath.layout import PacketVerdict, Program, read_metrics
from labctl.engine.build import build, remove
from labctl.engine.trace import pair_between, protocol_for, trace
from labctl.model.lab import (
    Encapsulation,
    HostRouting,
    Lab,
    Masquerade,
    Outside,
    Service,
    ServiceProtocol,
    ServiceType,
    TrafficPolicy,
)
from labctl.model.signature import Role
from labctl.model.trace import ProbeProtocol, Trace, Translator, Way
from labctl.names import namespace_of, stable_mac
from labctl.providers.base import OpenLab
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.watch import node_maps
from labctl.testing.labs import RECORDED, sample_lab

pytestmark = needs

BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE


def service(number: int, name: str, backends: tuple[str, ...], *, udp: bool = False, **more: Any) -> Service:
    return Service(
        name=name,
        address=IPv4Address("10.96.0.10") + number,
        port=80,
        target_port=5205,
        protocol=ServiceProtocol.UDP if udp else ServiceProtocol.TCP,
        backends=backends,
        selector={},
        type=ServiceType.NODE_PORT,
        node_port=30200 + number,
        **more,
    )


SERVICES = (
    service(1, "far", ("server",)),
    service(2, "near", ("neighbour",)),
    service(3, "names", ("server",), udp=True),
    service(4, "local", ("server",), external_traffic_policy=TrafficPolicy.LOCAL),
    service(5, "self", ("client",)),
    service(6, "nobody", ()),
    service(7, "both", ("neighbour", "server")),
)


@contextmanager
def lab_with_services(
    name: str, host_routing: HostRouting, encapsulation: Encapsulation, **datapath: Any
) -> Iterator[tuple[Lab, OpenLab]]:
    plain = sample_lab(name, host_routing=host_routing, encapsulation=encapsulation, **datapath)
    beyond = Outside(name="world", address=IPv4Address("172.30.0.200"), mac=stable_mac("world", "eth0"))
    lab, provider = replace(plain, services=SERVICES, outside=(beyond,)), NetnsProvider()
    build(provider, lab, lambda event: None)
    try:
        with provider.open(lab) as open_lab:
            yield lab, open_lab
    finally:
        remove(provider, lab.name, lambda event: None)


def traced(lab: Lab, open_lab: OpenLab, client: str, server: str, *, count: int = 1) -> Trace:
    pair = pair_between(lab, client, server)
    return trace(open_lab, pair, protocol=protocol_for(lab, pair), count=count)


def told(found: Trace, way: Way = Way.REQUEST) -> list[tuple[Translator, str, str]]:
    return [(one.by, one.node, one.what) for one in found.translations if one.way is way]


CELLS = [(mode, how) for mode in HostRouting for how in RECORDED]


@pytest.mark.parametrize(
    ("host_routing", "encapsulation"),
    [
        (HostRouting.BPF, Encapsulation.NATIVE),
        (HostRouting.LEGACY, Encapsulation.VXLAN),
        pytest.param(HostRouting.BPF, Encapsulation.VXLAN, marks=pytest.mark.thorough),
        pytest.param(HostRouting.LEGACY, Encapsulation.NATIVE, marks=pytest.mark.thorough),
    ],
)
def test_every_tap_shows_what_was_recorded(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    with lab_with_services(host_as_found, host_routing, encapsulation) as (lab, open_lab):
        ways = {
            (client, server): traced(lab, open_lab, client, server)
            for client, server in (
                ("world", "far@node1"),
                ("world", "far@node2"),
                ("world", "names@node1"),
                ("client", "far"),
                ("client", "near"),
                ("client", "far@node2"),
                ("node1", "far"),
                ("node1", "near"),
            )
        }
    wrong = {way: found.wrong.sentence for way, found in ways.items() if found.wrong is not None}
    assert not wrong
    assert all(found.expected_source and found.replied == 1 for found in ways.values())
    for (client, server), found in ways.items():
        at = server.partition("@")[2] if client == "world" else "node1"
        by, what = (Translator.TC, "cil_from_netdev") if client == "world" else (Translator.SOCKET, "cil_sock4_connect")
        assert told(found) == [(by, at, what)], (client, server)
    back = "cil_from_overlay" if encapsulation is VXLAN else "cil_from_netdev"
    assert told(ways["world", "far@node1"], Way.REPLY) == [(Translator.TC, "node1", back)]
    assert told(ways["world", "far@node2"], Way.REPLY) == [(Translator.TC, "node2", "cil_from_container")]
    (one,) = (one for one in ways["world", "far@node1"].translations if one.way is Way.REQUEST)
    pod, asked = lab.pod("server").address, lab.node("node1")
    source = asked.router if encapsulation is VXLAN else asked.address.ip
    assert one.before.endswith(f" → {asked.address.ip}:30201")
    assert one.after == f"{source}:{one.before.split()[0].rpartition(':')[2]} → {pod}:5205"
    assert (one.service, one.backend) == ("far", "server")


@pytest.mark.thorough
@pytest.mark.parametrize(("host_routing", "encapsulation"), CELLS, ids=lambda one: str(one))
def test_packets_are_translated_where_they_enter_the_node_when_sockets_are_not(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    with lab_with_services(host_as_found, host_routing, encapsulation, socket_lb=False) as (lab, open_lab):
        near, far = (traced(lab, open_lab, "client", server) for server in ("near", "far"))
        node = traced(lab, open_lab, "node1", "far")
    for found in (near, far):
        assert found.wrong is None, found.wrong
        assert told(found) == [(Translator.TC, "node1", "cil_from_container")]
        first, second = found.of(Way.REQUEST)[0].hops[0], found.of(Way.REQUEST)[0].hops[-1]
        assert (first.dst, second.dst) == (found.server_address, str(lab.pod(found.translations[0].backend).address))
        assert told(found, Way.REPLY)
    assert told(node) == [(Translator.SOCKET, "node1", "cil_sock4_connect")]


def test_what_no_tap_shows_is_explained_a_refusal_at_the_socket_one_by_the_node_and_hairpin(host_as_found: str) -> None:
    with lab_with_services(host_as_found, BPF, VXLAN) as (lab, open_lab):
        refused = traced(lab, open_lab, "client", "nobody")
        local = traced(lab, open_lab, "world", "local@node1")
        itself = traced(lab, open_lab, "client", "self")
    assert itself.wrong is None, itself.wrong
    (request,) = itself.of(Way.REQUEST)
    assert (request.arrived, request.is_sent) == (True, False)
    assert told(itself) == [(Translator.SOCKET, "node1", "cil_sock4_connect")]
    assert itself.translations[0].after == f"{lab.pod('client').address}:5205"
    assert not any(tap.request or tap.reply for tap in itself.signature.taps)
    assert refused.replied == 0
    assert not refused.of(Way.REQUEST)[0].is_sent
    assert any("EPERM" in note and "10.96.0.16:80" in note for note in refused.notes)
    assert local.replied == 0
    assert any("has no backend of local" in note for note in local.notes)


CONNECTS = """
import socket, sys, time
host, port, wait_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
one = socket.socket()
one.settimeout(wait_s)
try:
    one.connect((host, port))
    print("connected")
except TimeoutError:
    print("silent")
except OSError as failed:
    print(failed.errno)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a real cluster did with a connection that the node which was asked had no backend for: Cilium v1.16.0-rc.0.

    From outside the uplink shows the SYN, and nothing leaves it but perhaps ICMP port unreachable; from inside there is
    no packet.
    """

    masquerade: Masquerade
    outside: str
    counted: tuple[tuple[Program, PacketVerdict], ...]


ANSWERED = (Program.FROM_NETDEV, PacketVerdict.NO_BACKEND_ANSWERED)
DROPPED_AGAIN = (ANSWERED, (Program.TO_NETDEV, PacketVerdict.UNKNOWN_ICMP_CODE))
REFUSED, EPERM = str(errno.ECONNREFUSED), str(errno.EPERM)
REFUSALS = {
    (BPF, VXLAN): Refusal(masquerade=Masquerade.BPF, outside="silent", counted=DROPPED_AGAIN),
    (BPF, NATIVE): Refusal(masquerade=Masquerade.BPF, outside="silent", counted=DROPPED_AGAIN),
    (LEGACY, VXLAN): Refusal(masquerade=Masquerade.BPF, outside="silent", counted=DROPPED_AGAIN),
    (LEGACY, NATIVE): Refusal(masquerade=Masquerade.IPTABLES, outside=REFUSED, counted=(ANSWERED,)),
}


def drops(lab: Lab, node: str) -> Counter[tuple[Program, PacketVerdict]]:
    with node_maps(namespace_of(lab.name, node), "metrics") as (metrics,):
        return Counter(
            {(one.program, one.verdict): one.packets for one in read_metrics(metrics) if one.verdict.is_drop}
        )


@pytest.mark.parametrize(
    ("host_routing", "encapsulation"),
    [pytest.param(*cell, marks=[] if cell == (LEGACY, NATIVE) else [pytest.mark.thorough]) for cell in CELLS],
)
@pytest.mark.parametrize("name", ["local", "nobody"])
def test_what_a_node_has_no_backend_for_ends_as_recorded(
    host_as_found: str, name: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    recorded = REFUSALS[host_routing, encapsulation]
    asked = lab_with_services(host_as_found, host_routing, encapsulation, masquerade=recorded.masquerade)
    with asked as (lab, open_lab):
        found = traced(lab, open_lab, "world", f"{name}@node1")
        (request,) = found.of(Way.REQUEST)
        assert [(hop.role, hop.ttl, hop.dst) for hop in request.hops if hop.role in AT_THE_NODE] == [
            (role, 64, str(lab.node("node1").address.ip)) for role in AT_THE_NODE
        ]
        pods = {pod.name for pod in lab.pods}
        assert not pods & {hop.tap.rpartition(":")[0] for hop in request.hops}
        assert found.replied == 0
        before = drops(lab, "node1")
        said = connect(open_lab, "world", lab.node("node1").address.ip, lab.service(name).node_port)
        assert said == recorded.outside
        after = drops(lab, "node1")
        assert {each for each, packets in after.items() if packets > before[each]} == set(recorded.counted)
        for part in ("client", "node1"):
            address, port = lab.service(name).address, lab.service(name).port
            # From inside the policy does not count, and nothing listens on the backend.
            assert connect(open_lab, part, address, port) == (REFUSED if lab.service(name).backends else EPERM)
        if not lab.service(name).backends:
            inside = traced(lab, open_lab, "client", name)
            assert not any(path.hops for path in inside.paths)


AT_THE_NODE = (Role.CLIENT_ETH0, Role.CLIENT_UPLINK)


def connect(open_lab: OpenLab, part: str, host: IPv4Address, port: int | None) -> str:
    """`connected`, `silent`, or the number of the error."""
    done = open_lab.target(part).run((sys.executable, "-c", CONNECTS, str(host), str(port), "3"), timeout_s=60)
    assert done.returncode == 0, done.error_text
    return done.text.strip()


def test_several_backends_are_traced_and_held_against_no_one_way(host_as_found: str) -> None:
    with lab_with_services(host_as_found, BPF, NATIVE) as (lab, open_lab):
        found = traced(lab, open_lab, "client", "both", count=30)
    assert found.replied == 30
    ends = {path.hops[-1].dst for path in found.of(Way.REQUEST)}
    assert ends == {str(lab.pod(name).address) for name in ("neighbour", "server")}
    assert not found.differences
    assert any("not held against one expected way" in note for note in found.notes)


def test_a_protocol_that_the_service_does_not_take_leaves_the_cluster(host_as_found: str) -> None:
    with lab_with_services(host_as_found, BPF, NATIVE) as (lab, open_lab):
        found = trace(open_lab, pair_between(lab, "client", "far"), protocol=ProbeProtocol.ICMP)
    assert found.replied == 0
    assert not found.translations
    last = found.of(Way.REQUEST)[0].hops[-1]
    assert last.dst == "10.96.0.11"
    assert last.src == str(lab.node("node1").address.ip)  # masqueraded like everything that leaves
    assert any("leaves the cluster by the default route" in note for note in found.notes)


def test_a_capture_says_in_comments_what_is_a_service_and_what_is_behind_it(host_as_found: str, tmp_path: Path) -> None:
    file = str(tmp_path / "service.pcapng")
    with lab_with_services(host_as_found, BPF, NATIVE) as (lab, open_lab):
        listening = subprocess.Popen(
            (sys.executable, "-m", "labctl", "capture", lab.name, "node1:eth0", "-w", file, "--count", "4"),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert listening.stderr is not None
        while "capturing at" not in listening.stderr.readline():
            assert listening.poll() is None
        address = lab.node("node1").address.ip
        script = f"import socket\ntry: socket.create_connection(('{address}', 30201), 5)\nexcept OSError: pass"
        open_lab.target("world").run((sys.executable, "-c", script), timeout_s=60)
        listening.communicate(timeout=120)
    said = {line[0] for line in tshark(file, "frame.comment") if line and line[0]}
    node, server = lab.node("node1").address.ip, lab.pod("server").address
    assert f"to Service far ({node}:30201), not translated here" in said
    assert f"to pod server ({server}:5205), behind Service far, local, both" in said
    assert f"from pod server ({server}:5205), behind Service far, local, both" in said
    assert f"from Service far ({node}:30201), not translated here" in said
