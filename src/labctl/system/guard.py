"""A process that stands by while another one is at work on a lab, and finishes that work when the other is killed.

It is a shell that reads from a pipe whose other end only the guarded process has: one line says that all ended well; an
end without it means that the process is gone, however that came, and the shell becomes the labctl command that finishes
what was begun. It stands alone because it starts labctl itself, which nothing else does.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from labctl.system import process

_PACKAGE = Path(__file__).resolve().parents[2]
_WAIT = "trap '' INT TERM HUP; read -r done || exec \"$@\" >/dev/null 2>&1"


@contextlib.contextmanager
def guarded(argv: Sequence[str]) -> Iterator[None]:
    """While it lasts, the end of this process runs `labctl ARGV`. Raises MeasureFailed where no process can start."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        environment = {"PYTHONPATH": str(_PACKAGE)}
        process.stand_by(
            ("sh", "-c", _WAIT, "sh", sys.executable, "-m", "labctl", *argv), stdin=reader, environment=environment
        )
    finally:
        os.close(reader)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the shell is gone: nothing is left to tell
            os.write(writer, b"done\n")
        os.close(writer)
