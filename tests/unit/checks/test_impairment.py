"""What was asked of a link and what was found: intervals, and judging."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from labctl.checks.impairment import (
    judge_delay,
    judge_jitter,
    judge_missed,
    judge_rate,
    judge_shares,
    mean_interval,
    share_interval,
)
from labctl.errors import UsageError
from labctl.model.impairment import ImpairCounts, ImpairedWay, Impairment, LinkDirection, impairment_of
from labctl.model.result import Verdict
from labctl.path.sent import PingReport, Reply


def way(asked: Impairment) -> ImpairedWay:
    return ImpairedWay(
        link="node1",
        sender="underlay",
        receiver="node1",
        asked=asked,
        counts=ImpairCounts(),
        sent_packets=0,
        sent_bytes=0,
    )


def pinged(rtts_s: tuple[float, ...], transmitted: int) -> PingReport:
    replies = tuple(Reply(sequence=n, ttl=64, rtt_s=rtt_s, is_counted=True) for n, rtt_s in enumerate(rtts_s))
    return PingReport(replies=replies, transmitted=transmitted, received=len(rtts_s), troubles=())


@pytest.mark.parametrize(("count", "total"), [(0, 50), (1, 100), (97, 10_000), (50, 100), (100, 100)])
def test_the_interval_of_a_share_is_wilsons(count: int, total: int) -> None:
    expected = binomtest(count, total).proportion_ci(method="wilson")
    found = share_interval(count, total)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert found.low <= found.estimate <= found.high


def test_a_share_is_shown_beside_what_was_asked() -> None:
    (found,) = judge_shares(way(Impairment(loss=0.01)), ImpairCounts(seen=10_000, lost=97))
    assert found.verdict is Verdict.PASS
    assert found.sentence == (
        "link node1, underlay → node1: asked 1 % loss, found 0.97 % [0.796, 1.18] of 10000 packets"
    )


@pytest.mark.parametrize(
    ("lost", "verdict"), [(10, Verdict.PASS), (3, Verdict.PASS), (40, Verdict.FAIL), (0, Verdict.PASS)]
)
def test_a_share_fails_where_what_was_asked_is_outside(lost: int, verdict: Verdict) -> None:
    (found,) = judge_shares(way(Impairment(loss=0.01)), ImpairCounts(seen=1000, lost=lost))
    assert found.verdict is verdict


def test_what_was_lost_is_not_corrupted_besides() -> None:
    asked = Impairment(loss=0.5, corrupt=0.5)
    loss, corrupt = judge_shares(way(asked), ImpairCounts(seen=1000, lost=500, corrupted=250))
    assert (loss.verdict, corrupt.verdict) == (Verdict.PASS, Verdict.PASS)
    assert "of 500 packets" in corrupt.sentence


def test_nothing_that_passed_is_no_finding() -> None:
    assert not list(judge_shares(way(Impairment(loss=0.5)), ImpairCounts()))


@pytest.mark.parametrize(
    ("answered", "verdict"), [(90, Verdict.PASS), (87, Verdict.PASS), (60, Verdict.FAIL), (100, Verdict.FAIL)]
)
def test_what_the_client_misses_is_held_against_what_was_lost(answered: int, verdict: Verdict) -> None:
    assert judge_missed(pinged((0.001,) * answered, 100), [ImpairCounts(seen=200, lost=10)]).verdict is verdict


@pytest.mark.parametrize(
    ("answered", "verdict"), [(90, Verdict.PASS), (60, Verdict.PASS), (40, Verdict.FAIL), (100, Verdict.FAIL)]
)
def test_a_spoilt_reply_may_be_taken_for_one(answered: int, verdict: Verdict) -> None:
    assert (
        judge_missed(pinged((0.001,) * answered, 100), [ImpairCounts(seen=200, lost=10, corrupted=30)]).verdict
        is verdict
    )


@pytest.mark.parametrize(("rtt_s", "verdict"), [(0.0402, Verdict.PASS), (0.0002, Verdict.FAIL), (0.2, Verdict.FAIL)])
def test_a_delay_is_that_of_both_ways(rtt_s: float, verdict: Verdict) -> None:
    ways = [way(Impairment(delay_s=0.02)), way(Impairment(delay_s=0.02))]
    found = judge_delay(ways, pinged((rtt_s, rtt_s + 0.0001, rtt_s), 3), 0.005)
    assert found.verdict is verdict


def test_a_rate_may_be_off_by_its_margin() -> None:
    asked = way(Impairment(rate_bit_per_s=10e6))
    assert judge_rate(asked, (9.57e6, 9.6e6, 9.7e6), 0.05).verdict is Verdict.PASS
    assert judge_rate(asked, (8.0e6, 8.1e6, 8.2e6), 0.05).verdict is Verdict.FAIL
    assert judge_rate(asked, (5.0e6, 10e6, 7.0e6), 0.05).verdict is Verdict.PASS  # a sender that was kept waiting
    assert judge_rate(asked, (9.0e6, 12.0e6, 13.0e6), 0.05).verdict is Verdict.FAIL  # more than asked never is
    assert mean_interval((1.0, 2.0, 3.0)).estimate == 2.0


def test_a_jitter_is_held_against_what_the_round_trips_vary_by() -> None:
    both = [way(Impairment(delay_s=0.02, jitter_s=0.003))] * 2  # a standard deviation of 2.45 ms
    spread = [0.04 + (number % 7 - 3) * 0.00125 for number in range(700)]
    for wider, verdict in ((1.0, Verdict.PASS), (0.5, Verdict.FAIL), (4.0, Verdict.FAIL)):
        rtts = [0.04 + (rtt - 0.04) * wider for rtt in spread]
        found = judge_jitter(both, pinged(tuple(rtts), len(rtts)), 0.005)
        assert (found.name, found.verdict) == ("jitter", verdict), found.sentence


def test_words_are_read_and_shown() -> None:
    made = impairment_of(("delay=20ms", "jitter=2ms", "loss=1%", "rate=10mbit", "direction=to"))
    assert made == Impairment(delay_s=0.02, jitter_s=0.002, loss=0.01, rate_bit_per_s=10e6, direction=LinkDirection.TO)
    assert made.words() == "delay=20.0 ms jitter=2.00 ms loss=1% rate=10.0 Mbit/s direction=to"
    assert impairment_of(("loss=0",), made).loss == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("los=1%",), "did you mean 'loss=…'?"), (("loss=fast",), "is not of the form"),
        (("loss=200%",), "at most 100%"),
        (("jitter=5ms",), "cannot be more than the delay"), (("rate=1kbit",), "at least 8kbit"),
        (("direction=up",), "up"), (("delay=2min",), "at most 60 s"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as wrong:
        impairment_of(words)
    assert said in " ".join(wrong.value.lines())
