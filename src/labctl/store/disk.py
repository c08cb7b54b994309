"""Errors of the disk as messages for people."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import LabError


@contextlib.contextmanager
def told(path: Path, *, elsewhere: str = "take another place: --runs-dir DIR") -> Iterator[None]:
    """Turns an OSError of the body into a LabError about `path`. Keep the body to the acts on that path.

    `elsewhere` says how the person puts it in another place.
    """
    try:
        yield
    except OSError as failed:
        raise LabError(
            what=f"cannot write to {path}",
            cause=failed.strerror or str(failed),
            remedy=f"df -h {path}; ls -ld {path}; or {elsewhere}",
        ) from failed
