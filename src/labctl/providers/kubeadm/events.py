"""What Ansible reports while it works, as data: which task runs, how it ended on which machine, how long it took.

`EventListener` makes it of ansible-runner's events, `Narrator` makes phrases of it. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any

from labctl.providers.base import Tell
from labctl.providers.kubeadm.failures import TaskFailure, failure_of
from labctl.values import dataclass

MOST_RESULT = 700_000
"""Characters of one machine's answer that reach an event (ansible-runner's MAX_EVENT_RES); a larger one is left out."""
_LEFT_OUT = {"msg": f"the machine answered with more than {MOST_RESULT} characters, which are not kept"}


class TaskOutcome(StrEnum):
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
    outcome: TaskOutcome
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
        done = [one for one in self._ended if one.outcome is not TaskOutcome.SKIPPED]
        self._ended = []
        if not done:
            return
        parts = [
            f"{outcome}: {', '.join(nodes)}"
            for outcome in (TaskOutcome.CHANGED, TaskOutcome.FAILED, TaskOutcome.UNREACHABLE)
            if (nodes := sorted(one.node for one in done if one.outcome is outcome))
        ]
        text = done[0].task + (f" ({'; '.join(parts)})" if parts else "")
        self._tell(text, max(one.duration_s for one in done))


@dataclass(slots=True)
class EventListener:
    """Collects the events of one run. Called by ansible-runner's thread, one event after the other."""

    observer: TaskObserver
    failures: list[TaskFailure] = field(default_factory=list)
    counts: dict[TaskOutcome, int] = field(default_factory=lambda: dict.fromkeys(TaskOutcome, 0))
    changed: list[str] = field(default_factory=list)
    refused: str = ""
    heard: int = 0
    is_summed_up: bool = False
    """Ansible has printed its last event, the recap of the play."""
    task: str = ""

    def hear(self, event: Mapping[str, Any]) -> bool:
        self.heard += 1
        data = event.get("event_data") or {}
        kind, task, node = event.get("event", ""), str(data.get("task", "")), str(data.get("host", ""))
        match kind:
            case "playbook_on_task_start" | "playbook_on_handler_task_start":
                self.task = task
                self.observer(TaskStarted(play=str(data.get("play", "")), task=task))
            case "playbook_on_stats":
                self.is_summed_up = True
            case "runner_on_ok":
                changed = bool((data.get("res") or {}).get("changed"))
                self._ended(node, task, TaskOutcome.CHANGED if changed else TaskOutcome.OK, data)
            case "runner_on_skipped":
                self._ended(node, task, TaskOutcome.SKIPPED, data)
            case "runner_on_failed" if not data.get("ignore_errors"):
                self.failures.append(failure_of(node, task, data.get("res") or _LEFT_OUT))
                self._ended(node, task, TaskOutcome.FAILED, data)
            case "runner_on_unreachable":
                self.failures.append(failure_of(node, task, data.get("res") or _LEFT_OUT, unreachable=True))
                self._ended(node, task, TaskOutcome.UNREACHABLE, data)
            case "error" | "verbose" if "ERROR" in str(event.get("stdout", "")):
                self.refused = str(event["stdout"])
        # Kept on disk by ansible-runner as well.
        return True

    def _ended(self, node: str, task: str, outcome: TaskOutcome, data: Mapping[str, Any]) -> None:
        self.counts[outcome] += 1
        if outcome is TaskOutcome.CHANGED:
            self.changed.append(f"{node}: {task}")
        self.observer(TaskEnded(node=node, task=task, outcome=outcome, duration_s=float(data.get("duration") or 0.0)))
