"""Variants by seed, answers as values, and what a journal says of an attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.language import Language
from labctl.lessons.answers import is_same, parse_answer
from labctl.lessons.course import lab_name
from labctl.lessons.progress import Act, Attempt, Entry, Mark, progress_of
from labctl.lessons.records import Records
from labctl.lessons.solutions import way_of
from labctl.lessons.variation import all_variants, filled, seed_of, variant_of
from labctl.loading.lessons import lesson_names, load_lesson, load_solution
from labctl.model.fact import FACTS, Value

CHECKOUT = Path(__file__).resolve().parents[3]
LESSON = load_lesson("lxc-one-way", start=CHECKOUT)
KEY = b"k" * 32
FIRST, SECOND = (task.id for task in LESSON.document.tasks[:2])


def test_a_seed_is_stable_and_differs_by_student_attempt_and_version() -> None:
    seeds = {
        seed_of(KEY, "lxc-one-way", version, student, attempt)
        for version in (1, 2)
        for student in ("anna", "bo")
        for attempt in (1, 2)
    }
    assert len(seeds) == 8
    assert seed_of(KEY, "lxc-one-way", 1, "anna", 1) in seeds
    assert seed_of(b"other" * 8, "lxc-one-way", 1, "anna", 1) not in seeds


def test_seeds_pick_every_variant_and_each_always_the_same() -> None:
    seeds = [seed_of(KEY, "lxc-one-way", 1, f"student{number}", 1) for number in range(64)]
    picked = [variant_of(LESSON.document, seed) for seed in seeds]
    assert picked == [variant_of(LESSON.document, seed) for seed in seeds]
    assert {one.words() for one in picked} == {one.words() for one in all_variants(LESSON.document)}


def test_overrides_are_keys_of_the_scenario_and_variables_are_not() -> None:
    variant = next(all_variants(LESSON.document))
    assert variant.overrides == ('datapath.encapsulation="vxlan"',)
    assert filled("to $peer and $other", {"peer": "server"}) == "to server and $other"


@pytest.mark.parametrize(
    ("fact", "text", "value"),
    [
        ("seen", " Requests ", "requests"),
        ("seen", "无", "none"),
        ("ttl", "63", 63),
        ("arrived", "是", True),
        ("arrived", "no", False),
        ("helper", "tunnel redirect", "tunnel-redirect"),
        ("pod-prefix", "10.244.1.0/24", "10.244.1.0/24"),
        ("netfilter-hooks", "FORWARD，PREROUTING", ("FORWARD", "PREROUTING")),
        ("netfilter-hooks", "none", ()),
        ("gateway-mac", "client-lxc", "client-lxc"),
    ],
)
def test_an_answer_is_read_as_the_facts_type(fact: str, text: str, value: Value) -> None:
    assert parse_answer(FACTS[fact], text) == value


@pytest.mark.parametrize(
    ("fact", "text"),
    [("seen", ""), ("seen", "some"), ("ttl", "63.5"), ("arrived", "maybe"), ("pod-prefix", "10.244/8")],
)
def test_what_is_no_value_of_the_fact_is_refused_and_no_try(fact: str, text: str) -> None:
    with pytest.raises(UsageError):
        parse_answer(FACTS[fact], text)


def test_names_are_compared_in_any_order_and_true_is_not_one() -> None:
    assert is_same(("A", "b"), ("B", "a"))
    assert not is_same(("a",), ())
    assert not is_same(True, 1)
    assert not is_same("true", True)


def attempt(number: int = 1) -> Entry:
    started = Attempt(
        lesson="lxc-one-way", version=1, student="anna", attempt=number, seed="00" * 32, values={},
        lab="anna-lxc-one-way", folder="/folder",
    )  # fmt: skip
    return Entry(act=Act.STARTED, at="t", started=started)


def entry(act: Act, task: str, mark: Mark | None = None, **more: object) -> Entry:
    return Entry(act=act, at="t", task=task, mark=mark, **more)  # type: ignore[arg-type]


def test_unmeasured_uses_up_no_try_and_a_passed_task_stays_passed() -> None:
    progress = progress_of(
        [
            attempt(),
            entry(Act.UNLOCKED, FIRST),
            entry(Act.ANSWERED, FIRST, Mark.UNMEASURED),
            entry(Act.ANSWERED, FIRST, Mark.FAILED),
            entry(Act.ANSWERED, FIRST, Mark.PASSED, value="both", reason="a reason"),
            entry(Act.ANSWERED, FIRST, Mark.FAILED),
        ],
        LESSON.document,
    )
    assert progress is not None
    state = progress.tasks[FIRST]
    assert (state.tries, state.unmeasured, state.is_passed, state.prediction) == (2, 1, True, "both")
    assert progress.current == SECOND


def test_a_shown_task_counts_no_points() -> None:
    entries = [attempt(), entry(Act.SHOWN, SECOND), entry(Act.ANSWERED, SECOND, Mark.PASSED)]
    progress = progress_of(entries, LESSON.document)
    assert progress is not None
    assert progress.points(LESSON.document) == (0, sum(task.points for task in LESSON.document.tasks))


def test_reset_takes_back_what_was_passed_from_that_task_on_and_keeps_tries() -> None:
    entries = [
        attempt(),
        entry(Act.ANSWERED, FIRST, Mark.PASSED, value="both", reason="r"),
        entry(Act.ANSWERED, SECOND, Mark.FAILED),
        entry(Act.ANSWERED, SECOND, Mark.PASSED),
        entry(Act.RESET, SECOND),
    ]
    progress = progress_of(entries, LESSON.document)
    assert progress is not None
    assert progress.current == SECOND
    assert progress.tasks[FIRST].is_passed
    assert progress.tasks[SECOND].tries == 2


def test_a_second_attempt_begins_with_nothing() -> None:
    progress = progress_of(
        [attempt(), entry(Act.ANSWERED, FIRST, Mark.PASSED), entry(Act.STOPPED, ""), attempt(2)], LESSON.document
    )
    assert progress is not None
    assert (progress.attempt.attempt, progress.current, progress.is_stopped) == (2, FIRST, False)


def test_the_journal_is_read_as_it_was_written_and_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    records = Records("anna", tmp_path / "lessons")
    records.add("lxc-one-way", attempt())
    records.add("lxc-one-way", entry(Act.ANSWERED, FIRST, Mark.FAILED, value="x"))
    journal = records.folder / "lxc-one-way" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"kind":"answ')
    assert [one.act for one in records.entries("lxc-one-way")] == [Act.STARTED, Act.ANSWERED]
    records.add("lxc-one-way", entry(Act.HINTED, FIRST, number=1))
    assert [one.act for one in records.entries("lxc-one-way")] == [Act.STARTED, Act.ANSWERED, Act.HINTED]
    assert journal.stat().st_mode & 0o077 == 0


def test_the_key_is_made_once_and_the_current_lesson_is_known(tmp_path: Path) -> None:
    records = Records("anna", tmp_path / "lessons")
    assert records.key() == Records("bo", tmp_path / "lessons").key()
    assert records.current() is None
    records.set_current("lxc-one-way")
    assert records.current() == "lxc-one-way"
    records.set_current(None)
    assert records.current() is None


def test_the_labs_name_has_the_student_in_front_and_is_a_name() -> None:
    assert lab_name("anna", "lxc-one-way") == "anna-lxc-one-way"
    long = [lab_name("a" * 30, f"a-lesson-with-a-very-long-name-{number}") for number in range(20)]
    assert len(set(long)) == 20
    assert max(map(len, long)) <= 40
    with pytest.raises(UsageError):
        lab_name("a" * 40, "lxc-one-way")


@pytest.mark.parametrize("name", lesson_names(CHECKOUT))
def test_every_shipped_lesson_is_whole_in_both_languages_and_has_a_solution_for_every_variant(name: str) -> None:
    lesson = load_lesson(name, start=CHECKOUT)
    solution = load_solution(lesson, start=CHECKOUT)
    assert set(lesson.texts) == set(Language)
    assert solution is not None
    for variant in all_variants(lesson.document):
        for task in lesson.document.tasks:
            way_of(solution, task, variant, {})
