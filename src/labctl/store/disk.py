"""Errors of the disk as messages for people."""

from __future__ import annotations

import contextlib
import errno
import shlex
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import LabError, UsageError

_NOT_AS_WRITTEN = (errno.ELOOP, errno.EMLINK, errno.EINVAL, errno.ENOTDIR, errno.EISDIR)
"""A link, a second name, a pipe or a folder where labctl writes a file: somebody else put it there."""


@contextlib.contextmanager
def told(path: Path, *, elsewhere: str = "take another place: --runs-dir DIR") -> Iterator[None]:
    """Turns an OSError of the body into a LabError about `path`, a UsageError where something is in the way that labctl
    did not write. Keep the body to the acts on that path.

    `elsewhere` says how the person puts it in another place.
    """
    try:
        yield
    except OSError as failed:
        if failed.errno in _NOT_AS_WRITTEN:
            raise UsageError(
                what=f"cannot write to {path}",
                cause=f"{failed.filename or path}: {failed.strerror}; labctl did not make it so",
                remedy=f"ls -la {shlex.quote(str(path))}  # or {elsewhere}",
            ) from failed
        raise LabError(
            what=f"cannot write to {path}",
            cause=failed.strerror or str(failed),
            remedy=f"df -h {path}; ls -ld {path}; or {elsewhere}",
        ) from failed
