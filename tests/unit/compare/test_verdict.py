"""The words of a verdict: what each takes, and that swapping the sides swaps nothing but the word."""

from __future__ import annotations

import math
import random

import pytest

from labctl.compare.statistics import Estimate
from labctl.compare.verdict import is_judged, judge, margin
from labctl.model.comparison import ChangeVerdict as Word
from labctl.model.parameters import CompareParameters
from labctl.model.result import Better, Metric, MetricFamily

LATENCY = Metric(name="rtt_p50", label="p50", unit="s", better=Better.LOWER, family=MetricFamily.LATENCY, primary=True)
RATE = Metric(
    name="tps", label="tps", unit="count/s", better=Better.HIGHER, family=MetricFamily.THROUGHPUT, primary=True
)
CPU = Metric(name="cpu", label="cpu", unit="cpu-s/byte", better=Better.LOWER, family=MetricFamily.CPU, primary=True)
LOSS = Metric(name="loss", label="loss", unit="1", better=Better.LOWER, family=MetricFamily.QUALITY, primary=True)
SWAPPED = {
    Word.FASTER: Word.SLOWER,
    Word.SLOWER: Word.FASTER,
    Word.CHEAPER: Word.DEARER,
    Word.DEARER: Word.CHEAPER,
}


def estimate(low: float, centre: float, high: float, p_value: float = 0.002) -> Estimate:
    """From relative changes."""
    return Estimate(
        estimate=math.log1p(centre),
        low=math.log1p(low),
        high=math.log1p(high),
        confidence=0.95,
        n=10,
        p_value=p_value,
    )


@pytest.mark.parametrize(
    ("metric", "change", "word"),
    [
        (LATENCY, (-0.24, -0.21, -0.19), Word.FASTER),
        (LATENCY, (0.19, 0.21, 0.24), Word.SLOWER),
        (RATE, (0.19, 0.21, 0.24), Word.FASTER),
        (RATE, (-0.24, -0.21, -0.19), Word.SLOWER),
        (CPU, (-0.24, -0.21, -0.19), Word.CHEAPER),
        (CPU, (0.19, 0.21, 0.24), Word.DEARER),
        (LATENCY, (0.001, 0.031, 0.06), Word.SLOWER),
        (LATENCY, (0.001, 0.029, 0.06), Word.NEGLIGIBLE),
        (LATENCY, (0.01, 0.015, 0.02), Word.NEGLIGIBLE),
        (LATENCY, (-0.02, 0.0, 0.02), Word.SAME),
        (LATENCY, (-0.02, 0.0, 0.04), Word.UNDETECTED),
        (LATENCY, (-0.2, 0.1, 0.4), Word.UNDETECTED),
    ],
)
def test_the_word_follows_interval_margin_and_direction(
    metric: Metric, change: tuple[float, float, float], word: Word
) -> None:
    assert judge(metric, estimate(*change), 0.02, 0.03) is word


def test_a_difference_that_holm_does_not_let_pass_gets_no_difference_word() -> None:
    assert judge(LATENCY, estimate(-0.24, -0.21, -0.19), 0.06, 0.03) is Word.UNDETECTED
    assert judge(LATENCY, estimate(0.01, 0.015, 0.02), 0.06, 0.03) is Word.SAME
    assert judge(LATENCY, estimate(0.01, 0.02, 0.05), 0.06, 0.03) is Word.UNDETECTED


def test_swapping_the_sides_swaps_the_word_and_nothing_else() -> None:
    source = random.Random(1)
    seen = set()
    for _ in range(2000):
        low, centre, high = sorted(source.gauss(0, 0.05) for _ in range(3))
        there = Estimate(estimate=centre, low=low, high=high, confidence=0.95, n=10, p_value=0.01)
        back = Estimate(estimate=-centre, low=-high, high=-low, confidence=0.95, n=10, p_value=0.01)
        word = judge(LATENCY, there, 0.01, 0.03)
        assert judge(LATENCY, back, 0.01, 0.03) is SWAPPED.get(word, word)
        seen.add(word)
    assert seen == {Word.FASTER, Word.SLOWER, Word.NEGLIGIBLE, Word.SAME, Word.UNDETECTED}


def test_each_family_has_the_margin_that_the_parameters_give_it() -> None:
    parameters = CompareParameters(margin_latency=0.01, margin_cpu=0.02, margin_throughput=0.03)
    assert [margin(metric, parameters) for metric in (LATENCY, CPU, RATE)] == [0.01, 0.02, 0.03]


def test_secondary_metrics_and_quality_are_not_judged() -> None:
    secondary = Metric(name="p99", label="p99", unit="s", better=Better.LOWER, family=MetricFamily.LATENCY)
    assert not is_judged(secondary)
    assert not is_judged(LOSS)
    assert margin(LOSS, CompareParameters()) is None
    assert is_judged(LATENCY)
