"""SIGINT, SIGTERM and SIGHUP as the exception Interrupted, and stretches of code that they must not cut in two.

A time limit for a whole command is a signal as well (SIGALRM), and ends it the same way.

Python runs signal handlers in the main thread. Work that goes on in several threads (`all_at_once`) is stopped with it:
the first failure, or a signal, makes every wait for a process in the other threads raise Interrupted (`stop_if_asked`),
and each of them undoes what it did before the first error is raised.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from types import FrameType, TracebackType
from typing import TypeVar

from labctl.errors import Interrupted
from labctl.system.clock import Deadline

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, and a terminal that was closed."""

T = TypeVar("T")
_POLL_S = 0.1
_STOPS: ContextVar[tuple[threading.Event, ...]] = ContextVar("labctl-stops", default=())
"""Set when the work that this thread is a part of is to end."""

_Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def _handled_by(handler: _Handler, numbers: Sequence[signal.Signals]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What the caller had ignored stays ignored: that is how nohup works.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
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

    with _handled_by(stop, STOPPING):
        yield


class TimeLimit:
    """A `with` in which the main thread may be for `limit_s` seconds: then what `over` gives is raised where it stands,
    and at the end of the context where something else had taken the signal."""

    def __init__(self, limit_s: float, over: Callable[[], Interrupted]) -> None:
        self._limit_s = limit_s
        self._over = over
        self._deadline = Deadline.after(limit_s)

    def __enter__(self) -> TimeLimit:
        self._before = signal.signal(signal.SIGALRM, self._ring)
        self._deadline = Deadline.after(self._limit_s)
        signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        if kind is None and self._deadline.is_over():
            raise self._over()

    def _ring(self, number: int, frame: FrameType | None) -> None:
        raise self._over()


def _limits() -> tuple[signal.Signals, ...]:
    """STOPPING, and the signal of a time limit where there is one."""
    return (*STOPPING, signal.SIGALRM) if callable(signal.getsignal(signal.SIGALRM)) else STOPPING


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[], int]]:
    """Within it, the signals of STOPPING, and that of a time limit, are only counted; what it gives says how often one
    came.

    For work whose normal end is that a person stops it. A blocking wait is cut short by the signal and then goes on:
    wait with a time limit.
    """
    count = 0

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1

    with _handled_by(remember, _limits()):
        yield lambda: count


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within it, the signals of STOPPING, and that of a time limit, wait; the last one is delivered at its end.

    For undo, which has to finish and is bounded by its own deadlines. Handlers rather than a signal mask, because
    a mask is inherited by the processes that are started meanwhile, and those must stay killable.
    """
    waiting: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        waiting[:] = [number]

    heeded = _STOPS.set(())
    try:
        with _handled_by(remember, _limits()):
            yield
    finally:
        _STOPS.reset(heeded)
    if waiting:
        signal.raise_signal(signal.Signals(waiting[0]))


def stop_if_asked() -> None:
    """Raises Interrupted in a thread of `all_at_once` whose work is to end, except within `uninterrupted`. Whatever
    waits calls it."""
    if any(stop.is_set() for stop in _STOPS.get()):
        raise Interrupted(what="stopped, since what runs beside it was stopped or failed")


def all_at_once(acts: Sequence[Callable[[], T]]) -> list[T]:
    """What the acts return, in their order, each run in a thread of its own. The first that fails, or a signal, stops
    the others; that error is raised when all of them have ended."""
    if len(acts) < 2:
        return [act() for act in acts]
    stop = threading.Event()
    stops = _STOPS.set((*_STOPS.get(), stop))
    try:
        with ThreadPoolExecutor(max_workers=len(acts), thread_name_prefix="labctl-at-once") as pool:
            running = [pool.submit(copy_context().run, act) for act in acts]
            try:
                _until_one_fails(running)
            except BaseException:
                with uninterrupted():
                    stop.set()
                    wait(running)
                raise
            if failed := [one for one in running if one.done() and one.exception() is not None]:
                with uninterrupted():
                    stop.set()
                    wait(running)
                raise _first_cause(failed)
            return [one.result() for one in running]
    finally:
        _STOPS.reset(stops)


def _until_one_fails(running: Sequence[Future[T]]) -> None:
    """Raises Interrupted when a signal comes, or when these threads are to end with others."""
    outer = _STOPS.get()[:-1]
    while not all(one.done() for one in running):
        wait(running, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
        if any(one.done() and one.exception() is not None for one in running):
            return
        if any(stop.is_set() for stop in outer):
            stop_if_asked()


def _first_cause(failed: Sequence[Future[T]]) -> BaseException:
    """That of one that failed by itself: those that were only stopped say nothing about why."""
    errors = [error for one in failed if (error := one.exception()) is not None]
    return next((error for error in errors if not isinstance(error, Interrupted)), errors[0])
