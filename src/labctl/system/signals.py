"""SIGINT, SIGTERM and SIGHUP as the exception Interrupted, and stretches of code that they must not cut in two.

Python runs signal handlers in the main thread; in any other thread both of these do nothing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from labctl.errors import Interrupted

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, and a terminal that was closed."""

_Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What the caller had ignored stays ignored: that is how nohup works.
    heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within it, each of STOPPING raises Interrupted where the main thread stands."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(what=f"stopped by {signal.Signals(number).name}")

    with _handled_by(stop):
        yield


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[], int]]:
    """Within it, the signals of STOPPING are only counted; what it gives says how often one came.

    For work whose normal end is that a person stops it. A blocking wait is cut short by the signal and then goes on:
    wait with a time limit.
    """
    count = 0

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1

    with _handled_by(remember):
        yield lambda: count


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within it, the signals of STOPPING wait; the last one is delivered at its end.

    For undo, which has to finish and is bounded by its own deadlines. Handlers rather than a signal mask, because
    a mask is inherited by the processes that are started meanwhile, and those must stay killable.
    """
    waiting: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        waiting[:] = [number]

    with _handled_by(remember):
        yield
    if waiting:
        signal.raise_signal(signal.Signals(waiting[0]))
