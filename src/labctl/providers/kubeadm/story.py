"""Progress while Ansible works, as data: which task runs, how it ended on which machine, how long it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from labctl.providers.base import Tell


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybookEnded:
    """Nothing of this playbook runs any more."""

    playbook: str


TaskEvent = TaskStarted | TaskEnded | PlaybookEnded
TaskObserver = Callable[[TaskEvent], None]


def unheard(event: TaskEvent) -> None:
    """The observer of callers that do not show tasks."""
    del event


class Narrator:
    """Makes one phrase of what all machines report of a task. A task that every machine skipped has no end."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._ended: list[TaskEnded] = []

    def __call__(self, event: TaskEvent) -> None:
        match event:
            case TaskStarted():
                self._end()
                self._tell(event.task, None)
            case TaskEnded():
                self._ended.append(event)
            case PlaybookEnded():
                self._end()

    def _end(self) -> None:
        done = [one for one in self._ended if one.outcome is not Outcome.SKIPPED]
        self._ended = []
        if not done:
            return
        told = [
            f"{outcome}: {', '.join(nodes)}"
            for outcome in (Outcome.CHANGED, Outcome.FAILED, Outcome.UNREACHABLE)
            if (nodes := sorted(one.node for one in done if one.outcome is outcome))
        ]
        text = done[0].task + (f" ({'; '.join(told)})" if told else "")
        self._tell(text, max(one.duration_s for one in done))


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
