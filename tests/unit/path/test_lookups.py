"""By which route and which entry of a forwarding database a packet went on: what is asked, and what answers say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from labctl.model.signature import Role
from labctl.model.trace import (
    Carriage,
    ForwardingAct,
    Hop,
    HopEnvelope,
    KnownAddress,
    LookupTable,
    Movement,
    Mover,
    PacketKey,
    PacketPath,
    TapDirection,
    Way,
)
from labctl.path.lookups import Question, answer_of, questions_of, with_lookups

PEER, VTEP, VTEP_MAC = "a2:29:54:fe:a6:54", "172.30.0.3", "46:e1:60:8d:70:d6"
HERE = KnownAddress(address="02:00:00:00:00:01")


def hop(tap: str, role: Role, carriage: Carriage, direction: TapDirection = TapDirection.OUT) -> Hop:
    node, _, device = tap.partition(":")
    return Hop(
        tap=tap,
        role=role,
        node=node,
        device=device,
        direction=direction,
        time_ns=0,
        since_previous_ns=0,
        src="10.244.0.10",
        dst="10.244.1.10",
        src_mac=HERE,
        dst_mac=KnownAddress(address=PEER),
        ttl=63,
        carriage=carriage,
    )


def path(*hops: Hop) -> PacketPath:
    return PacketPath(way=Way.REQUEST, number=1, what="", hops=hops, skipped=())


ENVELOPE = HopEnvelope(
    src=KnownAddress(address="172.30.0.2"),
    dst=KnownAddress(address=VTEP),
    src_mac=HERE,
    dst_mac=HERE,
    src_port=1,
    dst_port=8472,
    ttl=64,
    vni=1,
)
TUNNELLED = path(
    hop("node1:cni0", Role.CLIENT_BRIDGE, Carriage.BRIDGE, TapDirection.IN),
    hop("node1:flannel.1", Role.CLIENT_TUNNEL, Carriage.KERNEL),
    replace(hop("node1:eth0", Role.CLIENT_UPLINK, Carriage.TUNNEL), envelope=ENVELOPE),
)
ROUTE = Question(node="node1", table=LookupTable.ROUTES, key="10.244.1.10", device="flannel.1")
ENTRY = Question(node="node1", table=LookupTable.TUNNEL, key=PEER, device="flannel.1")
OUTER = Question(node="node1", table=LookupTable.ROUTES, key=VTEP, device="eth0")


def test_a_tunnel_raises_three_questions_and_what_only_arrives_none() -> None:
    assert questions_of(TUNNELLED) == ((1, ROUTE), (2, ENTRY), (2, OUTER))
    assert ROUTE.argv == ("ip", "-j", "-4", "route", "get", "fibmatch", "10.244.1.10")
    assert ENTRY.argv == ("bridge", "-j", "fdb", "show", "dev", "flannel.1")
    bridged = path(TUNNELLED.hops[0], hop("switch1:to-switch2", Role.FABRIC, Carriage.BRIDGE))
    assert [question.table for _, question in questions_of(bridged)] == [LookupTable.BRIDGE]


def test_a_bridge_on_the_wire_is_asked_for_the_envelopes_mac() -> None:
    outside = replace(ENVELOPE, dst_mac=KnownAddress(address=VTEP_MAC))
    port = replace(hop("switch1:to-switch2", Role.FABRIC, Carriage.BRIDGE), envelope=outside)
    assert [question.key for _, question in questions_of(path(TUNNELLED.hops[0], port))] == [VTEP_MAC]


def test_what_a_program_sends_by_the_kernels_routes_is_asked_for_its_route() -> None:
    act = Movement(
        node="node1",
        mover=Mover.PROGRAM,
        what="cil_from_container",
        device="lxc1",
        hook="ingress",
        helper=ForwardingAct.REDIRECT_NEIGH,
        packet=PacketKey("10.244.0.10", "10.244.1.10", "icmp", 1, 1),
    )
    sent = replace(hop("node1:eth0", Role.CLIENT_UPLINK, Carriage.PROGRAM), moved_by=(act,))
    assert [question for _, question in questions_of(path(TUNNELLED.hops[0], sent))] == [replace(ROUTE, device="eth0")]
    assert not questions_of(path(TUNNELLED.hops[0], replace(sent, moved_by=())))


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("boot", "by the route 10.244.1.0/24 via 10.254.0.1 dev flannel.1: static"),
        ("bgp", "by the route 10.244.1.0/24 via 10.254.0.1 dev flannel.1: learned from BGP"),
        ("ospf", "by the route 10.244.1.0/24 via 10.254.0.1 dev flannel.1: learned from OSPF"),
        ("babel", "by the route 10.244.1.0/24 via 10.254.0.1 dev flannel.1: babel"),
    ],
)
def test_a_route_is_named_with_whoever_told_it(protocol: str, words: str) -> None:
    entry = {"dst": "10.244.1.0/24", "gateway": "10.254.0.1", "dev": "flannel.1", "protocol": protocol, "flags": []}
    found = answer_of(ROUTE, json.dumps([entry]))
    assert found is not None
    assert (found.words, found.told, found.to) == (words, protocol, "10.254.0.1")


def test_of_several_next_hops_it_is_the_one_of_the_device_that_the_packet_left_by() -> None:
    hops = [{"gateway": "10.254.0.2", "dev": "eth9"}, {"gateway": "10.254.0.4", "dev": "flannel.1"}]
    found = answer_of(ROUTE, json.dumps([{"dst": "10.244.1.0/24", "protocol": "ospf", "nexthops": hops}]))
    assert found is not None
    assert found.to == "10.254.0.4"
    assert found.words.endswith("learned from OSPF, one of 2 next hops")
    assert answer_of(ROUTE, json.dumps([{"dst": "10.244.1.0/24", "dev": "eth9"}])) is None


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"mac": PEER, "ifname": "flannel.1", "dst": VTEP, "flags": ["self"], "state": "permanent"}, "set"),
        ({"mac": PEER, "ifname": "flannel.1", "dst": VTEP, "flags": ["self"], "state": ""}, "learned"),
        ({"mac": PEER, "ifname": "flannel.1", "dst": VTEP, "flags": ["self", "extern_learn"], "state": ""}, "bgp"),
    ],
)
def test_a_vtep_is_named_with_whoever_told_it(entry: dict[str, object], told: str) -> None:
    found = answer_of(ENTRY, json.dumps([{"mac": "00:00:00:00:00:00", "dst": "172.30.0.9"}, entry]))
    assert found is not None
    assert (found.told, found.to) == (told, VTEP)
    assert VTEP in found.words


def test_a_bridges_port_is_named_where_its_entry_is_the_bridges() -> None:
    question = Question(node="node1", table=LookupTable.BRIDGE, key=PEER, device="veth1")
    entries = [{"mac": PEER, "ifname": "veth1", "flags": ["self"]}, {"mac": PEER, "ifname": "veth1", "master": "cni0"}]
    found = answer_of(question, json.dumps(entries))
    assert found is not None
    assert found.words == f"cni0's FDB has MAC {PEER} behind veth1: learned from what came from there"
    assert answer_of(question, json.dumps(entries[:1])) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "RTNETLINK answers: Network is unreachable", "[1]"])
@pytest.mark.parametrize("question", [ROUTE, ENTRY])
def test_what_says_nothing_is_no_answer(question: Question, text: str) -> None:
    assert answer_of(question, text) is None


def test_the_way_with_its_answers() -> None:
    found = answer_of(ROUTE, json.dumps([{"dst": "10.244.1.0/24", "dev": "flannel.1", "protocol": "boot"}]))
    assert found is not None
    told = with_lookups(TUNNELLED, {ROUTE: found})
    assert [len(one.lookups) for one in told.hops] == [0, 1, 0]
    assert with_lookups(TUNNELLED, {}) is TUNNELLED
