"""The door to archives (tar, packed with gzip or not): those that others made, read piece by piece and bounded, and
one of labctl's own, written.

Nothing is unpacked by name here. A tar may say of any of its parts, its extended headers too, that it is larger than
the memory, and gzip makes a gigabyte of a megabyte: no single read and no archive is larger than the caller allows. It
stands alone because every door to the machine does, whatever its users are today.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from labctl.system.files import MIB, OWN_FILE, move_into_place, open_regular, temporary_folder

MOST_READ_BYTE = 64 * MIB
"""The most that is read at once, so also the largest extended header of a tar."""

MOST_IMAGE_BYTE = 1 << 40
"""Archives of images may be large; they are never in memory as a whole."""

_GZIP = b"\x1f\x8b"


class _Bounded:
    """A file for reading, of which at most `most_byte` bytes exist and at most `MOST_READ_BYTE` are read at once."""

    def __init__(self, file: IO[bytes], most_byte: int, shown: str) -> None:
        self._file, self._most_byte, self._shown = file, most_byte, shown

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MOST_READ_BYTE:
            raise self._too_large(MOST_READ_BYTE)
        data = self._file.read(size)
        if self._file.tell() > self._most_byte:
            raise self._too_large(self._most_byte)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset > self._most_byte:
            raise self._too_large(self._most_byte)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _too_large(self, most_byte: int) -> OSError:
        return OSError(errno.EFBIG, f"a part of it is larger than {most_byte:,} bytes", self._shown)


@contextlib.contextmanager
def open_archive(path: Path, *, most_byte: int = MOST_IMAGE_BYTE) -> Iterator[tarfile.TarFile]:
    """The tar at `path`, to be read from its first part to its last; unpacked it may have `most_byte` bytes.

    Raises OSError (EFBIG for one that is larger), tarfile.TarError, EOFError for one that was cut.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        is_packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        inside = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_packed else file
        bounded = cast("IO[bytes]", _Bounded(inside, most_byte, str(path)))
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            yield tar


def content_of(tar: tarfile.TarFile, member: tarfile.TarInfo, *, most_byte: int = MOST_READ_BYTE) -> bytes:
    """The content of a regular part of the tar. Raises OSError when it is none, or larger than `most_byte`."""
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise OSError(errno.EINVAL, f"{member.name!r} in it is not a regular file")
    if member.size > most_byte:
        raise OSError(errno.EFBIG, f"{member.name!r} in it is larger than {most_byte:,} bytes")
    return content.read()


def write_archive(path: Path, members: Iterable[tuple[str, bytes]]) -> int:
    """A new tar packed with gzip, of these files (name inside, content); gives its size in bytes. It is there whole or
    not at all, and for its owner's eyes only. Raises OSError: FileExistsError for whatever is at `path`."""
    with temporary_folder(beside=path) as folder:
        made = folder / "archive"
        with tarfile.open(made, "w:gz", compresslevel=6) as tar:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
                tar.addfile(member, io.BytesIO(content))
        move_into_place(made, path, mode=OWN_FILE)
    return path.stat().st_size
