"""What a change means: margins and words; computes no statistics.

A difference word needs three things: the interval excludes zero, Holm's adjusted p-value over all primary rows is
below 5 %, and the estimate passes the margin. Margins are symmetric on the log scale, so that swapping the sides
swaps the words and changes nothing else.
"""

from __future__ import annotations

import math

from labctl.compare.statistics import CONFIDENCE, Estimate
from labctl.model.comparison import ChangeVerdict
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
    metric: Metric, estimate: Estimate, p_holm: float, margin_share: float, confidence: float = CONFIDENCE
) -> ChangeVerdict:
    """The word for a judged metric with enough pairs; `estimate` is on the log scale, `margin_share` relative."""
    limit = math.log1p(margin_share)
    is_real = (estimate.low > 0 or estimate.high < 0) and p_holm < 1 - confidence
    if is_real and abs(estimate.estimate) > limit:
        better, worse = _WORDS[metric.family]
        is_lower = estimate.estimate < 0
        return better if is_lower == (metric.better is Better.LOWER) else worse
    if is_real:
        return ChangeVerdict.NEGLIGIBLE
    if -limit < estimate.low and estimate.high < limit:
        return ChangeVerdict.SAME
    return ChangeVerdict.UNDETECTED
