"""Percentiles of samples, by one definition throughout: linear interpolation between the closest ranks.

It is definition 7 of Hyndman and Fan (1996), the default of NumPy and R. For values that a tool rounded coarsely there
is the percentile of grouped data, as in textbooks and in `statistics.median_grouped`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the samples lie. `ordered` is ascending and not empty."""
    if not ordered:
        raise ValueError("no samples")
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def grouped_percentile(ordered: Sequence[float], percent: float, width: float) -> float:
    """The same for values rounded to multiples of `width`: each stands for an interval of that width around it.

    The samples of one interval are taken as spread evenly over it, so that the result moves by less than the rounding.
    `ordered` is ascending and not empty. The result stays between the least and the largest sample.
    """
    if not ordered:
        raise ValueError("no samples")
    if width <= 0:
        raise ValueError("a width above zero is needed")
    value = ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]
    below, upto = bisect_left(ordered, value), bisect_right(ordered, value)
    inside = (len(ordered) * percent / 100 - below) / (upto - below)
    return min(max(value + width * (inside - 0.5), ordered[0]), ordered[-1])
