"""What a change means: margins and words, and when a comparison may stop early. Computes no statistics.

A difference word needs three things: the interval excludes zero, the p-value corrected over all primary rows is
below 5 %, and the estimate passes the margin. Margins are symmetric on the log scale, so that swapping the sides
swaps the words and changes nothing else.

Stopping when the intervals are narrow is no cheating if the looks are declared beforehand and share the 5 %: a look
after every block, ended when the result pleases, has as many chances as looks. Here each look k has a level of its
own, α_k, in proportion to the blocks that are new at it, and the α_k add up to 5 %. By the union bound the interval
that is reported covers the truth in at least 95 % of comparisons, whatever decides when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from labctl.compare.statistics import CONFIDENCE, Estimate, fewest_pairs
from labctl.model.comparison import ChangeVerdict, InterimLook, MetricRow
from labctl.model.parameters import CompareParameters
from labctl.model.result import Better, Metric, MetricFamily

# Below this many pairs no interval reaches 95 %.
FEWEST_PAIRS = 6

_WORDS = {
    MetricFamily.LATENCY: (ChangeVerdict.FASTER, ChangeVerdict.SLOWER),
    MetricFamily.THROUGHPUT: (ChangeVerdict.FASTER, ChangeVerdict.SLOWER),
    MetricFamily.CPU: (ChangeVerdict.CHEAPER, ChangeVerdict.DEARER),
}


def is_judged(metric: Metric) -> bool:
    """True for metrics that get a verdict: primary ones of a family that has words (loss and jitter have none)."""
    return metric.primary and metric.family in _WORDS


def margin(metric: Metric, parameters: CompareParameters) -> float | None:
    """The equivalence margin of that metric, as a relative difference; None for what is not judged."""
    if not is_judged(metric):
        return None
    return {
        MetricFamily.LATENCY: parameters.margin_latency,
        MetricFamily.CPU: parameters.margin_cpu,
        MetricFamily.THROUGHPUT: parameters.margin_throughput,
    }[metric.family]


def judge(
    metric: Metric, estimate: Estimate, p_adjusted: float, margin_share: float, confidence: float = CONFIDENCE
) -> ChangeVerdict:
    """The word for a judged metric with enough pairs; `estimate` is on the log scale, `margin_share` relative."""
    limit = math.log1p(margin_share)
    is_real = (estimate.low > 0 or estimate.high < 0) and p_adjusted < 1 - confidence
    if is_real and abs(estimate.estimate) > limit:
        better, worse = _WORDS[metric.family]
        is_lower = estimate.estimate < 0
        return better if is_lower == (metric.better is Better.LOWER) else worse
    if is_real:
        return ChangeVerdict.NEGLIGIBLE
    if -limit < estimate.low and estimate.high < limit:
        return ChangeVerdict.SAME
    return ChangeVerdict.UNDETECTED


def looks(first: int, most: int, level: float = 1 - CONFIDENCE) -> tuple[InterimLook, ...]:
    """Looks after `first` blocks, twice as many, four times, …, and after `most`; their levels add up to `level`.

    A look whose level no interval of so few pairs can reach is left to the next one. Raises ValueError unless
    FEWEST_PAIRS ≤ first ≤ most.
    """
    if not FEWEST_PAIRS <= first <= most:
        raise ValueError(f"looks need {FEWEST_PAIRS} ≤ first ≤ most, not {first} and {most}")
    ends = []
    rounds = first
    while rounds < most:
        ends.append(rounds)
        rounds *= 2
    ends.append(most)
    while len(ends) > 1 and fewest_pairs(1, level * ends[0] / most) > ends[0]:
        ends.pop(0)
    return tuple(
        InterimLook(rounds=end, level=level * (end - before) / most)
        for before, end in zip((0, *ends[:-1]), ends, strict=True)
    )


def confidence_at(planned: Sequence[InterimLook], rounds: int) -> float:
    """The confidence of the intervals after that many blocks.

    Between two looks (a run that was cut short) it is that of the next one: the result had no part in stopping.
    """
    for look in planned:
        if rounds <= look.rounds:
            return 1 - look.level
    return CONFIDENCE


def half_width(rows: Iterable[MetricRow]) -> float | None:
    """Half the width of the widest interval of the rows that get a verdict, relative; None when there is none.

    Rows that are refused do not count: no further block would mend them.
    """
    widths = [
        (row.change.high - row.change.low) / 2
        for row in rows
        if row.change is not None and row.margin is not None and row.refusal is None
    ]
    return max(widths, default=None)
