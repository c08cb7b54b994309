"""The files of classes on this host: who and what takes part, the class's key, and the journals of its students.

They are root's alone (/var/lib/labctl/classes), and outlive a boot: what a student did stays on record after the class.
Nothing here reads a lesson's files: the board of thirty students must not wait for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from labctl.codec import json_document, typed
from labctl.errors import StepFailed, UsageError
from labctl.json_text import parse_json
from labctl.lessons.board import Journals, board_of
from labctl.lessons.progress import Entry
from labctl.lessons.records import Records
from labctl.model.classroom import Board, Classroom, LessonFacts, SharedLab, Student, TaskFacts
from labctl.names import is_name
from labctl.system import files, locks
from labctl.system.clock import utc_now

if TYPE_CHECKING:
    from labctl.loading.lessons import Lesson
    from labctl.model.lesson import ClassDocument

ROOT = Path("/var/lib/labctl/classes")
USER_PREFIX = "lab-"
_CLASS_FILE = "class.json"
_RUNS = "runs"
_TURN_S = 0.2


class Classrooms:
    """Those below one folder."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        """Raises ValueError for what is no class's name."""
        if not is_name(name):
            raise ValueError(f"{name[:60]!r} is not a class's name")
        return self.root / name

    def read(self, name: str) -> Classroom | None:
        """None where there is none. Raises UsageError for one that cannot be read."""
        path = self.folder(name) / _CLASS_FILE
        try:
            return typed(Classroom, parse_json(files.read_own(path)), where=str(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as failed:
            cause = (failed.strerror if isinstance(failed, OSError) else "") or str(failed)
            raise UsageError(what=f"{path} cannot be read", cause=cause, remedy=f"sudo ls -l {path}") from failed

    def all(self) -> tuple[Classroom, ...]:
        """The newest first. Raises UsageError when they may not be looked at."""
        try:
            names = sorted(one.name for one in self.root.iterdir() if is_name(one.name))
        except FileNotFoundError:
            return ()
        except OSError as failed:
            raise UsageError(
                what=f"classes cannot be read: {self.root}",
                cause=failed.strerror or str(failed),
                remedy="the same command with sudo",
            ) from failed
        found = [classroom for name in names if (classroom := self.read(name)) is not None]
        return tuple(sorted(found, key=lambda one: one.started_at, reverse=True))

    def going(self) -> Classroom | None:
        """The class that goes on. There is one at a time on a host."""
        return next((one for one in self.all() if not one.stopped_at), None)

    def chosen(self, name: str | None) -> Classroom:
        """The class of that name; without one the one that goes on, or else the last. Raises UsageError."""
        classrooms = self.all()
        if name is not None:
            classrooms = tuple(one for one in classrooms if one.name == name)
        chosen = next((one for one in classrooms if not one.stopped_at), next(iter(classrooms), None))
        if chosen is None:
            raise UsageError(
                what="there is no class on this host"
                if name is None
                else f"there is no class {name[:60]} on this host",
                remedy="labctl class start ROSTER --lesson NAME",
            )
        return chosen

    def write(self, classroom: Classroom) -> None:
        """Raises StepFailed."""
        path = self.folder(classroom.name)
        try:
            with files.open_private(path) as folder:
                folder.write(_CLASS_FILE, json_document(classroom))
        except OSError as failed:
            raise StepFailed(
                what=f"the class cannot be written down: {path}",
                cause=failed.strerror or str(failed),
                remedy=f"sudo ls -ld {path.parent}",
            ) from failed

    def stop(self, classroom: Classroom) -> Classroom:
        """Written down as stopped."""
        stopped = replace(classroom, stopped_at=utc_now())
        self.write(stopped)
        return stopped

    def forget(self, name: str) -> None:
        files.remove_tree(self.folder(name))

    def records(self, classroom: Classroom, student: str) -> Records:
        return Records(student, self.folder(classroom.name), is_private=True)

    def runs_folder(self, classroom: Classroom, student: str) -> Path:
        """Where the runs of a student's checks and traces go: not where the student could lead them elsewhere."""
        return self.records(classroom, student).folder / _RUNS

    def board(self, classroom: Classroom, now: str) -> Board:
        return board_of(classroom, self._journals(classroom), now)

    def _journals(self, classroom: Classroom) -> Journals:
        found: dict[tuple[str, str], tuple[Entry, ...] | None] = {}
        for student in classroom.students:
            records = self.records(classroom, student.name)
            for lesson in classroom.lessons:
                try:
                    found[student.name, lesson.name] = records.entries(lesson.name)
                except UsageError:
                    found[student.name, lesson.name] = None
        return found


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Nobody else starts or stops a class meanwhile. Raises StepFailed while another labctl does."""
    with locks.held("class", timeout_s=_TURN_S) as is_mine:
        if not is_mine:
            raise StepFailed(
                what="another labctl is starting or stopping a class",
                remedy="the same command again, when the other one has ended",
            )
        yield


def new_classroom(
    roster: ClassDocument,
    lessons: tuple[Lesson, ...],
    folder: Path,
    shared: Mapping[str, SharedLab] = MappingProxyType({}),
) -> Classroom:
    """As it is written down before its first login is made. `shared` are the trainer's labs, by lesson."""
    return Classroom(
        name=roster.name,
        folder=str(folder),
        students=tuple(
            Student(name=name, full_name=full_name, user=f"{USER_PREFIX}{name}")
            for name, full_name in roster.students.items()
        ),
        lessons=tuple(facts_of(lesson, shared.get(lesson.name)) for lesson in lessons),
        started_at=utc_now(),
    )


def facts_of(lesson: Lesson, shared: SharedLab | None = None) -> LessonFacts:
    document = lesson.document
    return LessonFacts(
        name=document.name,
        version=document.version,
        minutes=document.minutes,
        tasks=tuple(
            TaskFacts(
                id=task.id,
                kind=str(task.kind),
                points=task.points,
                titles={str(language): text.tasks[task.id].title for language, text in lesson.texts.items()},
            )
            for task in document.tasks
        ),
        shared=shared,
    )
