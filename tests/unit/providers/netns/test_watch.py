"""What a program before any tap answers to a frame, as the path knows it."""

from __future__ import annotations

import pytest

from labctl.model.trace import BEFORE_TAPS, ForwardingAct, Mover, PacketKey
from labctl.providers.netns.watch import early_movement

KEY = PacketKey(src="10.244.0.10", dst="10.244.1.10", protocol="icmp", first=7, second=1, ip_id=9)


@pytest.mark.parametrize(
    ("answer", "helper", "word"),
    [
        (0, ForwardingAct.DROP, "XDP_ABORTED"), (1, ForwardingAct.DROP, "XDP_DROP"),
        (3, ForwardingAct.REDIRECT, "XDP_TX"), (4, ForwardingAct.REDIRECT, "XDP_REDIRECT"),
        (9, ForwardingAct.DROP, "9, which is no verdict of XDP"),
    ],
)  # fmt: skip
def test_each_answer_of_a_program_is_an_act(answer: int, helper: ForwardingAct, word: str) -> None:
    act = early_movement(answer, KEY, part="node1", device="eth0", name="", number=3)
    assert act is not None
    assert (act.mover, act.helper, act.hook, act.raw) == (Mover.PROGRAM, helper, BEFORE_TAPS, word)
    assert act.what == "the XDP program without a name (id 3)"


def test_a_program_that_lets_it_pass_did_nothing() -> None:
    assert early_movement(2, KEY, part="node1", device="eth0", name="x", number=3) is None
