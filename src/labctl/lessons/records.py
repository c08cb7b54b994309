"""The files of lessons on this host: for each student and lesson a journal that is only appended to, and the key.

They are private to the user that labctl runs as, which is root: whoever has real root can read and forge them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from labctl.codec import plain, typed
from labctl.errors import LabError, StepFailed
from labctl.lessons.progress import Entry
from labctl.names import is_name
from labctl.store.journal import JOURNAL_FILE, JournalWriter, read_journal
from labctl.system import files, locks
from labctl.system.clock import utc_now

_KEY_FILE, _CURRENT_FILE = "key", "current"
_KEY_BYTE = 32
_TURN_S = 0.2


def lessons_root() -> Path:
    """Below XDG_STATE_HOME, which outlives a reboot."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "labctl" / "lessons"


class Records:
    """Those of one student."""

    def __init__(self, student: str, root: Path | None = None) -> None:
        """Raises ValueError for what is no name: it becomes part of paths and of the lab's name."""
        if not is_name(student):
            raise ValueError(f"{student[:60]!r} is not a student's name")
        self._root, self.student = root or lessons_root(), student

    @property
    def folder(self) -> Path:
        return self._root / "students" / self.student

    def key(self) -> bytes:
        """Made once for this host. Raises StepFailed."""
        path = self._root / _KEY_FILE
        with _told(path):
            try:
                return files.read_own(path)
            except FileNotFoundError:
                files.write_own(path, secrets.token_bytes(_KEY_BYTE))
                return files.read_own(path)

    def current(self) -> str | None:
        """The lesson that was started last and not stopped."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            name = files.read_own(self.folder / _CURRENT_FILE).decode().strip()
            return name if is_name(name) else None
        return None

    def set_current(self, lesson: str | None) -> None:
        path = self.folder / _CURRENT_FILE
        with _told(path):
            if lesson is None:
                files.remove_own(path)
            else:
                files.write_own(path, f"{lesson}\n".encode())

    def entries(self, lesson: str) -> tuple[Entry, ...]:
        """Every entry of the lesson's journal, in order; none where there is none. Raises UsageError for a journal
        that was changed."""
        path = self.folder / lesson / JOURNAL_FILE
        return tuple(
            typed(Entry, {"act": one.kind, "at": one.at, **one.content}, where=str(path)) for one in read_journal(path)
        )

    def add(self, lesson: str, entry: Entry) -> Entry:
        """Appended and on the disk when this returns. Raises StepFailed."""
        stamped = replace(entry, at=utc_now())
        said = _plain(stamped)
        path = self.folder / lesson
        with _told(path), files.open_own_folder(path, make=True) as folder:
            writer = JournalWriter(folder)
            try:
                writer.append(str(said.pop("act")), str(said.pop("at")), said)
                writer.sync()
            finally:
                writer.close()
        return stamped

    @contextlib.contextmanager
    def turn(self, lesson: str) -> Iterator[None]:
        """Nobody else changes that lesson of the student meanwhile. Raises StepFailed while another labctl does."""
        with locks.held(f"lesson-{self.student}-{lesson}", timeout_s=_TURN_S) as is_mine:
            if not is_mine:
                raise StepFailed(
                    what=f"another labctl is at work on lesson {lesson} of {self.student}",
                    remedy="the same command again, when the other one has ended",
                )
            yield

    def forget(self) -> None:
        """Removes everything of this student: for the author's test."""
        files.remove_tree(self.folder)


def _plain(entry: Entry) -> dict[str, object]:
    said = plain(entry)
    assert isinstance(said, dict)
    return said


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as refused:
        raise StepFailed(
            what=f"the records of lessons cannot be written: {path}",
            cause=refused.strerror or str(refused),
            remedy=f"ls -ld {path.parent}",
        ) from refused


def students(root: Path | None = None) -> tuple[str, ...]:
    """Those who have records here, sorted."""
    folder = (root or lessons_root()) / "students"
    with contextlib.suppress(OSError, LabError):
        return tuple(sorted(one.name for one in folder.iterdir() if is_name(one.name)))
    return ()
