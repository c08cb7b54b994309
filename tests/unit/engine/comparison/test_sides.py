"""Sides that take turns on one lab: chosen by what the provider offers, in an order that hits both sides alike."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import pytest

from labctl.checks.base import CheckContext
from labctl.compare.order import Schedule
from labctl.engine.comparison.compare import measure_blocks
from labctl.engine.comparison.measure import Measurement
from labctl.engine.comparison.request import Options, Question, ask
from labctl.engine.comparison.sides import SIDE_BY_SIDE, LeftLab, Turns, choose
from labctl.engine.events import Event, Note, StepDone, silent
from labctl.errors import Interrupted, NotInForce, StepFailed, UsageError
from labctl.loading import load_scenario
from labctl.model.comparison import Noise
from labctl.model.lab import HostRouting, Lab, Strategy
from labctl.model.parameters import CheckParameters, CompareParameters
from labctl.model.plan import Plan
from labctl.model.result import Better, CheckResult, Metric, MetricFamily, Sample, Verdict
from labctl.networks.cilium.expected import expected_for
from labctl.planning.resolve import resolve
from labctl.providers.base import Capabilities, OpenLab, StrategyChoice
from labctl.store.runs import MemorySink
from labctl.testing.provider import ScriptedProvider, step
from labctl.testing.scripted import ScriptedCheck, ScriptedLab, ScriptedTarget


@dataclass(slots=True, kw_only=True)
class SwitchingProvider(ScriptedProvider):
    """`in_force` is the datapath that the one lab really has: what was built or switched to last."""

    choice: StrategyChoice = field(default_factory=lambda: StrategyChoice(switches=True, because="1 GiB is free"))
    in_force: Lab | None = None
    falls_back: bool = False
    unlike: str = ""

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(switching=self)

    def strategy(self, lab: Lab, *, sides: int = 2) -> StrategyChoice:
        self.log.append(f"strategy for {sides}")
        return self.choice

    def switch(self, before: Lab, after: Lab) -> Plan:
        if self.unlike:
            raise UsageError(what="one lab cannot be switched", cause=self.unlike)
        assert before.name == after.name
        return Plan(lab=after.name, provider=self.name, steps=(step(f"switch-to-{after.scenario}"),))

    def finish(self, lab: Lab) -> None:
        # Named as in Python 3.11, where super() without arguments fails in a dataclass with slots.
        ScriptedProvider.finish(self, lab)
        self.in_force = lab

    def open(self, lab: Lab) -> AbstractContextManager[OpenLab]:
        assert self.in_force is not None
        assert lab.digest == self.in_force.digest, "a lab is opened as what it is"
        really = self.in_force
        if self.falls_back:
            really = replace(really, datapath=replace(really.datapath, host_routing=HostRouting.LEGACY))
        self.log.append(f"open {lab.scenario}")
        opened = ScriptedLab(lab, [ScriptedTarget(pod.name) for pod in lab.pods])
        opened.really = really  # type: ignore[attr-defined]
        return nullcontext(opened)


RTT = Metric(name="rtt_p50", label="", unit="s", better=Better.LOWER, family=MetricFamily.LATENCY, primary=True)


@dataclass(kw_only=True)
class Seen(ScriptedCheck):
    """Stands for every check; says what it was run on."""

    log: list[str]
    verdict: Verdict = Verdict.PASS
    measures: tuple[Metric, ...] = (RTT,)

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return 0.0 if self.kind == "latency" else None

    def run(self, context: CheckContext) -> CheckResult:
        really: Lab = context.open_lab.really  # type: ignore[attr-defined]
        self.log.append(f"{self.kind} on {really.scenario}")
        signature = expected_for(really, context.pair, packets=3).signature if self.kind == "tcpdump" else None
        samples = (Sample(metric="rtt_p50", value=2e-5, unit="s"),) if self.verdict is Verdict.PASS else ()
        return self.result(context, self.verdict, samples=samples, signature=signature)


class Journal:
    """`Journal` of the engine, in memory."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Mapping[str, object]]] = []

    def sink(self, name: str) -> MemorySink:
        return MemorySink()

    def record(self, kind: str, content: Mapping[str, object]) -> None:
        self.entries.append((kind, json.loads(json.dumps(content))))

    def sync(self) -> None:
        return None


@pytest.fixture
def labs() -> tuple[Lab, Lab]:
    root = Path(__file__).resolve().parents[4]
    legacy, bpf = (resolve(load_scenario(name, start=root)) for name in ("legacy", "bpf"))
    return replace(legacy, provider="scripted"), replace(bpf, provider="scripted")


def checks_of(log: list[str], **verdicts: Verdict) -> dict[str, Seen]:
    return {
        kind: Seen(kind=kind, log=log, verdict=verdicts.get(kind, Verdict.PASS))
        for kind in ("ping", "latency", "iperf", "tcpdump")
    }


def question_of(
    labs: tuple[Lab, ...], provider: SwitchingProvider, *, rounds: int = 4, strategy: Strategy = Strategy.AUTO
) -> Question:
    parameters = CompareParameters(rounds=rounds, checks=("ping", "latency", "iperf"))
    return ask(labs, {"scripted": provider}, checks_of([]), parameters, Options(seed=7, token="t0", strategy=strategy))


def turns_of(plan: Schedule) -> list[list[str]]:
    return [[side for side, _ in groupby(block, key=lambda run: run.side)] for block in plan.blocks]


def test_the_order_of_the_turns_is_reversed_from_block_to_block_so_that_there_is_one_switch_a_block(
    labs: tuple[Lab, Lab],
) -> None:
    plan = question_of(labs, SwitchingProvider()).asked.schedule()
    first, second = turns_of(plan)[0]
    assert {first, second} == {"a", "b"}
    assert turns_of(plan) == [[first, second], [second, first], [first, second], [second, first]]
    assert plan.text().count("switch to") == 4
    assert [(build.before_block, build.sides) for build in plan.builds] == [(1, (first,))]
    for block in plan.blocks:
        for side in "ab":
            runs = [str(run.item) for run in block if run.side == side]
            assert len(runs) == len(set(runs)) == len(plan.blocks[0]) // 2


def test_the_same_seed_gives_the_same_turns_and_another_seed_others(labs: tuple[Lab, Lab]) -> None:
    provider = SwitchingProvider()
    one = question_of(labs, provider).asked
    assert one.schedule() == question_of(labs, provider).asked.schedule()
    assert {turns_of(replace(one, seed=seed).schedule())[0][0] for seed in range(20)} == {"a", "b"}


def test_three_sides_take_turns_there_and_back(labs: tuple[Lab, Lab]) -> None:
    third = replace(labs[0], scenario="third")
    plan = question_of((*labs, third), SwitchingProvider()).asked.schedule()
    assert turns_of(plan)[1] == turns_of(plan)[0][::-1]
    assert turns_of(plan)[2] == turns_of(plan)[0]


def test_measuring_in_turns_builds_once_switches_once_a_block_and_proves_every_time(labs: tuple[Lab, Lab]) -> None:
    provider = SwitchingProvider()
    question = question_of(labs, provider)
    journal, events = Journal(), list[Event]()
    with Measurement(question.sides, question.specs, checks_of(provider.log), journal, events.append) as measurement:
        measured = measure_blocks(measurement, question.asked.schedule(), _quiet)
    acts = [line for line in provider.log if line.startswith(("make switch", "open", "teardown"))]
    first, second = ({"a": "legacy", "b": "bpf"}[side] for side in turns_of(question.asked.schedule())[0])
    assert [line for line in acts if line.startswith("open")] == [
        f"open {side}" for side in (first, second, first, second, first)
    ]
    assert acts[-1] == "teardown in-turns-t0"
    assert sum(line == "make underlay-link" for line in provider.log) == 1
    assert measured.whole_blocks() == {1, 2, 3, 4}
    assert {(run.block, run.side) for run in measured.records} == {(n, s) for n in range(1, 5) for s in "ab"}
    proofs = [content["side"] for kind, content in journal.entries if kind == "mode"]
    assert len(proofs) == 10  # each of the five turns is proven when it begins and again when it ends
    assert any(isinstance(event, StepDone) and event.id.startswith("switch-to-") for event in events)


def test_a_switch_that_does_not_take_effect_ends_the_comparison_and_removes_the_lab(labs: tuple[Lab, Lab]) -> None:
    provider = SwitchingProvider(falls_back=True)
    question = question_of(labs, provider)
    with (
        pytest.raises(NotInForce, match=r"side b \(bpf\): the mode that was asked for is not in force"),
        Measurement(question.sides, question.specs, checks_of(provider.log), Journal(), silent) as measurement,
    ):
        measure_blocks(measurement, question.asked.schedule(), _quiet)
    assert provider.log[-1] == "teardown in-turns-t0"
    assert provider.things == []


def test_a_switch_that_fails_half_way_removes_the_lab(labs: tuple[Lab, Lab]) -> None:
    provider = SwitchingProvider(fails={"make switch-to-bpf-address": StepFailed("no"), "make switch-to-legacy-address":
                                        StepFailed("no")})  # fmt: skip
    question = question_of(labs, provider)
    with (
        pytest.raises(StepFailed),
        Measurement(question.sides, question.specs, checks_of(provider.log), Journal(), silent) as measurement,
    ):
        measure_blocks(measurement, question.asked.schedule(), _quiet)
    assert provider.log[-1] == "teardown in-turns-t0"


def test_a_tool_that_is_missing_is_looked_for_once_and_the_rest_is_measured(labs: tuple[Lab, Lab]) -> None:
    provider = SwitchingProvider()
    question = question_of(labs, provider)
    checks = checks_of(provider.log, latency=Verdict.SKIP)
    with Measurement(question.sides, question.specs, checks, Journal(), silent) as measurement:
        measured = measure_blocks(measurement, question.asked.schedule(), _quiet)
    latency = [run for run in measured.records if run.check == "latency"]
    assert {run.verdict for run in latency} == {Verdict.SKIP}
    assert {run.verdict for run in measured.records if run.check != "latency"} == {Verdict.PASS}
    assert len(latency) == 4 * 2 * 2
    assert sum(line.startswith("latency on") for line in provider.log) <= 2 * 2


def test_what_was_chosen_and_why_stands_in_the_report(labs: tuple[Lab, Lab]) -> None:
    question = question_of(labs, SwitchingProvider())
    assert {side.lab.name for side in question.sides} == {"in-turns-t0"}
    for side in question.asked.sides:
        assert side.statements[-1] == (
            "the sides took turns on one lab that was switched between them (strategy switch: 1 GiB is free)"
        )


@pytest.mark.parametrize(
    ("choice", "asked", "takes_turns", "why"),
    [
        (True, Strategy.AUTO, True, "because"),
        (False, Strategy.AUTO, False, "because"),
        (True, Strategy.PARALLEL, False, "--strategy parallel was asked for"),
        (False, Strategy.SWITCH, True, "--strategy switch was asked for"),
    ],
)
def test_the_command_line_comes_before_what_the_provider_would_choose(
    choice: bool, asked: Strategy, takes_turns: bool, why: str, labs: tuple[Lab, Lab]
) -> None:
    provider = SwitchingProvider(choice=StrategyChoice(switches=choice, because="because"))
    turns = choose(labs, {"scripted": provider}, asked)
    assert turns.takes_turns is takes_turns
    assert why in turns.statement


def test_labs_that_cannot_share_a_cluster_stand_side_by_side_unless_turns_were_asked_for(
    labs: tuple[Lab, Lab],
) -> None:
    provider = SwitchingProvider(unlike="they differ in: nodes")
    turns = choose(labs, {"scripted": provider})
    assert not turns.takes_turns
    assert "1 GiB is free; but one lab cannot be switched: they differ in: nodes" in turns.statement
    with pytest.raises(UsageError, match="one lab cannot be switched"):
        choose(labs, {"scripted": provider}, Strategy.SWITCH)
    provider.choice = replace(provider.choice, is_asked=True)
    with pytest.raises(UsageError, match="one lab cannot be switched"):
        choose(labs, {"scripted": provider})


def test_a_provider_that_cannot_switch_builds_side_by_side_and_says_so_when_asked_otherwise(
    labs: tuple[Lab, Lab],
) -> None:
    plain = ScriptedProvider()
    assert choose(labs, {"scripted": plain}) == SIDE_BY_SIDE == Turns(takes_turns=False)
    with pytest.raises(UsageError) as refused:
        choose(labs, {"scripted": plain}, Strategy.SWITCH)
    assert refused.value.lines() == (
        "error: --strategy switch cannot be had here",
        "  why: the provider scripted cannot change the datapath of a lab that is up",
        "  try: leave it out: the labs are then built side by side",
    )


def _quiet(block: int) -> Noise:
    return Noise(block=block)


def left_of(
    labs: tuple[Lab, Lab], provider: SwitchingProvider, *, keep: bool, rounds: int = 4
) -> tuple[list[LeftLab], list[str], Journal]:
    """What is left after a comparison in turns, however it ended, what was said, and the journal."""
    question = question_of(labs, provider, rounds=rounds)
    journal, events = Journal(), list[Event]()
    measurement = Measurement(
        question.sides, question.specs, checks_of(provider.log), journal, events.append, keep=keep
    )
    with contextlib.suppress(StepFailed, Interrupted, NotInForce), measurement:
        measure_blocks(measurement, question.asked.schedule(), _quiet)
    return measurement.left, [event.text for event in events if isinstance(event, Note)], journal


@pytest.mark.parametrize("rounds", [3, 4])
def test_a_lab_that_is_kept_says_in_which_sides_mode_it_is_left(labs: tuple[Lab, Lab], rounds: int) -> None:
    provider = SwitchingProvider()
    left, said, journal = left_of(labs, provider, keep=True, rounds=rounds)
    assert provider.in_force is not None
    really = provider.in_force
    (one,) = left
    side = {"legacy": "a", "bpf": "b"}[really.scenario]
    assert (one.lab, one.side, one.scenario, one.is_kept) == ("in-turns-t0", side, really.scenario, True)
    assert one.mode == really.datapath.asked()
    assert any(
        text.startswith(f"lab in-turns-t0 is left in the mode of side {side} ({really.scenario}): hostRouting ")
        for text in said
    )
    assert [content for kind, content in journal.entries if kind == "left"] == [{"labs": [one.record()]}]


def test_a_lab_that_is_removed_is_left_in_no_mode(labs: tuple[Lab, Lab]) -> None:
    left, said, journal = left_of(labs, SwitchingProvider(), keep=False)
    assert left == []
    assert not [text for text in said if "is left" in text]
    assert not [content for kind, content in journal.entries if kind == "left"]


@pytest.mark.parametrize("stop", [StepFailed("kubectl does not answer"), Interrupted("Ctrl-C")])
def test_one_that_cannot_be_removed_after_a_switch_was_cut_says_that_nobody_knows_its_mode(
    stop: Exception, labs: tuple[Lab, Lab]
) -> None:
    provider = SwitchingProvider(
        fails={
            "make switch-to-bpf-address": stop, "make switch-to-legacy-address": stop,
            "teardown in-turns-t0": StepFailed("the engine is gone"),
        }
    )  # fmt: skip
    left, said, _ = left_of(labs, provider, keep=False)
    (one,) = left
    assert one.is_kept is False
    record = one.record()
    assert (record["side"], record["mode"]) == (None, None)
    assert {record["switchedFrom"], record["switchedTo"]} == {"legacy", "bpf"}
    assert any(
        "is left in the middle of a switch from" in text and "labctl status in-turns-t0" in text for text in said
    )


def test_one_that_cannot_be_removed_between_two_switches_says_its_mode(labs: tuple[Lab, Lab]) -> None:
    provider = SwitchingProvider(fails={"teardown in-turns-t0": StepFailed("the engine is gone")})
    left, said, _ = left_of(labs, provider, keep=False)
    (one,) = left
    assert provider.in_force is not None
    assert (one.scenario, one.is_kept, one.switching_to) == (provider.in_force.scenario, False, "")
    assert "lab in-turns-t0 could not be removed: the engine is gone" in said
