"""The seal of a finished run: the SHA-256 of every file, in the format that `sha256sum -c SHA256SUMS` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import LabError
from labctl.system.files import write_atomically

SEAL_FILE = "SHA256SUMS"
LOCK_FILE = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealCheck:
    """How a run differs from what was sealed. Paths are relative to the run, sorted."""

    edited: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def is_intact(self) -> bool:
        return not (self.edited or self.missing or self.added)


def write_seal(run: Path) -> None:
    """Seals every file of the run as it is now. Raises OSError."""
    sums = {name: _digest(run / name) for name in _files(run)}
    write_atomically(run / SEAL_FILE, "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode())


def check_seal(run: Path) -> SealCheck | None:
    """Compares the run with its seal; None when it was never sealed. Raises LabError when the seal is unreadable."""
    path = run / SEAL_FILE
    if not path.exists():
        return None
    sealed = _parse_seal(path)
    present = set(_files(run))
    return SealCheck(
        edited=tuple(sorted(name for name in present & set(sealed) if _digest(run / name) != sealed[name])),
        missing=tuple(sorted(set(sealed) - present)),
        added=tuple(sorted(present - set(sealed))),
    )


def _parse_seal(path: Path) -> Mapping[str, str]:
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        digest, gap, name = line.partition("  ")
        if not gap or len(digest) != hashlib.sha256().digest_size * 2:
            raise LabError(
                what=f"{path}:{number}: this line is not a checksum",
                cause="the file was changed after it was written",
                remedy=f"sha256sum -c {path}",
            )
        sums[name] = digest
    return sums


def _files(run: Path) -> Iterator[str]:
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.name not in (SEAL_FILE, LOCK_FILE):
            yield str(path.relative_to(run))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
