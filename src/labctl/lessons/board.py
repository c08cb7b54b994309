"""The board of a class: who is where in which lesson, those who are stuck first, and what the class predicted. Pure:
journals in, a board out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from labctl.lessons.progress import Entry, Progress, progress_of
from labctl.model.classroom import (
    Board,
    BoardRow,
    BoardTask,
    Classroom,
    LessonFacts,
    Prediction,
    Standing,
    Student,
    TaskFacts,
)

_STUCK_TRIES = 5
_STUCK_SHARES = 2
"""A lesson's minutes are shared by its tasks: longer than so many shares at one task is stuck."""
_MINUTE_S = 60.0
_PREDICT = "predict"
_ORDER = (Standing.STUCK, Standing.CHANGED, Standing.WORKING, Standing.NOT_STARTED, Standing.STOPPED, Standing.DONE)

Journals = Mapping[tuple[str, str], Sequence[Entry] | None]
"""By student and lesson what was written down; None for a journal that was changed."""


def board_of(classroom: Classroom, journals: Journals, now: str) -> Board:
    """`now` is a time as `clock.utc_now` gives it."""
    rows = [
        _row(student, lesson, journals.get((student.name, lesson.name), ()), now)
        for lesson in classroom.lessons
        for student in classroom.students
    ]
    rows.sort(key=lambda row: (_ORDER.index(row.standing), -(row.minutes or 0.0), row.full_name, row.lesson))
    return Board(
        class_name=classroom.name,
        at=now,
        rows=tuple(rows),
        predictions=tuple(_predictions(classroom.lessons, rows)),
    )


def _row(student: Student, lesson: LessonFacts, entries: Sequence[Entry] | None, now: str) -> BoardRow:
    progress = None if entries is None else progress_of(entries, lesson)
    until = entries[-1].at if entries and progress is not None and progress.is_stopped else now
    tasks = () if progress is None else tuple(_task(task, progress, until) for task in lesson.tasks)
    current = progress.current if progress is not None and not progress.is_stopped else None
    at = next((task for task in tasks if task.task == current), None)
    passed = sum(task.is_passed for task in tasks)
    if entries is None:
        standing = Standing.CHANGED
    elif progress is None:
        standing = Standing.NOT_STARTED
    elif passed == len(lesson.tasks):
        standing = Standing.DONE
    elif at is None:
        standing = Standing.STOPPED
    else:
        standing = _standing(at, lesson)
    return BoardRow(
        student=student.name,
        full_name=student.full_name,
        lesson=lesson.name,
        standing=standing,
        attempt=0 if progress is None else progress.attempt.attempt,
        passed=passed,
        tasks=tasks,
        task="" if at is None else at.task,
        minutes=None if at is None else at.minutes,
        tries=sum(task.tries for task in tasks),
        hints=sum(task.hints for task in tasks),
        unmeasured=sum(task.unmeasured for task in tasks),
        points=sum(task.points for task in tasks),
    )


def _standing(at: BoardTask, lesson: LessonFacts) -> Standing:
    share = lesson.minutes / max(len(lesson.tasks), 1)
    is_long = at.minutes is not None and at.minutes > _STUCK_SHARES * share
    return Standing.STUCK if is_long or at.tries >= _STUCK_TRIES else Standing.WORKING


def _task(task: TaskFacts, progress: Progress, until: str) -> BoardTask:
    state = progress.tasks[task.id]
    minutes = None
    if state.unlocked_at:
        minutes = minutes_between(state.unlocked_at, state.passed_at or until)
    return BoardTask(
        task=task.id,
        kind=task.kind,
        is_passed=state.is_passed,
        is_shown=state.is_shown,
        minutes=minutes,
        tries=state.tries,
        hints=state.hints,
        unmeasured=state.unmeasured,
        points=task.points if state.is_passed and not state.is_shown else 0,
        prediction=state.prediction,
        reason=state.reason,
    )


def minutes_between(begin: str, end: str) -> float:
    """Never negative: a wall clock can be set back."""
    passed_s = (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
    return max(passed_s, 0.0) / _MINUTE_S


def _predictions(lessons: Iterable[LessonFacts], rows: Sequence[BoardRow]) -> Iterable[Prediction]:
    for lesson in lessons:
        for task in lesson.tasks:
            said = Counter(
                done.prediction
                for row in rows
                if row.lesson == lesson.name
                for done in row.tasks
                if done.task == task.id and done.prediction
            )
            if task.kind == _PREDICT:
                counts = tuple(sorted(said.items(), key=lambda one: (-one[1], one[0])))
                yield Prediction(lesson=lesson.name, task=task.id, titles=task.titles, counts=counts)
