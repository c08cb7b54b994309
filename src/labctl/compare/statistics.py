"""Estimates, intervals and p-values for two sides; knows numbers only, no metrics and no verdicts.

Paired (one comparison, interleaved blocks): log-ratios d = ln(B/A), the Hodges-Lehmann estimate, Wilcoxon's exact
signed-rank interval. Unpaired (two stored runs): the Hodges-Lehmann shift with the Mann-Whitney interval. Everything is
on the log scale; `relative` turns a log-ratio into a change. Nothing is removed as an outlier.

The few distributions that this needs stand here too: exact rank distributions, the normal and Student's t. SciPy has
all of them, but it weighs 100 MB and takes over a second to import, out of proportion to these lines and to a command
that should start in a quarter of a second. It is the oracle in the tests instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from statistics import NormalDist, fmean, median, stdev

from labctl.values import dataclass

CONFIDENCE = 0.95
POWER = 0.80
# Up to these sizes the null distributions are exact; beyond, normal with continuity correction. At 64 pairs the
# approximation moves the critical value of the 95 % interval by at most one Walsh average in 2,080.
EXACT_PAIRS = 64
EXACT_UNPAIRED = 40
# One-sided 1 %: only a positive dependence makes intervals too narrow, and a table has some twenty rows.
_AUTOCORRELATION_Z = 2.326
_LARGEST_LOG = 700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A difference on the log scale with its interval.

    `confidence` is what the interval holds: the level that was asked for, or less where so few samples cannot reach
    it (five pairs give 93.75 % at best). `n` is the number of pairs, or of the smaller sample when unpaired.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    p_value: float


def log_ratios(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
    """ln(b/a) of each pair. Raises ValueError unless every value is a finite number above zero."""
    if len(a) != len(b):
        raise ValueError(f"pairs need as many values on both sides, not {len(a)} and {len(b)}")
    if not all(math.isfinite(value) and value > 0 for value in (*a, *b)):
        raise ValueError("a ratio needs finite values above zero")
    return tuple(math.log(y) - math.log(x) for x, y in zip(a, b, strict=True))


def relative(log_ratio: float) -> float:
    """The relative change that a log-ratio stands for: ln 1.21 → +0.21."""
    return math.expm1(min(log_ratio, _LARGEST_LOG))


def paired_estimate(differences: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The median of the Walsh averages, and the interval of centres that Wilcoxon's test does not reject.

    Zeros and ties stay in. The interval's level does not suffer from them; the p-value is computed given the ties.
    """
    n = len(differences)
    _require_numbers(differences)
    walsh = _walsh_averages(differences)
    rank, reached = _signed_rank_critical(n, confidence)
    return Estimate(
        estimate=_median_of_sorted(walsh),
        low=walsh[rank - 1],
        high=walsh[-rank],
        confidence=min(confidence, reached),
        n=n,
        p_value=signed_rank_p(differences),
    )


def hodges_lehmann(values: Sequence[float]) -> float:
    """The centre of the values: the median of their Walsh averages."""
    _require_numbers(values)
    return _median_of_sorted(_walsh_averages(values))


def signed_rank_p(differences: Sequence[float]) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test that the differences lie symmetrically about 0.

    Ties get mid-ranks. Zeros are ranked with the others and then count for neither sign (Pratt, 1959). Exact given
    the ties up to `EXACT_PAIRS`, then normal with the variance of the ranks in hand and continuity correction.
    """
    _require_numbers(differences)
    sizes = [abs(d) for d in differences]
    doubled = _doubled_midranks(sizes)
    ranks = [rank for rank, d in zip(doubled, differences, strict=True) if d != 0]
    positive = sum(rank for rank, d in zip(doubled, differences, strict=True) if d > 0)
    if not ranks:
        return 1.0
    if len(ranks) <= EXACT_PAIRS:
        return two_sided_p(subset_sum_counts(ranks), positive)
    # Doubled ranks: the continuity correction of half a rank is 1.
    distance = abs(positive - sum(ranks) / 2)
    spread = math.sqrt(sum(rank**2 for rank in ranks)) / 2
    return min(1.0, 2 * normal_cdf(-(distance - 1) / spread))


def unpaired_estimate(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The shift from sample `a` to sample `b`: median of all differences, with the Mann-Whitney interval.

    For runs that were not interleaved. It cannot separate the sides from the hours at which they were measured.
    """
    _require_numbers(a)
    _require_numbers(b)
    ordered = sorted(a)
    shifts = sorted([y - x for y in sorted(b) for x in reversed(ordered)])
    rank, reached = _rank_sum_critical(len(a), len(b), confidence)
    return Estimate(
        estimate=_median_of_sorted(shifts),
        low=shifts[rank - 1],
        high=shifts[-rank],
        confidence=min(confidence, reached),
        n=min(len(a), len(b)),
        p_value=rank_sum_p(a, b),
    )


def rank_sum_p(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p-value of the Mann-Whitney test; exact given the ties for up to `EXACT_UNPAIRED` values in all."""
    doubled = _doubled_midranks([*a, *b])
    m, n = len(a), len(b)
    size = m + n
    of_a = sum(doubled[:m])
    if size <= EXACT_UNPAIRED:
        return two_sided_p(fixed_size_sum_counts(doubled, m), of_a)
    centre = m * sum(doubled) / size
    mean_rank = sum(doubled) / size
    variance = m * n / (size * (size - 1)) * sum((rank - mean_rank) ** 2 for rank in doubled)
    if variance == 0:
        return 1.0
    return min(1.0, 2 * normal_cdf(-(abs(of_a - centre) - 1) / math.sqrt(variance)))


def detectable_log_ratio(differences: Sequence[float], confidence: float = CONFIDENCE) -> float | None:
    """The smallest true difference (log scale) that such a run finds with 80 % power; None below two pairs."""
    n = len(differences)
    if n < 2:
        return None
    quantiles = t_quantile((1 + confidence) / 2, n - 1) + t_quantile(POWER, n - 1)
    return stdev(differences) * quantiles / math.sqrt(n)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment, in the order given: compare each with the level of the whole family."""
    adjusted = [1.0] * len(p_values)
    floor = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = floor
    return tuple(adjusted)


def exchange(rows: Sequence[Mapping[int, float]]) -> tuple[float, ...]:
    """Adjusted p-values of several rows at once, in the order given: step-down max-T over all exchanges of the sides.

    Each row has its differences by block. Where neither side is better, a block's two sides could have changed places,
    in all rows at once; so the rows' statistics are recomputed for each of the 2^n exchanges, and a row's p-value is
    the share of them in which any row that is not above it does as well (Westfall and Young, 1993; Romano and Wolf,
    2005). What rows have in common is kept, so that six blocks reach 2/2^6 whatever the number of rows, where Holm's
    correction of ranks multiplies it by that number. The statistic is that of Student's t, whose null distribution is
    not used. The work doubles with every block: for as few as `fewest_pairs` asks for.
    """
    blocks = sorted({block for row in rows for block in row})
    columns = [[row.get(block, 0.0) for row in rows] for block in blocks]
    spreads = [math.sqrt(sum(value * value for value in row.values())) or 1.0 for row in rows]
    columns = [[value / spread for value, spread in zip(column, spreads, strict=True)] for column in columns]
    sums = [sum(row) for row in zip(*columns, strict=True)] or [0.0] * len(rows)
    seen = [abs(total) for total in sums]
    order = sorted(range(len(rows)), key=lambda row: -seen[row])
    reached = [0] * len(rows)
    signs = [1] * len(blocks)
    exchanges = 2 ** max(0, len(blocks) - 1)  # the first block stays: all signs turned give the same statistics
    for number in range(exchanges):
        if number:
            turned = 1 + ((number & -number).bit_length() - 1)  # Gray code: one block differs from the one before
            signs[turned] = -signs[turned]
            sums = [total + 2 * signs[turned] * value for total, value in zip(sums, columns[turned], strict=True)]
        highest = 0.0
        for row in reversed(order):
            highest = max(highest, abs(sums[row]))
            reached[row] += highest >= seen[row] - _ROUNDING
    adjusted = [1.0] * len(rows)
    floor = 0.0
    for row in order:
        floor = max(floor, reached[row] / exchanges)
        adjusted[row] = floor
    return tuple(adjusted)


_ROUNDING = 1e-9
"""Of sums that are equal but for the order of their terms."""


def fewest_pairs(rows: int, level: float = 1 - CONFIDENCE) -> int:
    """How many pairs it takes before any of `rows` rows can pass Holm's first step: 2/2^n · rows < level."""
    return math.floor(math.log2(2 * max(rows, 1) / level)) + 1


def autocorrelation(values: Sequence[float]) -> float | None:
    """The correlation of each value with the next; None where there is none to speak of (constant, or under 4)."""
    if len(values) < 4:
        return None
    centre = fmean(values)
    total = sum((value - centre) ** 2 for value in values)
    if total == 0:
        return None
    return sum((x - centre) * (y - centre) for x, y in pairwise(values)) / total


def is_autocorrelated(values: Sequence[float]) -> bool:
    """True when neighbouring values resemble each other more than independent ones would in 99 of 100 runs."""
    found = autocorrelation(values)
    n = len(values)
    # In independent values the estimate has mean -1/n and standard deviation near 1/sqrt(n).
    return found is not None and (found + 1 / n) * math.sqrt(n) > _AUTOCORRELATION_Z


def centre(values: Sequence[float]) -> float | None:
    """The median, or None of nothing."""
    return median(values) if values else None


def _require_numbers(values: Sequence[float]) -> None:
    if not values:
        raise ValueError("no samples")
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a sample is not a finite number")


def _walsh_averages(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    # Each inner run ascends, which the sort below exploits: half a million averages take well under a second.
    return sorted([(x + y) / 2 for i, x in enumerate(ordered) for y in ordered[i:]])


def _median_of_sorted(values: Sequence[float]) -> float:
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def _signed_rank_critical(n: int, confidence: float) -> tuple[int, float]:
    """Which Walsh average (from each end, counted from 1) bounds the interval, and the level that it reaches."""
    tail = (1 - confidence) / 2
    if n <= EXACT_PAIRS:
        counts = subset_sum_counts(range(1, n + 1))
        rank = max(1, lower_quantile(counts, tail))
        return rank, 1 - 2 * share_at_most(counts, rank - 1)
    mean = n * (n + 1) / 4
    spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    rank = max(1, math.ceil(mean - 0.5 + normal_quantile(tail) * spread))
    return rank, 1 - 2 * normal_cdf((rank - 0.5 - mean) / spread)


def _rank_sum_critical(m: int, n: int, confidence: float) -> tuple[int, float]:
    tail = (1 - confidence) / 2
    if m + n <= EXACT_UNPAIRED:
        smallest = m * (m + 1) // 2
        counts = fixed_size_sum_counts(range(1, m + n + 1), m)[smallest:]
        rank = max(1, lower_quantile(counts, tail))
        return rank, 1 - 2 * share_at_most(counts, rank - 1)
    mean = m * n / 2
    spread = math.sqrt(m * n * (m + n + 1) / 12)
    rank = max(1, math.ceil(mean - 0.5 + normal_quantile(tail) * spread))
    return rank, 1 - 2 * normal_cdf((rank - 0.5 - mean) / spread)


def _doubled_midranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, ties sharing the mean of their ranks, so that all are whole numbers."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for index in order[start : end + 1]:
            ranks[index] = (start + 1) + (end + 1)
        start = end + 1
    return ranks


_NORMAL = NormalDist()
# From here on Student's t is taken from its expansion around the normal, whose error is of the order of 1/df^5.
_EXPANSION_FROM_DF = 200


def normal_quantile(probability: float) -> float:
    return _NORMAL.inv_cdf(probability)


def normal_cdf(value: float) -> float:
    return _NORMAL.cdf(value)


def subset_sum_counts(ranks: Sequence[int]) -> list[int]:
    """How many subsets of `ranks` have each sum: with ranks 1..n, the null distribution of Wilcoxon's T+ times 2^n.

    Works with tied ranks too (pass doubled mid-ranks): then it is the distribution under all changes of sign, given
    the ties.
    """
    counts = [1]
    for rank in ranks:
        without = counts + [0] * rank
        having = [0] * rank + counts
        counts = [x + y for x, y in zip(without, having, strict=True)]
    return counts


def fixed_size_sum_counts(ranks: Sequence[int], size: int) -> list[int]:
    """How many subsets of `size` members have each sum: the null distribution of the rank sum of one of two samples."""
    total = sum(sorted(ranks)[len(ranks) - size :])
    table = [[0] * (total + 1) for _ in range(size + 1)]
    table[0][0] = 1
    for seen, rank in enumerate(ranks, start=1):
        for members in range(min(size, seen), 0, -1):
            row, source = table[members], table[members - 1]
            table[members] = row[:rank] + [x + y for x, y in zip(row[rank:], source, strict=False)]
    return table[size]


def lower_quantile(counts: Sequence[int], probability: float) -> int:
    """The smallest value k with P(X ≤ k) ≥ `probability`, for a distribution given as counts of 0, 1, 2, …"""
    total = sum(counts)
    for value, below in enumerate(accumulate(counts)):
        if below >= probability * total:
            return value
    return len(counts) - 1


def share_at_most(counts: Sequence[int], value: int) -> float:
    """P(X ≤ value)."""
    return sum(counts[: max(0, value + 1)]) / sum(counts)


def two_sided_p(counts: Sequence[int], value: int) -> float:
    """Twice the smaller tail that includes `value`, at most 1."""
    total = sum(counts)
    below = sum(counts[: value + 1])
    above = sum(counts[value:])
    return min(1.0, 2 * min(below, above) / total)


def t_cdf(value: float, df: int) -> float:
    """Student's t with a whole number of degrees of freedom.

    The finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(value, math.sqrt(df))
    cosine_squared = math.cos(angle) ** 2
    if df % 2:
        term, total = math.cos(angle), 0.0
        for power in range(1, df - 1, 2):
            total += term
            term *= cosine_squared * (power + 1) / (power + 2)
        central = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        term, total = 1.0, 0.0
        for power in range(0, df - 1, 2):
            total += term
            term *= cosine_squared * (power + 1) / (power + 2)
        central = math.sin(angle) * total
    return 0.5 + central / 2


def t_quantile(probability: float, df: int) -> float:
    """The value that Student's t with `df` ≥ 1 degrees of freedom stays below with that probability (0 < p < 1)."""
    if df < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {df}")
    z = normal_quantile(probability)
    if df >= _EXPANSION_FROM_DF:
        return _t_expansion(z, df)
    low, high = -1.0, 1.0
    while t_cdf(low, df) > probability:
        low *= 2
    while t_cdf(high, df) < probability:
        high *= 2
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if t_cdf(middle, df) < probability:
            low = middle
        else:
            high = middle


def _t_expansion(z: float, df: int) -> float:
    """Cornish and Fisher's expansion of t around the normal (Abramowitz and Stegun, 26.7.5)."""
    return (
        z
        + (z**3 + z) / (4 * df)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * df**4)
    )
