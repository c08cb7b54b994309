"""How far a student is in a lesson, as the journal of the attempt tells it. Pure: entries in, state out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Protocol

from labctl.codec import NULL, OMITTED
from labctl.model.lab import Said
from labctl.values import dataclass

if TYPE_CHECKING:
    from labctl.model.lesson import LessonDocument


class Act(StrEnum):
    """The kinds of entries."""

    STARTED = "started"
    UNLOCKED = "unlocked"
    BREAKING = "breaking"
    """A fault is about to be put in: without `broken` after it the lab may be half broken."""
    BROKEN = "broken"
    ANSWERED = "answered"
    LOCATED = "located"
    CHECKED = "checked"
    HINTED = "hinted"
    SHOWN = "shown"
    """The author's way was shown."""
    RESET = "reset"
    STOPPED = "stopped"


class Mark(StrEnum):
    """What became of one try. Unmeasured counts for nothing, and against nobody."""

    PASSED = "passed"
    FAILED = "failed"
    UNMEASURED = "unmeasured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What became of one try. `said` are sentences, `commands` show the same by hand."""

    mark: Mark
    said: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def is_passed(self) -> bool:
        return self.mark is Mark.PASSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What was settled when the lesson was started. `folder` is where it was, for the student's own files."""

    lesson: str
    version: int
    student: str
    attempt: int
    seed: str
    values: Mapping[str, Said]
    lab: str
    folder: str
    class_name: Annotated[str, OMITTED] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the journal. Which of the fields mean something follows from the act."""

    act: Act
    at: str
    task: Annotated[str, OMITTED] = ""
    mark: Annotated[Mark | None, OMITTED] = None
    value: Annotated[str, OMITTED] = ""
    reason: Annotated[str, OMITTED] = ""
    number: Annotated[int, OMITTED] = 0
    places: Annotated[Mapping[str, str], OMITTED] = field(default_factory=dict)
    """By namespace, what the kernel knows it by: another one means that the lab was built again."""
    started: Annotated[Attempt | None, OMITTED] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """One task so far. `minutes` need a clock and are the board's to compute from `unlocked_at` and `passed_at`."""

    is_unlocked: bool = False
    is_passed: bool = False
    is_located: bool = False
    is_shown: bool = False
    tries: int = 0
    hints: int = 0
    unmeasured: int = 0
    prediction: Annotated[str, NULL] = ""
    reason: Annotated[str, NULL] = ""
    unlocked_at: Annotated[str, NULL] = ""
    passed_at: Annotated[str, NULL] = ""
    is_breaking: bool = False
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An attempt and its tasks, in the order of the lesson."""

    attempt: Attempt
    tasks: Mapping[str, TaskState]
    is_stopped: bool = False

    @property
    def current(self) -> str | None:
        """The task that is unlocked and not passed; None when all are passed."""
        return next((name for name, state in self.tasks.items() if not state.is_passed), None)

    def points(self, lesson: LessonDocument) -> tuple[int, int]:
        """Those of tasks that were passed without the way being shown, and all."""
        won = sum(
            task.points for task in lesson.tasks if self.tasks[task.id].is_passed and not self.tasks[task.id].is_shown
        )
        return won, sum(task.points for task in lesson.tasks)


class HasId(Protocol):
    @property
    def id(self) -> str: ...


class HasTasks(Protocol):
    """A lesson, or what a class wrote down of it."""

    @property
    def tasks(self) -> Sequence[HasId]: ...


def progress_of(entries: Iterable[Entry], lesson: HasTasks) -> Progress | None:
    """Where the last attempt is; None where nothing was started."""
    progress: Progress | None = None
    for entry in entries:
        if entry.act is Act.STARTED and entry.started is not None:
            progress = Progress(attempt=entry.started, tasks={task.id: TaskState() for task in lesson.tasks})
        elif progress is not None:
            progress = _after(progress, entry)
    return progress


def _after(progress: Progress, entry: Entry) -> Progress:
    if entry.act is Act.STOPPED:
        return replace(progress, is_stopped=True)
    if entry.task not in progress.tasks:
        return progress
    if entry.act is Act.RESET:
        return replace(progress, tasks=_begun_again(progress.tasks, entry))
    return replace(progress, tasks={**progress.tasks, entry.task: _task_after(progress.tasks[entry.task], entry)})


def _begun_again(tasks: Mapping[str, TaskState], entry: Entry) -> dict[str, TaskState]:
    """From that task on nothing is passed; tries, hints and what was predicted stay on record."""
    names = list(tasks)
    later = names[names.index(entry.task) :]
    return {
        name: replace(
            state, is_unlocked=name == entry.task, is_passed=False, is_located=False, passed_at="", places={},
            is_breaking=False,
        ) if name in later else state
        for name, state in tasks.items()
    }  # fmt: skip


def _task_after(state: TaskState, entry: Entry) -> TaskState:
    match entry.act:
        case Act.UNLOCKED:
            return replace(state, is_unlocked=True, unlocked_at=state.unlocked_at or entry.at)
        case Act.BREAKING:
            return replace(state, is_breaking=True)
        case Act.BROKEN:
            return replace(state, is_breaking=False, places=dict(entry.places))
        case Act.HINTED:
            return replace(state, hints=max(state.hints, entry.number))
        case Act.SHOWN:
            return replace(state, is_shown=True)
        case Act.ANSWERED | Act.CHECKED | Act.LOCATED:
            return _tried(state, entry)
        case _:
            return state


def _tried(state: TaskState, entry: Entry) -> TaskState:
    if entry.mark is Mark.UNMEASURED:
        return replace(state, unmeasured=state.unmeasured + 1)
    if state.is_passed:
        return state
    state = replace(state, tries=state.tries + 1)
    if entry.reason:
        state = replace(state, prediction=entry.value, reason=entry.reason)
    if entry.mark is not Mark.PASSED:
        return state
    if entry.act is Act.LOCATED:
        return replace(state, is_located=True)
    return replace(state, is_passed=True, passed_at=entry.at)
