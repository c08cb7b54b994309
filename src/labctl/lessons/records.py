"""The files of lessons on this host: for each student and lesson a journal that is only appended to, and the key.

Each line of a journal carries an HMAC of itself and of the line before it, and `head` says how many there are: what was
changed, taken out or cut off later is seen. The files are private to the user that labctl runs as, which is root:
whoever has real root has the key too, and can read and forge all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from labctl.codec import json_line, plain, typed
from labctl.errors import LabError, StepFailed, UsageError
from labctl.json_text import parse_json
from labctl.lessons.progress import Attempt, Entry
from labctl.model.lab import Lab
from labctl.names import is_name
from labctl.planning.record import lab_of, lab_to_json
from labctl.store.journal import JOURNAL_FILE, JournalEntry, JournalWriter, read_journal
from labctl.system import files, locks
from labctl.system.clock import utc_now

_KEY_FILE, _CURRENT_FILE, _HEAD_FILE, _LAB_FILE = "key", "current", "head", "lab.json"
_SEAL = "seal"
_KEY_BYTE = 32
_TURN_S = 0.2


def lessons_root() -> Path:
    """Below XDG_STATE_HOME, which outlives a reboot."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "labctl" / "lessons"


class Records:
    """Those of one student. With `is_private` they stay root's own also under sudo: for a class, whose students are the
    users behind sudo."""

    def __init__(self, student: str, root: Path | None = None, *, is_private: bool = False) -> None:
        """Raises ValueError for what is no name: it becomes part of paths and of the lab's name."""
        if not is_name(student):
            raise ValueError(f"{student[:60]!r} is not a student's name")
        self._root, self.student, self._is_private = root or lessons_root(), student, is_private

    @property
    def folder(self) -> Path:
        return self._root / "students" / self.student

    def key(self) -> bytes:
        """Made once for this host, or this class. Raises StepFailed."""
        with _told(self._root / _KEY_FILE):
            if (key := self._read(self._root, _KEY_FILE)) is None:
                key = secrets.token_bytes(_KEY_BYTE)
                with self._open(self._root) as folder:
                    folder.write(_KEY_FILE, key)
            return key

    def current(self) -> str | None:
        """The lesson that was started last and not stopped."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            name = (self._read(self.folder, _CURRENT_FILE) or b"").decode().strip()
            return name if is_name(name) else None
        return None

    def set_current(self, lesson: str | None) -> None:
        with _told(self.folder / _CURRENT_FILE), self._open(self.folder) as folder:
            if lesson is None:
                folder.remove(_CURRENT_FILE)
            else:
                folder.write(_CURRENT_FILE, f"{lesson}\n".encode())

    def keep_lab(self, attempt: Attempt, lab: Lab) -> None:
        """The lab that an attempt was begun with: its lesson's scenario is read once. Raises StepFailed."""
        path = self.folder / attempt.lesson
        said = {"attempt": attempt.attempt, "version": attempt.version, "lab": lab_to_json(lab)}
        with _told(path), self._open(path) as folder:
            folder.write(_LAB_FILE, json.dumps(said).encode())

    def lab(self, attempt: Attempt) -> Lab | None:
        """None where it has to be made of the scenario: another attempt's, another labctl's, or none."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, UsageError):
            said = parse_json(self._read(self.folder / attempt.lesson, _LAB_FILE) or b"{}")
            if (said["attempt"], said["version"]) == (attempt.attempt, attempt.version):
                lab = lab_of(said["lab"])
                return lab if lab.name == attempt.lab else None
        return None

    def entries(self, lesson: str) -> tuple[Entry, ...]:
        """Every entry of the lesson's journal, in order; none where there is none. Raises UsageError for a journal
        that was changed."""
        path = self.folder / lesson / JOURNAL_FILE
        sealed = list(read_journal(path))
        self._require_seals(lesson, path, sealed)
        return tuple(typed(Entry, {"act": one.kind, "at": one.at, **_unsealed(one)}, where=str(path)) for one in sealed)

    def add(self, lesson: str, entry: Entry) -> Entry:
        """Appended and on the disk when this returns. Raises StepFailed; UsageError for a journal that was changed."""
        stamped = replace(entry, at=utc_now())
        said = _plain(stamped)
        act, at = str(said.pop("act")), str(said.pop("at"))
        path = self.folder / lesson
        before = list(read_journal(path / JOURNAL_FILE))
        self._require_seals(lesson, path / JOURNAL_FILE, before)
        seal = self._seal(lesson, _seal_of(before[-1]) if before else "", act, at, said)
        with _told(path), self._open(path) as folder:
            writer = JournalWriter(folder)
            try:
                writer.append(act, at, {**said, _SEAL: seal})
                writer.sync()
            finally:
                writer.close()
            folder.write(_HEAD_FILE, f"{len(before) + 1}\n".encode())
        return stamped

    def _seal(self, lesson: str, before: str, act: str, at: str, content: Mapping[str, object]) -> str:
        """`before` is the seal of the line before it: the chain begins with the student and the lesson."""
        begun = before or f"{self.student}/{lesson}"
        said = json_line({"act": act, "at": at, "content": dict(content)})
        return hmac.new(self.key(), f"{begun}\n".encode() + said, hashlib.sha256).hexdigest()

    def _require_seals(self, lesson: str, path: Path, entries: Sequence[JournalEntry]) -> None:
        """Raises UsageError with the first line whose seal does not fit, or for lines that are missing at the end."""
        before = ""
        for number, one in enumerate(entries, start=1):
            seal = self._seal(lesson, before, one.kind, one.at, _unsealed(one))
            if not hmac.compare_digest(seal, _seal_of(one)):
                raise _changed(f"{path}:{number}", "the seal of this line does not fit it and the line before it")
            before = seal
        count = (self._read(path.parent, _HEAD_FILE) or b"").decode(errors="replace").strip()
        if count.isdecimal() and int(count) > len(entries):
            raise _changed(str(path), f"it had {count} lines, and has {len(entries)}")

    def _open(self, path: Path) -> files.Folder:
        return files.open_private(path) if self._is_private else files.open_own_folder(path, make=True)

    def _read(self, folder: Path, name: str) -> bytes | None:
        """None where there is none. Raises OSError."""
        try:
            return files.read_own(folder / name)
        except FileNotFoundError:
            return None

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


def _unsealed(entry: JournalEntry) -> dict[str, object]:
    return {key: value for key, value in entry.content.items() if key != _SEAL}


def _seal_of(entry: JournalEntry) -> str:
    return str(entry.content.get(_SEAL, ""))


def _changed(where: str, cause: str) -> UsageError:
    return UsageError(
        what=f"{where}: this journal was changed after it was written",
        cause=cause,
        remedy="what a student did is not known from it; the trainer decides",
    )


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
