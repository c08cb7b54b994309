"""Ctrl-C, SIGTERM, kill -9, a reader who leaves, two labctl at once: what stays on the host."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from cli_running import Desk, needs_labs
from cli_running import desk_fixture as desk_fixture

pytestmark = needs_labs

LARGE = ("--set", "nodes=17")
"""Takes long enough to be caught in the middle, and every step is still told."""
PINGS = ("--rounds", "500", "--set", "compare.checks=[ping]")
SERVED = ("--rounds", "500", "--duration", "0.3", "--set", "compare.checks=[latency]")
"""Has servers and clients at work in the pods."""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_up_that_is_stopped_half_way_leaves_nothing(desk: Desk, how: signal.Signals) -> None:
    with desk.started("up", "bpf", "--name", desk.prefix, *LARGE) as running:
        running.wait_for("node node9:")
        assert running.end(how) == 130
    assert any("undoing" in line and "interrupted" in line for line in running.seen)
    assert desk.labs() == []


@pytest.mark.parametrize("moment", ["mode in force proven", "block 2/"])
def test_compare_that_is_stopped_while_it_looks_or_measures_leaves_nothing(desk: Desk, moment: str) -> None:
    a, b = desk.scenario("legacy"), desk.scenario("bpf")
    with desk.started("compare", a, b, *PINGS) as running:
        running.wait_for(moment)
        assert len(desk.labs()) == 2
        assert running.end(signal.SIGINT) == 130
    assert desk.labs() == []
    assert len(list((desk.directory / "runs").iterdir())) == 1


def test_what_a_killed_compare_leaves_is_found_and_removed_by_its_mark(desk: Desk) -> None:
    a, b = desk.scenario("legacy"), desk.scenario("bpf")
    with desk.started("compare", a, b, *SERVED) as running:
        running.wait_for("block 2/")
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
    left = desk.labs()
    assert len(left) == 2
    listed = {lab["lab"]: lab["whole"] for lab in desk.run("list", "--json").document["labs"]}
    assert {name: listed.get(name) for name in left} == dict.fromkeys(left, True)
    down = desk.run("down", *left, "--json")
    assert (down.code, down.document["removed"]) == (0, left)
    assert desk.labs() == []


def test_what_a_killed_up_leaves_does_not_hinder_the_next(desk: Desk) -> None:
    with desk.started("up", "bpf", "--name", desk.prefix, *LARGE) as running:
        running.wait_for("node node9:")
        running.end(signal.SIGKILL)
    assert desk.labs() == [desk.prefix]
    again = desk.run("up", "bpf", "--name", desk.prefix)
    assert again.code == 0, again.err
    assert f"lab {desk.prefix} is half there" in again.err
    assert desk.run("down", desk.prefix).code == 0


def test_a_lab_in_the_making_is_not_taken_for_remains(desk: Desk) -> None:
    with desk.started("up", "bpf", "--name", desk.prefix, *LARGE) as running:
        running.wait_for("node node9:")
        running.send(signal.SIGSTOP)  # however long the others take to start
        try:
            refused = [
                desk.run(*args)
                for args in (("up", "bpf", "--name", desk.prefix), ("status", desk.prefix), ("down", desk.prefix))
            ]
            listed = desk.run("list")
        finally:
            running.send(signal.SIGCONT)
        running.wait_for(f"built {desk.prefix} in")
    for ended in refused:
        assert ended.code in (2, 4)
        assert f"error: the lab {desk.prefix} is being built by another labctl right now" in ended.err
    assert next(line for line in listed.out.splitlines() if desk.prefix in line).rstrip().endswith("being built")
    assert desk.run("down", desk.prefix).code == 0


def test_a_reader_who_leaves_does_not_stop_the_building(desk: Desk) -> None:
    """labctl up … 2>&1 | head -1"""
    with subprocess.Popen(
        [sys.executable, "-m", "labctl", "up", "bpf", "--name", desk.prefix],
        cwd=desk.directory, env=desk.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert desk.run("exec", desk.prefix, "client", "--", "true").code == 0
    assert desk.run("down", desk.prefix).code == 0
