"""The journal of a run: one JSON object a line, appended as things happen, readable when it was cut short.

An entry has `kind`, `at` (UTC) and the fields of its kind. What an entry means is the business of whoever records it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import LabError
from labctl.store.encoding import json_line

JOURNAL_FILE = "journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a journal, without the fields that every line has."""

    kind: str
    at: str
    content: Mapping[str, object]


class JournalWriter:
    """Appends entries. Each is with the kernel when `append` returns, and on the disk when `sync` does."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the journal. A last line that a crash cut short is removed: it was never told to anybody."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        _cut_half_line(self._descriptor)

    def append(self, kind: str, at: str, content: Mapping[str, object]) -> None:
        line = json_line({"kind": kind, "at": at} | dict(content))
        written = os.write(self._descriptor, line)
        if written != len(line):  # a full disk takes a part and refuses the rest at the next write
            _cut_half_line(self._descriptor)
            raise OSError(28, os.strerror(28))

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _cut_half_line(descriptor: int) -> None:
    end = os.fstat(descriptor).st_size
    whole = end
    while whole > 0:
        start = max(0, whole - 65536)
        newline = os.pread(descriptor, whole - start, start).rfind(b"\n")
        whole = start + newline + 1
        if newline >= 0:
            break
    if whole != end:
        os.ftruncate(descriptor, whole)


def read_journal(path: Path) -> Iterator[Entry]:
    """The entries in order. A last line without its newline is left out: the writer was stopped in the middle of it.

    No journal reads as no entries. Raises LabError with the line's number for any other line that is not an entry.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            yield _entry(line, path, number)


def _entry(line: bytes, path: Path, number: int) -> Entry:
    try:
        content = json.loads(line)
        kind, at = content.pop("kind"), content.pop("at")
    except (ValueError, KeyError, AttributeError, TypeError) as failed:
        raise LabError(
            what=f"{path}:{number}: this line is not a journal entry",
            cause=f"{type(failed).__name__}: {failed}",
            remedy="the file was changed after it was written; restore it, or measure again",
        ) from failed
    return Entry(kind=str(kind), at=str(at), content=content)
