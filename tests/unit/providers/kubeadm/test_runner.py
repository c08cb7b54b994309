"""What is told while machines are worked on, and what they tell of a lab that this host has forgotten.

A machine that prints without an end takes neither memory nor time without an end.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubeadm_labs import THREE_HOSTS
from labctl.errors import MeasureFailed, StepFailed, UsageError
from labctl.providers.base import Wait
from labctl.providers.kubeadm import running as running_module
from labctl.providers.kubeadm.machines import site_machines
from labctl.providers.kubeadm.marks import MachineMark, MarkedMachines, parse_mark
from labctl.providers.kubeadm.provider import KubeadmProvider
from labctl.providers.kubeadm.runner import (
    Narrator,
    PlaybookEnded,
    TaskEnded,
    TaskEvent,
    TaskOutcome,
    TaskStarted,
    _last_lines,
)
from labctl.providers.kubeadm.running import SshRunning


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


def test_the_provider_reports_tasks_and_seeks() -> None:
    provider = KubeadmProvider()
    assert provider.capabilities.telling == provider.telling
    assert provider.capabilities.seek == provider.seek


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
    with pytest.raises(StepFailed, match=r"not known whether lab bpf is on .*: node2 \(10.0.0.2\)"):
        silent.refuse_silence("bpf")
    MarkedMachines(mark=MachineMark(lab="bpf"), machines=(), silent=(), failure=failure).refuse_silence("bpf")


def test_without_machines_in_lab_yaml_no_machine_is_asked() -> None:
    assert KubeadmProvider().seek("bpf") is None


def test_machines_of_the_site_have_the_names_that_a_scenario_would_give_them() -> None:
    hosts = [THREE_HOSTS[1], THREE_HOSTS[0], THREE_HOSTS[2]]
    assert [(m.node, m.address, m.is_control_plane) for m in site_machines(hosts)] == [
        ("node1", "192.168.56.10", True), ("node2", "192.168.56.11", False), ("node3", "192.168.56.12", False),
    ]  # fmt: skip
    assert site_machines(None) == ()
    with pytest.raises(UsageError, match="hosts: is not valid"):
        site_machines([{"user": "root"}])


MIB = 1 << 20


class Endless:
    """A channel of paramiko whose other end prints for ever, on one of its streams."""

    def __init__(self, stream: str, data: bytes) -> None:
        self.closed, self.eof_received = False, False
        self._stream, self._data = stream, data

    def shutdown_write(self) -> None: ...

    def recv_ready(self) -> bool:
        return not self.closed and self._stream == "stdout"

    def recv_stderr_ready(self) -> bool:
        return not self.closed and self._stream == "stderr"

    def recv(self, size: int) -> bytes:
        return self._data[:size]

    recv_stderr = recv

    def exit_status_ready(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("data", [b"y\n" * 32768, b"\x00" * 65536], ids=["lines", "a line without an end"])
@pytest.mark.parametrize("ask", ["wait", "wait_for_output", "stop", "is_alive first"])
def test_it_is_cut_off_and_is_an_error(stream: str, data: bytes, ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "MOST_OUTPUT_BYTE", 2 * MIB)
    channel: Any = Endless(stream, data)
    running = SshRunning(channel, ("journalctl", "-f"), b"", "node1")
    if ask == "is_alive first":
        assert running.is_alive()
    ways: dict[str, Callable[[], object]] = {
        "wait_for_output": lambda: running.wait_for_output("ready", timeout_s=60),
        "stop": lambda: running.stop(timeout_s=60),
    }
    tracemalloc.start()
    with pytest.raises(MeasureFailed, match="journalctl on node1 printed more than 2 MiB"):
        ways.get(ask, lambda: running.wait(timeout_s=60))()
    _, peak_byte = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert channel.closed
    assert peak_byte < 16 * MIB


def test_of_a_log_of_any_size_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "stdout"
    with log.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, 2)
        file.write(b"\nthe reason\n")
    assert _last_lines(log).endswith("; the reason")
