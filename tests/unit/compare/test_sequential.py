"""Going on until it is narrow: the looks, their levels, and by simulation that stopping does not cheat."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from labctl.compare.statistics import Estimate, fewest_pairs, paired_estimate
from labctl.compare.verdict import confidence_at, looks

TRIALS = 1_500
PLANNED = looks(8, 32)


def test_looks_double_and_their_levels_add_up_to_five_percent() -> None:
    planned = looks(10, 50)
    assert [look.rounds for look in planned] == [10, 20, 40, 50]
    assert [look.level for look in planned] == pytest.approx([0.01, 0.01, 0.02, 0.01])
    assert sum(look.level for look in planned) == pytest.approx(0.05)


def test_one_look_has_all_of_it() -> None:
    (only,) = looks(10, 10)
    assert only.rounds == 10
    assert only.level == pytest.approx(0.05)


def test_a_look_whose_level_no_interval_of_so_few_pairs_reaches_is_left_out() -> None:
    planned = looks(6, 960)
    for look in planned:
        assert fewest_pairs(1, look.level) <= look.rounds
    assert sum(look.level for look in planned) == pytest.approx(0.05)


@pytest.mark.parametrize(("first", "most"), [(5, 10), (10, 9)])
def test_too_few_blocks_are_refused(first: int, most: int) -> None:
    with pytest.raises(ValueError, match="looks need"):
        looks(first, most)


def test_between_two_looks_the_level_is_that_of_the_next() -> None:
    assert confidence_at(PLANNED, 8) == confidence_at(PLANNED, 3) == 1 - PLANNED[0].level
    assert confidence_at(PLANNED, 9) == confidence_at(PLANNED, 16) == 1 - PLANNED[1].level
    assert confidence_at(PLANNED, 32) == 1 - PLANNED[2].level


def _wrong(level_of: Callable[[int], float], stops: Callable[[Estimate], bool], at: Sequence[int]) -> float:
    """How often the interval that is reported in the end misses the truth, which is 0."""
    source = random.Random(20261122)
    missed = 0
    for _ in range(TRIALS):
        differences = [source.gauss(0, 0.05) for _ in range(at[-1])]
        for rounds in at:
            found = paired_estimate(differences[:rounds], level_of(rounds))
            if stops(found):
                break
        missed += not found.low <= 0 <= found.high
    return missed / TRIALS


def _excludes_nothing(found: Estimate) -> bool:
    return found.low > 0 or found.high < 0


def test_stopping_at_the_first_difference_is_wrong_in_at_most_one_of_twenty() -> None:
    """The worst rule for stopping that there is, and still the levels hold."""
    ends = [look.rounds for look in PLANNED]
    assert _wrong(lambda rounds: confidence_at(PLANNED, rounds), _excludes_nothing, ends) <= 0.05


def test_without_the_correction_that_rule_would_be_wrong_more_often() -> None:
    ends = [look.rounds for look in PLANNED]
    assert _wrong(lambda rounds: 0.95, _excludes_nothing, ends) > 0.08


def test_stopping_by_width_covers_the_truth_as_often_as_it_says() -> None:
    ends = [look.rounds for look in PLANNED]
    assert _wrong(lambda r: confidence_at(PLANNED, r), lambda found: found.high - found.low < 0.07, ends) <= 0.05
