"""Work in several threads: it really runs at the same time, and ends together when one fails or a signal comes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from labctl.errors import Interrupted, StepFailed
from labctl.system import process
from labctl.system.signals import all_at_once, interruptible, stop_if_asked, uninterrupted


def test_all_acts_run_at_the_same_time_and_give_their_results_in_order() -> None:
    barrier = threading.Barrier(3, timeout=60)

    def act(number: int) -> Callable[[], int]:
        return lambda: number if barrier.wait() >= 0 else -1

    assert all_at_once([act(number) for number in range(3)]) == [0, 1, 2]
    assert all_at_once([lambda: 7]) == [7]
    assert all_at_once([]) == []


def test_one_that_fails_ends_the_processes_of_the_others_and_its_error_is_raised() -> None:
    undone = []

    def long() -> None:
        try:
            process.run(("sleep", "600"), timeout_s=600)
        finally:
            with uninterrupted():  # what is undone is not stopped once more
                undone.append(process.run(("echo", "undone"), timeout_s=60).text)

    def fails() -> None:
        raise StepFailed("the disk is full")

    begun_s = time.monotonic()
    with pytest.raises(StepFailed, match="the disk is full"):
        all_at_once([long, fails, long])
    assert undone == ["undone\n"] * 2
    assert time.monotonic() - begun_s < 60


def test_ctrl_c_ends_what_runs_in_the_threads() -> None:
    ended = []

    def long() -> None:
        try:
            process.run(("sleep", "600"), timeout_s=600)
        except Interrupted:
            ended.append(threading.current_thread().name)
            raise

    pressing = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    pressing.start()
    try:
        with pytest.raises(Interrupted, match="SIGINT"), interruptible():
            all_at_once([long, long])
    finally:
        pressing.join()
    assert len(ended) == 2


def test_threads_of_threads_end_with_them() -> None:
    def inner() -> None:
        process.run(("sleep", "600"), timeout_s=600)

    def outer() -> None:
        all_at_once([inner, inner])

    def fails() -> None:
        time.sleep(0.3)
        raise StepFailed("no")

    with pytest.raises(StepFailed, match="no"):
        all_at_once([outer, fails])


def test_outside_of_it_nothing_is_asked_to_stop() -> None:
    with pytest.raises(StepFailed):
        all_at_once([lambda: (_ for _ in ()).throw(StepFailed("x")), lambda: None])
    stop_if_asked()
    assert process.run(("true",), timeout_s=60).returncode == 0
