"""Sightings and movements become paths: order, what moved the packet, what it skipped, where it was lost.

Times of two nodes that have clocks of their own are told by one of them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.model.lab import Encapsulation, HostRouting, Lab, Placement
from labctl.model.signature import Role
from labctl.model.trace import (
    Carriage,
    ForwardingAct,
    Movement,
    Mover,
    PacketKey,
    PacketPath,
    TapDirection,
    TraceTap,
    Way,
)
from labctl.path.assemble import AddressBook, Clocks, PathEnd, join, names_of
from labctl.path.explain import carried, first_wrong, told
from labctl.path.sighting import Envelope, Sighting
from labctl.testing.labs import CLIENT, SERVER, example_devices, example_lab

IN, OUT = TapDirection.IN, TapDirection.OUT
ENDS = (PathEnd(name="client:eth0", taps=("client:eth0",)), PathEnd(name="server:eth0", taps=("server:eth0",)))
LAB = example_lab(host_routing=HostRouting.BPF, encapsulation=Encapsulation.VXLAN)
PAIR = LAB.pairs[0]
A, B = LAB.pod(CLIENT), LAB.pod(SERVER)
KEY = PacketKey(src=str(A.address), dst=str(B.address), protocol="icmp", first=7, second=1, ip_id=40)
OUTER = PacketKey(src="172.30.0.3", dst="172.30.0.4", protocol="udp", first=43593, second=8472, ip_id=9)
ENVELOPE = Envelope(
    src=OUTER.src,
    dst=OUTER.dst,
    src_port=OUTER.first,
    dst_port=OUTER.second,
    ttl=64,
    vni=A.identity,
    src_mac=LAB.node("node1").mac,
    dst_mac=LAB.node("node2").mac,
    ip_id=OUTER.ip_id,
)


def tap(name: str, role: Role, kind: str, node: str) -> TraceTap:
    part, _, device = name.rpartition(":")
    return TraceTap(name=name, role=role, part=part, part_kind=kind, node=node, device=device)


TAPS = (
    tap("client:eth0", Role.CLIENT_ETH0, "pod", "node1"),
    tap(f"node1:{A.lxc}", Role.CLIENT_LXC, "node", "node1"),
    tap("node1:cilium_host", Role.CLIENT_CILIUM_HOST, "node", "node1"),
    tap("node1:cilium_vxlan", Role.CLIENT_CILIUM_VXLAN, "node", "node1"),
    tap("node1:eth0", Role.CLIENT_UPLINK, "node", "node1"),
    tap("underlay:port1", Role.CLIENT_BRIDGE_PORT, "underlay", ""),
    tap("underlay:port2", Role.SERVER_BRIDGE_PORT, "underlay", ""),
    tap("node2:eth0", Role.SERVER_UPLINK, "node", "node2"),
    tap("node2:cilium_vxlan", Role.SERVER_CILIUM_VXLAN, "node", "node2"),
    tap(f"node2:{B.lxc}", Role.SERVER_LXC, "node", "node2"),
    tap("server:eth0", Role.SERVER_ETH0, "pod", "node2"),
)
NAMES: AddressBook = names_of(LAB, PAIR, TAPS, [(device.role, device.mac) for device in example_devices(LAB)])


def seen(
    name: str, time_ns: int, direction: TapDirection, *, envelope: Envelope | None = None, ttl: int = 64
) -> Sighting:
    return Sighting(
        tap=name,
        role=next(one.role for one in TAPS if one.name == name),
        time_ns=time_ns,
        direction=direction,
        way=Way.REQUEST,
        number=1,
        src=KEY.src,
        dst=KEY.dst,
        ttl=ttl,
        src_mac=A.mac,
        dst_mac=A.lxc_mac,
        envelope=envelope,
        key=KEY,
        what="ICMP echo request",
    )


def program(node: str, what: str, device: str, hook: str, helper: str, time_ns: int, **more: object) -> Movement:
    movement = Movement(
        node=node, mover=Mover.PROGRAM, what=what, device=device, hook=hook, helper=helper, packet=KEY, time_ns=time_ns
    )
    return replace(movement, **more)  # type: ignore[arg-type]


def netfilter(
    node: str, what: str, device: str, target: str = "", *, helper: str = ForwardingAct.ACCEPT, **more: object
) -> Movement:
    movement = Movement(
        node=node,
        mover=Mover.NETFILTER,
        what=what,
        device=device,
        hook=what.lower(),
        helper=helper,
        packet=OUTER,
        target=target,
        encapsulated=True,
    )
    return replace(movement, **more)  # type: ignore[arg-type]


# The kernel's stamps as they are: what goes up from the uplink keeps the time at which it came in there (1800).
SIGHTINGS = (
    seen("client:eth0", 1000, OUT),
    seen(f"node1:{A.lxc}", 1100, IN),
    seen("node1:cilium_vxlan", 1300, OUT),
    seen("node1:eth0", 1500, OUT, envelope=ENVELOPE),
    seen("underlay:port1", 1600, IN, envelope=ENVELOPE),
    seen("underlay:port2", 1700, OUT, envelope=ENVELOPE),
    seen("node2:eth0", 1800, IN, envelope=ENVELOPE),
    seen("node2:cilium_vxlan", 1800, IN),
    seen("server:eth0", 1800, IN, ttl=63),
)
MOVEMENTS = (
    program(
        "node1",
        "cil_from_container",
        A.lxc,
        "ingress",
        ForwardingAct.TUNNEL,
        1200,
        target="cilium_vxlan",
        identity=16843,
    ),
    program("node1", "cil_to_netdev", "eth0", "egress", ForwardingAct.PASS, 1450, encapsulated=True),
    netfilter("node1", "OUTPUT", "", "eth0"),
    netfilter("node1", "POSTROUTING", "cilium_vxlan", "eth0"),
    program("node2", "cil_from_netdev", "eth0", "ingress", ForwardingAct.TO_STACK, 1850, encapsulated=True),
    program("node2", "cil_from_overlay", "cilium_vxlan", "ingress", ForwardingAct.REDIRECT_PEER, 1950, target=B.lxc),
    netfilter("node2", "PREROUTING", "eth0"),
    netfilter("node2", "INPUT", "eth0"),
)


def joined(
    sightings: tuple[Sighting, ...] = SIGHTINGS, movements: tuple[Movement, ...] = MOVEMENTS
) -> tuple[PacketPath, ...]:
    return join(TAPS, sightings, movements, NAMES, sent=1, ends=ENDS)


def test_a_path_has_its_taps_in_order_and_what_acted_before_each() -> None:
    request, reply = joined()
    assert [hop.tap for hop in request.hops] == [sighting.tap for sighting in SIGHTINGS]
    assert [[act.what for act in hop.moved_by] for hop in request.hops] == [
        [],
        [],
        ["cil_from_container"],
        ["OUTPUT", "POSTROUTING", "cil_to_netdev"],
        [],
        [],
        [],
        ["cil_from_netdev", "PREROUTING", "INPUT"],
        ["cil_from_overlay"],
    ]
    wire, tunnel = Carriage.WIRE, Carriage.TUNNEL
    assert [hop.carriage for hop in request.hops] == [
        Carriage.START, wire, Carriage.PROGRAM, tunnel, wire, Carriage.BRIDGE, wire, tunnel, Carriage.PROGRAM,
    ]  # fmt: skip
    assert request.arrived
    assert (reply.arrived, reply.hops) == (False, ())


def test_the_order_does_not_depend_on_the_order_of_the_captures() -> None:
    assert joined(SIGHTINGS[::-1]) == joined()


def test_a_packet_that_kept_its_stamp_has_the_time_of_the_act_that_moved_it() -> None:
    request = joined()[0]
    assert [hop.since_previous_ns for hop in request.hops] == [None, 100, 200, 200, 100, 100, 100, 51, 100]


@pytest.mark.parametrize("late_ns", [-150_000, -300, -60, 60, 149, 300, 150_000])
def test_the_order_does_not_depend_on_how_the_clock_of_the_programs_differs_from_that_of_the_taps(late_ns: int) -> None:
    leaving = program("node1", "cil_to_overlay", "cilium_vxlan", "egress", ForwardingAct.PASS, 1250)
    witnesses = (*MOVEMENTS, leaving)
    shifted = [m if m.time_ns is None else replace(m, time_ns=m.time_ns + late_ns) for m in witnesses]
    found, wanted = (join(TAPS, SIGHTINGS, acts, NAMES, sent=1, ends=ENDS)[0] for acts in (shifted, witnesses))
    assert [hop.tap for hop in found.hops] == [hop.tap for hop in wanted.hops]
    assert [act.what for hop in wanted.hops for act in hop.moved_by] == [
        "cil_from_container", "cil_to_overlay", "OUTPUT", "POSTROUTING", "cil_to_netdev",
        "cil_from_netdev", "PREROUTING", "INPUT", "cil_from_overlay",
    ]  # fmt: skip
    assert [[act.what for act in hop.moved_by] for hop in found.hops] == [
        [act.what for act in hop.moved_by] for hop in wanted.hops
    ]


def test_a_path_without_witnesses_never_says_what_moved_the_packet() -> None:
    request = joined(movements=())[0]
    told_by_taps = {Carriage.START, Carriage.WIRE, Carriage.BRIDGE, Carriage.TUNNEL, Carriage.UNOBSERVED}
    assert {hop.carriage for hop in request.hops} <= told_by_taps
    last = request.hops[-1]
    assert (last.carriage, last.because) == (Carriage.UNOBSERVED, "no witness saw what moved it here")
    assert not any(one.is_observed and "redirect" in one.reason for one in request.skipped)


def test_acts_on_other_packets_are_left_out() -> None:
    stranger = replace(MOVEMENTS[0], packet=KEY._replace(second=2))
    other_passage = replace(MOVEMENTS[0], packet=KEY._replace(ip_id=41))
    assert joined(movements=(*MOVEMENTS, stranger, other_passage)) == joined()


def test_a_copy_that_a_third_node_threw_away_is_no_part_of_the_way_and_a_detour_is() -> None:
    copy = program("node3", "cil_from_netdev", "eth0", "ingress", ForwardingAct.TO_STACK, 1750)
    assert joined(movements=(*MOVEMENTS, copy)) == joined()
    sent_on = program(
        "node3", "cil_from_host", "cilium_host", "egress", ForwardingAct.TUNNEL, 1760, target="cilium_vxlan"
    )
    hop = next(hop for hop in joined(movements=(*MOVEMENTS, copy, sent_on))[0].hops if hop.tap == "node2:eth0")
    assert [act.node for act in hop.moved_by] == ["node3", "node3"]
    assert hop.because.startswith("on node3, cil_from_netdev")


def test_the_lxc_is_skipped_for_the_reason_that_was_seen() -> None:
    skipped = {one.tap: one for one in joined()[0].skipped}
    lxc = skipped[f"node2:{B.lxc}"]
    assert lxc.is_observed
    assert lxc.reason == (
        f"never transmitted on {B.lxc}: cil_from_overlay on cilium_vxlan moved it into the pod with bpf_redirect_peer"
    )
    assert skipped["node1:cilium_host"].reason.startswith("not on its way: cil_from_container")


def test_the_envelope_is_described_by_its_nodes_and_its_identity() -> None:
    envelope = joined()[0].hops[3].envelope
    assert envelope is not None
    assert (envelope.src.owner, envelope.dst.owner) == ("node1", "node2")
    assert (envelope.src.role, envelope.dst.role) == ("client-node", "server-node")
    assert (envelope.identity_pods, envelope.identity_labels) == (("client",), ("app=client",))
    assert envelope.is_senders


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (
            program("node1", "cil_from_container", A.lxc, "ingress", ForwardingAct.DROP, 1200, reason="no route"),
            f"the request was dropped on node1 by cil_from_container at {A.lxc} ingress: no route",
        ),
        (
            netfilter(
                "node1",
                "FORWARD",
                A.lxc,
                helper=ForwardingAct.DROP,
                reason="the rule in filter FORWARD: drop",
                packet=KEY,
            ),
            "the request was dropped on node1 by netfilter in FORWARD: the rule in filter FORWARD: drop",
        ),
        (
            netfilter("node1", "FORWARD", A.lxc, helper=ForwardingAct.NOT_LEFT, packet=KEY),
            "the request was taken by netfilter on node1 in FORWARD: it entered the hook and did not leave it",
        ),
    ],
)
def test_a_packet_that_was_dropped_is_lost_where_and_by_whom(act: Movement, sentence: str) -> None:
    (request,) = joined(SIGHTINGS[:2], (act,))
    assert (request.arrived, request.lost, request.lost_tap) == (False, sentence, f"node1:{A.lxc}")
    wrong = first_wrong(LAB, PAIR, TAPS, (request,), ())
    assert wrong is not None
    assert (wrong.tap, wrong.sentence) == (f"node1:{A.lxc}", sentence)


def test_a_lost_packet_is_described_by_its_addresses_when_last_seen() -> None:
    astray = ENVELOPE._replace(dst_mac="02:aa:aa:aa:aa:aa")
    (request,) = joined((*SIGHTINGS[:3], seen("node1:eth0", 1500, OUT, envelope=astray)), MOVEMENTS[:3])
    assert request.lost == (
        "the request was last seen leaving node1:eth0 in an envelope to 172.30.0.4 (node2), MAC 02:aa:aa:aa:aa:aa "
        "(no device of this lab has it); no tap saw it after that"
    )


def test_a_packet_that_was_never_seen_is_said_not_to_have_been_sent() -> None:
    (request,) = joined((), ())
    assert request.lost == "the request was never seen, not even at client:eth0: the pod did not send it"
    assert request.lost_tap == ""


def test_an_envelope_to_a_node_that_the_pod_is_not_on_is_the_first_wrong() -> None:
    astray = ENVELOPE._replace(dst="172.30.0.9")
    paths = joined((*SIGHTINGS[:3], seen("node1:eth0", 1500, OUT, envelope=astray)), MOVEMENTS[:3])
    wrong = first_wrong(LAB, PAIR, TAPS, paths, ())
    assert wrong is not None
    assert wrong.tap == "node1:eth0"
    assert "envelope to 172.30.0.9 (no node of this lab), but server is on node2" in wrong.sentence
    assert "no tap saw it after that" in wrong.sentence


def test_everything_as_it_should_be_is_no_wrong() -> None:
    paths = joined()
    arrived = (paths[0], replace(paths[1], arrived=True))
    assert first_wrong(LAB, PAIR, TAPS, arrived, ()) is None


def test_the_kernels_forwarding_is_described_with_its_hooks_its_hops_and_conntrack() -> None:
    hooks = (
        netfilter("node1", "PREROUTING", A.lxc, ttl_in=63, packet=KEY, encapsulated=False),
        netfilter("node1", "PREROUTING", A.lxc, helper="new", mover=Mover.CONNTRACK, packet=KEY, encapsulated=False),
        netfilter("node1", "FORWARD", A.lxc, "eth0", ttl_in=62, packet=KEY, encapsulated=False),
        netfilter("node1", "POSTROUTING", A.lxc, "eth0", ttl_in=62, packet=KEY, encapsulated=False),
    )
    assert told(hooks) == "the kernel forwarded it: PREROUTING, FORWARD, POSTROUTING (conntrack: new), TTL 63 → 62"
    here = SIGHTINGS[3]._replace(envelope=None)
    assert carried(SIGHTINGS[1], hooks, here, "eth0").carriage is Carriage.KERNEL


def test_a_redirect_to_another_device_than_the_next_tap_explains_nothing() -> None:
    elsewhere = program("node1", "cil_from_container", A.lxc, "ingress", ForwardingAct.REDIRECT, 1200, target="eth0")
    how = carried(SIGHTINGS[1], (elsewhere,), SIGHTINGS[2], "cilium_vxlan")
    assert how.carriage is Carriage.UNOBSERVED
    assert how.because.endswith("what moved it from there was not observed")


def test_a_lab_on_one_node_needs_no_uplinks() -> None:
    lab: Lab = example_lab(host_routing=HostRouting.BPF, placement=Placement.SAME_NODE)
    assert names_of(lab, lab.pairs[0], TAPS, []).mac(lab.pod(SERVER).mac, Role.SERVER_ETH0).owner == "server:eth0"


def test_of_devices_with_one_mac_the_one_at_the_same_end_is_named() -> None:
    """Calico gives each of its devices the same MAC."""
    lab: Lab = example_lab(host_routing=HostRouting.BPF, placement=Placement.CROSS_NODE)
    taps = (
        tap("node1:cali1", Role.CLIENT_VETH, "node", "node1"),
        tap("node2:cali2", Role.SERVER_VETH, "node", "node2"),
    )
    same = "ee:ee:ee:ee:ee:ee"
    names = names_of(lab, lab.pairs[0], taps, [(str(one.role), same) for one in taps])
    assert names.mac(same, Role.CLIENT_ETH0).owner == "node1:cali1"
    assert names.mac(same, Role.SERVER_VETH).owner == "node2:cali2"


NODE_OF = {"client:eth0": "node1", "node1:eth0": "node1", "node2:eth0": "node2", "server:eth0": "node2"}
MEASURED = Clocks(reference="node1", node="node2", offset_ns=50_000_000, error_ns=400_000)


def echo_at(tap: str, time_ns: int, way: Way = Way.REQUEST, number: int = 1) -> Sighting:
    return Sighting(
        time_ns=time_ns, tap=tap, role=Role.CLIENT_ETH0, way=way, number=number, direction=TapDirection.IN,
        src="10.0.0.1", dst="10.0.1.1", src_mac="", dst_mac="", ttl=64, what="echo", envelope=None, key=None,
    )  # fmt: skip


def test_only_the_other_nodes_times_are_shifted() -> None:
    told = MEASURED.sightings([echo_at("node1:eth0", 100), echo_at("node2:eth0", 50_000_300)], NODE_OF)
    assert [one.time_ns for one in told] == [100, 300]
    movement = Movement(
        node="node2", mover=Mover.PROGRAM, what="p", device="eth0", hook="ingress", helper=str(ForwardingAct.TO_STACK),
        packet=PacketKey(src="a", dst="b", protocol="icmp", first=1, second=1), time_ns=50_000_400,
    )  # fmt: skip
    untimed = replace(movement, time_ns=None)
    assert [m.time_ns for m in MEASURED.movements([movement, untimed, replace(movement, node="node1")])] == [
        400, None, 50_000_400,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("request_ns", "reply_ns", "offset_ns"),
    [
        (50_000_100, 49_999_900, 50_000_000),
        (49_900_000, 49_800_000, 49_850_000),
        (50_300_000, 50_200_000, 50_250_000),
        (49_000_000, 48_900_000, 50_000_000),
    ],
    ids=["measured well", "a request would arrive before it left", "a reply would", "beyond the error nothing is bent"],
)
def test_no_packet_arrives_before_it_was_sent(request_ns: int, reply_ns: int, offset_ns: int) -> None:
    """`request_ns` and `reply_ns` are by node2's clock; by node1's both passed at 0."""
    sightings = [
        echo_at("node1:eth0", 0), echo_at("node2:eth0", request_ns),
        echo_at("node2:eth0", reply_ns, Way.REPLY), echo_at("node1:eth0", 0, Way.REPLY),
    ]  # fmt: skip
    assert MEASURED.narrowed(sightings, NODE_OF).offset_ns == offset_ns


def test_the_note_says_how_well_the_time_between_the_nodes_is_known() -> None:
    assert MEASURED.in_words() == (
        "node2's clock is 50.00 ms ahead of node1's (± 0.40 ms): its times are converted to node1's clock, and a hop "
        "from one to the other is no more precise than that"
    )
