"""How runs that stand next to each other share the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import cast

import pytest

from labctl.engine.comparison.measure import Run, alternating, overlapping, timed
from labctl.model.comparison import RunRecord


def run(name: str, slices: int, log: list[str]) -> Run:
    def going() -> Generator[None, None, RunRecord]:
        for number in range(slices):
            if number:
                yield
            log.append(name)
        return cast(RunRecord, name)

    return going()


def test_slices_go_forth_and_back_and_records_keep_the_order_of_the_runs() -> None:
    log: list[str] = []
    records = list(alternating([run("a", 3, log), run("b", 3, log), run("c", 3, log)]))
    assert "".join(log) == "abccbaabc"
    assert [str(record) for record in records] == ["a", "b", "c"]


def test_a_run_with_fewer_slices_ends_earlier_and_the_others_go_on() -> None:
    log: list[str] = []
    records = list(alternating([run("a", 1, log), run("b", 3, log), run("c", 2, log)]))
    assert "".join(log) == "abccbb"
    assert [str(record) for record in records] == ["a", "b", "c"]


def test_the_time_of_a_run_is_that_of_its_slices_and_not_of_the_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("labctl.engine.comparison.measure.time.monotonic", lambda: now[0])

    def slices() -> Generator[None, None, str]:
        now[0] += 2
        yield
        now[0] += 3
        return "done"

    made = timed(slices())
    next(made)
    now[0] += 100
    with pytest.raises(StopIteration) as ended:
        next(made)
    assert ended.value.value == ("done", 5.0)


def acting(act: Callable[[], object], name: str = "") -> Run:
    act()
    yield from ()
    return cast(RunRecord, name)


def test_overlapping_runs_are_at_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=60)
    records = overlapping([acting(both.wait, "a"), acting(both.wait, "b")], apart_s=0)
    assert [str(record) for record in records] == ["a", "b"]


def test_what_an_overlapping_run_raises_reaches_the_caller_after_the_others_have_ended() -> None:
    is_begun, is_failing, is_ended = threading.Event(), threading.Event(), threading.Event()

    def fail() -> None:
        assert is_begun.wait(60)
        is_failing.set()
        raise ValueError("no")

    def work() -> None:
        is_begun.set()
        assert is_failing.wait(60)
        time.sleep(0.05)
        is_ended.set()

    with pytest.raises(ValueError, match="no"):
        list(overlapping([acting(fail), acting(work)], apart_s=0))
    assert is_ended.is_set()
