"""What happens while the engine works, as data. Observers are handed each event as it happens."""

from __future__ import annotations

from collections.abc import Callable

from labctl.model.evidence import ModeInForce
from labctl.model.result import CheckResult
from labctl.providers.base import Wait
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStarted:
    lab: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    lab: str
    id: str
    title: str
    number: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """What a provider does within a step, or while it removes a lab. `duration_s` is None when it begins."""

    lab: str
    text: str
    duration_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Something is waited for within a step, and something else was seen of it."""

    lab: str
    wait: Wait


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    lab: str
    id: str
    title: str
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildDone:
    """`phases`: how long each step took, by its id and in its order; acts within steps that took a second or more have
    their own time."""

    lab: str
    duration_s: float
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of a build, and how long it took. `acts` are those within it that took a second or more."""

    id: str
    title: str
    duration_s: float
    acts: tuple[tuple[str, float], ...] = ()

    def record(self) -> dict[str, object]:
        return {
            "step": self.id,
            "title": self.title,
            "durationS": self.duration_s,
            "acts": [{"what": what, "durationS": duration_s} for what, duration_s in self.acts],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Undoing:
    lab: str
    because: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    lab: str
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckStarted:
    lab: str
    check: str
    client: str
    server: str
    placement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDone:
    lab: str
    result: CheckResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeProven:
    """The proof is finished; `proof.proven` says how it ended."""

    proof: ModeInForce


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStarted:
    """A block of a comparison begins; `left_s` is the time still needed, or None before anything was timed."""

    number: int
    blocks: int
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that a person should know and that changes nothing."""

    text: str


Event = (
    BuildStarted
    | StepStarted
    | Working
    | Waiting
    | StepDone
    | BuildDone
    | Undoing
    | Removed
    | CheckStarted
    | CheckDone
    | ModeProven
    | BlockStarted
    | Note
)
Observer = Callable[[Event], None]


def silent(event: Event) -> None:
    """The observer of callers that do not show progress."""
    del event
