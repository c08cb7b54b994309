"""Progress: one rewritten line on a terminal, plain lines in a log, and never in the way of the work."""

from __future__ import annotations

import io
import os
import sys

import pytest

from labctl.cli.progress import Progress
from labctl.engine.events import (
    BlockStarted,
    BuildDone,
    BuildStarted,
    CheckStarted,
    Note,
    StepDone,
    StepStarted,
    Undoing,
    Working,
)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def step(number: int, steps: int) -> StepStarted:
    return StepStarted(lab="mine", id=str(number), title=f"pod number {number}", number=number, steps=steps)


def test_a_log_gets_one_plain_line_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Progress() as progress:
        for event in (BuildStarted(lab="mine", steps=2), step(1, 2), step(2, 2), BuildDone(lab="mine", duration_s=0.5)):
            progress(event)
    assert log.getvalue().splitlines() == [
        "building mine: 2 steps",
        "[1/2] pod number 1",
        "[2/2] pod number 2",
        "built mine in 0.50 s",
    ]


def test_a_log_of_a_large_lab_gets_every_tenth_part_of_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Progress() as progress:
        for number in range(1, 1001):
            progress(step(number, 1000))
    assert log.getvalue().splitlines() == [f"[{n}/1000] pod number {n}" for n in range(100, 1001, 100)]


def test_a_terminal_gets_one_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress() as progress:
        progress(step(1, 2))
        progress(step(2, 2))
    assert "\n" not in screen.getvalue()
    assert screen.getvalue().endswith("pod number 2\r\x1b[K")


def test_the_line_is_gone_when_the_work_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)

    def work() -> None:
        with Progress() as progress:
            progress(step(1, 2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_the_rewritten_line_is_never_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "20")
    Progress()(StepStarted(lab="mine", id="x", title="x" * 300, number=1, steps=2))
    assert len(screen.getvalue().removeprefix("\r\x1b[K")) == 19


def test_blocks_tell_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress() as progress:
        progress(BlockStarted(number=3, blocks=10, left_s=84.4))
        progress(CheckStarted(lab="mine", check="ping", client="client", server="server", placement="cross-node"))
        assert screen.getvalue().endswith("block 3/10, 1 min 24 s left · mine: ping client → server")


def done(number: int, duration_s: float) -> StepDone:
    return StepDone(lab="mine", id=str(number), title=f"pod number {number}", duration_s=duration_s)


SLOW = (
    step(1, 2), done(1, 0.2),
    step(2, 2), Working(lab="mine", text="Load"), Working(lab="mine", text="Load (changed: node1)", duration_s=12.34),
    Working(lab="mine", text="Not needed"), Working(lab="mine", text="Look"),
    Working(lab="mine", text="Look", duration_s=0.1), done(2, 130.0),
)  # fmt: skip


def test_a_log_keeps_what_was_done_within_steps_and_the_time_of_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Progress() as progress:
        for event in SLOW:
            progress(event)
    assert log.getvalue().splitlines() == [
        "[1/2] pod number 1",
        "[2/2] pod number 2",
        "      Load (changed: node1)  12.3 s",
        "      Look",
        "      done in 2 min 10 s",
    ]


def test_a_terminal_shows_what_is_done_now_and_keeps_slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress() as progress:
        for event in SLOW:
            progress(event)
    assert "\x1b[K[2/2] Load\r" in screen.getvalue()
    assert screen.getvalue().count("\n") == 1
    assert screen.getvalue().endswith("[2/2] pod number 2  2 min 10 s\n")


def test_quiet_still_tells_what_a_person_has_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Progress(quiet=True) as progress:
        progress(step(1, 2))
        progress(Undoing(lab="mine", because="interrupted", steps=2))
        progress(Note(text="something is left"))
    assert log.getvalue().splitlines() == ["mine: undoing 2 steps: interrupted", "note: something is left"]


def test_work_goes_on_when_nobody_reads_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """`labctl up bpf 2>&1 | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        with Progress() as progress:
            for number in range(1, 4):
                progress(step(number, 3))
