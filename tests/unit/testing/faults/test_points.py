"""Which faults are put in where: each name of a call is met, each fault of its kind in its turn, others every day."""

from __future__ import annotations

from labctl.testing.faults.points import Point, chosen, points_of, sample
from labctl.testing.faults.session import EXCEPTION, SIGNALS

CALLS = ("mkdir /a", "write /a/b", "write /a/b", "write /a/b", "rename /a/c", "start ip", "start ip", "netlink NEWLINK")


def test_the_first_and_the_last_of_each_name_stopped_there_and_with_a_fault_of_its_kind() -> None:
    points = list(points_of("up", CALLS))
    writes = [(one.fault.number, one.fault.act) for one in points if one.fault.call == "write /a/b"]
    assert [number for number, _ in writes] == [1, 1, 3, 3]
    for number in (1, 3):
        acts = {act for of, act in writes if of == number}
        assert len(acts & {*SIGNALS, EXCEPTION}) == 1
    assert len({one.name for one in points}) == len(points) == 2 * (len(set(CALLS)) + 2)


def test_each_way_to_be_stopped_and_each_fault_of_a_kind_comes_in_its_turn() -> None:
    points = points_of("up", [f"mount /{number}" for number in range(20)])
    assert {point.fault.act for point in points} == {"ENOMEM", "EPERM", "EBUSY", "ENOSPC", *SIGNALS, EXCEPTION}


def test_a_tool_meets_what_tools_do() -> None:
    points = points_of("up", [f"start tool{number}" for number in range(12)])
    acts = {point.fault.act for point in points}
    assert acts >= {"hangs", "is missing", "prints rubbish", "prints half", "EPERM"}


def test_where_there_are_too_many_each_new_name_comes_first() -> None:
    points = list(points_of("up", CALLS))
    few = chosen(points, 3, known=("write /a/b", "start ip"))
    assert [point.fault.call for point in few] == ["mkdir /a", "rename /a/c", "netlink NEWLINK"]
    assert chosen(points, 1000, known=()) == points
    assert len(chosen(points, 7, known=())) == 7


def test_a_days_sample_is_always_the_same_and_another_days_is_another() -> None:
    points = [Point(command=name, fault=one.fault) for name in ("up", "down") for one in points_of("x", CALLS)]
    today = sample(points, "2026-11-30", 6)
    assert today == sample(points, "2026-11-30", 6)
    assert today != sample(points, "2026-12-01", 6)
    assert sorted(point.command for point in today) == ["down"] * 3 + ["up"] * 3
