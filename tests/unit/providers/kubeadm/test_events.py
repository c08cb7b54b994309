"""What is told while machines are worked on, from ansible-runner's events."""

from __future__ import annotations

import pytest

from labctl.providers.base import Wait
from labctl.providers.kubeadm.events import (
    EventListener,
    Narrator,
    PlaybookEnded,
    TaskEnded,
    TaskEvent,
    TaskOutcome,
    TaskStarted,
    unheard,
)


def ended(node: str, outcome: TaskOutcome, duration_s: float = 0.5) -> TaskEnded:
    return TaskEnded(node=node, task="Load", outcome=outcome, duration_s=duration_s)


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([ended("node1", TaskOutcome.OK), ended("node2", TaskOutcome.OK, 2.0)], [("Load", 2.0)]),
        ([ended("node1", TaskOutcome.OK), ended("node2", TaskOutcome.CHANGED)], [("Load (changed: node2)", 0.5)]),
        ([ended("node1", TaskOutcome.SKIPPED), ended("node2", TaskOutcome.SKIPPED)], []),
        ([ended("node1", TaskOutcome.CHANGED), ended("node2", TaskOutcome.FAILED)],
         [("Load (changed: node1; failed: node2)", 0.5)]),
    ],
    ids=["all well", "one changed", "nobody had to", "one failed"],
)  # fmt: skip
def test_a_task_is_reported_once_for_all_machines(
    events: list[TaskEvent], told: list[tuple[str, float | None]]
) -> None:
    heard: list[tuple[str | Wait, float | None]] = []
    narrator = Narrator(lambda text, duration_s: heard.append((text, duration_s)))
    for event in (TaskStarted(play="p", task="Load"), *events, PlaybookEnded(playbook="prepare")):
        narrator(event)
    assert heard == [("Load", None), *told]


def test_the_end_of_a_task_is_reported_before_the_next_begins() -> None:
    heard: list[str] = []
    narrator = Narrator(lambda text, duration_s: heard.append(f"{text} {duration_s}"))
    for event in (TaskStarted(play="p", task="Load"), ended("n", TaskOutcome.OK), TaskStarted(play="p", task="Next")):
        narrator(event)
    assert heard == ["Load None", "Load 0.5", "Next None"]


@pytest.mark.parametrize("event", ["runner_on_failed", "runner_on_unreachable"])
def test_a_failure_whose_answer_was_left_out_of_its_event_says_so(event: str) -> None:
    listener = EventListener(unheard)
    listener.hear({"event": event, "event_data": {"host": "node1", "task": "Look", "res": {}}})
    (failure,) = listener.failures
    assert "answered with more than 700000 characters" in failure.message
