"""Progress while Ansible works, as data: which task runs, how it ended on which machine, how long it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted:
    """A task begins, on all machines of its play."""

    play: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded:
    """A task has ended on one machine."""

    node: str
    task: str
    outcome: Outcome
    duration_s: float


TaskEvent = TaskStarted | TaskEnded
TaskObserver = Callable[[TaskEvent], None]


def unheard(event: TaskEvent) -> None:
    """The observer of callers that do not show tasks."""
    del event


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybookResult:
    """How a playbook went, in counts of tasks over all machines. `changed_tasks` are `node: task`."""

    playbook: str
    ok: int
    changed: int
    skipped: int
    changed_tasks: tuple[str, ...]
    duration_s: float
    log: str
