"""The two files that say what a run is: `run.json` (who ran what, when, where, how it ended) and the journal.

The journal is one JSON object a line, appended as things happen, readable when it was cut short. An entry has `kind`,
`at` (UTC) and the fields of its kind; what it means is up to the caller that records it. `run.json` is read strictly by
its version; unknown keys in it are ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from labctl.codec import json_document, json_line, plain, typed
from labctl.errors import UsageError
from labctl.json_text import parse_json
from labctl.system.files import MIB, Folder, open_folder
from labctl.values import dataclass

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
        """Opens or makes the journal. A last line that a crash cut short is removed: it was never acknowledged."""
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


MANIFEST_FILE = "run.json"
API_VERSION = "labctl/v1"
KIND = "Run"
LONGEST_REASON = 10_000
"""Characters of a reason that are shown."""
LARGEST_BYTE = 16 * MIB
"""A lab of 10,000 pods has a record of some 4 MiB."""


class RunState(StrEnum):
    """`RUNNING`: its process lives. `INTERRUPTED`: stopped by a person, or killed; what it has is whole up to there.

    `FAILED`: an error ended it. A check that failed is not a run that failed.
    """

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`labs` are the resolved labs by side; `settings` is what the command decided (seed, order, rounds).

    Times are UTC in ISO 8601; `ended_at` is empty and `reason` says nothing until the run has ended.
    """

    id: str
    run_kind: str
    name: str
    state: RunState
    reason: str = ""
    started_at: str
    ended_at: str = ""
    labctl_version: str
    argv: tuple[str, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, object] = field(default_factory=dict)
    labs: Mapping[str, object] = field(default_factory=dict)


def write_manifest(run: Folder, manifest: Manifest) -> None:
    """Raises OSError."""
    document = {"apiVersion": API_VERSION, "kind": KIND, **cast("dict[str, object]", plain(manifest))}
    run.write(MANIFEST_FILE, json_document(document))


def read_manifest(run: Path) -> Manifest:
    """Raises UsageError when there is no run, when it is damaged, or when it is of another apiVersion."""
    path = run / MANIFEST_FILE
    try:
        with open_folder(run, follow=True) as folder:
            document = parse_json(folder.read(MANIFEST_FILE, most_byte=LARGEST_BYTE))
    except (FileNotFoundError, NotADirectoryError) as failed:
        raise UsageError(
            what=f"{run} is not a run", cause=f"it has no {MANIFEST_FILE}", remedy="labctl runs"
        ) from failed
    except OSError as failed:
        raise UsageError(
            what=f"{path} cannot be read", cause=failed.strerror or str(failed), remedy=f"ls -l {path}"
        ) from failed
    except ValueError as failed:
        raise _damaged(path, f"it is not JSON: {failed}") from failed
    if not isinstance(document, dict):
        raise _damaged(path, "it is not a JSON object")
    version, kind = document.get("apiVersion"), document.get("kind")
    if (version, kind) != (API_VERSION, KIND):
        raise UsageError(
            what=f"{run} is not a run that this labctl can read",
            cause=f"it has apiVersion {version} and kind {kind}; this labctl reads {API_VERSION} and {KIND}",
            remedy=f"use the labctl that wrote it ({document.get('labctlVersion', 'version unknown')})",
        )
    try:
        manifest = typed(Manifest, document, where=str(path))
    except UsageError as failed:
        raise _damaged(path, failed.cause) from failed
    return replace(manifest, reason=manifest.reason[:LONGEST_REASON])


def _damaged(path: Path, cause: str) -> UsageError:
    return UsageError(what=f"{path} is damaged", cause=cause, remedy=f"sha256sum -c {path.parent}/SHA256SUMS")
