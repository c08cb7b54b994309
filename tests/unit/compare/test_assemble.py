"""From records to rows: pairing, refusals, warnings, Holm, and the same result from the same records."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from labctl.compare.assemble import assemble, assemble_unpaired
from labctl.compare.order import Schedule, WorkItem, schedule
from labctl.compare.warnings import rounds_needed
from labctl.model.comparison import (
    CautionKind,
    ChangeVerdict,
    CheckMetrics,
    Comparison,
    Correction,
    Environment,
    MetricRow,
    Noise,
    RefusalKind,
    RunRecord,
    Side,
)
from labctl.model.evidence import ModeInForce
from labctl.model.lab import Placement
from labctl.model.parameters import CompareParameters
from labctl.model.result import Better, Metric, MetricFamily, Sample, Verdict
from labctl.report.sentences import caution_text
from labctl.report.words import ENGLISH

P50 = Metric(name="rtt_p50", label="p50", unit="s", better=Better.LOWER, family=MetricFamily.LATENCY, primary=True)
P99 = replace(P50, name="rtt_p99", label="p99", primary=False)
CHECKS = (CheckMetrics(check="ping", kind="ping", metrics=(P50, P99)),)
WORK = (WorkItem(check="ping", client="client", server="far", placement=Placement.CROSS_NODE),)
ENVIRONMENT = Environment(kernel="6.18", cpu_model="synthetic", cpus=2)


def side(key: str, scenario: str = "") -> Side:
    return Side(key=key, scenario=scenario or f"side-{key}", lab=key, provider="netns", digest=key, datapath={})


def mode(key: str, *, proven: bool = True) -> ModeInForce:
    return ModeInForce(lab=key, asked={}, found={}, evidence=(), proven=proven, reason="" if proven else "it fell back")


def records(plan: Schedule, factors: Mapping[str, float], seed: int = 1, spread: float = 0.01) -> list[RunRecord]:
    """Synthetic runs: 50 µs times the side's factor times the block's weather times noise."""
    source = random.Random(seed)
    weather = [source.gauss(0, 0.3) for _ in range(plan.rounds)]
    found = []
    for run in plan.runs():
        value = 50e-6 * factors[run.side] * math.exp(weather[run.block - 1] + source.gauss(0, spread))
        found.append(
            RunRecord(
                block=run.block,
                position=run.position,
                side=run.side,
                check="ping",
                kind="ping",
                client=run.item.client,
                server=run.item.server,
                placement=run.item.placement,
                verdict=Verdict.PASS,
                reason="",
                started_at="2026-11-22T10:00:00Z",
                samples=(
                    Sample(metric="rtt_p50", value=value, unit="s"),
                    Sample(metric="rtt_p99", value=value * 3, unit="s"),
                ),
            )
        )
    return found


def compared(
    runs: Sequence[RunRecord] | None = None,
    *,
    rounds: int = 10,
    factors: Mapping[str, float] | None = None,
    proven: bool = True,
    noise: Sequence[Noise] = (),
    environment: Environment = ENVIRONMENT,
) -> Comparison:
    plan = schedule(("a", "b"), WORK, rounds, seed=7)
    return assemble(
        a=side("a"),
        b=side("b"),
        checks=CHECKS,
        runs=records(plan, factors or {"a": 1.0, "b": 0.8}) if runs is None else runs,
        modes={"a": mode("a"), "b": mode("b", proven=proven)},
        signatures=(),
        environment=environment,
        schedule=plan,
        parameters=CompareParameters(),
        noise=noise,
    )


def row(comparison: Comparison, metric: str = "rtt_p50") -> MetricRow:
    return next(row for row in comparison.rows if row.metric.name == metric)


def kinds(comparison: Comparison) -> list[CautionKind]:
    return [caution.kind for caution in comparison.cautions]


def test_a_secondary_metric_that_nobody_could_measure_has_no_row_and_a_primary_one_is_refused() -> None:
    plan = schedule(("a", "b"), WORK, 6, 1)
    runs = records(plan, {"a": 1.0, "b": 0.8})
    names = {sample.metric for run in runs for sample in run.samples}
    assert {row.metric.name for row in compared(runs).rows} == {"rtt_p50"} | (names & {"rtt_p99"})
    without = compared([replace(run, samples=()) for run in runs])
    assert [(row.metric.name, row.verdict) for row in without.rows] == [("rtt_p50", ChangeVerdict.REFUSED)]


def test_tools_that_stood_in_are_told_with_how_often_and_why() -> None:
    plan = schedule(("a", "b"), WORK, 6, 1)
    runs = records(plan, {"a": 1.0, "b": 0.8})
    why = "no folder of client takes a program: each is read-only, or starts none"
    by_tools = [replace(run, stood_in=why) if run.block != 2 else run for run in runs]
    for given, facts in ((runs, []), (by_tools, [{"check": "ping", "count": 10, "of": 12, "reason": why}])):
        found = compared(given)
        assert [c.facts for c in found.cautions if c.kind is CautionKind.STOOD_IN] == facts
    (said,) = [caution_text(c, ENGLISH) for c in found.cautions if c.kind is CautionKind.STOOD_IN]
    assert said.startswith("ping: sockperf and iperf3 stood in for labctl's load program in 10 of 12 runs")
    assert said.endswith(why)


def test_a_fifth_less_latency_is_found_through_weather_of_thirty_percent() -> None:
    found = row(compared())
    assert found.verdict is ChangeVerdict.FASTER
    assert found.change is not None
    assert found.change.low <= -0.2 <= found.change.high
    assert found.change.n == 10
    assert found.a.blocks == found.blocks == tuple(range(1, 11))


@pytest.mark.parametrize(
    ("tool", "metric", "disagrees"),
    [
        ({"a": 1.0, "b": 1.3}, "rtt_p50", True),
        ({"a": 1.0, "b": 0.8}, "rtt_p50", False),
        ({"a": 1.0, "b": 1.3}, "rtt_other", False),  # another question
    ],
)
def test_a_tool_that_disagrees_beyond_both_intervals_is_named(
    tool: Mapping[str, float], metric: str, disagrees: bool
) -> None:
    plan = schedule(("a", "b"), WORK, 10, seed=7)
    own = records(plan, {"a": 1.0, "b": 0.8})
    others = [
        replace(
            run,
            check="tool",
            kind="tool",
            samples=tuple(replace(one, metric=metric) for one in run.samples if one.metric == "rtt_p50"),
        )
        for run in records(plan, tool)
    ]
    second = CheckMetrics(
        check="tool", kind="tool", metrics=(replace(CHECKS[0].metrics[0], name=metric, primary=False),)
    )
    found = assemble(
        a=side("a"),
        b=side("b"),
        checks=(*CHECKS, second),
        runs=[*own, *others],
        modes={"a": mode("a"), "b": mode("b")},
        signatures=(),
        environment=ENVIRONMENT,
        schedule=plan,
        parameters=CompareParameters(),
    )
    said = [caution for caution in found.cautions if caution.kind is CautionKind.TOOL_DISAGREES]
    assert bool(said) is disagrees
    for caution in said:
        text = caution_text(caution, ENGLISH)
        assert "the checks ping and tool disagree: " in text
        assert caution.facts["high"] < caution.facts["other_low"]  # type: ignore[operator]


def test_samples_stand_in_block_order_with_their_median() -> None:
    plan = schedule(("a", "b"), WORK, 6, seed=7)
    runs = [
        replace(run, samples=(Sample(metric="rtt_p50", value=run.block * (1 if run.side == "a" else 2), unit="s"),))
        for run in records(plan, {"a": 1, "b": 1})
    ]
    found = row(compared(runs[::-1], rounds=6))
    assert found.a.samples == (1, 2, 3, 4, 5, 6)
    assert found.a.median == 3.5
    assert found.change is not None
    assert found.change.estimate == pytest.approx(1.0)


def test_the_order_in_which_records_come_makes_no_difference() -> None:
    plan = schedule(("a", "b"), WORK, 10, seed=7)
    runs = records(plan, {"a": 1.0, "b": 0.9})
    shuffled = random.Random(3).sample(runs, len(runs))
    assert compared(runs) == compared(shuffled)


def test_records_that_went_through_json_give_the_same_comparison_bit_for_bit() -> None:
    plan = schedule(("a", "b"), WORK, 10, seed=7)
    runs = records(plan, {"a": 1.0, "b": 0.9})
    adapter = TypeAdapter(list[RunRecord])
    assert compared(adapter.validate_json(adapter.dump_json(runs))) == compared(runs)


def test_a_whole_comparison_survives_json() -> None:
    adapter = TypeAdapter(Comparison)
    found = compared(noise=(Noise(block=1, cpu_pressure_share=0.5),))
    assert adapter.validate_json(adapter.dump_json(found)) == found


def test_secondary_metrics_have_numbers_and_no_verdict() -> None:
    found = row(compared(), "rtt_p99")
    assert found.verdict is None
    assert found.change is not None
    assert found.change.p_adjusted is None
    assert found.margin is None


def test_below_six_pairs_the_numbers_are_given_and_the_verdict_is_refused() -> None:
    found = row(compared(rounds=5))
    assert found.verdict is ChangeVerdict.REFUSED
    assert found.refusal is not None
    assert found.refusal.kind is RefusalKind.TOO_FEW_PAIRS
    assert found.change is not None
    assert found.change.confidence == pytest.approx(0.9375)


def test_a_side_whose_mode_is_not_proven_refuses_every_judged_row() -> None:
    found = compared(proven=False)
    assert [each.verdict for each in found.rows] == [ChangeVerdict.REFUSED, None]
    refusal = row(found).refusal
    assert refusal is not None
    assert refusal.facts == {"side": "side-b", "reason": "it fell back"}


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.FAIL, Verdict.SKIP])
def test_one_run_that_did_not_pass_refuses_its_rows_and_says_which(verdict: Verdict) -> None:
    plan = schedule(("a", "b"), WORK, 10, seed=7)
    runs = [
        replace(run, verdict=verdict, reason="the server died", samples=())
        if (run.block, run.side) == (4, "b")
        else run
        for run in records(plan, {"a": 1, "b": 1})
    ]
    found = row(compared(runs))
    assert found.verdict is ChangeVerdict.REFUSED
    assert found.refusal is not None
    assert found.refusal.kind is RefusalKind.RUN_FAILED
    assert found.refusal.facts["block"] == 4
    assert found.refusal.facts["side"] == "b"
    assert found.change is not None
    assert found.change.n == 9
    assert len(found.a.samples) == 10


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (0.0, RefusalKind.NO_RATIO),
        (-1.0, RefusalKind.NO_RATIO),
        (math.nan, RefusalKind.NOT_A_NUMBER),
        (math.inf, RefusalKind.NOT_A_NUMBER),
    ],
)
def test_a_sample_that_no_ratio_can_be_formed_with_refuses_the_row(value: float, kind: RefusalKind) -> None:
    plan = schedule(("a", "b"), WORK, 10, seed=7)
    runs = records(plan, {"a": 1, "b": 1})
    runs[0] = replace(runs[0], samples=(Sample(metric="rtt_p50", value=value, unit="s"),))
    found = row(compared(runs))
    assert found.verdict is ChangeVerdict.REFUSED
    assert found.refusal is not None
    assert found.refusal.kind is kind
    assert found.change is None


def test_a_metric_that_no_run_yielded_is_refused() -> None:
    plan = schedule(("a", "b"), WORK, 10, seed=7)
    runs = [replace(run, samples=()) for run in records(plan, {"a": 1, "b": 1})]
    found = row(compared(runs))
    assert found.refusal is not None
    assert found.refusal.kind is RefusalKind.NO_SAMPLES
    assert found.a.median is None


def test_a_comparison_that_was_cut_short_uses_whole_pairs_and_says_so() -> None:
    plan = schedule(("a", "b"), WORK, 10, seed=7)
    runs = records(plan, {"a": 1.0, "b": 0.8})[:15]
    found = compared(runs)
    assert CautionKind.CUT_SHORT in kinds(found)
    assert next(c for c in found.cautions if c.kind is CautionKind.CUT_SHORT).facts == {"done": 7, "planned": 10}
    change = row(found).change
    assert change is not None
    assert change.n == 7
    assert row(found).verdict is ChangeVerdict.FASTER


def test_pressure_and_steal_above_their_limits_are_warned_of_and_below_are_not() -> None:
    quiet = Noise(block=1, cpu_pressure_share=0.2, steal_share=0.02)
    loud = Noise(block=2, cpu_pressure_share=0.21, steal_share=0.03)
    assert kinds(compared(noise=(quiet, Noise(block=2)))) == []
    assert kinds(compared(noise=(quiet, loud))) == [CautionKind.CPU_PRESSURE, CautionKind.STEAL]


def test_pressure_that_we_make_ourselves_is_no_warning_and_neighbours_are() -> None:
    """On two CPUs a client, a server and the stack between them wait for each other in every block."""
    ours = Noise(block=1, cpu_pressure_share=0.9, neighbours_share=0.05)
    theirs = Noise(block=2, cpu_pressure_share=0.9, neighbours_share=0.3)
    assert kinds(compared(noise=(ours, ours))) == []
    found = compared(noise=(ours, theirs)).cautions
    assert [caution.kind for caution in found] == [CautionKind.NEIGHBOURS]
    assert found[0].facts == {"blocks": 1, "of": 2, "most": 0.3, "limit": 0.05}


def test_neighbours_that_cost_no_waiting_are_no_warning() -> None:
    """A machine with CPUs to spare."""
    assert kinds(compared(noise=(Noise(block=1, cpu_pressure_share=0.1, neighbours_share=0.3),))) == []
    assert kinds(compared(noise=(Noise(block=1, neighbours_share=0.3),))) == [CautionKind.NEIGHBOURS]


def test_a_frequency_that_moves_by_more_than_a_tenth_is_warned_of() -> None:
    def at(*frequencies_hz: float) -> list[CautionKind]:
        return kinds(compared(noise=[Noise(block=n, frequency_hz=f) for n, f in enumerate(frequencies_hz, start=1)]))

    assert at(2.0e9, 2.19e9) == []
    assert at(2.0e9, 2.21e9) == [CautionKind.FREQUENCY]


def test_differences_that_drift_are_warned_of() -> None:
    plan = schedule(("a", "b"), WORK, 12, seed=7)
    runs = [
        replace(
            run,
            samples=(Sample(metric="rtt_p50", value=1.0 if run.side == "a" else math.exp(0.05 * run.block), unit="s"),),
        )
        for run in records(plan, {"a": 1, "b": 1})
    ]
    assert CautionKind.AUTOCORRELATED in kinds(compared(runs, rounds=12))


def many_rows(blocks: int, factor: float) -> Comparison:
    """Ten primary rows, on each of which b is `factor` times a."""
    checks = tuple(CheckMetrics(check=f"ping{number}", kind="ping", metrics=(P50,)) for number in range(10))
    work = tuple(replace(WORK[0], check=check.check) for check in checks)
    plan = schedule(("a", "b"), work, blocks, seed=1)
    runs = [
        replace(record, check=run.item.check)
        for record, run in zip(records(plan, {"a": 1, "b": factor}), plan.runs(), strict=True)
    ]
    return assemble(
        a=side("a"),
        b=side("b"),
        checks=checks,
        runs=runs,
        modes={"a": mode("a"), "b": mode("b")},
        signatures=(),
        environment=ENVIRONMENT,
        schedule=plan,
        parameters=CompareParameters(),
    )


@pytest.mark.parametrize(
    ("blocks", "correction"), [(6, Correction.EXCHANGE), (8, Correction.EXCHANGE), (9, Correction.HOLM)]
)
def test_few_blocks_of_many_rows_give_difference_words_where_the_difference_is_plain(
    blocks: int, correction: Correction
) -> None:
    found = many_rows(blocks, 0.5)
    assert {each.verdict for each in found.rows} == {ChangeVerdict.FASTER}
    assert {each.change.correction for each in found.rows if each.change} == {correction}
    assert CautionKind.TOO_FEW_ROUNDS not in kinds(found)
    same = many_rows(blocks, 1.0)
    assert not {each.verdict for each in same.rows} & {ChangeVerdict.FASTER, ChangeVerdict.SLOWER}


def test_how_many_blocks_a_verdict_takes_is_known_before_anything_is_measured() -> None:
    """As many for one row as for ten: fewer pairs are refused."""
    assert rounds_needed(CHECKS, ["ping"]) == 6
    assert rounds_needed(CHECKS, ["ping"] * 10) == 6
    assert rounds_needed(CHECKS, ["netfilter"]) == 0


def test_a_comparison_knows_the_runs_that_its_samples_come_from() -> None:
    first, second = (replace(compared(), origins={"a": run, "b": run}) for run in ("run-1", "run-2"))
    both = assemble_unpaired(first, "b", second, "a")
    assert both.origins == {"a": "run-1", "b": "run-2"}


def test_of_three_sides_any_two_can_be_compared() -> None:
    plan = schedule(("a", "b", "c"), WORK, 10, seed=7)
    runs = records(plan, {"a": 1.0, "b": 1.0, "c": 0.7})
    modes = {key: mode(key) for key in "abc"}
    found = assemble(
        a=side("a"),
        b=side("c"),
        checks=CHECKS,
        runs=runs,
        modes=modes,
        signatures=(),
        environment=ENVIRONMENT,
        schedule=plan,
        parameters=CompareParameters(),
    )
    assert row(found).verdict is ChangeVerdict.FASTER
    assert {run.side for run in found.runs} == {"a", "c"}
    assert kinds(found) == []


def test_two_stored_runs_are_compared_unpaired_and_say_so() -> None:
    first = compared(factors={"a": 1.0, "b": 1.0}, rounds=20)
    plan = schedule(("a", "b"), WORK, 20, seed=7)
    elsewhere = replace(ENVIRONMENT, kernel="6.1", versions={"iperf3": "3.12"})
    second = compared(records(plan, {"a": 1.0, "b": 0.2}, seed=9), rounds=20, environment=elsewhere)
    found = assemble_unpaired(first, "a", second, "b")
    assert not found.is_paired
    assert (found.a.scenario, found.b.scenario) == ("side-a", "side-b")
    assert kinds(found) == [CautionKind.UNPAIRED, CautionKind.DIFFERENT_ENVIRONMENT]
    assert found.cautions[1].facts == {"what": "kernel, iperf3"}
    assert row(found).verdict is ChangeVerdict.FASTER
    assert row(found).differences == ()
    assert row(found).b.samples == row(second).b.samples


def test_a_side_that_a_stored_run_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no side 'z'"):
        assemble_unpaired(compared(), "z", compared(), "a")


def test_a_against_a_finds_a_difference_in_at_most_one_of_twenty_comparisons() -> None:
    """300 comparisons of a side with itself, with noise and weather, judged on their primary row."""
    plan = schedule(("a", "b"), WORK, 10, seed=7)
    wrong = 0
    for seed in range(300):
        verdict = row(compared(records(plan, {"a": 1, "b": 1}, seed=seed, spread=0.05))).verdict
        wrong += verdict is not None and verdict.is_difference
    assert wrong / 300 <= 0.05
