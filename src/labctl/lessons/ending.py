"""The end of a class for its students: what they are running through labctl ends, and their labs are removed.

It stands alone because only `labctl class stop` ends something that is another person's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

from labctl.engine.build import remove
from labctl.engine.events import Observer
from labctl.errors import LabError, StepFailed
from labctl.lessons.classrooms import Classrooms
from labctl.lessons.progress import Act, Entry, progress_of
from labctl.model.classroom import Classroom
from labctl.providers.base import Provider
from labctl.system import locks
from labctl.system.clock import Deadline

_ASKED_S, _KILLED_S = 15.0, 10.0
_POLL_S = 0.05


@contextlib.contextmanager
def session_lock(class_name: str, student: str) -> Iterator[None]:
    """Held by each labctl that runs as root for a student, so that the class's end finds it."""
    with locks.held(f"{_prefix(class_name)}{student}.{os.getpid()}", timeout_s=0):
        yield


def _prefix(class_name: str) -> str:
    return f"session.{class_name}."


def end_sessions(classroom: Classroom) -> None:
    """Asks each to end, which takes back what it was building, and kills it when it does not. Raises StepFailed."""
    for number, patience_s in ((signal.SIGTERM, _ASKED_S), (signal.SIGKILL, _KILLED_S)):
        deadline = Deadline.after(patience_s)
        asked = set[str]()
        while held := locks.held_names(_prefix(classroom.name)):
            for name in set(held) - asked:
                _signal(name, number)
                asked.add(name)
            if deadline.is_over():
                break
            time.sleep(_POLL_S)
        else:
            return
    raise StepFailed(
        what=f"labctl of students of class {classroom.name} does not end",
        cause=f"still there after SIGKILL: {', '.join(name.rpartition('.')[2] for name in held)}",
        remedy="ps -o pid,stat,wchan,args -p " + ",".join(name.rpartition(".")[2] for name in held),
    )


def _signal(name: str, number: signal.Signals) -> None:
    """The process that holds the lock is named by it. Looked at again while it is held by a pidfd."""
    with contextlib.suppress(ProcessLookupError, ValueError):
        held = os.pidfd_open(int(name.rpartition(".")[2]))
        try:
            if locks.is_held(name):
                signal.pidfd_send_signal(held, number)
        finally:
            os.close(held)


def remove_labs(classrooms: Classrooms, classroom: Classroom, provider: Provider, observer: Observer) -> list[str]:
    """Every lab of the students, whole or not; gives their names. Lessons that went on are written down as stopped.
    Raises LabError for the first that stays, after the others are gone."""
    prefixes = tuple(f"{student.name}-" for student in classroom.students)
    names = sorted(running.name for running in provider.discover() if running.name.startswith(prefixes))
    removed, stopped = list[str](), list[LabError]()
    for name in names:
        try:
            remove(provider, name, observer)
            if (keeping := provider.capabilities.keeping) is not None:
                keeping.forget(name)
            removed.append(name)
        except LabError as failed:
            stopped.append(failed)
    _write_down(classrooms, classroom)
    if stopped:
        raise stopped[0]
    return removed


def _write_down(classrooms: Classrooms, classroom: Classroom) -> None:
    for student in classroom.students:
        records = classrooms.records(classroom, student.name)
        for lesson in classroom.lessons:
            with contextlib.suppress(LabError):  # a journal that was changed stays as it is
                progress = progress_of(records.entries(lesson.name), lesson)
                if progress is not None and not progress.is_stopped:
                    records.add(lesson.name, Entry(act=Act.STOPPED, at=""))
        if records.folder.is_dir():
            records.set_current(None)
