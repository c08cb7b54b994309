"""What is told while machines are worked on, and what they tell of a lab that this host has forgotten."""

from __future__ import annotations

import json

import pytest

from kubeadm_labs import THREE_HOSTS
from labctl.errors import StepFailed, UsageError
from labctl.providers.base import Seeks, Tells
from labctl.providers.kubeadm.machines import site_machines
from labctl.providers.kubeadm.marks import MachineMark, MarkedMachines, parse_mark
from labctl.providers.kubeadm.provider import KubeadmProvider
from labctl.providers.kubeadm.runner import Narrator, PlaybookEnded, TaskEnded, TaskEvent, TaskOutcome, TaskStarted


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
def test_a_task_is_told_once_for_all_machines(events: list[TaskEvent], told: list[tuple[str, float | None]]) -> None:
    heard: list[tuple[str, float | None]] = []
    narrator = Narrator(lambda text, duration_s: heard.append((text, duration_s)))
    for event in (TaskStarted(play="p", task="Load"), *events, PlaybookEnded(playbook="prepare")):
        narrator(event)
    assert heard == [("Load", None), *told]


def test_the_end_of_a_task_is_told_before_the_next_begins() -> None:
    heard: list[str] = []
    narrator = Narrator(lambda text, duration_s: heard.append(f"{text} {duration_s}"))
    for event in (TaskStarted(play="p", task="Load"), ended("n", TaskOutcome.OK), TaskStarted(play="p", task="Next")):
        narrator(event)
    assert heard == ["Load None", "Load 0.5", "Next None"]


def test_the_provider_tells_and_seeks() -> None:
    assert isinstance(KubeadmProvider(), Tells)
    assert isinstance(KubeadmProvider(), Seeks)


def test_a_mark_says_all_that_the_reset_needs() -> None:
    text = {
        "lab": "bpf",
        "node": "node2",
        "podCidr": "10.9.0.0/16",
        "criSocket": "/run/c.sock",
        "removePackages": False,
    }
    mark = parse_mark(json.dumps(text))
    assert mark is not None
    assert (mark.lab, mark.node) == ("bpf", "node2")
    assert mark.variables["labctl"] == {
        "lab": "bpf", "cri_socket": "/run/c.sock", "pod_cidr": "10.9.0.0/16", "remove_packages": False,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "{}", "[]", '"lab"', "{"])
def test_what_is_not_a_mark_is_none(text: str) -> None:
    assert parse_mark(text) is None


def test_silence_is_not_taken_for_absence() -> None:
    failure = StepFailed(what="node2 (10.0.0.2): cannot be reached", cause="no answer", remedy="ping")
    silent = MarkedMachines(mark=None, machines=(), silent=(), failure=failure)
    with pytest.raises(StepFailed, match=r"whether lab bpf is .* is not known: node2 \(10.0.0.2\)"):
        silent.refuse_silence("bpf")
    MarkedMachines(mark=MachineMark(lab="bpf"), machines=(), silent=(), failure=failure).refuse_silence("bpf")


def test_without_machines_in_lab_yaml_nobody_is_asked() -> None:
    assert KubeadmProvider().seek("bpf") is None


def test_machines_of_the_site_have_the_names_that_a_scenario_would_give_them() -> None:
    hosts = [THREE_HOSTS[1], THREE_HOSTS[0], THREE_HOSTS[2]]
    assert [(m.node, m.address, m.is_control_plane) for m in site_machines(hosts)] == [
        ("node1", "192.168.56.10", True), ("node2", "192.168.56.11", False), ("node3", "192.168.56.12", False),
    ]  # fmt: skip
    assert site_machines(None) == ()
    with pytest.raises(UsageError, match="hosts: is not valid"):
        site_machines([{"user": "root"}])
