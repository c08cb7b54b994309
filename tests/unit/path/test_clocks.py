"""Times of two nodes that have clocks of their own, told by one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.model.signature import Role
from labctl.model.trace import ForwardingAct, Movement, Mover, PacketKey, TapDirection
from labctl.path.assemble import Clocks
from labctl.path.sighting import Sighting, Way

NODE_OF = {"client:eth0": "node1", "node1:eth0": "node1", "node2:eth0": "node2", "server:eth0": "node2"}
MEASURED = Clocks(reference="node1", node="node2", offset_ns=50_000_000, error_ns=400_000)


def seen(tap: str, time_ns: int, way: Way = Way.REQUEST, number: int = 1) -> Sighting:
    return Sighting(
        time_ns=time_ns, tap=tap, role=Role.CLIENT_ETH0, way=way, number=number, direction=TapDirection.IN,
        src="10.0.0.1", dst="10.0.1.1", src_mac="", dst_mac="", ttl=64, what="echo", envelope=None, key=None,
    )  # fmt: skip


def test_only_the_other_nodes_times_are_shifted() -> None:
    told = MEASURED.sightings([seen("node1:eth0", 100), seen("node2:eth0", 50_000_300)], NODE_OF)
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
        seen("node1:eth0", 0), seen("node2:eth0", request_ns),
        seen("node2:eth0", reply_ns, Way.REPLY), seen("node1:eth0", 0, Way.REPLY),
    ]  # fmt: skip
    assert MEASURED.narrowed(sightings, NODE_OF).offset_ns == offset_ns


def test_the_note_says_how_well_the_time_between_the_nodes_is_known() -> None:
    assert MEASURED.in_words() == (
        "node2's clock is 50.00 ms ahead of node1's (± 0.40 ms): its times are told by node1's clock, and a hop "
        "from one to the other is known no better than that"
    )
