"""Hubble's flows and pwru's lines as movements of a trace, and where they stand in the packet's path.

Hubble: lines written by hubble's own printer (tests/fixtures/cilium/encoded). pwru: what it needs, how it is asked, and
its JSON in the documented shape (tests/fixtures/cilium/documented). Neither takes a wire from between two taps.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from labctl.errors import MeasureFailed
from labctl.model.lab import Encapsulation, HostRouting, Placement
from labctl.model.signature import Role
from labctl.model.trace import Carriage, Movement, Mover, PacketKey, PacketPath, TapDirection, TraceTap, Way
from labctl.model.versions import Version
from labctl.path.assemble import join, names_of
from labctl.path.sighting import Envelope, Sighting
from labctl.providers.base import TargetKind
from labctl.providers.cilium.commands import HostCommands
from labctl.providers.cilium.hubble_pwru import (
    FUNCTIONS,
    HUBBLE_READY,
    KERNEL_SCRIPT,
    PLACE_SCRIPT,
    Flow,
    Kernel,
    LabNamespace,
    argv_hubble,
    argv_pwru,
    enabled_by,
    lost_events,
    movements_of,
    parse_hubble,
    parse_kernel,
    parse_place,
    parse_pwru,
    trouble_in_status,
)
from labctl.providers.cilium.hubble_pwru import why_not as reason
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.testing.labs import CLIENT, SERVER, example_devices, example_lab

from .cilium_exchange import exchange, sections
from .cilium_recordings import recorded

JSON = recorded("encoded/hubble-jsonpb.1.16.0.txt")
COMPACT = recorded("documented/hubble-compact.txt")
PODS = {"10.244.0.10": ("node1", "lxcclient"), "10.244.1.20": ("node2", "lxcserver")}
NAMES = {"labctl-example/client": "10.244.0.10", "labctl-example/server": "10.244.1.20"}


def test_hubble_is_asked_about_the_pair_in_both_directions_and_nothing_else() -> None:
    assert " ".join(argv_hubble(("10.244.0.10", "10.244.1.20"))) == (
        "hubble observe --follow --last 1 --from-ip 10.244.0.10 --from-ip 10.244.1.20 "
        "--to-ip 10.244.0.10 --to-ip 10.244.1.20 -o jsonpb"
    )


@pytest.mark.parametrize("addresses", [(), ("10.0.0.1",), ("10.0.0.1", "10.0.0.1"), ("1.1.1.1", "2.2.2.2", "3.3.3.3")])
def test_without_a_pair_hubble_is_never_started(addresses: tuple[str, ...]) -> None:
    with pytest.raises(MeasureFailed, match="a pair of pods"):
        argv_hubble(addresses)


def test_json_flows_carry_point_ports_identity_and_device() -> None:
    flows = parse_hubble(JSON)
    assert [(flow.point, flow.verdict, flow.protocol) for flow in flows] == [
        ("from-endpoint", "FORWARDED", "icmp"),
        ("from-endpoint", "FORWARDED", "tcp"),
        ("to-overlay", "FORWARDED", "tcp"),
        ("", "DROPPED", "tcp"),
    ]
    assert (flows[2].source, flows[2].source_port, flows[2].destination_port) == ("10.244.0.10", 41600, 80)
    assert (flows[2].identity, flows[2].interface, flows[3].reason) == (16843, "cilium_vxlan", "POLICY_DENIED")


def test_older_json_without_an_envelope_is_read_the_same() -> None:
    bare = parse_hubble(recorded("encoded/hubble-json.1.16.0.txt"))
    assert [replace(flow, raw="") for flow in bare] == [replace(flow, raw="") for flow in parse_hubble(JSON)]


def test_compact_text_has_the_same_flows_without_devices() -> None:
    *told, reply = parse_hubble(recorded("encoded/hubble-compact.1.16.0.txt"))
    for text, flow in zip(told, parse_hubble(JSON), strict=True):
        assert (text.verdict, text.protocol, text.identity) == (flow.verdict, flow.protocol, flow.identity)
        assert (text.source, text.source_port, text.destination, text.destination_port) == (
            flow.source, flow.source_port, flow.destination, flow.destination_port,
        )  # fmt: skip
    assert [text.point for text in told] == ["from-endpoint", "from-endpoint", "to-overlay", "Policy denied"]
    assert (reply.source, reply.source_port, reply.identity) == ("10.244.1.20", 80, 23579)


def test_every_line_of_flows_shows_that_hubble_is_listening() -> None:
    assert all(HUBBLE_READY in line for line in JSON.splitlines()[:4])


def test_compact_replies_have_the_client_on_the_left() -> None:
    request, reply, _ = parse_hubble(COMPACT)
    assert (request.source, request.source_port, request.destination_port, request.identity) == (
        "default/curl-pod", 40332, 80, 23926,
    )  # fmt: skip
    assert (reply.source, reply.source_port, reply.destination, reply.identity) == (
        "default/webpod-…", 80, "default/curl-pod", 12438,
    )  # fmt: skip
    assert (request.point, reply.point, reply.protocol) == ("to-overlay", "to-endpoint", "tcp")


def test_pods_of_the_compact_text_become_addresses() -> None:
    *_, dropped = movements_of("node1", parse_hubble(COMPACT), PODS, NAMES)
    assert (dropped.packet.src, dropped.packet.dst, dropped.packet.protocol) == ("10.244.0.10", "10.244.1.20", "icmp")
    assert dropped.helper == "Policy denied dropped"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"flow": 3}', '{"flow": {"IP": {}}}', "Error: connection refused"])
def test_what_is_no_flow_is_left_out(text: str) -> None:
    assert parse_hubble(text) == ()


def test_a_flow_is_the_agents_report_at_its_program_and_moves_nothing() -> None:
    sent = movements_of("node1", parse_hubble(JSON)[1:], PODS, NAMES)
    assert {(m.mover, m.what, m.target, m.time_ns) for m in sent} == {(Mover.AGENT, "hubble", "", None)}
    assert [(m.device, m.hook, m.helper) for m in sent] == [
        ("lxcclient", "ingress", "from-endpoint forwarded"),
        ("cilium_vxlan", "egress", "to-overlay forwarded"),
        ("", "ingress", "dropped (POLICY_DENIED)"),
    ]


def test_events_that_hubble_lost_are_counted() -> None:
    assert (lost_events(JSON), lost_events(COMPACT)) == (3, 0)


@pytest.mark.parametrize(
    ("config", "values", "enabled"),
    [
        ({"enable-hubble": "true"}, {}, True),
        ({"enable-hubble": "false"}, {"hubble": {"enabled": True}}, False),
        ({}, {"hubble": {"enabled": True}}, True),
        ({}, {"hubble.enabled": False}, False),
        ({}, {"hubble": {"relay": {}}}, None),
        ({}, {}, None),
    ],
)
def test_the_configuration_of_the_cluster_counts_before_the_labs_values(
    config: dict[str, str], values: dict[str, object], enabled: bool | None
) -> None:
    assert enabled_by(config, values) is enabled


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        ('{"hubble": {"state": "Ok", "observer": {"current-flows": 7}}}', ""),
        ('{"hubble": {"state": "Failure", "msg": "no socket"}}', "the agent's status says: Failure, no socket"),
        ("nothing", "the agent's status is not JSON"),
    ],
)
def test_the_agents_status_shows_whether_hubble_runs(status: str, trouble: str) -> None:
    assert trouble_in_status(status) == trouble


def test_a_recorded_agent_without_hubble_says_so() -> None:
    assert "not enabled; cilium: {values: {hubble:" in trouble_in_status(recorded("status-bpf-vxlan.json"))


PWRU_JSON = recorded("documented/pwru-json.txt")
PAIR = ("10.244.0.10", "10.244.1.20")
PLACES = (
    LabNamespace(name="node1", boot="b", netns=4026532575, links={12: "lxc3a6f7d4e8c73", 9: "eth0"}),
    LabNamespace(name="node2", boot="b", netns=4026532700, links={9: "eth0"}),
)
GOOD = Kernel(
    boot="b", release="6.8.0-40-generic", has_btf=True, has_kprobes=True, has_tracing=True, version=Version(1, 0, 12)
)


def test_the_filter_is_one_pcap_expression_and_the_output_json() -> None:
    argv = argv_pwru(PAIR)
    assert argv[-1] == "host 10.244.0.10 and host 10.244.1.20"
    assert "--output-json" in argv
    assert not any(word.startswith(("--filter-src", "--filter-dst", "--filter-netns")) for word in argv)
    assert int(argv[argv.index("--output-limit-lines") + 1]) > 0


def test_only_whole_names_of_functions_are_probed() -> None:
    argv = argv_pwru(PAIR)
    pattern = re.compile(argv[argv.index("--filter-func") + 1])
    assert all(pattern.search(name) for name in FUNCTIONS)
    assert not any(pattern.search(name) for name in ("ip_rcv_core", "__ip_forward", "ip_forward_finish", "veth_xmit"))


def test_one_network_namespace_can_be_asked_for() -> None:
    argv = argv_pwru(PAIR, netns=4026532575)
    assert argv[argv.index("--filter-netns") + 1] == "inode:4026532575"


def test_without_a_pair_pwru_is_never_started() -> None:
    with pytest.raises(MeasureFailed, match="a pair of pods"):
        argv_pwru(("10.0.0.1",))


def test_events_go_to_their_node_by_namespace_and_to_their_device_by_index() -> None:
    seen = parse_pwru(PWRU_JSON, PLACES, clock_ns=1_000)
    assert [(m.node, m.device, m.helper) for m in seen] == [
        ("node1", "lxc3a6f7d4e8c73", "ip_rcv"),
        ("node1", "lxc3a6f7d4e8c73", "ip_forward"),
        ("node2", "eth0", "kfree_skb_reason(SKB_DROP_REASON_NETFILTER_DROP)"),
    ]
    assert {m.mover for m in seen} == {Mover.AGENT}
    assert (seen[0].packet.protocol, seen[0].packet.first, seen[0].packet.second) == ("tcp", 41600, 80)
    assert (seen[2].packet.protocol, seen[2].packet.first) == ("icmp", 0)
    assert [m.time_ns for m in seen] == [5_000_001_100, 5_000_001_200, 5_000_001_400]


def test_a_release_without_its_reason_is_left_out_since_every_capture_makes_one() -> None:
    """pwru before 1.0.9 does not give the reason of `sk_skb_reason_drop` (Linux 6.11 and later)."""
    bare = PWRU_JSON.replace("sk_skb_reason_drop(SKB_CONSUMED)", "sk_skb_reason_drop")
    assert parse_pwru(bare, PLACES) == parse_pwru(PWRU_JSON, PLACES)
    named = PWRU_JSON.replace("sk_skb_reason_drop(SKB_CONSUMED)", "sk_skb_reason_drop(SKB_DROP_REASON_NETFILTER_DROP)")
    assert len(parse_pwru(named, PLACES)) == len(parse_pwru(PWRU_JSON, PLACES)) + 1


def test_without_the_offset_of_the_clocks_events_have_no_time() -> None:
    assert {m.time_ns for m in parse_pwru(PWRU_JSON, PLACES)} == {None}


@pytest.mark.parametrize(
    "text", ["", "{", "SKB  CPU PROCESS", '{"netns": 4026532575}', '{"netns": "x", "tuple": {}}', "[1]"]
)
def test_what_is_no_event_is_left_out(text: str) -> None:
    assert parse_pwru(text, PLACES) == ()


def test_a_kernel_that_has_everything_allows_it() -> None:
    assert reason(GOOD) == ""


@pytest.mark.parametrize(
    ("lacks", "word"),
    [
        ({"version": Version(0, 0, 9)}, "0.0.9 and earlier filter with --filter-src-ip"),
        ({"version": Version(1, 0, 5)}, "--output-json came with 1.0.6"),
        ({"version": None}, "does not report its version"),
        ({"release": "4.19.0-amd64"}, "needs 5.3 or later"),
        ({"release": "?"}, "release cannot be read"),
        ({"has_btf": False}, "no BTF"),
        ({"has_kprobes": False}, "no kprobes"),
        ({"has_tracing": False}, "mount -t debugfs"),
    ],
)
def test_each_thing_that_is_missing_is_a_reason_of_its_own(lacks: dict[str, object], word: str) -> None:
    said = reason(replace(GOOD, **lacks))  # type: ignore[arg-type]
    assert word in said
    assert "; the kernel has no" not in said


@pytest.mark.parametrize("said", ["pwru v1.0.9", "pwru 1.0.9", "pwru version 1.0.9-dirty"])
def test_the_kernels_conditions_are_read(said: str) -> None:
    kernel = parse_kernel(f"boot=abc\nrelease=6.1.0-30-amd64\nbtf=yes\ntracing=/sys/kernel/tracing\nversion={said}\n")
    assert (kernel.boot, kernel.has_btf, kernel.has_kprobes, kernel.has_tracing) == ("abc", True, False, True)
    assert kernel.version is not None
    assert kernel.version.series == (1, 0)


def test_a_program_that_the_shell_does_not_find_has_no_version() -> None:
    assert parse_kernel("version=sh: 1: pwru: not found").version is None


def test_a_place_has_its_namespace_and_devices() -> None:
    place = parse_place("node1", "boot=abc\nnetns=net:[4026532575]\nlink=1 lo\nlink=12 lxc3a6f7d4e8c73\n")
    assert (place.boot, place.netns, dict(place.links)) == ("abc", 4026532575, {1: "lo", 12: "lxc3a6f7d4e8c73"})
    with pytest.raises(MeasureFailed, match="cannot read the network namespace and the kernel of node1"):
        parse_place("node1", "sh: readlink: not found")


def test_the_scripts_ask_a_real_shell_and_a_real_kernel() -> None:
    here = DoorTarget(name="here", kind=TargetKind.NODE, door=Door(closed=(), open=()), commands=HostCommands("kind"))
    place, kernel = parse_place("here", here.read(PLACE_SCRIPT)), parse_kernel(here.read(KERNEL_SCRIPT))
    assert place.netns == Path("/proc/self/ns/net").stat().st_ino
    assert "lo" in place.links.values()
    assert (kernel.boot, kernel.release) == (place.boot, os.uname().release)
    assert kernel.has_btf is os.access("/sys/kernel/btf/vmlinux", os.R_OK)


IN, OUT = TapDirection.IN, TapDirection.OUT
LAB = example_lab()
A, B = LAB.pod(CLIENT), LAB.pod(SERVER)
KEY = PacketKey(src=str(A.address), dst=str(B.address), protocol="tcp", first=41600, second=80)
OUTER = PacketKey(src="172.30.0.3", dst="172.30.0.4", protocol="udp", first=43593, second=8472)
LAB_PODS = {str(pod.address): (pod.node, pod.lxc) for pod in LAB.pods}


def tap(name: str, role: Role, kind: str, node: str) -> TraceTap:
    part, _, device = name.rpartition(":")
    return TraceTap(name=name, role=role, part=part, part_kind=kind, node=node, device=device)


WAY = (
    (tap("client:eth0", Role.CLIENT_ETH0, "pod", "node1"), OUT, False),
    (tap(f"node1:{A.lxc}", Role.CLIENT_LXC, "node", "node1"), IN, False),
    (tap("node1:cilium_vxlan", Role.CLIENT_CILIUM_VXLAN, "node", "node1"), OUT, False),
    (tap("node1:eth0", Role.CLIENT_UPLINK, "node", "node1"), OUT, True),
    (tap("node2:eth0", Role.SERVER_UPLINK, "node", "node2"), IN, True),
    (tap("node2:cilium_vxlan", Role.SERVER_CILIUM_VXLAN, "node", "node2"), IN, False),
    (tap(f"node2:{B.lxc}", Role.SERVER_LXC, "node", "node2"), OUT, False),
    (tap("server:eth0", Role.SERVER_ETH0, "pod", "node2"), IN, False),
)
TAPS = tuple(one for one, _, _ in WAY)
ENVELOPE = Envelope(
    src=OUTER.src, dst=OUTER.dst, src_port=OUTER.first, dst_port=OUTER.second, ttl=64, vni=A.identity,
    src_mac=LAB.node("node1").mac, dst_mac=LAB.node("node2").mac, ip_id=0,
)  # fmt: skip


def path_with(movements: tuple[Movement, ...]) -> PacketPath:
    sightings = [
        Sighting(
            tap=one.name, role=one.role, time_ns=1000 * number, direction=direction, way=Way.REQUEST, number=1,
            src=KEY.src, dst=KEY.dst, ttl=64, src_mac=A.mac, dst_mac=A.lxc_mac,
            envelope=ENVELOPE if is_wrapped else None, key=KEY, what="TCP SYN",
        )
        for number, (one, direction, is_wrapped) in enumerate(WAY, start=1)
    ]  # fmt: skip
    names = names_of(LAB, LAB.pairs[0], TAPS, [(device.role, device.mac) for device in example_devices(LAB)])
    path, *_ = join(TAPS, sightings, movements, names, sent=1, ends=("client:eth0", "server:eth0"))
    return path


def flow(point: str, interface: str = "") -> Flow:
    """A documented flow of this connection, at another point."""
    line = json.loads(recorded("encoded/hubble-jsonpb.1.16.0.txt").splitlines()[1])
    line["flow"] |= {"trace_observation_point": point, "interface": {"name": interface}}
    (told,) = parse_hubble(json.dumps(line))
    return told


AT_CLIENT = (flow("FROM_ENDPOINT"), flow("TO_STACK"), flow("TO_OVERLAY", "cilium_vxlan"))
AT_SERVER = (flow("FROM_OVERLAY", "cilium_vxlan"), flow("TO_STACK"), flow("TO_ENDPOINT", B.lxc))
HUBBLE = (*movements_of("node1", AT_CLIENT, LAB_PODS, {}), *movements_of("node2", AT_SERVER, LAB_PODS, {}))


def heard_before(path: PacketPath) -> dict[str, list[str]]:
    return {hop.tap: [one.helper for one in hop.moved_by] for hop in path.hops if hop.moved_by}


def test_hubbles_flows_stand_between_the_taps_where_they_happened() -> None:
    assert heard_before(path_with(HUBBLE)) == {
        "node1:cilium_vxlan": ["from-endpoint forwarded", "to-stack forwarded", "to-overlay forwarded"],
        f"node2:{B.lxc}": ["from-overlay forwarded", "to-stack forwarded", "to-endpoint forwarded"],
    }


def test_what_is_heard_takes_no_wire_from_between_two_taps() -> None:
    wires = [hop.tap for hop in path_with(()).hops if hop.carriage is Carriage.WIRE]
    assert wires == [f"node1:{A.lxc}", "node2:eth0", "server:eth0"]
    assert [hop.tap for hop in path_with(HUBBLE).hops if hop.carriage is Carriage.WIRE] == wires


def test_a_witness_moves_nothing_itself() -> None:
    before, after = path_with(()), path_with(HUBBLE)
    assert [hop.carriage for hop in after.hops] == [hop.carriage for hop in before.hops]
    (hop,) = [hop for hop in after.hops if hop.tap == "node1:cilium_vxlan"]
    assert hop.because.startswith(f"hubble on {A.lxc} ingress: from-endpoint forwarded")


def test_pwrus_events_stand_by_their_time() -> None:
    place = LabNamespace(name="node1", boot="b", netns=4026532575, links={12: A.lxc})
    events = parse_pwru(recorded("documented/pwru-json.txt"), (place,), clock_ns=2_100 - 5_000_000_000)
    assert heard_before(path_with(events)) == {"node1:cilium_vxlan": ["ip_rcv", "ip_forward"]}


def test_hubbles_echoes_are_put_to_packets_by_their_turn_beside_monitors() -> None:
    """Hubble tells no echo's number; each of its events came once for each of the three echoes."""
    cell = (HostRouting.BPF, Encapsulation.VXLAN, Placement.CROSS_NODE)
    three = exchange(*cell, fixture="encoded/{cell}.monitor-json.1.16.0.txt", echoes=3)
    pods = {str(pod.address): (pod.node, pod.lxc) for pod in three.lab.pods}
    flows = sections(recorded("encoded/bpf-vxlan.hubble-jsonpb.1.16.0.txt"))
    told = [m for node, text in flows.items() for m in movements_of(node, parse_hubble(text), pods, {})]
    paths = three.paths((*told, *three.movements()))
    for path in paths:
        server = "server" if path.way is Way.REQUEST else "client"
        assert [(hop.role, [(m.what, m.helper) for m in hop.moved_by]) for hop in path.hops if hop.moved_by] == [
            (
                f"{'client' if path.way is Way.REQUEST else 'server'}-node-cilium_vxlan",
                [
                    ("hubble", "from-endpoint forwarded"), ("hubble", "to-overlay forwarded"),
                    ("hubble", "to-overlay forwarded"), ("cil_from_container", "to-overlay"),
                    ("cil_to_overlay", "seen"),
                ],
            ),
            (
                f"{server}-eth0",
                [
                    ("hubble", "from-overlay forwarded"), ("hubble", "to-endpoint forwarded"),
                    ("cil_from_overlay", "to-endpoint"),
                ],
            ),
        ]  # fmt: skip
        assert [hop.carriage for hop in path.hops] == [hop.carriage for hop in three.paths()[0].hops]
    assert len(paths) == 6
