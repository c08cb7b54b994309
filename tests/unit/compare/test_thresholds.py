"""Thresholds for CI: what they mean, when they are crossed, and what a wrong one says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.compare.thresholds import (
    Candidate,
    Threshold,
    ThresholdState,
    candidates,
    judge_thresholds,
    named_by,
    parse_threshold,
)
from labctl.errors import UsageError
from labctl.model.comparison import (
    Change,
    ChangeVerdict,
    CheckMetrics,
    Comparison,
    Environment,
    MetricRow,
    Refusal,
    RefusalKind,
    Side,
    SideSamples,
)
from labctl.model.lab import Placement
from labctl.model.result import Better, Metric, MetricFamily

RTT = Metric(
    name="rtt_p50", label="round-trip p50", unit="s", better=Better.LOWER, family=MetricFamily.LATENCY, primary=True
)
SERVICE = replace(RTT, name="latency_p50", label="service time p50")
TPS = Metric(
    name="transactions_per_s",
    label="transactions/s",
    unit="count/s",
    better=Better.HIGHER,
    family=MetricFamily.THROUGHPUT,
    primary=True,
)
CHECKS = (
    CheckMetrics(check="ping", kind="ping", metrics=(RTT,)),
    CheckMetrics(check="latency", kind="latency", metrics=(SERVICE, TPS)),
)
ALL = candidates(CHECKS, (Placement.SAME_NODE, Placement.CROSS_NODE))


def names(found: tuple[Candidate, ...]) -> list[str]:
    return [candidate.name for candidate in found]


@pytest.mark.parametrize(
    ("text", "name", "is_above", "change"),
    [
        ("cross-node latency p50 > +5%", "cross-node latency p50", True, 0.05),
        ("rtt_p50>5 %", "rtt_p50", True, 0.05),
        ("transactions_per_s < -2.5%", "transactions_per_s", False, -0.025),
        ("transactions_per_s < −2.5 %", "transactions_per_s", False, -0.025),
        ("rtt_p50 >= 0%", "rtt_p50", True, 0.0),
    ],
)
def test_a_threshold_is_a_name_an_operator_and_a_change(text: str, name: str, is_above: bool, change: float) -> None:
    found = parse_threshold(text)
    assert (found.name, found.is_above) == (name, is_above)
    assert found.change == pytest.approx(change)


@pytest.mark.parametrize("text", ["", "rtt_p50", "rtt_p50 > ", "rtt_p50 > 5", "> 5%", "rtt_p50 = 5%", "rtt_p50 > x%"])
def test_what_is_no_threshold_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_threshold(text)
    assert caught.value.lines() == (
        f"error: --fail-if: cannot read {text!r}",
        "  why: a threshold is a metric, one of > >= < <=, and a relative change in percent",
        "  try: write it as --fail-if 'cross-node rtt_p50 > +5%'",
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rtt_p50", ["same-node rtt_p50", "cross-node rtt_p50"]),
        ("cross-node rtt_p50", ["cross-node rtt_p50"]),
        ("cross-node latency p50", ["cross-node latency_p50"]),
        ("Cross-Node ping p50", ["cross-node rtt_p50"]),
        ("same-node round-trip p50", ["same-node rtt_p50"]),
        ("cross-node transactions/s", ["cross-node transactions_per_s"]),
        ("cross-node throughput", ["cross-node transactions_per_s"]),
    ],
)
def test_a_name_means_the_metrics_whose_words_it_uses(name: str, meant: list[str]) -> None:
    assert names(named_by(parse_threshold(f"{name} > 5%"), ALL)) == meant


def test_an_unknown_metric_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError) as caught:
        named_by(parse_threshold("cross-node rtt_p5 > 5%"), ALL)
    assert caught.value.lines()[0] == "error: --fail-if: no metric is called 'cross-node rtt_p5'"
    assert caught.value.lines()[2] == "  try: did you mean 'cross-node rtt_p50'?"


def comparison(estimate: float, low: float, high: float, refusal: Refusal | None = None) -> Comparison:
    change = Change(
        estimate=estimate, low=low, high=high, confidence=0.95, n=10, detectable=0.02, p_value=0.01, p_adjusted=0.01
    )
    nothing = SideSamples(samples=(), blocks=(), median=None)
    row = MetricRow(
        check="ping",
        kind="ping",
        client="client",
        server="far",
        placement=Placement.CROSS_NODE,
        metric=RTT,
        a=nothing,
        b=nothing,
        blocks=(),
        differences=(),
        change=change,
        margin=0.03,
        verdict=ChangeVerdict.REFUSED if refusal else ChangeVerdict.SLOWER,
        refusal=refusal,
    )
    side = Side(key="a", scenario="legacy", lab="a", provider="netns", digest="", datapath={})
    return Comparison(
        a=side,
        b=replace(side, key="b"),
        environment=Environment(kernel="", cpu_model="", cpus=1),
        order="",
        seed=1,
        rounds=10,
        modes=(),
        rows=(row,),
        signatures=(),
        cautions=(),
        runs=(),
    )


@pytest.mark.parametrize(
    ("text", "change", "outcome"),
    [
        ("rtt_p50 > 5%", (0.08, 0.06, 0.1), ThresholdState.CROSSED),
        ("rtt_p50 > 5%", (0.08, -0.01, 0.2), ThresholdState.HELD),
        ("rtt_p50 > 5%", (0.04, 0.03, 0.06), ThresholdState.HELD),
        ("rtt_p50 < -5%", (-0.08, -0.1, -0.06), ThresholdState.CROSSED),
        ("rtt_p50 < -5%", (0.08, 0.06, 0.1), ThresholdState.HELD),
        ("rtt_p50 >= 8%", (0.08, 0.06, 0.1), ThresholdState.CROSSED),
        ("rtt_p50 > 8%", (0.08, 0.06, 0.1), ThresholdState.HELD),
    ],
)
def test_a_threshold_is_crossed_by_a_real_change_beyond_it(
    text: str, change: tuple[float, float, float], outcome: ThresholdState
) -> None:
    (found,) = judge_thresholds([parse_threshold(text)], comparison(*change))
    assert found.outcome is outcome


def test_a_refused_row_neither_holds_nor_crosses() -> None:
    refused = comparison(0.5, 0.4, 0.6, Refusal(kind=RefusalKind.NO_SAMPLES))
    (found,) = judge_thresholds([parse_threshold("rtt_p50 > 5%")], refused)
    assert found.outcome is ThresholdState.UNKNOWN


def test_a_threshold_on_a_row_that_was_not_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="no metric is called 'loss'"):
        judge_thresholds([parse_threshold("loss > 5%")], comparison(0.1, 0.1, 0.1))


def test_equality_counts_only_where_the_operator_says_so() -> None:
    threshold = Threshold(text="", name="", is_above=True, includes_equal=False, change=0.05)
    assert not threshold.is_beyond(0.05)
    assert replace(threshold, includes_equal=True).is_beyond(0.05)


def test_a_family_alone_means_its_primary_metrics_also_where_a_check_is_called_the_same() -> None:
    """`latency` is a family and a check; that check also measures transactions, of which more is better."""
    p99 = replace(RTT, name="rtt_p99", label="round-trip p99", primary=False)
    among = candidates((replace(CHECKS[0], metrics=(RTT, p99)), CHECKS[1]), (Placement.CROSS_NODE, Placement.SAME_NODE))
    wanted = parse_threshold("cross-node latency > +5%")
    assert names(named_by(wanted, among)) == ["cross-node rtt_p50", "cross-node latency_p50"]
    assert len(named_by(parse_threshold("latency > +5%"), among)) == 4
    assert names(named_by(parse_threshold("cross-node latency p50 > +5%"), among)) == ["cross-node latency_p50"]
    secondary = candidates((CheckMetrics(check="ping", kind="ping", metrics=(p99,)),), (Placement.CROSS_NODE,))
    assert names(named_by(wanted, secondary)) == ["cross-node rtt_p99"]
