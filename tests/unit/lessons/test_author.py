"""Sabotage: what the author's test has to find in a lesson. Walking through labs is `labctl lesson test`'s own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from labctl.errors import UsageError
from labctl.lessons.author import Examiner, _Seen, _Walk, lessons_of_the_day, of_the_day
from labctl.lessons.leaks import leaks
from labctl.lessons.workplace import Workplace
from labctl.loading import load_scenario
from labctl.loading.lessons import load_lesson, load_solution
from labctl.model.result import Completed
from labctl.planning.resolve import resolve

CHECKOUT = Path(__file__).resolve().parents[3]
LESSON = load_lesson("lxc-one-way", start=CHECKOUT)
SOLUTION = load_solution(LESSON, start=CHECKOUT)
assert SOLUTION is not None
LAB = resolve(load_scenario("bpf", start=CHECKOUT), name="nobody-has-this-lab")
PLACE = cast(Workplace, SimpleNamespace(lab=LAB, name=LAB.name, overrides=()))
EXAMINER = Examiner(lesson=LESSON, solution=SOLUTION, tools=cast(Any, None), run=cast(Any, None), student="anna")


def ran(said: str = "") -> Any:
    def run(argv: Sequence[str], folder: Path) -> Completed:
        stdout = said.encode() if argv[1] == "status" else b"{}"
        return Completed(argv=tuple(argv), returncode=0, stdout=stdout, stderr=b"", duration_s=0.0)

    return run


def leaked(folder: Path, said: str = "") -> list[str]:
    return list(leaks("wrong-vtep", PLACE, ("client", "server"), ran(said), (folder,), lambda scenario: None))


def test_a_fault_that_a_command_says_is_found(tmp_path: Path) -> None:
    assert leaked(tmp_path, '{"fault": "wrong-vtep"}') == ["the output of labctl status nobody-has-this-lab --json"]


def test_a_fault_that_stands_in_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"faults": ["wrong-vtep"]}')
    assert leaked(tmp_path) == [f"the file {tmp_path / 'run.json'}"]


def test_the_digest_of_the_lab_with_the_fault_in_its_scenario_is_found(tmp_path: Path) -> None:
    broken = resolve(load_scenario("bpf", start=CHECKOUT, overrides=['datapath.faults=["wrong-vtep"]']), name=LAB.name)
    (tmp_path / "digest").write_text(broken.digest)
    assert leaked(tmp_path) == [f"the file {tmp_path / 'digest'}"]


def test_a_fault_that_is_hidden_is_found_nowhere(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"kind": "broken", "task": "silent-peer"}')
    assert not leaked(tmp_path, "ok")


def test_two_faults_that_look_alike_are_found() -> None:
    looks = {("silent", "vxlan"): {"a": frozenset({"arrived false"}), "b": frozenset({"arrived false"})}}
    assert "silent: a and b look alike: [vxlan]" in map(str, EXAMINER._over_all(_Seen(looks=looks), 2))
    looks[("silent", "vxlan")]["b"] = frozenset({"arrived true"})
    assert not [one for one in EXAMINER._over_all(_Seen(looks=looks), 2) if "alike" in one.what]


def test_a_fact_with_one_value_needs_a_reason() -> None:
    seen = _Seen(values={"how-many-hops": {"63"}, "observe-client": {"requests"}})
    assert [one.task for one in EXAMINER._over_all(seen, 4)] == ["how-many-hops"]


@pytest.mark.parametrize("is_taken", [True, False])
def test_an_empty_answer_that_is_taken_is_found(is_taken: bool) -> None:
    def answer(task: str, text: str, reason: str) -> None:
        if not is_taken:
            raise UsageError(what="the answer is empty")

    walk = cast(_Walk, SimpleNamespace(_course=SimpleNamespace(answer=answer)))
    found = [one.what for one in _Walk._refuses_nothing(walk, LESSON.document.tasks[0])]
    assert found == (["an empty answer is taken"] if is_taken else [])


def test_the_date_chooses_one_variant_and_every_variant_has_its_day() -> None:
    assert len({of_the_day(LESSON, day).words() for day in range(4)}) == 4


@pytest.mark.parametrize("count", [1, 6, 26, 29])
def test_every_lesson_is_in_the_sample_of_some_day(count: int) -> None:
    names = [f"lesson-{number}" for number in range(count)]
    days = [lessons_of_the_day(names, day) for day in range(739_000, 739_000 + count)]
    assert {name for day in days for name in day} == set(names)
    assert all(len(day) == min(count, 6) == len(set(day)) for day in days)
