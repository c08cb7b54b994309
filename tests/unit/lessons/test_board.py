"""The board of a class: who stands where, who is stuck, what was predicted; as a table, a page and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from labctl.language import Language
from labctl.lessons.board import board_of, minutes_between
from labctl.lessons.progress import Act, Attempt, Entry, Mark
from labctl.model.classroom import Board, BoardRow, Classroom, LessonFacts, Standing, Student, TaskFacts
from labctl.report.board import board_page, board_view
from labctl.report.class_csv import COLUMNS, class_csv

NOW = "2026-11-30T10:40:00.000Z"


def task(name: str, kind: str) -> TaskFacts:
    return TaskFacts(id=name, kind=kind, points=2, titles={"en": f"What of {name}?", "zh": f"{name} 如何？"})


LESSON = LessonFacts(
    name="one-way", version=1, minutes=30,
    tasks=(task("guess", "predict"), task("look", "observe"), task("mend", "repair")),
)  # fmt: skip
CLASS = Classroom(
    name="may",
    folder="/",
    students=tuple(
        Student(name=name, full_name=full, user=f"lab-{name}", uid=1000 + number)
        for number, (name, full) in enumerate((("anna", "Anna"), ("bo", "王博"), ("cy", "=1+1"), ("di", "Di")))
    ),
    lessons=(LESSON,),
    started_at="2026-11-30T10:00:00.000Z",
)


def entry(act: Act, minute: int, name: str = "", mark: Mark | None = None, **more: Any) -> Entry:
    return Entry(act=act, at=f"2026-11-30T10:{minute:02}:00.000Z", task=name, mark=mark, **more)


def started(student: str) -> Entry:
    attempt = Attempt(
        lesson="one-way", version=1, student=student, attempt=1, seed="", values={}, lab=f"{student}-x", folder="/"
    )
    return entry(Act.STARTED, 0, started=attempt)


def guessed(student: str, value: str, reason: str = "so I think") -> list[Entry]:
    return [
        started(student),
        entry(Act.UNLOCKED, 0, "guess"),
        entry(Act.ANSWERED, 2, "guess", Mark.PASSED, value=value, reason=reason),
        entry(Act.UNLOCKED, 2, "look"),
    ]


def board(**journals: Sequence[Entry] | None) -> Board:
    return board_of(CLASS, {(name, "one-way"): entries for name, entries in journals.items()}, NOW)


def row(of: Board, student: str) -> BoardRow:
    return next(one for one in of.rows if one.student == student)


def test_a_task_counts_minutes_tries_hints_and_what_was_unmeasured() -> None:
    entries = [
        *guessed("anna", "both"),
        entry(Act.ANSWERED, 4, "look", Mark.FAILED),
        entry(Act.HINTED, 5, "look", number=1),
        entry(Act.ANSWERED, 6, "look", Mark.UNMEASURED),
        entry(Act.ANSWERED, 14, "look", Mark.PASSED),
        entry(Act.UNLOCKED, 35, "mend"),
    ]
    found = row(board(anna=entries), "anna")
    assert (found.standing, found.task, found.minutes) == (Standing.WORKING, "mend", 5.0)
    assert (found.tries, found.hints, found.unmeasured, found.passed, found.points) == (3, 1, 1, 2, 4)
    assert [one.minutes for one in found.tasks] == [2.0, 12.0, 5.0]


@pytest.mark.parametrize(
    ("more", "standing"),
    [
        ([], Standing.STUCK),  # 38 minutes at one of three tasks of half an hour
        ([entry(Act.ANSWERED, 30, "look", Mark.PASSED), entry(Act.UNLOCKED, 30, "mend")], Standing.WORKING),
        (
            [
                entry(Act.ANSWERED, 30, "look", Mark.PASSED),
                entry(Act.UNLOCKED, 30, "mend"),
                *[entry(Act.CHECKED, 31, "mend", Mark.FAILED)] * 5,
            ],
            Standing.STUCK,
        ),
        ([entry(Act.STOPPED, 9)], Standing.STOPPED),
        (
            [entry(Act.ANSWERED, 9, "look", Mark.PASSED), entry(Act.CHECKED, 9, "mend", Mark.PASSED)],
            Standing.DONE,
        ),
    ],
)
def test_a_standing_follows_from_the_journal(more: list[Entry], standing: Standing) -> None:
    assert row(board(anna=[*guessed("anna", "both"), *more]), "anna").standing is standing


def test_unmeasured_tries_make_nobody_stuck() -> None:
    entries = [
        *guessed("anna", "both"),
        entry(Act.ANSWERED, 30, "look", Mark.PASSED),
        entry(Act.UNLOCKED, 30, "mend"),
        *[entry(Act.CHECKED, 31, "mend", Mark.UNMEASURED)] * 9,
    ]
    assert row(board(anna=entries), "anna").standing is Standing.WORKING


def test_those_who_are_stuck_stand_first_the_longest_on_top_and_changed_journals_next() -> None:
    found = board(
        anna=[*guessed("anna", "both"), entry(Act.ANSWERED, 39, "look", Mark.PASSED), entry(Act.UNLOCKED, 39, "mend")],
        bo=guessed("bo", "both"),
        cy=[started("cy"), entry(Act.UNLOCKED, 0, "guess")],
        di=None,
    )
    assert [(one.student, one.standing) for one in found.rows] == [
        ("cy", Standing.STUCK),
        ("bo", Standing.STUCK),
        ("di", Standing.CHANGED),
        ("anna", Standing.WORKING),
    ]


def test_predictions_are_counted_the_most_frequent_first() -> None:
    found = board(
        anna=guessed("anna", "both"), bo=guessed("bo", "requests"), cy=guessed("cy", "both"), di=[started("di")]
    )
    (said,) = found.predictions
    assert (said.task, said.counts, said.answers) == ("guess", (("both", 2), ("requests", 1)), 3)


def test_a_clock_that_was_set_back_gives_no_negative_minutes() -> None:
    assert minutes_between(NOW, "2026-11-30T10:00:00.000Z") == 0.0


# ---- what is made of it


def drawn(found: Board, width: int = 80, *, has_names: bool = True, language: Language = Language.ENGLISH) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for part in board_view(found, language, has_names=has_names):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


WHOLE = board(anna=guessed("anna", "both"), bo=guessed("bo", "<b>requests</b>"), cy=None)


def test_the_table_fits_80_columns_and_loses_nothing_on_40() -> None:
    text = drawn(WHOLE)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("class may, 10:40:00 UTC: 2 stuck, 0 working, 0 done\n")
    assert "one-way is not started by: Di" in text
    assert "one-way: What of guess? (2)" in text
    for width in (80, 40):
        for name in ("Anna", "王博", "=1+1"):
            assert name in drawn(WHOLE, width)
    assert "guess 如何？" in drawn(WHOLE, language=Language.CHINESE)


def test_without_names_nobody_is_named() -> None:
    text = drawn(WHOLE, has_names=False) + board_page(WHOLE, Language.ENGLISH, has_names=False)
    assert "What of guess?" in text
    assert not [name for name in ("Anna", "王博", "=1+1", "Di") if name in text.replace("Director", "")]


def test_the_page_escapes_what_students_wrote_and_loads_itself_again_only_when_it_is_watched() -> None:
    page = board_page(WHOLE, Language.ENGLISH)
    assert "&lt;b&gt;requests&lt;/b&gt;" in page
    assert "<b>requests</b>" not in page
    assert "refresh" not in page
    assert '<meta http-equiv="refresh" content="5">' in board_page(WHOLE, Language.ENGLISH, refresh_s=5)


@pytest.mark.parametrize("reason", ["=HYPERLINK(1)", "+1", "-1+2", "@SUM(A1)", "\t=1", "＝1", "a;b\n=1", '"=1"'])
def test_no_cell_of_the_csv_is_a_formula(reason: str) -> None:
    text = class_csv(board(cy=guessed("cy", reason, reason)))
    assert text.startswith("\ufeffclass,")
    lines = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))
    assert tuple(lines[0]) == COLUMNS
    assert all(len(line) == len(COLUMNS) for line in lines)
    assert not [cell for line in lines for cell in line if cell.strip()[:1] in tuple("=+@＝") or (cell[:1] in "\t\r\n-"
                and cell != "")]  # fmt: skip


def test_the_csv_has_a_line_for_each_task_and_one_for_a_lesson_that_was_not_started() -> None:
    lines = list(csv.DictReader(io.StringIO(class_csv(WHOLE).removeprefix("\ufeff"))))
    assert [(one["student"], one["task"], one["passed"]) for one in lines] == [
        ("anna", "guess", "yes"), ("anna", "look", "no"), ("anna", "mend", "no"),
        ("bo", "guess", "yes"), ("bo", "look", "no"), ("bo", "mend", "no"),
        ("cy", "", ""), ("di", "", ""),
    ]  # fmt: skip
    assert lines[3]["name"] == "王博"
    assert lines[0]["prediction"] == "both"
