"""Where raw tool output goes: one directory for each check run, nothing ever overwritten."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from labctl.store.disk import told
from labctl.system.files import Folder

RAW_DIRECTORY = "raw"

_UNSAFE = re.compile(r"[^A-Za-z0-9._@+=-]+")
_MAX_NAME = 100


def safe_name(text: str) -> str:
    """`text` as one harmless component of a path: no separators, no leading dot, not empty, at most 100 characters."""
    return _UNSAFE.sub("-", text).lstrip(".-")[:_MAX_NAME] or "unnamed"


def _numbered(name: str, number: int) -> str:
    """`ping.txt`, then `ping-2.txt`, `ping-3.txt`, …"""
    if number == 1:
        return name
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{number}{dot}{suffix}"


class RawDirectory:
    """The raw files of one check run, in a directory of their own; a `RawSink`. The directory is made when first used.

    `written` gets the path of every file, relative to the run, so that the run can bring them to the disk when a
    block is done.
    """

    def __init__(self, run: Folder, directory: str, written: Callable[[str], None]) -> None:
        self._run = run
        self._directory = directory
        self._written = written

    def save(self, name: str, data: bytes) -> str:
        """Stores `data` and gives the path relative to the run. A name that was used gets a number.

        Raises LabError when the disk does not take it.
        """
        with (
            told(self._run.path / RAW_DIRECTORY / self._directory),
            self._run.sub(RAW_DIRECTORY, make=True) as raw,
            raw.sub(self._directory, make=True) as directory,
        ):
            made = _write_new(directory, safe_name(name), data)
        path = f"{RAW_DIRECTORY}/{self._directory}/{made}"
        self._written(path)
        return path


def _write_new(directory: Folder, name: str, data: bytes) -> str:
    number = 1
    while True:
        free = _numbered(name, number)
        try:
            descriptor = directory.create(free)
        except FileExistsError:
            number += 1
            continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return free


class MemorySink:
    """A `RawSink` for looks at a lab that leave no run behind. Keeps the files by name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def save(self, name: str, data: bytes) -> str:
        number = 1
        while (free := _numbered(safe_name(name), number)) in self.files:
            number += 1
        self.files[free] = data
        return free


class MemorySinks:
    """Gives a `MemorySink` for each name, always the same one."""

    def __init__(self) -> None:
        self.sinks: dict[str, MemorySink] = {}

    def __call__(self, name: str) -> MemorySink:
        return self.sinks.setdefault(name, MemorySink())
