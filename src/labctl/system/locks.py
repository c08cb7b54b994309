"""Locks by name that end with their holder: files in a folder that no other user can enter, so that none can hold
one. The kernel drops a lock when its process ends, however it ends; the file alone means nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import StepFailed
from labctl.system.clock import Deadline
from labctl.system.files import Folder, open_private

ROOT_DIRECTORY = Path("/run/labctl/locks")
_POLL_S = 0.02


def directory() -> Path:
    """Root's locks are in /run, which a boot empties; any other user's where only that user may write."""
    if os.geteuid() == 0:
        return ROOT_DIRECTORY
    of_session = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(of_session) if of_session.startswith("/") else Path.home() / ".local" / "state"
    return base / "labctl" / "locks"


@contextlib.contextmanager
def held(name: str, *, timeout_s: float) -> Iterator[bool]:
    """Whether the lock of that name was taken within the time; it is held as long as the context lasts.

    `name` is one component of a path: anything else raises ValueError. Raises StepFailed when there can be no locks.
    """
    deadline = Deadline.after(timeout_s)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(open_private(directory()))
            while not (is_mine := _take(folder, name, stack)) and not deadline.is_over():
                time.sleep(_POLL_S)
        except OSError as failed:
            raise _no_locks(failed) from failed
        yield is_mine


def is_held(name: str) -> bool:
    """True while a process that is alive holds it. Does not wait, and makes nothing. Raises StepFailed."""
    place = directory()
    try:
        if not place.is_dir():
            return False
        with open_private(place) as folder:
            if not folder.kind(name):
                return False
            descriptor = folder.open_own(name)
    except OSError as failed:
        raise _no_locks(failed) from failed
    try:
        # Shared and for a moment: a process that takes the lock just now tries again.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def held_names(prefix: str) -> tuple[str, ...]:
    """Of the locks whose names begin so, those that a process holds. Raises StepFailed."""
    place = directory()
    try:
        names = sorted(one.name for one in place.iterdir() if one.name.startswith(prefix))
    except FileNotFoundError:
        return ()
    except OSError as failed:
        raise _no_locks(failed) from failed
    return tuple(name for name in names if is_held(name))


def remove_free() -> None:
    """Removes the files of locks that nobody holds: those of processes that were killed. Raises StepFailed."""
    try:
        if not directory().is_dir():
            return
        with open_private(directory()) as folder:
            for name in folder.names():
                with contextlib.ExitStack() as stack:  # which removes what was taken
                    _take(folder, name, stack)
    except OSError as failed:
        raise _no_locks(failed) from failed


def _take(folder: Folder, name: str, stack: contextlib.ExitStack) -> bool:
    try:
        descriptor = folder.open_own(name)
    except FileNotFoundError:  # there when we wanted to make it, and removed before we opened it
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    if os.fstat(descriptor).st_nlink == 0:  # its holder has removed it between our opening and locking it
        os.close(descriptor)
        return False
    stack.callback(os.close, descriptor)
    stack.callback(folder.remove, name)
    return True


def _no_locks(failed: OSError) -> StepFailed:
    place = shlex.quote(str(directory()))
    return StepFailed(
        what=f"labctl cannot keep its locks in {directory()}",
        cause=failed.strerror or str(failed),
        remedy=f"ls -ld {place}  # who owns it? If it is not in use: rm -r {place}",
    )
