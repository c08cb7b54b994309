"""Carries out runs that stand next to each other in a block: how they share the time, not what they measure.

A run is a generator that yields where it may pause and comes to its record.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from labctl.checks.base import to_the_end
from labctl.model.comparison import RunRecord

T = TypeVar("T")
Run = Generator[None, None, RunRecord]


def timed(slices: Generator[None, None, T]) -> Generator[None, None, tuple[T, float]]:
    """What the slices come to, and how many seconds they took, without the pauses between them."""
    took_s = 0.0
    while True:
        begun = time.monotonic()
        try:
            next(slices)
        except StopIteration as ended:
            return ended.value, took_s + time.monotonic() - begun
        took_s += time.monotonic() - begun
        yield


def alternating(runs: Sequence[Run]) -> Iterator[RunRecord]:
    """A slice of each in turn, forth and back (a b b a a b …), so that what drifts over a few slices hits all alike.

    Gives the records in the order of `runs` once all have ended. With one run, or runs of one slice, it is one by one.
    """
    records: dict[int, RunRecord] = {}
    turn = list(range(len(runs)))
    while turn:
        going_on = []
        for number in turn:
            try:
                next(runs[number])
                going_on.append(number)
            except StopIteration as ended:
                records[number] = ended.value
        turn = going_on[::-1]
    return (records[number] for number in range(len(runs)))


def overlapping(runs: Sequence[Run], apart_s: float) -> Iterator[RunRecord]:
    """Starts each `apart_s` seconds after the one before, also while that is still at work.

    Gives the records in the order of `runs`. Raises what a run raised, after those that were begun have ended.
    """
    with ThreadPoolExecutor(max_workers=len(runs), thread_name_prefix="labctl-run") as pool:
        begun = []
        try:
            for number, run in enumerate(runs):
                if number:
                    time.sleep(apart_s)
                begun.append(pool.submit(to_the_end, run))
            for running in begun:
                yield running.result()
        except BaseException:
            for running in begun:
                running.cancel()
            raise
