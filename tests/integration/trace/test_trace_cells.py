"""`labctl trace` on real labs: in each of the eight cells it names what moved the packet, from what was observed."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tracing_labs import HANG_S, acts, as_json, labctl, needs, running, traced

from labctl.datapath import bpf
from labctl.datapath.layout import CONFIG, CONFIG_KEY, ConfigFlag, unpack_config
from labctl.model.lab import Encapsulation, HostRouting, Placement
from labctl.model.signature import Role
from labctl.model.trace import Carriage, Mover, ProbeProtocol, Trace, Way
from labctl.path.pcap import read_pcap
from labctl.providers.netns import kernel, netfilter_watch
from labctl.providers.netns.provider import NetnsProvider
from labctl.testing.labs import RECORDED

pytestmark = needs

BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
SAME, CROSS = Placement.SAME_NODE, Placement.CROSS_NODE

FROM, HOST, NETDEV, OVERLAY = "cil_from_container", "cil_from_host", "cil_from_netdev", "cil_from_overlay"
TO_NETDEV, TO_OVERLAY = "cil_to_netdev:pass", "cil_to_overlay:pass"
FORWARDED = ["PREROUTING:accept", "conntrack:new", "FORWARD:accept", "POSTROUTING:accept"]
OUT = ["OUTPUT:accept", "conntrack:new", "POSTROUTING:accept"]
IN = ["PREROUTING:accept", "conntrack:new", "INPUT:accept"]

ACTS = {
    (LEGACY, VXLAN, SAME): [f"{FROM}:bpf_redirect"],
    (LEGACY, NATIVE, SAME): [f"{FROM}:bpf_redirect"],
    (BPF, VXLAN, SAME): [f"{FROM}:bpf_redirect_peer"],
    (BPF, NATIVE, SAME): [f"{FROM}:bpf_redirect_peer"],
    (LEGACY, VXLAN, CROSS): [
        f"{FROM}:tunnel redirect", TO_OVERLAY, *OUT, TO_NETDEV, f"{NETDEV}:to-stack", *IN, f"{OVERLAY}:bpf_redirect",
    ],
    (BPF, VXLAN, CROSS): [
        f"{FROM}:tunnel redirect", TO_OVERLAY, *OUT, TO_NETDEV,
        f"{NETDEV}:to-stack", *IN, f"{OVERLAY}:bpf_redirect_peer",
    ],
    (LEGACY, NATIVE, CROSS): [
        f"{FROM}:to-stack", *FORWARDED, TO_NETDEV, f"{NETDEV}:to-stack", *FORWARDED, f"{HOST}:bpf_redirect",
    ],
    (BPF, NATIVE, CROSS): [f"{FROM}:bpf_redirect_neigh", TO_NETDEV, f"{NETDEV}:bpf_redirect_peer"],
}  # fmt: skip


def without_new(words: list[str]) -> list[str]:
    """Whether a connection is new depends on what came before it: the warm-up packet is one of the same pair."""
    return ["conntrack" if word.startswith("conntrack:") else word for word in words]


def as_told_here(words: list[str]) -> list[str]:
    """The expected steps, without those that this kernel cannot show."""
    told = kernel.trace_abilities().tells_connections
    return [word for word in without_new(words) if told or word != "conntrack"]


def what_is_not_shown_is_said(found: Trace) -> None:
    """On a kernel whose traces have no conntrack steps, and on no other."""
    told = [(one.mover, one.kernel, one.since) for one in found.unshown]
    is_shown = kernel.trace_abilities().tells_connections
    assert told == ([] if is_shown else [(Mover.CONNTRACK, os.uname().release, "6.16")])


def test_a_kernel_that_is_new_enough_has_what_its_number_promises() -> None:
    """So that a trial that finds too little cannot excuse the tests of this module from demanding it."""
    version, abilities = kernel.parse_release(os.uname().release), kernel.trace_abilities()
    assert version is not None
    assert abilities.tells_connections or version < kernel.CONNECTION_STATE_SINCE
    assert abilities.owns_tables or version < kernel.TABLE_OWNER_SINCE


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_what_moved_the_packet_is_named_in_every_cell(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    with running(host_as_found, host_routing, encapsulation) as (lab, open_lab):
        for server, placement in (("neighbour", SAME), ("server", CROSS)):
            found = traced(lab, open_lab, server)
            assert found.wrong is None, found.wrong
            assert found.placement is placement
            assert found.host_routing == host_routing
            assert (found.sent, found.replied) == (1, 1)
            assert found.notes == ()
            what_is_not_shown_is_said(found)
            request, reply = found.paths
            wanted = as_told_here(ACTS[host_routing, encapsulation, placement])
            assert without_new(acts(request)) == wanted
            assert without_new(acts(reply)) == wanted
            assert not request.after
            assert all(hop.carriage is not Carriage.UNOBSERVED for path in found.paths for hop in path.hops)
            delivery_is_told(found, host_routing)
            forwarding_is_tracked(found, is_tracked=(host_routing, encapsulation, placement) == (LEGACY, NATIVE, CROSS))


def delivery_is_told(found: Trace, host_routing: HostRouting) -> None:
    """With BPF the lxc is skipped, and the reason was observed; with Legacy it is not skipped."""
    request = found.of(Way.REQUEST)[0]
    lxc = [one for one in request.skipped if one.role is Role.SERVER_LXC]
    if host_routing is LEGACY:
        assert lxc == []
        assert request.hops[-1].carriage is Carriage.WIRE
        return
    assert len(lxc) == 1
    assert lxc[0].is_observed
    assert lxc[0].reason.startswith("never transmitted on lxc")
    assert lxc[0].reason.endswith("moved it into the pod with bpf_redirect_peer")
    assert request.hops[-1].carriage is Carriage.PROGRAM


def forwarding_is_tracked(found: Trace, *, is_tracked: bool) -> None:
    entries = [one.finding for one in found.evidence if one.witness == "conntrack"]
    assert entries
    assert all(("no connection of the pair" in entry) != is_tracked for entry in entries)


@pytest.mark.parametrize("host_routing", HostRouting)
def test_hops_come_in_the_order_of_the_way_with_times_that_never_go_back(
    host_as_found: str, host_routing: HostRouting
) -> None:
    with running(host_as_found, host_routing, VXLAN) as (lab, open_lab):
        found = traced(lab, open_lab, "server", count=5)
    order = [tap.name for tap in found.taps]
    assert len(found.paths) == 10
    for path in found.paths:
        places = [order.index(hop.tap) for hop in path.hops]
        assert places == sorted(places, reverse=path.way is Way.REPLY)
        assert all(hop.since_previous_ns is None or hop.since_previous_ns >= 0 for hop in path.hops)
        (first, *_) = path.hops
        assert first.since_previous_ns is None
        assert first.carriage is Carriage.START


def test_the_envelope_names_the_nodes_and_whose_identity_its_vni_is(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN) as (lab, open_lab):
        found = traced(lab, open_lab, "server")
    for path, sender, nodes in zip(
        found.paths, ("client", "server"), (("node1", "node2"), ("node2", "node1")), strict=True
    ):
        envelopes = [hop.envelope for hop in path.hops if hop.envelope is not None]
        assert len(envelopes) == 4  # both uplinks and both ports of the bridge
        for envelope in envelopes:
            assert (envelope.src.owner, envelope.dst.owner) == nodes
            assert envelope.vni == lab.pod(sender).identity
            assert envelope.identity_pods == (sender,)
            assert envelope.is_senders
            assert envelope.dst_port == 8472
            assert envelope.src_mac.owner == f"{nodes[0]}:eth0"


@pytest.mark.parametrize("protocol", [ProbeProtocol.TCP, ProbeProtocol.UDP])
@pytest.mark.parametrize(("host_routing", "encapsulation"), [(LEGACY, NATIVE), (BPF, VXLAN)])
def test_tcp_and_udp_are_traced_without_a_server(
    host_as_found: str, protocol: ProbeProtocol, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    answers = {
        ProbeProtocol.TCP: ("TCP SYN", "TCP RST, ACK"),
        ProbeProtocol.UDP: ("UDP datagram", "ICMP port unreachable"),
    }
    with running(host_as_found, host_routing, encapsulation) as (lab, open_lab):
        found = traced(lab, open_lab, "server", protocol=protocol, count=3)
    assert found.wrong is None, found.wrong
    assert [path.what for path in found.paths] == list(answers[protocol]) * 3
    wanted = as_told_here(ACTS[host_routing, encapsulation, CROSS])
    for path in found.paths:
        assert without_new(acts(path)) == wanted


@pytest.mark.parametrize("protocol", ProbeProtocol)
def test_an_answer_that_takes_its_time_is_not_lost(host_as_found: str, protocol: ProbeProtocol) -> None:
    """The server's answers leave one after the other, each up to 0.2 s after what came before it."""
    slowly = ("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "4kbit", "burst", "110", "latency", "5s")
    with running(host_as_found, BPF, VXLAN) as (lab, open_lab):
        done = open_lab.target("server").run(slowly, timeout_s=HANG_S)
        assert done.returncode == 0, done.error_text
        found = traced(lab, open_lab, "server", protocol=protocol, count=2)
    assert found.wrong is None, found.wrong
    assert (found.sent, found.replied) == (2, 2)


def test_the_nodes_are_as_before_when_a_trace_is_over(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN) as (lab, open_lab):
        before = [_tables(host_as_found, node.name) for node in lab.nodes]
        traced(lab, open_lab, "server")
        assert [_tables(host_as_found, node.name) for node in lab.nodes] == before
        assert not any("labctl_trace" in tables for tables in before)
        assert _tracing_nodes(host_as_found, [node.name for node in lab.nodes]) == []
        assert _processes_in(host_as_found, ["client", "node1", "underlay"]) == []


KILLED = """
import os, signal, subprocess, sys
from labctl.engine.trace import pair_between
from labctl.providers.netns import kernel
from labctl.providers.netns.discover import discover
from labctl.providers.netns.watch import watching

if sys.argv[2] == "without owners":
    kernel.trace_abilities = lambda: kernel.TraceAbilities(tells_connections=False, owns_tables=False)
lab = next(found.lab for found in discover() if found.name == sys.argv[1])
with watching(lab, pair_between(lab, "client", "server")):
    for node in lab.nodes:
        subprocess.run(("ip", "netns", "exec", f"labctl.{lab.name}.{node.name}", "nft", "list", "tables"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("tables", ["with owners, where this kernel has them", "without owners"])
def test_nothing_of_a_killed_trace_stays(host_as_found: str, tables: str) -> None:
    """What has no owner (maps, and tables before Linux 5.12) stays until the next look at the lab, which ends it."""
    are_owned = kernel.trace_abilities().owns_tables and tables != "without owners"
    with running(host_as_found, BPF, VXLAN) as (lab, _):
        nodes = [node.name for node in lab.nodes]
        argv = (sys.executable, "-c", KILLED, host_as_found, tables)
        killed = subprocess.run(argv, capture_output=True, text=True, timeout=HANG_S, check=False)
        assert (killed.returncode, killed.stdout.count("labctl_trace")) == (-signal.SIGKILL, len(nodes)), killed.stderr
        left = [node for node in nodes if "labctl_trace" in _tables(host_as_found, node)]
        assert left == ([] if are_owned else nodes)
        assert _tracing_nodes(host_as_found, nodes) == nodes
        with NetnsProvider().open(lab) as open_lab:
            assert _tracing_nodes(host_as_found, nodes) == []
            assert not any("labctl_trace" in _tables(host_as_found, node) for node in nodes)
            assert traced(lab, open_lab, "server").wrong is None


def test_where_tables_have_no_owners_netfilter_is_watched_all_the_same(
    host_as_found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Linux 5.10; the table that a killed trace left behind, with another pair's marks, is replaced."""
    abilities = dataclasses.replace(kernel.trace_abilities(), owns_tables=False)
    monkeypatch.setattr(kernel, "trace_abilities", lambda: abilities)
    left_behind = netfilter_watch.ruleset([(IPv4Address("10.9.9.1"), IPv4Address("10.9.9.2"))], is_owned=False)
    with running(host_as_found, LEGACY, NATIVE) as (lab, open_lab):
        nsenter = ("nsenter", f"--net=/run/netns/labctl.{host_as_found}.node1", "nft", "-f", "-")
        subprocess.run(nsenter, input=left_behind, text=True, check=True)
        found = traced(lab, open_lab, "server")
        for node in lab.nodes:
            assert "labctl_trace" not in _tables(host_as_found, node.name)
    assert found.notes == ()
    for path in found.paths:
        assert without_new(acts(path)) == as_told_here(ACTS[LEGACY, NATIVE, CROSS])


def test_a_trace_that_lives_is_not_taken_for_a_killed_one(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN) as (lab, open_lab):
        nodes = [node.name for node in lab.nodes]
        with open_lab.watching(lab.pairs[0]), NetnsProvider().open(lab):
            assert _tracing_nodes(host_as_found, nodes) == nodes
        assert _tracing_nodes(host_as_found, nodes) == []


def test_the_command_prints_one_json_document_and_exits_with_0(host_as_found: str) -> None:
    import json

    with running(host_as_found, BPF, VXLAN):
        done = labctl("trace", host_as_found, "client", "server", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["kind"] == "Trace"
    assert document["wrong"] is None
    assert [path["way"] for path in document["paths"]] == ["request", "reply"]
    assert document["paths"][0]["hops"][-1]["movedBy"][-1]["helper"] == "bpf_redirect_peer"


def test_a_trace_is_kept_with_its_captures_and_shown_again_as_it_was(host_as_found: str, tmp_path: Path) -> None:
    with running(host_as_found, BPF, VXLAN):
        done = labctl("trace", host_as_found, "client", "server", runs_dir=tmp_path)
        nothing_kept = labctl("trace", host_as_found, "client", "server", "--no-run", runs_dir=tmp_path)
    assert (done.returncode, nothing_kept.returncode) == (0, 0), done.stderr + nothing_kept.stderr
    (run,) = tmp_path.iterdir()
    shown, _, where = done.stdout.rpartition("raw files: ")
    assert where == f"{run}\n"
    assert labctl("report", "last", runs_dir=tmp_path).stdout == shown
    document = as_json(labctl("report", "last", "--json", runs_dir=tmp_path).stdout)
    assert document == as_json((run / "result.json").read_text())
    (way,) = (run / "raw").iterdir()
    for path in document["paths"]:
        for hop in path["hops"]:
            assert list(read_pcap((way / f"{hop['role']}-{hop['direction']}.pcap").read_bytes()))
    sent = read_pcap((way / "client-eth0-out.pcap").read_bytes())
    assert [record.time_ns for record in sent] == [document["paths"][0]["hops"][0]["timeNs"]]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("clint", "server"), ("no pod, node or host outside named clint", "did you mean client?")),
        (("client", "client"), ("cannot be traced to itself",)),
        (("client", "server", "--count", "0"), ("from 1 to 100",)),
        (("client", "server", "--protocol", "udp", "--count", "7"), ("from 1 to 6", "icmp_ratelimit")),
    ],
)
def test_what_cannot_be_traced_is_refused_with_what_can(
    host_as_found: str, argv: tuple[str, ...], words: tuple[str, ...]
) -> None:
    with running(host_as_found, BPF, VXLAN):
        done = labctl("trace", host_as_found, *argv)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr


def test_a_lab_that_is_half_down_is_said_to_be_so(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN):
        subprocess.run(("ip", "netns", "delete", f"labctl.{host_as_found}.server"), check=True)
        for command in (("trace", host_as_found, "client", "server"), ("capture", host_as_found)):
            done = labctl(*command)
            assert done.returncode == 2
            assert f"labctl.{host_as_found}.server" in done.stderr or "server" in done.stderr


def test_a_pod_without_a_route_to_the_other_is_reported_as_a_network_fault(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN) as (lab, open_lab):
        open_lab.target("client").run(("ip", "route", "flush", "table", "main"), timeout_s=60)
        found = traced(lab, open_lab, "server")
    assert found.wrong is not None
    assert "was never seen, not even at client:eth0" in found.wrong.sentence
    assert found.notes == ("the sender's kernel reported: Network is unreachable",)


def _tables(lab: str, node: str) -> str:
    argv = ("nsenter", f"--net=/run/netns/labctl.{lab}.{node}", "nft", "list", "tables")
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _tracing_nodes(lab: str, nodes: list[str]) -> list[str]:
    """Nodes whose programs are still told to trace."""
    from labctl.providers.netns.watch import node_maps

    found = []
    for node in nodes:
        with node_maps(f"labctl.{lab}.{node}", "config") as descriptors:
            assert descriptors
            for descriptor in descriptors:
                data = bpf.lookup(descriptor, CONFIG_KEY, CONFIG.size)
                assert data is not None
                if unpack_config(data).flags & ConfigFlag.TRACE:
                    found.append(node)
    return found


def _processes_in(lab: str, parts: list[str]) -> list[str]:
    found = []
    for part in parts:
        argv = ("ip", "netns", "pids", f"labctl.{lab}.{part}")
        found += subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return [pid for pid in found if int(pid) != os.getpid()]
