"""The seal of a finished run: the SHA-256 of every file, in the format that `sha256sum -c SHA256SUMS` reads."""

from __future__ import annotations

import contextlib
import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import LabError
from labctl.system.files import Folder, open_folder

SEAL_FILE = "SHA256SUMS"
LOCK_FILE = ".lock"
_NAMES = "surrogateescape"
"""Names of files stand in the seal as the bytes that they are, as sha256sum wants them."""


_LARGEST_FILE_BYTE, _LARGEST_RUN_BYTE = 1 << 30, 64 << 30
"""What is compared: no output of a program that is kept is as large, and a sparse file may claim any size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealCheck:
    """How a run differs from what was sealed. Paths are relative to the run, sorted."""

    edited: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def is_intact(self) -> bool:
        return not (self.edited or self.missing or self.added)


def write_seal(run: Folder) -> None:
    """Seals every file of the run as it is now. Raises OSError."""
    sums = {name: _digest(run, name)[0] for name in _files(run)}
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    run.write(SEAL_FILE, text.encode(errors=_NAMES))


def check_seal(path: Path) -> SealCheck | None:
    """Compares the run with its seal; None when it was never sealed. Raises LabError when it cannot be read."""
    try:
        with open_folder(path, follow=True) as run:
            if not run.kind(SEAL_FILE):
                return None
            sealed = _parse_seal(run)
            present = set(_files(run))
            edited, left_byte = [], _LARGEST_RUN_BYTE
            for name in sorted(present & set(sealed)):
                digest, size_byte = _digest(run, name, min(left_byte, _LARGEST_FILE_BYTE))
                left_byte -= size_byte
                if digest != sealed[name]:
                    edited.append(name)
            return SealCheck(
                edited=tuple(edited),
                missing=tuple(sorted(set(sealed) - present)),
                added=tuple(sorted(present - set(sealed))),
            )
    except OSError as failed:
        raise LabError(
            what=f"{path} cannot be compared with its seal",
            cause=failed.strerror or str(failed),
            remedy=f"ls -lR {path}",
        ) from failed


def _parse_seal(run: Folder) -> Mapping[str, str]:
    sums: dict[str, str] = {}
    text = run.read(SEAL_FILE).decode(errors=_NAMES)
    for number, line in enumerate(text.splitlines(), start=1):
        digest, gap, name = line.partition("  ")
        if not gap or len(digest) != hashlib.sha256().digest_size * 2:
            path = run.path / SEAL_FILE
            raise LabError(
                what=f"{path}:{number}: this line is not a checksum",
                cause="the file was changed after it was written",
                remedy=f"sha256sum -c {path}",
            )
        sums[name] = digest
    return sums


def _files(run: Folder) -> Iterator[str]:
    """Every entry but folders, links too: a seal covers no link, so one that was put there counts as added."""
    yield from (name for name in run.entries() if name.rpartition("/")[2] not in (SEAL_FILE, LOCK_FILE))


def _digest(run: Folder, name: str, most_byte: int | None = None) -> tuple[str, int]:
    """Of the content, and its size; of a link, a special file or more than `most_byte`, which labctl never wrote, no
    digest that could be equal."""
    *folders, last = name.split("/")
    with contextlib.ExitStack() as stack:
        folder = run
        for each in folders:
            folder = stack.enter_context(folder.sub(each))
        if folder.kind(last) != stat.S_IFREG:
            return "not a regular file", 0
        digest, size_byte = hashlib.sha256(), 0
        for piece in folder.stream(last):
            digest.update(piece)
            size_byte += len(piece)
            if most_byte is not None and size_byte > most_byte:
                return "too large", size_byte
        return digest.hexdigest(), size_byte
