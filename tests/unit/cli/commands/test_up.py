"""`labctl up` says how long each step took: to people what took a second or more, to programs all of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from cli.conftest import Bench
from labctl.cli.commands.up import slow_phases
from labctl.engine.events import Phase
from labctl.model.plan import Action
from labctl.testing.provider import TITLES, ScriptedProvider


def test_the_document_has_every_step_with_its_seconds(bench: Bench) -> None:
    document = bench.run("up", "bpf", "--name", "mine", "--json").document
    assert document["outcome"] == "built"
    assert [phase["step"] for phase in document["phases"]] == list(TITLES)
    assert all(phase["durationS"] >= 0 and phase["acts"] == [] for phase in document["phases"])
    bench.is_up("mine")
    assert bench.run("up", "bpf", "--name", "mine", "--json").document["phases"] == []  # nothing was built


def test_people_are_told_what_took_a_second_or_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(ScriptedProvider):
        def execute(self, actions: Sequence[Action]) -> None:
            ScriptedProvider.execute(self, actions)
            if TITLES[1] in str(actions):
                time.sleep(1.05)

    bench.provider = Slow(name="netns")
    said = bench.run("up", "bpf", "--name", "mine")
    assert said.code == 0, said.err
    (line,) = [line for line in said.out.splitlines() if line.startswith("it took: ")]
    assert line.startswith(f"it took: {TITLES[1]} 1.")
    assert TITLES[0] not in line


def test_where_all_was_quick_nothing_is_said_of_it(bench: Bench) -> None:
    assert "it took" not in bench.run("up", "bpf", "--name", "mine").out
    phases = [
        Phase(id="cluster", title="a cluster", duration_s=69.14),
        Phase(id="chart", title="the chart", duration_s=0.4),
        Phase(id="load", title="images", duration_s=20.0),
    ]
    assert slow_phases(phases) == "cluster 69.1 s, load 20.0 s"
    assert slow_phases([]) == ""
