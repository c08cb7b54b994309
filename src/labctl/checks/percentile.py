"""Percentiles of samples, by one definition throughout: linear interpolation between the closest ranks.

It is definition 7 of Hyndman and Fan (1996), the default of NumPy and R.
"""

from __future__ import annotations

from collections.abc import Sequence


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the samples lie. `ordered` is ascending and not empty."""
    if not ordered:
        raise ValueError("no samples")
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)
