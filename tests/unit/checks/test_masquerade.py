"""The masquerade check: what the outside saw, who rewrote it, and what is said where answers do not come back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from labctl.checks.masquerade import (
    MasqueradeCheck,
    MasqueradeLook,
    judge_answer,
    judge_rewriter,
    judge_room,
    judge_source,
)
from labctl.checks.netfilter import ConntrackLine, parse_connections
from labctl.model.evidence import AttachedProgram, NodeDatapath
from labctl.model.lab import Lab, Masquerade, Outside, Pair, Placement
from labctl.model.result import Verdict
from labctl.model.trace import PacketKey, ProbeProtocol
from labctl.names import stable_mac
from labctl.testing.labs import CLIENT, SERVER, example_lab

POD, NODE, WORLD = "10.244.0.10", "172.30.0.3", "172.30.0.253"
PAIR = Pair(client=CLIENT, server="world", placement=Placement.OUTSIDE)

# Both as conntrack 1.4.7 prints them on the nodes of a netns lab (kernel 6.18).
BY_NETFILTER = (
    f"udp      17 29 src={POD} dst={WORLD} sport=53679 dport=20001 src={WORLD} dst={NODE} sport=20001 dport=53679 "
    "mark=0 use=1\n"
)
BY_EBPF = (
    f"udp      17 29 src={POD} dst={WORLD} sport=53679 dport=20001 [UNREPLIED] src={WORLD} dst={POD} sport=20001 "
    "dport=53679 mark=0 use=1\n"
)


def world_lab(masquerade: Masquerade = Masquerade.BPF, *, kept: str | None = None) -> Lab:
    lab = example_lab()
    asked = replace(
        lab.datapath,
        masquerade=masquerade,
        ipv4_native_routing_cidr=None if kept is None else IPv4Network(kept),
    )
    world = Outside(name="world", address=IPv4Address(WORLD), mac=stable_mac("outside", "world"))
    return replace(lab, datapath=asked, outside=(world,))


def look(
    source: str | None = NODE, *, port: int = 53679, is_answered: bool = True, connections: str = BY_EBPF
) -> MasqueradeLook:
    sent = PacketKey(POD, WORLD, "udp", 53679, 20001)
    return MasqueradeLook(
        protocol=ProbeProtocol.UDP,
        sent=sent,
        seen=None if source is None else PacketKey(source, WORLD, "udp", port, 20001),
        is_answered=is_answered,
        entries=parse_connections(connections),
    )


def test_an_entry_of_conntrack_says_where_answers_go_to() -> None:
    (natted,), (own,) = parse_connections(BY_NETFILTER), parse_connections(BY_EBPF)
    assert (natted.source, natted.destination, natted.answered_at) == (POD, WORLD, NODE)
    assert own.answered_at == POD


@pytest.mark.parametrize(
    ("seen", "verdict", "words"),
    [
        (look(), Verdict.PASS, f"world saw client as {NODE}, the address of node1, port 53679 kept"),
        (look(port=40000), Verdict.PASS, "port 53679 replaced by 40000"),
        (look(POD), Verdict.FAIL, f"world saw client as {POD}, the pod's own address"),
        (look("172.30.0.4"), Verdict.FAIL, "an address that is neither the pod's nor its node's"),
        (look(None), Verdict.FAIL, "world saw nothing of client"),
    ],
)
def test_the_outside_must_see_the_address_of_the_pods_node(seen: MasqueradeLook, verdict: Verdict, words: str) -> None:
    found = judge_source(world_lab(), PAIR, seen)
    assert found.verdict is verdict
    assert words in found.sentence


def test_a_range_that_contains_the_host_keeps_the_pods_address_and_its_answers_are_lost() -> None:
    lab, seen = world_lab(kept="0.0.0.0/0"), look(POD, is_answered=False, connections="")
    source = judge_source(lab, PAIR, seen)
    assert source.verdict is Verdict.PASS  # it is what was asked for
    assert f"ipv4NativeRoutingCIDR 0.0.0.0/0 contains {WORLD}" in source.sentence
    answer = judge_answer(lab, PAIR, seen)
    assert answer.verdict is Verdict.FAIL
    assert f"world answers to {POD}, for which it has no route but its default one" in answer.sentence
    assert judge_rewriter(lab, PAIR, seen, ()).verdict is Verdict.PASS


def test_a_range_that_does_not_contain_the_host_changes_nothing() -> None:
    assert judge_source(world_lab(kept="10.0.0.0/8"), PAIR, look(POD)).verdict is Verdict.FAIL
    assert judge_source(world_lab(kept="10.0.0.0/8"), PAIR, look()).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("asked", "connections", "verdict", "words"),
    [
        (Masquerade.IPTABLES, BY_NETFILTER, Verdict.PASS, f"conntrack expects answers at {NODE}"),
        (Masquerade.IPTABLES, BY_EBPF, Verdict.FAIL, "eBPF rewrote the source"),
        (Masquerade.BPF, BY_EBPF, Verdict.PASS, f"conntrack expects answers at {POD}, the pod's own address"),
        (Masquerade.BPF, "", Verdict.PASS, "conntrack has no entry of it"),
        (Masquerade.BPF, BY_NETFILTER, Verdict.FAIL, "netfilter rewrote the source"),
        # Another connection's entry says nothing of this one.
        (Masquerade.BPF, BY_NETFILTER.replace("53679", "53680"), Verdict.PASS, "conntrack has no entry of it"),
    ],
)  # fmt: skip
def test_who_rewrote_the_source_must_be_whom_the_scenario_asks_for(
    asked: Masquerade, connections: str, verdict: Verdict, words: str
) -> None:
    found = judge_rewriter(world_lab(asked), PAIR, look(connections=connections), ("conntrack", "-L"))
    assert found.verdict is verdict
    assert words in found.sentence
    assert found.command == "conntrack -L"


def test_nobody_that_rewrites_is_wrong_unless_the_range_says_so() -> None:
    assert judge_rewriter(world_lab(), PAIR, look(POD), ()).verdict is Verdict.FAIL


def program(*did: str) -> NodeDatapath:
    one = AttachedProgram(
        device="eth0", hook="egress", attach="tc clsact", name="cil_to_netdev", program_id=7, did=did, command=""
    )
    return NodeDatapath(node="node1", programs=(one,), maps=())


def test_packets_without_a_port_are_said_with_their_number() -> None:
    (full,) = judge_room(world_lab(), program("3 × passed on", "2 × dropped: no port left to masquerade with"))
    assert full.verdict is Verdict.FAIL
    assert "2 × dropped: no port left to masquerade with" in full.sentence
    (fine,) = judge_room(world_lab(), program("3 × passed on"))
    assert fine.verdict is Verdict.PASS
    assert list(judge_room(world_lab(), program())) == []  # a cluster's programs do not say


def test_only_a_pod_and_a_host_outside_are_such_a_pair() -> None:
    check, lab = MasqueradeCheck(), world_lab()
    assert check.unfit(lab, PAIR) == ""
    for client, server in ((CLIENT, SERVER), ("node1", "world"), (CLIENT, "node1")):
        assert check.unfit(lab, Pair(client=client, server=server, placement=Placement.OUTSIDE))


def test_the_line_of_another_version_without_an_answers_way_is_read() -> None:
    entry = ConntrackLine(protocol="udp", source=POD, destination=WORLD, first="1", second="2", is_replied=True)
    assert entry.answered_at == ""
