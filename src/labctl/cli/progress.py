"""Progress on stderr: one line that is rewritten on a terminal, plain lines anywhere else."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType

from labctl.cli.output import progress, translated
from labctl.engine.events import (
    BlockStarted,
    BuildDone,
    BuildStarted,
    CheckDone,
    CheckStarted,
    Event,
    ModeProven,
    Note,
    Removed,
    StepDone,
    StepStarted,
    Undoing,
    Working,
)
from labctl.model.evidence import ModeInForce, Standing
from labctl.model.result import Verdict
from labctl.text import cells, visible

# Beyond this many steps only every tenth step is reported, so that a lab of 1,000 pods does not scroll by.
MANY_STEPS = 40
# A step that took less is reported without its time.
SLOW_S = 1.0
_INDENT = " " * 6
_REWRITE = "\r\x1b[K"
"""To the beginning of the line, and clears it."""


class Progress:
    """An observer that writes for people. Use it in a `with`, so that the rewritten line never stays behind."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._rewrites = sys.stderr.isatty()
        self._pending = False
        self._block = ""
        self._step = ""
        self._is_told = False
        self._unread = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def __call__(self, event: Event) -> None:
        if self._quiet and not isinstance(event, Undoing | Note):
            return
        match event:
            case BuildStarted():
                self._working(f"building {event.lab}: {event.steps} steps")
            case StepStarted():
                self._step = f"[{event.number}/{event.steps}] "
                self._is_told = not self._rewrites and self._tells_step(event)
                if self._rewrites or self._is_told:
                    self._working(f"{self._step}{event.title}")
            case Working():
                self._within(event)
            case StepDone():
                if event.duration_s >= SLOW_S:
                    took = _seconds(event.duration_s)
                    self._say(f"{_INDENT}done in {took}" if self._is_told else f"{self._step}{event.title}  {took}")
                self._step = ""
            case BuildDone():
                self._say(f"built {event.lab} in {_total(event.duration_s)}")
            case Undoing():
                self._say(f"{event.lab}: undoing {event.steps} steps: {event.because}")
            case Removed():
                self._say(f"removed {event.lab} in {_total(event.duration_s)}")
            case CheckStarted():
                self._working(f"{self._block}{event.lab}: {event.check} {event.client} → {event.server}")
            case CheckDone():
                result = event.result
                if result.verdict in (Verdict.FAIL, Verdict.ERROR):
                    self._say(
                        f"{event.lab}: {result.check} {result.client} → {result.server}: "
                        f"{result.verdict}: {result.reason}"
                    )
            case ModeProven():
                self._say(_in_force(event.proof))
            case BlockStarted():
                block = f"block {event.number}/{event.blocks}"
                if event.left_s is not None:
                    block = f"block {event.number}/{event.blocks}, {_duration(event.left_s)} left"
                self._block = f"{block} · "
                if not self._rewrites:
                    self._say(block)
            case Note():
                self._say(f"note: {event.text}")

    def _within(self, event: Working) -> None:
        """A terminal shows what is being done; a log keeps what was done, with its time where that was long."""
        if event.duration_s is None:
            if self._rewrites:
                self._working(f"{self._block}{self._step}{event.text}")
        elif not self._rewrites and not self._block:
            took = f"  {_seconds(event.duration_s)}" if event.duration_s >= SLOW_S else ""
            self._write(f"{_INDENT}{event.text}{took}")

    @staticmethod
    def _tells_step(event: StepStarted) -> bool:
        return event.steps <= MANY_STEPS or event.number % max(1, event.steps // 10) == 0

    def _working(self, text: str) -> None:
        """What is being done now: rewritten in place on a terminal; elsewhere only steps outside blocks are
        reported."""
        if self._rewrites:
            width = shutil.get_terminal_size((80, 24)).columns - 1
            shown = visible(translated(text)).replace("\n", " ")
            if cells(shown) > width:
                shown = shown[: width - 1]
                while cells(shown) > width - 1:
                    shown = shown[:-1]
                shown += "…"
            self._write(shown, before=_REWRITE, end="")
            self._pending = True
        elif not self._block:
            self._write(text)

    def _say(self, text: str) -> None:
        self._clear()
        self._write(text)

    def _clear(self) -> None:
        if self._pending:
            self._write("", before=_REWRITE, end="")
            self._pending = False

    def _write(self, text: str, *, before: str = "", end: str = "\n") -> None:
        """Work continues when the reader of its progress has gone (`labctl up bpf 2>&1 | head -1`)."""
        if not self._unread:
            self._unread = not progress(text, before=before, end=end)


def _in_force(proof: ModeInForce) -> str:
    match proof.standing:
        case Standing.IN_FORCE:
            return f"{proof.lab}: mode in force proven{proof.reason}"
        case Standing.NOT_IN_FORCE:
            return f"{proof.lab}: mode in force NOT what was asked: {proof.reason}"
        case Standing.NOT_SHOWN:
            return f"{proof.lab}: mode in force not shown: {proof.reason}"


def _total(duration_s: float) -> str:
    return f"{duration_s:.2f} s" if duration_s < 10 else _seconds(duration_s)


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.1f} s" if duration_s < 100 else _duration(duration_s)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
