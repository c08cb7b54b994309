from __future__ import annotations

import os
import signal
import threading

import pytest

from labctl.errors import Interrupted
from labctl.system.signals import interruptible, uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopping_signal_raises_interrupted(number: signal.Signals) -> None:
    with pytest.raises(Interrupted, match=f"stopped by {number.name}"), interruptible():
        os.kill(os.getpid(), number)


def test_undo_is_finished_before_a_signal_is_delivered() -> None:
    undone = []

    def undo() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            undone.append("first")
            os.kill(os.getpid(), signal.SIGTERM)
            undone.append("second")

    with pytest.raises(Interrupted), interruptible():
        undo()
    assert undone == ["first", "second"]


def test_the_handlers_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible(), uninterrupted():
        pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_may_use_them_without_effect() -> None:
    seen: list[str] = []

    def work() -> None:
        with interruptible(), uninterrupted():
            seen.append("ran")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["ran"]


def test_a_closed_terminal_stops_the_work_like_a_kill() -> None:
    with pytest.raises(Interrupted, match="SIGHUP"), interruptible():
        signal.raise_signal(signal.SIGHUP)


def test_a_signal_that_the_caller_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
