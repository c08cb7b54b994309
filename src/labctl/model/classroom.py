"""A class while it goes on: who and what takes part, and the board that is made of the journals. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from labctl.codec import NULL, OMITTED
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """`name` is what their labs begin with, `full_name` what the board calls them, `user` their login. `uid` is -1
    until the login is made."""

    name: str
    full_name: str
    user: str
    uid: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """Of a task, what the board needs. `titles` are by language."""

    id: str
    kind: str
    points: int
    titles: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLab:
    """A lab of the trainer's on a real cluster, at which all students look and which none of them changes."""

    name: str
    provider: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonFacts:
    """Of a lesson, what the board needs, as it was when the class began. `shared`: where its students look, in place of
    a lab of their own."""

    name: str
    version: int
    minutes: int
    tasks: tuple[TaskFacts, ...]
    shared: Annotated[SharedLab | None, OMITTED] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Classroom:
    """What `labctl class start` wrote down. `folder` is where the lessons were looked up; `stopped_at` is empty while
    the class goes on."""

    name: str
    folder: str
    students: tuple[Student, ...]
    lessons: tuple[LessonFacts, ...]
    started_at: str
    stopped_at: str = ""

    def student(self, name: str) -> Student | None:
        return next((one for one in self.students if one.name == name), None)

    def lesson(self, name: str) -> LessonFacts | None:
        return next((one for one in self.lessons if one.name == name), None)


class Standing(StrEnum):
    """How a student is doing in a lesson. `STUCK`: longer at one task than the lesson takes for two, or after five
    tries that failed."""

    STUCK = "stuck"
    WORKING = "working"
    DONE = "done"
    NOT_STARTED = "not started"
    STOPPED = "stopped"
    CHANGED = "journal changed"
    """Nothing can be said: the journal was changed after it was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardTask:
    """One task of one student: minutes from being unlocked to being passed, or to now; None before it is unlocked."""

    task: str
    kind: str
    is_passed: bool
    is_shown: bool
    minutes: Annotated[float | None, NULL]
    tries: int
    hints: int
    unmeasured: int
    points: int
    prediction: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRow:
    """One student at one lesson. `task` is the one that they are at, empty without one; `minutes` are those at it."""

    student: str
    full_name: str
    lesson: str
    standing: Standing
    attempt: int
    passed: int
    tasks: tuple[BoardTask, ...]
    task: str
    minutes: Annotated[float | None, NULL]
    tries: int
    hints: int
    unmeasured: int
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the class predicted at one task: how many said what, the most frequent first."""

    lesson: str
    task: str
    titles: Mapping[str, str]
    counts: tuple[tuple[str, int], ...]

    @property
    def answers(self) -> int:
        return sum(count for _, count in self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """`at` is when it was made. The rows that need the trainer most stand first."""

    class_name: str
    at: str
    rows: tuple[BoardRow, ...]
    predictions: tuple[Prediction, ...]
