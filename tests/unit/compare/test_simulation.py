"""Level and power by simulation, on a machine whose load drifts: what the method promises, and what it replaces.

A run's number is a lognormal around its side's value times the load of its hour; the load is a slow random walk. The
seeds are fixed, so that these tests give the same figures every time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from scipy import stats

from labctl.compare.statistics import detectable_log_ratio, exchange, paired_estimate, rank_sum_p, signed_rank_p

BLOCKS = 10
TRIALS = 1_000
RUN_NOISE = 0.03
LOAD_STEP = 0.10

Sides = tuple[list[float], list[float]]


def _load(source: random.Random, hours: int) -> list[float]:
    load = [0.0]
    for _ in range(hours - 1):
        load.append(load[-1] + source.gauss(0, LOAD_STEP))
    return load


def _interleaved(source: random.Random, effect: float) -> Sides:
    load = _load(source, BLOCKS)
    a = [hour + source.gauss(0, RUN_NOISE) for hour in load]
    return a, [hour + effect + source.gauss(0, RUN_NOISE) for hour in load]


def _one_after_the_other(source: random.Random, effect: float) -> Sides:
    load = _load(source, 2 * BLOCKS)
    values = [hour + source.gauss(0, RUN_NOISE) for hour in load]
    return values[:BLOCKS], [value + effect for value in values[BLOCKS:]]


def _share(measure: Callable[[random.Random, float], Sides], p_value: Callable[[Sides], float], effect: float) -> float:
    """How often the test rejects at 5 %."""
    source = random.Random(20261122)
    return sum(p_value(measure(source, effect)) < 0.05 for _ in range(TRIALS)) / TRIALS


def _paired(sides: Sides) -> float:
    return signed_rank_p([b - a for a, b in zip(*sides, strict=True)])


def _unpaired(sides: Sides) -> float:
    return rank_sum_p(*sides)


def _welch(sides: Sides) -> float:
    return float(stats.ttest_ind(*sides, equal_var=False).pvalue)


def test_interleaved_and_paired_holds_its_level_under_drift() -> None:
    assert 0.03 <= _share(_interleaved, _paired, 0.0) <= 0.06


def test_one_after_the_other_finds_differences_that_are_not_there_with_every_test() -> None:
    for p_value in (_paired, _unpaired, _welch):
        assert _share(_one_after_the_other, p_value, 0.0) > 0.27


def test_pairing_has_several_times_the_power_of_tests_that_ignore_the_blocks() -> None:
    effect = math.log(1.05)
    paired = _share(_interleaved, _paired, effect)
    assert paired > 0.8
    assert paired > 3 * _share(_interleaved, _unpaired, effect)
    assert paired > 3 * _share(_interleaved, _welch, effect)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    source = random.Random(7)
    truth = math.log(0.9)
    covered = 0
    for _ in range(TRIALS):
        a, b = _interleaved(source, truth)
        found = paired_estimate([y - x for x, y in zip(a, b, strict=True)])
        covered += found.low <= truth <= found.high
    assert 0.935 <= covered / TRIALS <= 0.975


def test_a_difference_of_the_detectable_size_is_found_in_eight_of_ten_runs() -> None:
    """With the run-to-run spread known; the rank test gives away little against the t that the formula is for."""
    spread = RUN_NOISE * math.sqrt(2)
    exact = [spread * math.sqrt(9 / 10) * sign for sign in (1, -1) * 5]
    effect = detectable_log_ratio(exact)
    assert effect is not None
    assert 0.74 <= _share(_interleaved, _paired, effect) <= 0.86


def _family(source: random.Random, effects: tuple[float, ...], common: float) -> list[dict[int, float]]:
    """Six blocks of as many rows as there are effects; `common` is how much of the noise they share."""
    shared = [source.gauss(0, RUN_NOISE) * common for _ in range(6)]
    return [{block: effect + shared[block] + source.gauss(0, RUN_NOISE) for block in range(6)} for effect in effects]


@pytest.mark.parametrize("common", [0.0, 2.0])
def test_six_blocks_of_eight_rows_without_a_difference_give_one_in_at_most_five_of_a_hundred(common: float) -> None:
    source = random.Random(20261130)
    wrong = sum(min(exchange(_family(source, (0.0,) * 8, common))) < 0.05 for _ in range(TRIALS))
    assert wrong / TRIALS <= 0.05


def test_rows_with_a_difference_do_not_make_the_others_differ() -> None:
    """Two of eight rows are 30 % apart: those are found, and the rest hold the level."""
    source = random.Random(20261130)
    wrong = found = 0
    for _ in range(TRIALS):
        adjusted = exchange(_family(source, (0.3, -0.3, *(0.0,) * 6), 1.0))
        found += max(adjusted[:2]) < 0.05
        wrong += min(adjusted[2:]) < 0.05
    assert wrong / TRIALS <= 0.05
    assert found / TRIALS > 0.7
