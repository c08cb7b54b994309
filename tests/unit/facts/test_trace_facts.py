"""What a trace says, fact by fact; and that nothing is a value where the client's own device saw nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.facts.readings import of_fallback, questions, usual_pair
from labctl.facts.trace_facts import Unmeasured, fact_of, names, summary
from labctl.loading import load_scenario
from labctl.model.evidence import ModeInForce
from labctl.model.fact import FACTS, FactQuestion, FactSource, Parameter, Value
from labctl.model.lab import Encapsulation, Fallback, Placement
from labctl.model.signature import Role, Signature
from labctl.model.trace import (
    Carriage,
    ForwardingAct,
    Hop,
    HopEnvelope,
    KnownAddress,
    Movement,
    Mover,
    PacketKey,
    PacketPath,
    ProbeProtocol,
    TapDirection,
    Trace,
    TraceTap,
    Way,
    WrongTurn,
)
from labctl.planning.resolve import resolve

LAB = resolve(load_scenario("bpf", start=Path(__file__).resolve().parents[3]), name="my-lab")
KEY = PacketKey(src="10.244.0.10", dst="10.244.1.10", protocol="icmp", first=7, second=1)
ROLES = (Role.CLIENT_ETH0, Role.CLIENT_LXC, Role.CLIENT_UPLINK, Role.SERVER_ETH0)
ENVELOPE = HopEnvelope(
    src=KnownAddress(address="172.30.0.2", role="client-node"),
    dst=KnownAddress(address="172.30.0.3", role="server-node"),
    src_mac=KnownAddress(address="02:00:00:00:00:01"),
    dst_mac=KnownAddress(address="02:00:00:00:00:02"),
    src_port=4711,
    dst_port=8472,
    ttl=64,
    vni=51130,
    identity_pods=("client",),
)


def hop(role: Role, *, ttl: int = 64, carriage: Carriage = Carriage.WIRE, **more: object) -> Hop:
    fields = {
        "tap": str(role), "role": role, "node": "node1", "device": "eth0", "direction": TapDirection.OUT, "time_ns": 1,
        "since_previous_ns": None, "src": KEY.src, "dst": KEY.dst, "ttl": ttl, "carriage": carriage,
        "src_mac": KnownAddress(address="02:00:00:00:00:03", role="client"),
        "dst_mac": KnownAddress(address="02:00:00:00:00:04", role="client-lxc"),
    }  # fmt: skip
    return Hop(**(fields | more))  # type: ignore[arg-type]


def act(mover: Mover, what: str, helper: str) -> Movement:
    return Movement(
        node="node2", mover=mover, what=what, device="cilium_vxlan", hook="ingress", helper=helper, packet=KEY
    )


REQUEST = PacketPath(
    way=Way.REQUEST,
    number=1,
    what="ICMP echo request",
    skipped=(),
    hops=(
        hop(Role.CLIENT_ETH0, carriage=Carriage.START),
        hop(Role.CLIENT_LXC),
        hop(
            Role.CLIENT_UPLINK,
            carriage=Carriage.TUNNEL,
            envelope=ENVELOPE,
            moved_by=(act(Mover.NETFILTER, "OUTPUT", "accept"), act(Mover.PROGRAM, "cil_to_netdev", "pass")),
        ),
        hop(
            Role.SERVER_ETH0,
            ttl=63,
            carriage=Carriage.PROGRAM,
            moved_by=(act(Mover.PROGRAM, "cil_from_overlay", str(ForwardingAct.REDIRECT_PEER)),),
        ),
    ),
)
REPLY = PacketPath(
    way=Way.REPLY,
    number=1,
    what="ICMP echo reply",
    skipped=(),
    hops=(hop(Role.SERVER_ETH0, carriage=Carriage.START), hop(Role.CLIENT_ETH0, ttl=63, carriage=Carriage.UNOBSERVED)),
)
TRACE = Trace(
    lab="my-lab", scenario="bpf", provider="netns", statement="", client="client", server="server",
    client_address=KEY.src, server_address=KEY.dst, client_node="node1", server_node="node2",
    placement=Placement.CROSS_NODE, asked={}, protocol=ProbeProtocol.ICMP, sent=1, replied=1, host_routing="bpf",
    recognised="", expected_source="", paths=(REQUEST, REPLY),
    taps=tuple(
        TraceTap(name=str(role), role=role, part="node1", part_kind="node", node="node1", device="d") for role in ROLES
    ),
    signature=Signature(placement="cross-node", encapsulation=Encapsulation.VXLAN, taps=()),
)  # fmt: skip


def read(fact: str, role: Role | None = None, way: Way = Way.REQUEST, trace: Trace = TRACE) -> Value:
    return fact_of(trace, LAB, FactQuestion(fact=fact, client="client", server="server", role=role, way=way))


@pytest.mark.parametrize(
    ("fact", "role", "way", "value"),
    [
        ("seen", Role.CLIENT_ETH0, Way.REQUEST, "both"),
        ("seen", Role.CLIENT_LXC, Way.REQUEST, "requests"),
        ("ttl", Role.SERVER_ETH0, Way.REQUEST, 63),
        ("vni", Role.CLIENT_UPLINK, Way.REQUEST, 51130),
        ("vni-of", Role.CLIENT_UPLINK, Way.REQUEST, ("client",)),
        ("addresses", Role.CLIENT_UPLINK, Way.REQUEST, ("client", "server", "node1", "node2")),
        ("addresses", Role.CLIENT_LXC, Way.REQUEST, ("client", "server")),
        ("port", Role.CLIENT_UPLINK, Way.REQUEST, 8472),
        ("outer-source", Role.CLIENT_UPLINK, Way.REQUEST, "172.30.0.2"),
        ("outer-destination", Role.CLIENT_UPLINK, Way.REQUEST, "172.30.0.3"),
        ("destination-mac", Role.CLIENT_ETH0, Way.REQUEST, "client-lxc"),
        ("helper", Role.SERVER_ETH0, Way.REQUEST, "bpf_redirect_peer"),
        ("helper", Role.CLIENT_UPLINK, Way.REQUEST, "tunnel"),
        ("helper", Role.CLIENT_LXC, Way.REPLY, "none"),
        ("arrived", None, Way.REQUEST, True),
        ("lost-at", None, Way.REQUEST, "none"),
        ("wrong-role", None, Way.REQUEST, "none"),
        ("netfilter-hooks", None, Way.REQUEST, ("OUTPUT",)),
        ("netfilter-hooks", Role.SERVER_ETH0, Way.REQUEST, ()),
        ("source-outside", None, Way.REQUEST, "client"),
    ],
)
def test_a_trace_tells_the_fact(fact: str, role: Role | None, way: Way, value: Value) -> None:
    assert read(fact, role, way) == value


@pytest.mark.parametrize(
    ("fact", "role", "way", "why"),
    [
        ("seen", Role.FABRIC, Way.REQUEST, "there is no fabric on the way of this pair"),
        ("ttl", Role.CLIENT_LXC, Way.REPLY, "no reply was seen at client-lxc"),
        ("vni", Role.CLIENT_LXC, Way.REQUEST, "the request is in no envelope at client-lxc"),
        ("helper", Role.CLIENT_ETH0, Way.REQUEST, "client-eth0 is where the request begins: nothing moved it there"),
        ("helper", Role.CLIENT_ETH0, Way.REPLY, "no witness saw what moved the reply to client-eth0"),
        ("service.backend", None, Way.REQUEST, "no translation of server was seen"),
    ],
)
def test_what_the_trace_does_not_tell_is_unmeasured(fact: str, role: Role | None, way: Way, why: str) -> None:
    with pytest.raises(Unmeasured, match=why):
        read(fact, role, way)


@pytest.mark.parametrize("fact", ["seen", "helper", "lost-at", "wrong-role", "netfilter-hooks", "arrived"])
def test_nothing_is_a_value_only_where_the_client_saw_the_packets(fact: str) -> None:
    silent = replace(TRACE, paths=(replace(REQUEST, hops=()), replace(REPLY, hops=())))
    with pytest.raises(Unmeasured, match="the client's own device did not see the packets in this trace"):
        read(fact, Role.CLIENT_LXC, trace=silent)


def test_a_loss_and_a_wrong_turn_are_told_by_role_and_part() -> None:
    lost = replace(REQUEST, hops=REQUEST.hops[:2], arrived=False, lost="…", lost_tap=str(Role.CLIENT_LXC))
    turn = WrongTurn(way=Way.REQUEST, number=1, tap=str(Role.CLIENT_LXC), role=str(Role.CLIENT_LXC), sentence="…")
    trace = replace(TRACE, paths=(lost, replace(REPLY, hops=())), wrong=turn)
    assert read("arrived", trace=trace) is False
    assert read("lost-at", trace=trace) == "client-lxc"
    assert read("wrong-role", trace=trace) == "client-lxc"
    assert read("wrong-part", trace=trace) == "node1"


def test_the_summary_says_nothing_of_a_single_tap() -> None:
    assert summary(TRACE) == "1 sent, 1 arrived, 1 answered; 4 of 4 taps saw the packets"


def test_every_fact_of_a_trace_has_its_reader_and_no_other_has() -> None:
    assert set(names()) == {name for name, kind in FACTS.items() if kind.source is FactSource.TRACE}


def test_a_fact_is_asked_at_every_role_way_and_node_that_nobody_named() -> None:
    asked = questions(LAB, ("seen", "ttl", "pod-prefix", "mode.proven"), *usual_pair(LAB))
    counts = {name: sum(one.fact == name for one in asked) for name in ("seen", "ttl", "pod-prefix", "mode.proven")}
    assert counts == {"seen": len(Role), "ttl": 2 * len(Role), "pod-prefix": 3, "mode.proven": 1}
    assert usual_pair(LAB) == ("client", "server")
    assert questions(LAB, ("seen",), "client", "server", role=Role.CLIENT_LXC)[0].words() == "seen(client-lxc)"


def test_an_unknown_fact_is_refused_with_what_is_near() -> None:
    with pytest.raises(UsageError, match="there is no fact sene") as refused:
        questions(LAB, ("sene",), "client", "server")
    assert refused.value.remedy == "did you mean 'seen'?"


def test_a_role_stands_for_a_tap_in_every_fact_that_takes_one() -> None:
    assert {name for name, kind in FACTS.items() if Parameter.ROLE in kind.takes} >= {"seen", "ttl", "helper", "vni"}


@pytest.mark.parametrize(
    ("fallback", "values"),
    [
        (None, {"mode.fallback": "none", "mode.logged": Unmeasured}),
        (
            Fallback(reason="masquerading is done by iptables", remedy="", line="BPF host routing requires …"),
            {"mode.fallback": "iptables-masquerade", "mode.logged": True},
        ),
        (
            Fallback(reason="kube-proxy replacement is off", remedy=""),
            {"mode.fallback": "no-kube-proxy-replacement", "mode.logged": False},
        ),
        (
            Fallback(reason="the agent does not say why", remedy=""),
            {"mode.fallback": Unmeasured, "mode.logged": False},
        ),
    ],
    ids=["as asked", "logged", "silent", "of a cluster, unknown"],
)
def test_why_a_mode_fell_back_is_one_of_the_known_conditions_or_unmeasured(
    fallback: Fallback | None, values: dict[str, object]
) -> None:
    mode = ModeInForce(lab="l", asked={}, found={}, evidence=(), proven=True, fallback=fallback)
    for fact, value in values.items():
        if value is Unmeasured:
            with pytest.raises(Unmeasured):
                of_fallback(mode, fact)
        else:
            assert of_fallback(mode, fact) == value
