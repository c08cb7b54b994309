"""The statistics against SciPy and against published tables and examples, never against their own output."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from scipy import stats

from labctl.compare.statistics import (
    EXACT_PAIRS,
    autocorrelation,
    detectable_log_ratio,
    exchange,
    fewest_pairs,
    fixed_size_sum_counts,
    holm,
    is_autocorrelated,
    log_ratios,
    lower_quantile,
    paired_estimate,
    rank_sum_p,
    relative,
    signed_rank_p,
    subset_sum_counts,
    t_cdf,
    t_quantile,
    unpaired_estimate,
)

# Hamilton's depression scale before and after tranquilliser, nine patients:
# Hollander & Wolfe, Nonparametric Statistical Methods (1973), table 3.1.
HAMILTON_BEFORE = (1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30)
HAMILTON_AFTER = (0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29)
# Permeability of the human chorioamnion at term and at 12 to 26 weeks: the same book, table 4.1.
AT_TERM = (0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46)
AT_26_WEEKS = (1.15, 0.88, 0.90, 0.74, 1.21)


def test_paired_estimate_is_the_one_that_hollander_and_wolfe_print() -> None:
    found = paired_estimate([after - before for before, after in zip(HAMILTON_BEFORE, HAMILTON_AFTER, strict=True)])
    assert found.estimate == pytest.approx(-0.460)
    assert [found.low, found.high] == pytest.approx([-0.786, -0.010])
    assert found.p_value == pytest.approx(2 * 0.01953125)
    assert found.n == 9


def test_unpaired_estimate_is_the_one_that_hollander_and_wolfe_print() -> None:
    found = unpaired_estimate(AT_TERM, AT_26_WEEKS)
    assert found.estimate == pytest.approx(-0.305)
    assert [found.low, found.high] == pytest.approx([-0.76, 0.15])
    assert found.p_value == pytest.approx(2 * 0.1272, abs=2e-4)


# Two-sided 5 % critical values of Wilcoxon's signed-rank statistic, as printed in every table.
@pytest.mark.parametrize(
    ("n", "critical"),
    [
        (6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (11, 10), (12, 13), (13, 17), (14, 21), (15, 25),
        (16, 29), (17, 34), (18, 40), (19, 46), (20, 52), (25, 89), (30, 137), (40, 264), (50, 434),
    ],
)  # fmt: skip
def test_signed_rank_critical_values_are_the_published_ones(n: int, critical: int) -> None:
    assert lower_quantile(subset_sum_counts(range(1, n + 1)), 0.025) - 1 == critical


# Two-sided 5 % critical values of the Mann-Whitney U statistic.
@pytest.mark.parametrize(
    ("m", "n", "critical"), [(4, 4, 0), (5, 5, 2), (8, 8, 13), (10, 10, 23), (5, 10, 8), (20, 20, 127)]
)
def test_rank_sum_critical_values_are_the_published_ones(m: int, n: int, critical: int) -> None:
    counts = fixed_size_sum_counts(range(1, m + n + 1), m)[m * (m + 1) // 2 :]
    assert sum(counts) == math.comb(m + n, m)
    assert lower_quantile(counts, 0.025) - 1 == critical


@pytest.mark.parametrize("df", [1, 2, 3, 5, 9, 19, 50, 199, 200, 201, 1000, 100_000])
@pytest.mark.parametrize("probability", [0.8, 0.975, 0.5, 0.025, 0.9995])
def test_t_quantiles_equal_scipys(df: int, probability: float) -> None:
    assert t_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-9, abs=1e-12)


def test_t_cdf_equals_scipys() -> None:
    for df in (1, 2, 7, 10):
        for value in (-3.0, -0.1, 0.0, 1.5, 40.0):
            assert t_cdf(value, df) == pytest.approx(stats.t.cdf(value, df), rel=1e-10, abs=1e-12)


def test_t_without_degrees_of_freedom_is_refused() -> None:
    with pytest.raises(ValueError, match="degree of freedom"):
        t_quantile(0.975, 0)


@pytest.mark.parametrize("n", [3, 6, 10, 25, 50, EXACT_PAIRS])
def test_signed_rank_p_without_ties_equals_scipys_exact_one(n: int) -> None:
    source = random.Random(n)
    differences = [source.gauss(0.3, 1) for _ in range(n)]
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank_p(differences) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "differences",
    [
        (1.0, 1.0, -1.0, 2.0, 2.0, 3.0, -2.0, 4.0),
        (0.0, 1.0, 2.0, -1.0, 3.0, 3.0, 5.0),
        (0.0, 0.0, 0.5, 0.5, 0.5, 1.0, -0.5, 1.5),
    ],
)
def test_signed_rank_p_with_ties_and_zeros_equals_scipys_permutation_test(differences: tuple[float, ...]) -> None:
    every_sign = stats.PermutationMethod(n_resamples=10**6)
    expected = stats.wilcoxon(differences, zero_method="pratt", method=every_sign).pvalue
    assert signed_rank_p(differences) == pytest.approx(expected, rel=1e-9)


def test_signed_rank_p_of_many_pairs_equals_scipys_approximation() -> None:
    source = random.Random(3)
    differences = [round(source.gauss(0.05, 1), 1) for _ in range(400)]
    expected = stats.wilcoxon(differences, zero_method="pratt", correction=True, method="approx").pvalue
    assert signed_rank_p(differences) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("m", "n"), [(3, 4), (10, 10), (6, 20), (20, 20)])
def test_rank_sum_p_without_ties_equals_scipys_exact_one(m: int, n: int) -> None:
    source = random.Random(m * n)
    a, b = [source.gauss(0, 1) for _ in range(m)], [source.gauss(0.5, 1) for _ in range(n)]
    assert rank_sum_p(a, b) == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue, rel=1e-9)


def test_rank_sum_p_with_ties_equals_scipys_permutation_test() -> None:
    a, b = [1.0, 1.0, 2.0, 3.0, 3.0], [1.0, 3.0, 4.0, 4.0, 5.0]
    expected = stats.mannwhitneyu(a, b, method=stats.PermutationMethod(n_resamples=10**6)).pvalue
    assert rank_sum_p(a, b) == pytest.approx(expected, rel=1e-9)


def test_rank_sum_p_of_many_values_equals_scipys_approximation() -> None:
    source = random.Random(5)
    a = [round(source.gauss(0, 1), 1) for _ in range(200)]
    b = [round(source.gauss(0.2, 1), 1) for _ in range(150)]
    expected = stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=True).pvalue
    assert rank_sum_p(a, b) == pytest.approx(expected, rel=1e-9)


def test_the_interval_excludes_zero_exactly_when_the_test_rejects() -> None:
    source = random.Random(11)
    seen = set()
    for _ in range(400):
        n = source.randrange(6, 30)
        found = paired_estimate([source.gauss(0.5, 1) for _ in range(n)])
        excludes = found.low > 0 or found.high < 0
        assert excludes == (found.p_value < 0.05)
        seen.add(excludes)
    assert seen == {True, False}


def test_exact_and_approximate_intervals_meet_where_one_takes_over_from_the_other() -> None:
    """One value more than the exact limit: SciPy's exact distribution gives the bound that ours approximates."""
    n = EXACT_PAIRS + 1
    source = random.Random(8)
    differences = sorted(source.gauss(0, 1) for _ in range(n))
    walsh = sorted((x + y) / 2 for i, x in enumerate(differences) for y in differences[i:])
    exact = lower_quantile(subset_sum_counts(range(1, n + 1)), 0.025)
    found = paired_estimate(differences)
    assert abs(walsh.index(found.low) + 1 - exact) <= 1


def test_swapping_the_sides_mirrors_the_estimate() -> None:
    source = random.Random(2)
    differences = [source.gauss(0.1, 0.2) for _ in range(11)]
    there, back = paired_estimate(differences), paired_estimate([-d for d in differences])
    assert (back.estimate, back.low, back.high) == (-there.estimate, -there.high, -there.low)
    assert back.p_value == there.p_value


@pytest.mark.parametrize(("n", "reached"), [(1, 0.0), (2, 0.5), (3, 0.75), (5, 0.9375), (6, 0.95)])
def test_few_pairs_do_not_pretend_to_95_percent(n: int, reached: float) -> None:
    found = paired_estimate([0.1 * (i + 1) for i in range(n)])
    assert found.confidence == pytest.approx(reached)


def test_no_difference_at_all_gives_zero_with_a_p_of_one() -> None:
    found = paired_estimate([0.0] * 10)
    assert (found.estimate, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("bad", [(), (math.nan, 1.0), (math.inf,)])
def test_what_is_not_a_number_is_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"no samples|not a finite number"):
        paired_estimate(bad)
    with pytest.raises(ValueError, match=r"no samples|not a finite number"):
        unpaired_estimate((1.0, 2.0), bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_ratio_of_zero_negative_or_not_finite_values_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        log_ratios((1.0, bad), (1.0, 1.0))


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        log_ratios((1.0, 2.0), (1.0,))


def test_a_doubling_is_plus_100_percent_and_back_is_minus_50() -> None:
    assert relative(log_ratios((1.0,), (2.0,))[0]) == pytest.approx(1.0)
    assert relative(log_ratios((2.0,), (1.0,))[0]) == pytest.approx(-0.5)
    assert math.isfinite(relative(log_ratios((1e-300,), (1e300,))[0]))


def test_the_detectable_difference_is_the_formula_of_the_method() -> None:
    source = random.Random(4)
    differences = [source.gauss(0, 0.1) for _ in range(10)]
    mean = sum(differences) / 10
    sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / 9)
    expected = sd * (stats.t.ppf(0.975, 9) + stats.t.ppf(0.80, 9)) / math.sqrt(10)
    assert detectable_log_ratio(differences) == pytest.approx(expected)
    assert detectable_log_ratio([0.1]) is None


def exchanged(rows: list[dict[int, float]]) -> list[float]:
    """As the definition says, with every exchange made."""
    blocks = sorted({block for row in rows for block in row})

    def statistic(row: dict[int, float], signs: dict[int, int]) -> float:
        spread = math.sqrt(sum(value**2 for value in row.values()))
        return abs(sum(signs[block] * value for block, value in row.items())) / spread if spread else 0.0

    every = [dict(zip(blocks, signs, strict=True)) for signs in itertools.product((1, -1), repeat=len(blocks))]
    seen = [statistic(row, dict.fromkeys(blocks, 1)) for row in rows]
    order = sorted(range(len(rows)), key=lambda number: -seen[number])
    adjusted, floor = [1.0] * len(rows), 0.0
    for place, number in enumerate(order):
        best = [max(statistic(rows[other], signs) for other in order[place:]) for signs in every]
        floor = max(floor, sum(value >= seen[number] - 1e-9 for value in best) / len(every))
        adjusted[number] = floor
    return adjusted


@pytest.mark.parametrize("seed", range(5))
def test_p_values_over_all_exchanges_are_those_of_the_definition(seed: int) -> None:
    source = random.Random(seed)
    rows = [
        {block: source.gauss(shift, 1) for block in range(1, 8) if (number, block) != (2, 3)}
        for number, shift in enumerate((3.0, 0.0, 1.0, 0.0))
    ]
    assert exchange(rows) == pytest.approx(exchanged(rows))


def test_six_blocks_that_agree_reach_their_least_p_value_in_however_many_rows() -> None:
    plain = {block: 0.4 + 0.01 * block for block in range(1, 7)}
    assert exchange([plain] * 10) == (2 / 2**6,) * 10
    assert exchange([plain, dict.fromkeys(range(1, 7), 0.0)]) == (2 / 2**6, 1.0)
    assert exchange([]) == ()


def test_holm_on_a_worked_example() -> None:
    """0.01 × 4, 0.02 × 3, then never less than the one before."""
    assert holm((0.04, 0.01, 0.02, 0.03)) == pytest.approx((0.06, 0.04, 0.06, 0.06))
    assert holm((0.7, 0.9)) == pytest.approx((1.0, 1.0))
    assert holm(()) == ()


@pytest.mark.parametrize("rows", [1, 2, 8, 10, 40])
def test_fewest_pairs_is_where_holm_first_lets_a_row_pass(rows: int) -> None:
    pairs = fewest_pairs(rows)
    assert 2 / 2**pairs * rows < 0.05 <= 2 / 2 ** (pairs - 1) * rows


def test_autocorrelation_of_a_drift_is_found_and_of_noise_is_not() -> None:
    drift = [0.01 * i for i in range(20)]
    assert is_autocorrelated(drift)
    source = random.Random(6)
    wrong = sum(is_autocorrelated([source.gauss(0, 1) for _ in range(20)]) for _ in range(2000))
    assert wrong / 2000 < 0.02
    assert autocorrelation([1.0] * 10) is None
    assert autocorrelation([1.0, 2.0]) is None


def test_autocorrelation_of_an_alternating_sequence() -> None:
    """±1 in turn, ten values: nine products of −1 over a sum of squares of ten."""
    assert autocorrelation([1.0, -1.0] * 5) == pytest.approx(-0.9)
    assert not is_autocorrelated([1.0, -1.0] * 5)
