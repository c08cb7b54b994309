"""The journal of a run: one JSON object a line, appended as things happen, readable when it was cut short.

An entry has `kind`, `at` (UTC) and the fields of its kind. What an entry means is the business of whoever records it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labctl.codec import json_line
from labctl.errors import UsageError
from labctl.json_text import parse_json
from labctl.system.files import MIB, Folder, open_folder

JOURNAL_FILE = "journal.jsonl"
LONGEST_LINE_BYTE = 8 * MIB
LARGEST_JOURNAL_BYTE = 128 * MIB
"""A comparison of 200 rounds of every check writes some 10 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One line of a journal, without the fields that every line has."""

    kind: str
    at: str
    content: Mapping[str, object]


class JournalWriter:
    """Appends entries. Each is with the kernel when `append` returns, and on the disk when `sync` does."""

    def __init__(self, run: Folder) -> None:
        """Opens or makes the journal. A last line that a crash cut short is removed: it was never told to anybody."""
        self._descriptor = run.open_own(JOURNAL_FILE)
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


def read_journal(path: Path) -> Iterator[JournalEntry]:
    """The entries in order. A last line without its newline is left out: the writer was stopped in the middle of it.

    No journal reads as no entries. Raises UsageError with the line's number for any other line that is not an entry,
    and for a journal that is larger than one of labctl's can be.
    """
    try:
        with open_folder(path.parent, follow=True) as run:
            for number, line in _lines(run, path):
                yield _entry(line, path, number)
    except FileNotFoundError:
        return
    except OSError as failed:
        raise _unread(path, failed) from failed


def count_entries(path: Path, kind: str) -> int:
    """How many whole lines of the journal are entries of that kind, by how labctl begins them: their content is not
    read, so that many runs are listed at once. Raises LabError as `read_journal`."""
    begin = json_line({"kind": kind}).removesuffix(b"}\n")
    try:
        with open_folder(path.parent, follow=True) as run:
            return sum(line.startswith(begin) for _, line in _lines(run, path))
    except FileNotFoundError:
        return 0
    except OSError as failed:
        raise _unread(path, failed) from failed


def _lines(run: Folder, path: Path) -> Iterator[tuple[int, bytes]]:
    """Every whole line with its number."""
    number, size_byte, rest = 0, 0, b""
    for piece in run.stream(JOURNAL_FILE):
        size_byte += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        if max(map(len, (*lines, rest))) > LONGEST_LINE_BYTE or size_byte > LARGEST_JOURNAL_BYTE:
            raise UsageError(
                what=f"{path}:{number + 1}: this is not a journal of labctl",
                cause=f"a line is longer than {LONGEST_LINE_BYTE // MIB} MiB, or all of it than "
                f"{LARGEST_JOURNAL_BYTE // MIB} MiB",
                remedy="the file was changed after it was written; restore it, or measure again",
            )
        for line in lines:
            number += 1
            yield number, line


def _unread(path: Path, failed: OSError) -> UsageError:
    return UsageError(what=f"{path} cannot be read", cause=failed.strerror or str(failed), remedy=f"ls -l {path}")


def _entry(line: bytes, path: Path, number: int) -> JournalEntry:
    try:
        content: Any = parse_json(line)
        kind, at = content.pop("kind"), content.pop("at")
    except (ValueError, KeyError, AttributeError, TypeError) as failed:
        raise UsageError(
            what=f"{path}:{number}: this line is not a journal entry",
            cause=f"{type(failed).__name__}: {failed}",
            remedy="the file was changed after it was written; restore it, or measure again",
        ) from failed
    return JournalEntry(kind=str(kind), at=str(at), content=content)
