"""Where a difference comes from: parts, the row's own difference, and what is left, block by block."""

from __future__ import annotations

from dataclasses import replace

import pytest

from comparison_example import example_with_parts
from labctl.compare.explain import explain
from labctl.model.comparison import Comparison
from labctl.model.lab import Placement
from labctl.model.result import WayPart


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return example_with_parts()


def test_only_the_primary_latency_of_a_check_that_followed_its_packets_is_explained(comparison: Comparison) -> None:
    assert [(each.check, each.metric, each.placement) for each in comparison.explanations] == [
        ("ping", "rtt_p50", Placement.CROSS_NODE),
        ("ping", "rtt_p50", Placement.SAME_NODE),
    ]


def test_the_rest_is_the_rows_own_difference_less_all_parts(comparison: Comparison) -> None:
    for found in comparison.explanations:
        assert found.difference is not None
        assert found.rest is not None
        assert found.explained is not None
        row = next(
            row
            for row in comparison.rows
            if (row.check, row.metric.name, row.client, row.server)
            == (found.check, found.metric, found.client, found.server)
        )
        whole = [b - a for a, b in zip(row.a.samples, row.b.samples, strict=True)]
        assert min(whole) < found.difference.low <= found.difference.estimate <= found.difference.high < max(whole)
        # 2 µs of it are nobody's; the rest is that, and its interval is as narrow as that of what was made so.
        assert found.rest.estimate == pytest.approx(-2e-6)
        assert found.rest.high - found.rest.low < 1e-9
        assert found.difference.estimate == pytest.approx(found.explained.estimate + found.rest.estimate)
        netfilter = next(part for part in found.parts if part.part is WayPart.NETFILTER)
        assert (netfilter.a, netfilter.b) == pytest.approx((8e-6, 0.0))
        assert netfilter.difference.estimate == pytest.approx(-8e-6)
        assert netfilter.difference.n == 10


def test_a_part_that_one_block_lacks_is_not_there(comparison: Comparison) -> None:
    """On a kernel that is changed midway netfilter cannot be told from the stack in some blocks."""
    runs = [
        replace(run, parts=tuple(part for part in run.parts if part.metric != "netfilter")) if run.block == 3 else run
        for run in comparison.runs
    ]
    (cross, _) = explain(comparison.rows, runs, ("a", "b"))
    assert WayPart.NETFILTER not in [part.part for part in cross.parts]
    assert cross.rest is not None
    assert cross.rest.estimate == pytest.approx(-10e-6)


def test_blocks_in_which_one_side_has_no_parts_are_left_out(comparison: Comparison) -> None:
    runs = [replace(run, parts=()) if (run.block, run.side) == (4, "b") else run for run in comparison.runs]
    (cross, _) = explain(comparison.rows, runs, ("a", "b"))
    assert cross.difference is not None
    assert cross.difference.n == 9


def test_without_parts_the_reason_stands_in_their_place(comparison: Comparison) -> None:
    why = "the taps could not be put on: Operation not permitted"
    runs = [replace(run, parts=(), unparted=why) for run in comparison.runs]
    for found in explain(comparison.rows, runs, ("a", "b")):
        assert (found.parts, found.difference, found.rest, found.reason) == ((), None, None, why)


def test_runs_that_followed_nothing_are_not_spoken_of() -> None:
    assert example_with_parts(parts=False).explanations == ()
