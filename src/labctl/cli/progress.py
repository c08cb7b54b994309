"""Progress on stderr: one line that is rewritten on a terminal, plain lines anywhere else."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType

from labctl.cli.output import progress, translated, work_on
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
    Waiting,
    Working,
)
from labctl.model.evidence import ModeInForce, Standing
from labctl.model.result import Verdict
from labctl.providers.base import Wait
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
        self._building: dict[str, str] = {}
        """What stands before all that is told of each lab that is being built; several may be at the same time."""
        self._told: set[str] = set()
        """Labs whose step that is going on has a line already."""
        self._unread = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def __call__(self, event: Event) -> None:
        if doing := _doing(event):
            work_on(doing)
        if self._quiet and not isinstance(event, Undoing | Note):
            return
        match event:
            case BuildStarted():
                self._building[event.lab] = ""
                self._working(f"building {event.lab}: {event.steps} steps")
            case StepStarted():
                self._building[event.lab] = f"[{event.number}/{event.steps}] "
                self._told.discard(event.lab)
                if not self._rewrites and self._tells_step(event):
                    self._told.add(event.lab)
                if self._rewrites or event.lab in self._told:
                    self._working(f"{self._step(event.lab)}{event.title}")
            case Working():
                self._within(event)
            case Waiting():
                self._waits(event)
            case StepDone():
                if event.duration_s >= SLOW_S:
                    took = _seconds(event.duration_s)
                    is_told = event.lab in self._told and len(self._building) < 2
                    done = f"{_INDENT}done in {took}"
                    self._say(done if is_told else f"{self._step(event.lab)}{event.title}  {took}")
                self._building[event.lab] = ""
            case BuildDone():
                self._building.pop(event.lab, None)
                self._say(f"built {event.lab} in {_total(event.duration_s)}")
            case Undoing():
                self._building.pop(event.lab, None)
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

    def _step(self, lab: str) -> str:
        """What stands before a line about that lab's build: the step, and the lab where several are built."""
        step = self._building.get(lab, "")
        return f"{lab} {step}" if len(self._building) > 1 else step

    def _within(self, event: Working) -> None:
        """A terminal shows what is being done; a log keeps what was done, with its time where that was long."""
        if event.duration_s is None:
            if self._rewrites:
                self._working(f"{self._block}{self._step(event.lab)}{event.text}")
        elif not self._rewrites and not self._block:
            took = f"  {_seconds(event.duration_s)}" if event.duration_s >= SLOW_S else ""
            self._write(f"{_INDENT}{event.text}{took}")

    def _waits(self, event: Waiting) -> None:
        """Each time that something else is seen of what is waited for: in place on a terminal, a line in a log."""
        said = waiting_text(event.wait)
        if self._rewrites:
            self._working(f"{self._block}{self._step(event.lab)}{said}")
        elif not self._block:
            self._write(f"{_INDENT}{said}" if len(self._building) < 2 else f"{_INDENT}{event.lab}: {said}")

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


def _doing(event: Event) -> str:
    """What begins, or is waited for, with the event; empty for what has ended."""
    match event:
        case StepStarted():
            return f"{event.lab}: {event.title}"
        case Working(duration_s=None):
            return f"{event.lab}: {event.text}"
        case Waiting():
            return f"{event.lab}: {waiting_text(event.wait)}"
        case CheckStarted():
            return f"{event.lab}: {event.check} {event.client} → {event.server}"
    return ""


def _in_force(proof: ModeInForce) -> str:
    match proof.standing:
        case Standing.IN_FORCE:
            return f"{proof.lab}: mode in force proven{proof.reason}"
        case Standing.NOT_IN_FORCE:
            return f"{proof.lab}: mode in force NOT what was asked: {proof.reason}"
        case Standing.NOT_SHOWN:
            return f"{proof.lab}: mode in force not shown: {proof.reason}"


def waiting_text(wait: Wait) -> str:
    """What is waited for, what was seen last, how long so far, and how long is usual here."""
    waited = _duration(wait.waited_s)
    if wait.usual_s is None:
        return f"waiting for {wait.what}: {wait.seen} ({waited} so far; how long is usual here is not known yet)"
    return f"waiting for {wait.what}: {wait.seen} ({waited} so far; usually {_duration(wait.usual_s)} here)"


def _total(duration_s: float) -> str:
    return f"{duration_s:.2f} s" if duration_s < 10 else _seconds(duration_s)


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.1f} s" if duration_s < 100 else _duration(duration_s)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
