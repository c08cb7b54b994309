"""A comparison from its question to what it says: the order of the acts, what a stop leaves, and how it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.engine_world import HERE, World
from labctl.engine.comparison.compare import ComparisonRun, RunToFill, compare, new_run, rest_of_run
from labctl.engine.comparison.request import Question
from labctl.engine.comparison.stored import COMPARE
from labctl.engine.events import BlockStarted, BuildDone, Event, ModeProven, Note, Removed
from labctl.errors import Interrupted, UsageError
from labctl.report.json import matrix_document

ACTS = {BuildDone: "build", ModeProven: "prove", BlockStarted: "block", Removed: "remove"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("labctl.engine.comparison.compare.environment_now", lambda: HERE)
    return World(runs_dir=tmp_path / "runs")


def new(world: World, question: Question) -> RunToFill:
    return new_run(question, kind=COMPARE, name="a-b", runs_dir=world.runs_dir)


def answered(question: Question, into: RunToFill, events: list[Event] | None = None) -> ComparisonRun:
    heard = [] if events is None else events
    return compare(question, into, matrix_document, heard.append)


def stop_at(world: World, number: int) -> None:
    left = iter(range(number - 1))

    def before(side: str) -> None:
        if next(left, None) is None:
            world.ping.before = lambda side: None
            raise Interrupted(what="stopped by SIGINT")

    world.ping.before = before


def test_labs_are_built_proven_measured_proven_again_and_removed_in_that_order(world: World) -> None:
    events: list[Event] = []
    question = world.question(rounds=2)
    answer = answered(question, new(world, question), events)
    acts = [ACTS[type(event)] for event in events if type(event) in ACTS]
    assert acts == ["build", "build", "prove", "prove", "block", "block", "prove", "prove", "remove", "remove"]
    assert answer.comparisons == world.read().comparisons()
    assert (answer.path, answer.stopped, answer.left, answer.against_baseline) == (world.only_run(), None, (), ())
    assert world.read().run.result() is not None


def test_what_is_stopped_is_told_with_what_there_is_and_goes_on_to_the_same_end(world: World) -> None:
    question = world.question()
    stop_at(world, 6)
    stopped = answered(question, new(world, question))
    assert stopped.stopped is not None
    assert world.provider.up == {}
    assert len(stopped.comparisons[0].noise) == 2
    ended = answered(question, rest_of_run(world.read()))
    assert ended.stopped is None
    assert [run.block for run in ended.comparisons[0].runs] == [n for n in range(1, 7) for _ in "ab"]
    assert ended.comparisons == world.read().comparisons()


def test_a_stop_before_the_first_figure_leaves_a_run_and_no_comparison(world: World) -> None:
    question = world.question()
    stop_at(world, 1)
    stopped = answered(question, new(world, question))
    assert (stopped.stopped is not None, stopped.comparisons, stopped.path) == (True, (), world.only_run())


def test_kept_labs_are_named_and_stay_up(world: World) -> None:
    question = world.question(rounds=1)
    answer = compare(question, new(world, question), matrix_document, lambda event: None, keep=True)
    assert [(one.lab, one.side, one.scenario) for one in answer.left] == [
        ("legacy-a-abcd", "a", "legacy"), ("bpf-b-abcd", "b", "bpf"),
    ]  # fmt: skip
    assert sorted(world.provider.up) == sorted(one.lab for one in answer.left)


def test_a_baseline_is_compared_with_what_was_measured_and_refused_before_anything_is(world: World) -> None:
    question = world.question(rounds=1)
    answered(question, new(world, question))
    baseline = world.read()
    answer = compare(question, new(world, question), matrix_document, lambda event: None, baseline=baseline)
    assert [each.is_paired for each in answer.against_baseline] == [False, False]
    other = world.question("third", "fourth", rounds=1)
    events: list[Event] = []
    with pytest.raises(UsageError, match="no baseline"):
        compare(other, new(world, other), matrix_document, events.append, baseline=baseline)
    assert events == []


@pytest.mark.parametrize(("rounds", "notes"), [(1, 1), (5, 1), (6, 0)])
def test_too_few_rounds_are_noted_before_anything_is_built(world: World, rounds: int, notes: int) -> None:
    question = world.question(rounds=rounds)
    events: list[Event] = []
    answered(question, new(world, question), events)
    told = [event.text for event in events if isinstance(event, Note)]
    assert len(told) == notes
    assert all("no row can reach significance" in text and "--rounds 6" in text for text in told)
    assert not notes or isinstance(events[0], Note)


def test_a_machine_that_changed_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    question = world.question()
    stop_at(world, 6)
    answered(question, new(world, question))
    monkeypatch.setattr("labctl.engine.comparison.compare.environment_now", lambda: replace(HERE, kernel="6.9.9"))
    with pytest.raises(UsageError, match="cannot be resumed"):
        rest_of_run(world.read())
