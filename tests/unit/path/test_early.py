"""A program that takes a frame before any tap of its device: where it is asked for, and how the path tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.model.signature import Role
from labctl.model.trace import (
    BEFORE_TAPS,
    Carriage,
    ForwardingAct,
    Hop,
    KnownAddress,
    Movement,
    Mover,
    PacketKey,
    PacketPath,
    TapDirection,
    TraceTap,
    Way,
)
from labctl.path.explain import departure, first_wrong, next_tap, taken_early
from labctl.testing.labs import example_lab

KEY = PacketKey(src="10.244.0.10", dst="10.244.1.10", protocol="icmp", first=7, second=1, ip_id=9)
ROLES = (
    ("client:eth0", Role.CLIENT_ETH0), ("node1:eth0", Role.CLIENT_UPLINK), ("spine1:a", Role.FABRIC),
    ("spine2:a", Role.FABRIC), ("node2:eth0", Role.SERVER_UPLINK), ("server:eth0", Role.SERVER_ETH0),
)  # fmt: skip
TAPS = tuple(
    TraceTap(
        name=name, role=role, part=name.partition(":")[0], part_kind="node", node=name.partition(":")[0],
        device=name.partition(":")[2],
    )
    for name, role in ROLES
)  # fmt: skip


def hop(tap: str, direction: TapDirection, owner: str = "") -> Hop:
    known, place = KnownAddress(address="x", owner=owner), next(one for one in TAPS if one.name == tap)
    return Hop(
        tap=tap, role=place.role, node=place.node, device=place.device, direction=direction, time_ns=1,
        since_previous_ns=None, src="", dst="", ttl=64, src_mac=known, dst_mac=known, envelope=None,
        moved_by=(), carriage=Carriage.WIRE, because="",
    )  # fmt: skip


def path(*hops: Hop, way: Way = Way.REQUEST) -> PacketPath:
    return PacketPath(
        way=way, number=1, what="ICMP echo request", arrived=False, lost="lost", hops=hops, skipped=(),
        lost_tap=hops[-1].tap if hops else "",
    )  # fmt: skip


def drop(part: str, device: str) -> Movement:
    return Movement(
        node=part, mover=Mover.PROGRAM, what="the XDP program nobody (id 12)", device=device, hook=BEFORE_TAPS,
        helper=ForwardingAct.DROP, packet=KEY, reason="it answers XDP_DROP",
    )  # fmt: skip


def test_the_next_device_on_the_way_is_asked_in_either_direction() -> None:
    out = path(hop("client:eth0", TapDirection.OUT))
    assert next_tap(out, TAPS) == TAPS[1]
    back = path(hop("server:eth0", TapDirection.OUT), way=Way.REPLY)
    assert next_tap(back, TAPS) == TAPS[4]


def test_of_several_wires_the_one_that_the_frame_is_addressed_to_is_asked_and_else_none() -> None:
    assert next_tap(path(hop("node1:eth0", TapDirection.OUT, owner="spine2:a")), TAPS) == TAPS[3]
    assert next_tap(path(hop("node1:eth0", TapDirection.OUT)), TAPS) is None


@pytest.mark.parametrize(
    "lost",
    [
        path(hop("node1:eth0", TapDirection.IN)),
        path(),
        path(hop("server:eth0", TapDirection.OUT)),
        replace(path(hop("client:eth0", TapDirection.OUT)), arrived=True),
        replace(path(hop("client:eth0", TapDirection.OUT)), after=(drop("node1", "eth0"),)),
    ],
    ids=["came in", "never seen", "the last tap", "arrived", "dropped already"],
)
def test_nobody_is_asked_where_no_frame_left_for_a_device(lost: PacketPath) -> None:
    assert next_tap(lost, TAPS) is None


def test_a_frame_that_came_back_by_the_tap_that_it_left_by_left_by_it() -> None:
    left, back = hop("client:eth0", TapDirection.OUT), hop("client:eth0", TapDirection.IN)
    assert departure(path(left, back)) is left
    assert next_tap(path(left, back), TAPS) == TAPS[1]


def test_the_loss_is_the_programs_at_its_device() -> None:
    lab = example_lab()
    found = taken_early(path(hop("client:eth0", TapDirection.OUT)), drop("node1", "eth0"), TAPS, source="client:eth0")
    assert found.lost == (
        "the request was dropped on node1 by the XDP program nobody (id 12) at eth0 XDP: it answers XDP_DROP"
    )
    reasons = {one.tap: (one.reason, one.is_observed) for one in found.skipped}
    assert reasons["node1:eth0"] == ("the XDP program nobody (id 12) took it before any tap", True)
    assert reasons["node2:eth0"] == ("the packet did not come this far", True)
    wrong = first_wrong(lab, lab.pairs[0], TAPS, [found], [])
    assert wrong is not None
    assert (wrong.tap, wrong.role) == ("node1:eth0", "client-node-uplink")
    assert found.lost_tap == "client:eth0", "where it was seen last is another thing"


def test_a_request_that_arrives_from_the_nodes_address_goes_wrong_where_it_first_has_it() -> None:
    lab = example_lab()
    pair = next(one for one in lab.pairs if one.server == "server")
    client, node = str(lab.client(pair).address), lab.nodes[0]
    sent = replace(hop("client:eth0", TapDirection.OUT), src=client)
    rewritten = [
        replace(hop(tap, direction), src=str(node.address.ip))
        for tap, direction in (("node1:eth0", TapDirection.OUT), ("server:eth0", TapDirection.IN))
    ]
    arrived = replace(path(sent, *rewritten), arrived=True, lost="")
    wrong = first_wrong(lab, pair, TAPS, [arrived], [])
    assert wrong is not None
    assert (wrong.tap, wrong.role) == ("node1:eth0", "client-node-uplink")
    assert wrong.sentence == (
        f"at node1:eth0 the request is from {node.address.ip} (node1), not from {client} (client): it was masqueraded, "
        "where pods' addresses should be kept"
    )
    kept = replace(arrived, hops=tuple(replace(one, src=client) for one in arrived.hops))
    assert first_wrong(lab, pair, TAPS, [kept], []) is None
