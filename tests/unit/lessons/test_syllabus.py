"""The lessons that are shipped: each can be read in both languages, has a solution, and stands in docs/lessons.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labctl import app
from labctl.language import Language
from labctl.loading.lessons import lesson_names, load_lesson, load_solution
from labctl.model.lab import NETNS

CHECKOUT = Path(__file__).resolve().parents[3]
NAMES = lesson_names(CHECKOUT)
LISTED = {
    name: number
    for number, name in re.findall(
        r"^\| *(\d+) \| `([a-z0-9-]+)` \|", (CHECKOUT / "docs/lessons.md").read_text(), re.MULTILINE
    )
}


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_has_its_texts_and_its_solution(name: str) -> None:
    lesson = load_lesson(name, faults=app.fault_names(), start=CHECKOUT)
    assert load_solution(lesson, start=CHECKOUT) is not None
    assert LISTED[name] == str(lesson.document.number)
    english, chinese = (lesson.text(language) for language in (Language.ENGLISH, Language.CHINESE))
    for task in lesson.document.tasks:
        one, other = english.tasks[task.id], chinese.tasks[task.id]
        assert len(one.hints) == len(other.hints)
        assert bool(one.after) == bool(other.after)
        assert _commands(one.body) == _commands(other.body)


def test_no_two_lessons_have_one_number() -> None:
    lessons = [load_lesson(name, start=CHECKOUT).document for name in NAMES]
    numbers = [lesson.number for lesson in lessons if lesson.provider == NETNS]
    assert sorted(numbers) == list(range(1, 27))
    assert set(LISTED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_that_is_needed_comes_before(name: str) -> None:
    document = load_lesson(name, start=CHECKOUT).document
    assert all(load_lesson(one, start=CHECKOUT).document.number <= document.number for one in document.needs)


def _commands(body: str) -> list[str]:
    return [line.strip() for line in body.splitlines() if line.startswith("    ")]
