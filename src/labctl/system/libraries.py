"""The Python packages that labctl runs with, held against the lock files of the clone that it is run from.

What is compared, and how a lock file is read, is in `setup/check_venv.py`, which set-up uses too. It stands alone
because it goes out to files and to the interpreter's own packages, which a command does through a door.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from labctl.errors import MeasureFailed
from labctl.system import process
from labctl.values import dataclass

_TREE = Path(__file__).resolve().parents[3]
_CHECK_S = 30.0

REMEDY = shlex.quote(str(_TREE / "setup/prepare.sh"))
"""The command that installs the locked versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A package whose installed version is not the locked one. `installed` is "" where it is not installed."""

    name: str
    locked: str
    installed: str

    def __str__(self) -> str:
        return f"{self.name} {self.installed or 'is missing'} (locked: {self.locked})"


def differing(tree: Path = _TREE) -> tuple[Library, ...]:
    """Those of this Python; none where no lock files are, since labctl was then installed by other means.

    Raises MeasureFailed when it cannot be found out.
    """
    script = tree / "setup/check_venv.py"
    if not script.is_file():
        return ()
    argv = (sys.executable, "-I", str(script), "--versions", *map(str, _locks(tree)))
    done = process.run(argv, timeout_s=_CHECK_S)
    if done.returncode != 0 or done.timed_out:
        words = done.error_text.strip().splitlines()
        raise MeasureFailed(
            "the installed packages cannot be compared with the lock files", words[-1] if words else "", REMEDY
        )
    return tuple(
        Library(name=name, locked=locked, installed=installed.removeprefix("-"))
        for name, locked, installed in (line.split(" ") for line in done.text.splitlines())
    )


def _locks(tree: Path) -> tuple[Path, ...]:
    """The lock files that this Python's packages were installed from: developing includes running."""
    stamp = Path(sys.prefix, "labctl-stamp")
    is_dev = stamp.is_file() and "extras dev" in stamp.read_text(encoding="utf-8", errors="replace").splitlines()
    return tree / f"requirements{'-dev' if is_dev else ''}.txt", tree / "setup/requirements-build.txt"
