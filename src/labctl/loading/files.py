"""Reads the text of a file that may be anything: a link, a pipe, a device, 100 MB, binary, another encoding, or
somebody else's.

Here it is judged, before anything is parsed, whether root may go by what a file says (docs/security.md, "Files that
decide what root does"), and whether the file is labctl's at all: of one that is not, nothing is quoted, since it may
hold what whoever reads the messages should not see.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

from labctl.errors import Problem, UsageError
from labctl.loading.tree import Place
from labctl.system.files import Folder, Untrusted, open_folder, why_untrusted_folder

LARGEST_FILE_BYTE = 1024 * 1024

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_REGULAR = "a text file in UTF-8"
_OURS = re.compile(
    rb"""api[_-]?version["']?\s*:\s*["']?labctl"""
    rb"""|(?:^|[\s{,"'])kind["']?\s*:\s*["']?(?:scenario|site|matrix)\b""",
    re.IGNORECASE,
)
"""What shows that a file is meant for labctl, a misspelt one included."""
_NOTHING = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s|#[^\n]*(?:\n|$))*")


class Unreadable(Exception):
    """The file's text could not be had. `problem` says why, with the place where there is one."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def read_text(path: Path, shown: str, *, is_trusted: Callable[[Path, str], bool]) -> str:
    """The text of the file, which messages call `shown`.

    Raises Unreadable, and UsageError when labctl is root and somebody else could have written the file or swapped it
    in its folder, unless `is_trusted` says of the folder (without links) and the name that it does not matter.
    """
    return decode(_read_bytes(path, shown, is_trusted=is_trusted), shown)


def decode(data: bytes, shown: str) -> str:
    """UTF-8, with or without a byte order mark, and printable. Raises Unreadable."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            raise _wrong(Place(shown, 0, 0), f"is written in {encoding}, not in UTF-8")
    if not _OURS.search(data) and not _NOTHING.fullmatch(data):
        raise _wrong(Place(shown, 0, 0), "is not a labctl file: it has no apiVersion", "apiVersion: labctl/v1, …")
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


def _read_bytes(path: Path, shown: str, *, is_trusted: Callable[[Path, str], bool]) -> bytes:
    if "\x00" in str(path):
        raise _wrong(Place(shown, 0, 0), "the file's name has a NUL character in it", "a path")
    # What is asked about and what is opened is the same path: a link on the way cannot be swapped in between.
    real = Path(os.path.realpath(path.parent))
    is_judged = os.geteuid() == 0 and not is_trusted(real, path.name)
    try:
        with open_folder(real) as folder:
            if is_judged and (why := why_untrusted_folder(folder.stat())):
                raise _refusal(path, shown, why, folder.path)
            try:
                return folder.read(path.name, most_byte=LARGEST_FILE_BYTE, owned=is_judged)
            except Untrusted as untrusted:
                raise _refusal(path, shown, str(untrusted.strerror), path) from None
            except OSError as error:
                raise _no_text(error, folder, path.name, shown) from None
    except OSError as error:
        raise _wrong(Place(shown, 0, 0), _open_failed(error), "") from None


def _no_text(error: OSError, folder: Folder, name: str, shown: str) -> Unreadable:
    """Why an entry of a folder has no text to read."""
    if error.errno == errno.EFBIG:
        return _wrong(Place(shown, 0, 0), "is larger than 1 MiB", "at most 1 MiB")
    kind = folder.kind(name)
    if kind == stat.S_IFLNK:
        return _wrong(Place(shown, 0, 0), "is a symbolic link, which can lead to any file", "the file itself")
    if kind in _KINDS:
        return _wrong(Place(shown, 0, 0), f"is {_KINDS[kind]}, not a file")
    return _wrong(Place(shown, 0, 0), _open_failed(error), "")


def _refusal(path: Path, shown: str, why: str, of: Path) -> UsageError:
    """`of` is what somebody else could have written: the file itself, or its folder."""
    is_writable = why.endswith("may write it")
    mended = "chmod go-w" if is_writable else 'sudo chown "$(id -u):$(id -g)"'
    return UsageError(
        what=f"{shown} has dubious ownership: somebody else could have written it",
        cause=f"{'the file' if of == path else 'its folder'} {of}: {why}, and labctl runs as root",
        remedy=f"less {shlex.quote(str(path))}  # then the same command with --trust\n"
        f"{mended} {shlex.quote(str(of))}  # where nobody else has a say in it",
    )


def _open_failed(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file"
    if error.errno == errno.ELOOP:
        return "is a loop of symbolic links"
    return f"cannot be opened: {error.strerror}"


def _place(shown: str, before: str) -> Place:
    lines = before.split("\n")
    return Place(shown, len(lines), len(lines[-1]) + 1)


def _wrong(place: Place, message: str, allowed: str = _REGULAR) -> Unreadable:
    return Unreadable(
        Problem(file=place.file, line=place.line, column=place.column, path="", message=message, allowed=allowed)
    )
