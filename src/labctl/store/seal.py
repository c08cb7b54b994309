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
    sums = {name: _digest(run, name) for name in _files(run)}
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
            return SealCheck(
                edited=tuple(sorted(name for name in present & set(sealed) if _digest(run, name) != sealed[name])),
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


def _digest(run: Folder, name: str) -> str:
    """Of the content; of a link or a special file, which labctl never wrote, no digest that could be equal."""
    *folders, last = name.split("/")
    with contextlib.ExitStack() as stack:
        folder = run
        for each in folders:
            folder = stack.enter_context(folder.sub(each))
        if folder.kind(last) != stat.S_IFREG:
            return "not a regular file"
        digest = hashlib.sha256()
        for piece in folder.stream(last):
            digest.update(piece)
        return digest.hexdigest()
