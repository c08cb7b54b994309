"""Reads the text of a file that may be anything: a directory, a pipe, a device, 100 MB, binary, another encoding.

It opens without blocking, never reads more than one byte past the limit, and says in words what is wrong.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from labctl.errors import Problem
from labctl.loading.tree import Place

LARGEST_FILE_BYTE = 1024 * 1024

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
_REGULAR = "a text file in UTF-8"


class Unreadable(Exception):
    """The file's text could not be had. `problem` says why, with the place where there is one."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def read_text(path: Path, shown: str) -> str:
    """The text of the file, which messages call `shown`. Raises Unreadable."""
    return decode(_read_bytes(path, shown), shown)


def decode(data: bytes, shown: str) -> str:
    """UTF-8, with or without a byte order mark, and printable. Raises Unreadable."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            raise _wrong(Place(shown, 0, 0), f"is written in {encoding}, not in UTF-8")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise _wrong(_place(shown, before), f"the byte 0x{data[error.start]:02x} is not UTF-8") from None
    return printable(text, shown)


def printable(text: str, shown: str) -> str:
    """The text itself. Raises Unreadable at the first control character."""
    found = _UNPRINTABLE.search(text)
    if found:
        place = _place(shown, text[: found.start()])
        raise _wrong(place, f"the control character U+{ord(found[0]):04X} is not allowed")
    return text


def _read_bytes(path: Path, shown: str) -> bytes:
    if "\x00" in str(path):
        raise _wrong(Place(shown, 0, 0), "the file's name has a NUL character in it", "a path")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise _wrong(Place(shown, 0, 0), _open_failed(error), "") from None
    try:
        mode = os.fstat(descriptor).st_mode
        for is_kind, kind in _KINDS:
            if is_kind(mode):
                raise _wrong(Place(shown, 0, 0), f"is {kind}, not a file")
        data = _read_at_most(descriptor, LARGEST_FILE_BYTE + 1)
    except OSError as error:
        raise _wrong(Place(shown, 0, 0), f"cannot be read: {error.strerror}", "") from None
    finally:
        os.close(descriptor)
    if len(data) > LARGEST_FILE_BYTE:
        raise _wrong(Place(shown, 0, 0), "is larger than 1 MiB", "at most 1 MiB")
    return data


def _read_at_most(descriptor: int, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit
    while left > 0 and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _open_failed(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "there is no such file"
    if error.errno == errno.ELOOP:
        return "is a loop of symbolic links"
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return "is a socket or a device, not a file"
    return f"cannot be opened: {error.strerror}"


def _place(shown: str, before: str) -> Place:
    lines = before.split("\n")
    return Place(shown, len(lines), len(lines[-1]) + 1)


def _wrong(place: Place, message: str, allowed: str = _REGULAR) -> Unreadable:
    return Unreadable(
        Problem(file=place.file, line=place.line, column=place.column, path="", message=message, allowed=allowed)
    )
