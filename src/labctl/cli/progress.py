"""Progress on stderr: one line that is rewritten on a terminal, plain lines anywhere else."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType

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
)
from labctl.model.result import Verdict

# Beyond this many steps only every tenth of the way is told, so that a lab of 1,000 pods does not scroll by.
MANY_STEPS = 40


class Progress:
    """An observer that writes for people. Use it in a `with`, so that the rewritten line never stays behind."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._rewrites = sys.stderr.isatty()
        self._pending = False
        self._block = ""

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
                self._say(f"building {event.lab}: {event.steps} steps")
            case StepStarted():
                if self._rewrites or self._tells_step(event):
                    self._working(f"[{event.number}/{event.steps}] {event.title}")
            case StepDone():
                pass
            case BuildDone():
                self._say(f"built {event.lab} in {event.duration_s:.2f} s")
            case Undoing():
                self._say(f"{event.lab}: undoing {event.steps} steps: {event.because}")
            case Removed():
                self._say(f"removed {event.lab} in {event.duration_s:.2f} s")
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
                proof = event.proof
                self._say(
                    f"{proof.lab}: mode in force " + ("proven" if proof.proven else f"NOT proven: {proof.reason}")
                )
            case BlockStarted():
                left = "" if event.left_s is None else f", {_duration(event.left_s)} left"
                self._block = f"block {event.number}/{event.blocks}{left} · "
                if not self._rewrites:
                    self._say(self._block.removesuffix(" · "))
            case Note():
                self._say(f"note: {event.text}")

    @staticmethod
    def _tells_step(event: StepStarted) -> bool:
        return event.steps <= MANY_STEPS or event.number % max(1, event.steps // 10) == 0

    def _working(self, text: str) -> None:
        """What is being done now: rewritten in place on a terminal; elsewhere only steps outside blocks are told."""
        if self._rewrites:
            width = shutil.get_terminal_size((80, 24)).columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)
            self._pending = True
        elif not self._block:
            print(text, file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        self._clear()
        print(text, file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._pending:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._pending = False


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
