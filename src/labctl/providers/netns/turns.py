"""Who may watch a lab now: one at a time, by a lock that ends with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from labctl.names import UNDERLAY, namespace_of
from labctl.system import netns
from labctl.system.clock import Deadline

_POLL_S = 0.02


@contextlib.contextmanager
def turn(lab: str, *, timeout_s: float) -> Iterator[bool]:
    """Whether the turn was had within that time; it lasts as long as the context. Raises OSError when the lab is gone.

    The lock is on the lab's first namespace itself: it is gone with the lab, so nothing has to be tidied away.
    """
    descriptor = os.open(netns.path_of(namespace_of(lab, UNDERLAY)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _is_locked(descriptor, Deadline.after(timeout_s))
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int, deadline: Deadline) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if deadline.is_over():
                return False
            time.sleep(_POLL_S)
        else:
            return True
