"""Journals of lessons: sealed line by line, so that what was changed, taken out or cut off later is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.lessons.progress import Act, Attempt, Entry, Mark
from labctl.lessons.records import Records
from labctl.loading import load_scenario
from labctl.planning.resolve import resolve

CHECKOUT = Path(__file__).resolve().parents[3]
LESSON = "which-mode"
LAB = resolve(load_scenario("bpf", start=CHECKOUT), name="anna-which-mode")


def attempt(number: int = 1, version: int = 1) -> Attempt:
    return Attempt(
        lesson=LESSON, version=version, student="anna", attempt=number, seed="00", values={}, lab=LAB.name, folder="/"
    )


@pytest.fixture
def records(tmp_path: Path) -> Records:
    written = Records("anna", tmp_path)
    written.add(LESSON, Entry(act=Act.STARTED, at="", started=attempt()))
    written.add(LESSON, Entry(act=Act.UNLOCKED, at="", task="one"))
    written.add(LESSON, Entry(act=Act.ANSWERED, at="", task="one", mark=Mark.FAILED, value="是 =1+1"))
    written.add(LESSON, Entry(act=Act.ANSWERED, at="", task="one", mark=Mark.PASSED, value="requests"))
    return written


def journal(records: Records) -> Path:
    return records.folder / LESSON / "journal.jsonl"


def test_what_was_written_is_read(records: Records) -> None:
    assert [entry.act for entry in records.entries(LESSON)] == ["started", "unlocked", "answered", "answered"]
    assert records.entries(LESSON)[2].value == "是 =1+1"
    assert Records("anna", records.folder.parents[1]).entries(LESSON) == records.entries(LESSON)


def _passed(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[2].replace('"failed"', '"passed"'), lines[3]]


def _without_a_failure(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[3]]


def _moved(lines: list[str]) -> list[str]:
    return [lines[0], lines[1], lines[3], lines[2]]


def _twice(lines: list[str]) -> list[str]:
    return [*lines, lines[3]]


def _unsealed(lines: list[str]) -> list[str]:
    content = json.loads(lines[3])
    del content["seal"]
    return [*lines[:3], json.dumps(content)]


def _cut(lines: list[str]) -> list[str]:
    return lines[:3]


def _earlier(lines: list[str]) -> list[str]:
    content = json.loads(lines[1])
    return [lines[0], json.dumps({**content, "at": "2020-01-01T00:00:00.000Z"}), *lines[2:]]


@pytest.mark.parametrize(
    ("change", "line"),
    [(_passed, 3), (_without_a_failure, 3), (_moved, 3), (_twice, 5), (_unsealed, 4), (_earlier, 2), (_cut, None)],
)
def test_a_journal_that_was_changed_is_refused_at_its_line(
    records: Records, change: Callable[[list[str]], list[str]], line: int | None
) -> None:
    path = journal(records)
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(UsageError) as refused:
        records.entries(LESSON)
    assert refused.value.what.startswith(f"{path}:{line}:" if line else f"{path}: ")
    with pytest.raises(UsageError):
        records.add(LESSON, Entry(act=Act.STOPPED, at=""))


def test_another_students_journal_is_not_ones_own(records: Records) -> None:
    other = Records("bo", records.folder.parents[1])
    other.add(LESSON, Entry(act=Act.UNLOCKED, at="", task="one"))
    journal(other).write_bytes(journal(records).read_bytes())
    with pytest.raises(UsageError, match="was changed"):
        other.entries(LESSON)


def test_a_line_that_a_crash_cut_short_is_no_change(records: Records) -> None:
    with journal(records).open("ab") as file:
        file.write(b'{"kind": "stopped", "at"')
    assert len(records.entries(LESSON)) == 4
    records.add(LESSON, Entry(act=Act.STOPPED, at=""))
    assert len(records.entries(LESSON)) == 5


def test_the_lab_of_an_attempt_is_kept_for_that_attempt_alone(records: Records) -> None:
    records.keep_lab(attempt(), LAB)
    assert records.lab(attempt()) == LAB
    assert records.lab(attempt(number=2)) is None
    assert records.lab(attempt(version=2)) is None
    (records.folder / LESSON / "lab.json").write_text('{"attempt": 1, "version": 1, "lab": {"name": "anna"}}')
    assert records.lab(attempt()) is None


def test_records_of_a_class_are_in_folders_that_nobody_else_enters(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    records = Records("anna", tmp_path / "class", is_private=True)
    records.add(LESSON, Entry(act=Act.UNLOCKED, at="", task="one"))
    made = list((tmp_path / "class").rglob("*"))
    assert len(made) >= 5
    assert {path.stat().st_mode & 0o077 for path in made} == {0}
