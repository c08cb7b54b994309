"""The order in which sides, kinds and pairs take their turns."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from labctl.load.measure import Plan, Task, order_of
from labctl.load.slices import Kind

PLAN = Plan(
    tasks=(Task(kind=Kind.TCP, share=0.8), Task(kind=Kind.STREAM, share=0.2, argument=4)),
    duration_s=1.0,
    message_byte=64,
    spin=True,
    client_cpu=0,
    server_cpu=1,
    seed="7",
)
GROUPS = {"same": (0, 1), "cross": (2, 3)}


def test_the_sides_of_a_pair_alternate_forth_and_back() -> None:
    cycles = list(order_of(PLAN, GROUPS))
    assert {turns for _, turns in cycles} == {(0, 1, 1, 0), (1, 0, 0, 1), (2, 3, 3, 2), (3, 2, 2, 3)}
    # Which side begins is by lot.
    begins = Counter(turns[0] for _, turns in cycles)
    assert min(begins.values()) > 0.3 * len(cycles) / len(begins)


def test_three_sides_take_turns_too() -> None:
    assert {
        sorted(turns)[::2] == [0, 1, 2] and turns == turns[::-1] for _, turns in order_of(PLAN, {"x": (0, 1, 2)})
    } == {True}


def test_every_task_gets_its_share_on_every_pair() -> None:
    cycles = Counter((task.kind, turns[0] // 2) for task, turns in order_of(PLAN, GROUPS))
    assert cycles[Kind.TCP, 0] == cycles[Kind.TCP, 1] == PLAN.tasks[0].cycles(1.0)
    assert cycles[Kind.TCP, 0] == pytest.approx(4 * cycles[Kind.STREAM, 0], rel=0.05)
    assert PLAN.tasks[1].cycles(0.0001) == 1


def test_the_order_follows_from_the_seed_and_mixes_the_tasks() -> None:
    assert list(order_of(PLAN, GROUPS)) == list(order_of(PLAN, GROUPS))
    assert list(order_of(PLAN, GROUPS)) != list(order_of(replace(PLAN, seed="8"), GROUPS))
    kinds = [task.kind for task, _ in order_of(PLAN, GROUPS)]
    assert sum(a != b for a, b in pairwise(kinds)) > len(kinds) / 10


def test_with_one_cpu_nothing_is_pinned_and_nothing_spins() -> None:
    assert replace(PLAN, client_cpu=None, server_cpu=None).cpus == ()
    assert (PLAN.cpus, PLAN.streams) == ((0, 1), 4)
