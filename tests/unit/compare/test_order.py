"""The order of a comparison: complete, random, and the same for everyone who has the seed."""

from __future__ import annotations

import pytest

from labctl.compare.order import WorkItem, schedule
from labctl.model.lab import Placement

WORK = tuple(
    WorkItem(check=check, client="client", server=server, placement=placement)
    for check in ("ping", "iperf")
    for server, placement in (("near", Placement.SAME_NODE), ("far", Placement.CROSS_NODE))
)


def test_every_block_has_every_side_check_and_pair_once() -> None:
    plan = schedule(("a", "b", "c"), WORK, 5, seed=3)
    for number, block in enumerate(plan.blocks, start=1):
        assert sorted((run.side, str(run.item)) for run in block) == sorted(
            (side, str(item)) for side in "abc" for item in WORK
        )
        assert [run.position for run in block] == list(range(1, len(block) + 1))
        assert {run.block for run in block} == {number}


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    assert schedule(("a", "b"), WORK, 10, seed=7) == schedule(("a", "b"), WORK, 10, seed=7)
    assert schedule(("a", "b"), WORK, 10, seed=7).blocks != schedule(("a", "b"), WORK, 10, seed=8).blocks


def test_a_recorded_seed_gives_the_recorded_order() -> None:
    """Recorded once: a stored comparison names only its seed, so no later version may order it otherwise."""
    assert schedule(("a", "b"), WORK, 2, seed=7).text() == RECORDED


def test_blocks_do_not_repeat_one_order() -> None:
    plan = schedule(("a", "b"), WORK, 10, seed=1)
    orders = {tuple((run.side, run.item) for run in block) for block in plan.blocks}
    assert len(orders) > 5


def test_each_side_goes_first_about_as_often() -> None:
    plan = schedule(("a", "b"), WORK, 400, seed=1)
    first = sum(block[0].side == "a" for block in plan.blocks)
    assert 160 < first < 240


def test_both_labs_are_rebuilt_in_the_middle_with_the_other_one_first() -> None:
    plan = schedule(("a", "b"), WORK, 10, seed=7)
    assert [build.before_block for build in plan.builds] == [1, 6]
    first, second = plan.builds
    assert first.sides == second.sides[::-1]
    assert plan.build_before(6) == second
    assert plan.build_before(5) is None


def test_which_lab_is_built_first_depends_on_the_seed() -> None:
    assert {schedule(("a", "b"), WORK, 2, seed=seed).builds[0].sides[0] for seed in range(20)} == {"a", "b"}


def test_one_round_is_built_once_and_two_are_rebuilt_between() -> None:
    assert [build.before_block for build in schedule(("a", "b"), WORK, 1, seed=1).builds] == [1]
    assert [build.before_block for build in schedule(("a", "b"), WORK, 2, seed=1).builds] == [1, 2]


def test_more_rebuilds_are_spread_evenly_and_every_side_comes_first() -> None:
    plan = schedule(("a", "b", "c"), WORK, 30, seed=1, rebuilds=2)
    assert [build.before_block for build in plan.builds] == [1, 11, 21]
    assert {build.sides[0] for build in plan.builds} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("sides", "work", "rounds"),
    [(("a",), WORK, 1), (("a", "a"), WORK, 1), (("a", "b"), (), 1), (("a", "b"), WORK, 0), (("a", "b"), WORK, -3)],
)
def test_what_cannot_be_compared_is_refused(sides: tuple[str, ...], work: tuple[WorkItem, ...], rounds: int) -> None:
    with pytest.raises(ValueError, match="comparison needs"):
        schedule(sides, work, rounds, seed=1)


def test_runs_of_a_check_that_belongs_together_stand_next_to_each_other_in_random_order() -> None:
    plan = schedule(("a", "b"), WORK, 30, seed=5, together=("ping",))
    orders = set()
    for block in plan.blocks:
        positions = [run.position for run in block if run.item.check == "ping"]
        assert positions == list(range(positions[0], positions[0] + len(positions)))
        assert len(block) == 2 * len(WORK)
        orders.add(tuple(run.side for run in block if run.item.check == "ping"))
    assert len(orders) > 3


def test_a_recorded_seed_gives_the_recorded_turns() -> None:
    """Recorded once, as the order of sides that stand side by side is."""
    plan = schedule(("a", "b"), WORK[:2], 3, seed=7, rebuilds=2, takes_turns=True)
    assert plan.text() == RECORDED_TURNS
    assert plan.first(2).takes_turns


RECORDED = """\
build: b, a
block 1: b iperf client→near; b ping client→near; a ping client→far; a iperf client→far; \
b iperf client→far; b ping client→far; a iperf client→near; a ping client→near
rebuild: a, b
block 2: a ping client→near; a ping client→far; b ping client→near; b ping client→far; \
a iperf client→near; b iperf client→near; a iperf client→far; b iperf client→far"""

RECORDED_TURNS = """\
build: b
block 1: b ping client→far; b ping client→near; switch to a; a ping client→far; a ping client→near
block 2: a ping client→near; a ping client→far; switch to b; b ping client→near; b ping client→far
block 3: b ping client→near; b ping client→far; switch to a; a ping client→near; a ping client→far"""
