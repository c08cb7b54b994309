"""A tool that got no CPU is tried once more: when, how often, and how the result tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from labctl.checks.base import CheckContext, RawSink
from labctl.engine.comparison.stored import RUN
from labctl.engine.run_checks import run_checks
from labctl.model.comparison import CautionKind, ChangeVerdict
from labctl.model.lab import CheckSpec
from labctl.model.parameters import CheckParameters, PingParameters
from labctl.model.result import CheckResult, Verdict
from labctl.report.check import check_text
from labctl.report.json import check_document, comparison_document
from labctl.report.sentences import caution_text
from labctl.report.words import ENGLISH
from labctl.report.words_zh import CHINESE
from labctl.testing.labs import example_lab
from labctl.testing.scripted import MemoryRaw, ScriptedLab

from .engine_world import ImaginedPing, World

REASON = "sockperf measured nothing: 1 round trip in 0.4 s"


@dataclass
class StarvedPing(ImaginedPing):
    """Gets no CPU in those runs (by block and scenario), as many times as the number says."""

    starved: dict[tuple[int, str], int] = field(default_factory=dict)
    apart_s: float | None = None
    going: int = 0
    most_beside_a_second: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return self.apart_s

    def run(self, context: CheckContext) -> CheckResult:
        with self.lock:
            self.going += 1
        try:
            result = super().run(context)
            path = result.raw[0]
            if "-again/" in path:
                self.most_beside_a_second = max(self.most_beside_a_second, self.going)
            elif self.apart_s is not None and "block" in path:
                time.sleep(2 * self.apart_s)
            key = (int(path.partition("block")[2][:3] or 0), context.open_lab.lab.scenario)
            with self.lock:
                left = self.starved.get(key, 0) if "warm-up" not in path else 0
                self.starved[key] = left - 1
            if left > 0:
                return replace(result, verdict=Verdict.ERROR, reason=REASON, samples=(), is_starved=True)
            return result
        finally:
            with self.lock:
                self.going -= 1


@dataclass
class AbreastPing(ImaginedPing):
    """Measures all runs of a block at once. `asked` has the scenarios of each time, with the seed."""

    asked: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def run_abreast(self, contexts: Sequence[CheckContext], seed: str) -> list[CheckResult]:
        self.asked.append((tuple(context.open_lab.lab.scenario for context in contexts), seed))
        return [self.run(context) for context in contexts]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(runs_dir=tmp_path)


def test_two_starved_runs_of_forty_do_not_end_a_comparison(world: World) -> None:
    world.ping = StarvedPing(starved={(3, "legacy"): 1, (11, "bpf"): 1})
    (found,) = world.measure(world.question(rounds=20))
    assert len(found.runs) == 40
    assert {run.verdict for run in found.runs} == {Verdict.PASS}
    assert {(run.block, run.side) for run in found.runs if run.retried} == {(3, "a"), (11, "b")}
    assert found.rows[0].verdict is ChangeVerdict.FASTER
    assert found.rows[0].change is not None
    assert found.rows[0].change.n == 20


def test_the_retried_runs_are_counted_by_side_and_told_in_both_languages(world: World) -> None:
    world.ping = StarvedPing(starved={(1, "legacy"): 1, (2, "legacy"): 1, (4, "bpf"): 1})
    (found,) = world.measure(world.question(rounds=6))
    caution = next(each for each in found.cautions if each.kind is CautionKind.RETRIED)
    assert (caution.facts["a"], caution.facts["b"], caution.facts["count"]) == (2, 1, 3)
    assert "3 of 12 runs (ping)" in caution_text(caution, ENGLISH)
    assert "2 of side A, 1 of side B" in caution_text(caution, ENGLISH)
    assert REASON in caution_text(caution, ENGLISH)
    assert "A 侧 2 次，B 侧 1 次" in caution_text(caution, CHINESE)
    document = comparison_document(found)
    runs = document["runs"]
    assert isinstance(runs, list)
    assert [run["retried"] for run in runs].count(REASON) == 3


def test_the_first_attempts_raw_files_are_kept_before_those_of_the_second(world: World) -> None:
    world.ping = StarvedPing(starved={(2, "bpf"): 1})
    world.measure(world.question(rounds=3))
    stored = world.read()
    (run,) = (each for each in stored.measured.records if each.retried)
    assert [Path(path).parent.name.endswith("-again") for path in run.raw] == [False, True]
    assert all((stored.run.path / path).is_file() for path in run.raw)
    assert sum(1 for _ in stored.run.entries(RUN)) == 6


def test_there_is_no_third_attempt(world: World) -> None:
    world.ping = StarvedPing(starved={(2, "legacy"): 2})
    (found,) = world.measure(world.question(rounds=6))
    (run,) = (each for each in found.runs if each.verdict is Verdict.ERROR)
    assert run.reason == f"{REASON} (the second attempt; the first: {REASON})"
    assert run.raw[2:] == ()
    assert found.rows[0].verdict is ChangeVerdict.REFUSED


def test_a_second_attempt_waits_until_its_neighbours_have_measured(world: World) -> None:
    ping = StarvedPing(starved={(1, "legacy"): 1, (2, "bpf"): 1}, apart_s=0.01)
    world.ping = ping
    (found,) = world.measure(world.question(rounds=2))
    assert sum(bool(run.retried) for run in found.runs) == 2
    assert ping.most_beside_a_second == 1


def test_a_comparison_without_second_attempts_says_nothing_of_them(world: World) -> None:
    (found,) = world.measure(world.question(rounds=3))
    assert CautionKind.RETRIED not in {caution.kind for caution in found.cautions}


def checked(ping: ImaginedPing) -> tuple[CheckResult, ...]:
    lab = example_lab()
    sinks: Callable[[str], RawSink] = lambda name: Named(name)  # noqa: E731
    spec = CheckSpec(name="ping", kind="ping", parameters=PingParameters())
    return tuple(run_checks({"ping": ping}, ScriptedLab(lab, ()), (spec,), lab.pairs[:1], sinks, lambda event: None))


class Named(MemoryRaw):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def save(self, name: str, data: bytes) -> str:
        super().save(name, data)
        return f"raw/{self.name}/{name}"


def test_labctl_check_tries_again_and_says_so() -> None:
    lab = example_lab()
    ping = StarvedPing(starved={(0, lab.scenario): 1}, speed={lab.scenario: 1.0})
    (result,) = checked(ping)
    assert (result.verdict, result.retried, result.is_starved) == (Verdict.PASS, REASON, False)
    assert f"the second attempt; the first measured nothing: {REASON}" in " ".join(check_text([result]).split())
    assert REASON in check_text([result], words=CHINESE, width=200)
    document = check_document(lab, [result], ())
    results = document["results"]
    assert isinstance(results, list)
    assert results[0]["retried"] == REASON


def test_labctl_check_gives_up_after_the_second_attempt() -> None:
    lab = example_lab()
    (result,) = checked(StarvedPing(starved={(0, lab.scenario): 9}, speed={lab.scenario: 1.0}))
    assert result.verdict is Verdict.ERROR
    assert "the second attempt" in result.reason


def test_a_check_that_alternates_itself_gets_all_runs_of_a_block_at_once(world: World) -> None:
    world.ping = ping = AbreastPing()
    (found,) = world.measure(world.question())
    assert found.rows[0].verdict is ChangeVerdict.FASTER
    pairs = len({(run.client, run.server) for run in found.runs})
    assert [sorted(scenarios) for scenarios, _ in ping.asked] == [["bpf"] * pairs + ["legacy"] * pairs] * 6
    # What the check draws by lot differs from block to block, and follows from the comparison's seed.
    assert len({seed for _, seed in ping.asked}) == 6
    world.ping = again = AbreastPing()
    world.measure(world.question())
    assert again.asked == ping.asked
    # Each run took its part of the time.
    assert all(run.duration_s >= 0 for run in found.runs)
