"""The few distributions that the comparison needs: exact rank distributions, the normal and Student's t.

SciPy has all of them, but it weighs 100 MB and takes over a second to import, out of proportion to these lines and to
a command that should start in a quarter of a second. It is the oracle in the tests instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from statistics import NormalDist

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
