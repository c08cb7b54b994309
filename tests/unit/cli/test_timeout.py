"""`--timeout`: a command ends when its time is over, undone, with exit code 4, and says what it waited for."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from labctl.cli import group
from labctl.engine.comparison.stored import read_comparison
from labctl.errors import Interrupted, TimedOut
from labctl.store.journal import RunState
from labctl.store.reading import open_run
from labctl.system import process
from labctl.system.signals import TimeLimit, asked_to_stop, interruptible, uninterrupted
from labctl.testing.provider import ScriptedProvider

from .conftest import Bench, VerdictCheck

GIVEN, LONG_S = "3000", 3600.0
"""The time that a command is given, whose signal the test sends itself: how busy the machine is changes nothing."""


class Hanging(ScriptedProvider):
    """One of its steps starts a program that never ends."""

    def _act(self, what: str) -> None:
        super()._act(what)
        if what == "make node1-link":
            signal.raise_signal(signal.SIGALRM)
            process.run(("sleep", f"{LONG_S:g}"), timeout_s=LONG_S)


@pytest.fixture(autouse=True)
def _ends_at_all() -> Iterator[None]:
    """A test that would wait for hours ends after minutes, whatever it tests."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < LONG_S / 4
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def leaves() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    root = group.labctl
    context = click.Context(root)
    assert isinstance(root, click.Group)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())
        else:
            yield name, command


def test_every_command_that_can_wait_has_it() -> None:
    lacking = {name for name, one in leaves() if all(option.name != "timeout" for option in one.params)}
    assert lacking == set(group.BECOMES_ANOTHER), "labctl exec becomes the program that it runs"
    importlib.import_module("labctl.cli.commands.exec_in")


def test_a_step_that_hangs_is_undone_and_named(bench: Bench) -> None:
    bench.provider = Hanging(name="netns")
    said = bench.run("up", "bpf", "--timeout", GIVEN)
    assert said.code == 4
    assert f"error: labctl up did not end within {GIVEN} s" in said.err
    assert "why: it was at: bpf: node1" in said.err
    assert "try: the same command with a longer --timeout" in said.err
    assert bench.provider.things == [], "what was built stayed"


def test_a_comparison_keeps_its_blocks_and_says_how_to_resume(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.is_up("x")
    run = VerdictCheck.run
    done: list[str] = []

    def hangs_in_the_third_block(check: VerdictCheck, context: object) -> object:
        done.append(check.kind)
        if done.count("ping") > 8:
            signal.raise_signal(signal.SIGALRM)
            process.run(("sleep", f"{LONG_S:g}"), timeout_s=LONG_S)
        return run(check, context)  # type: ignore[arg-type]

    monkeypatch.setattr(VerdictCheck, "run", hangs_in_the_third_block)
    asked = ("legacy", "bpf", "--checks", "ping", "--rounds", "5", "--seed", "1")
    said = bench.run("compare", *asked, "--timeout", GIVEN)
    assert said.code == 4
    assert f"did not end within {GIVEN} s" in said.err
    assert "labctl compare --resume " in said.err
    (path,) = Path(os.environ["LABCTL_RUNS_DIR"]).iterdir()
    stored = open_run(path)
    assert stored.manifest.state is RunState.INTERRUPTED
    assert stored.manifest.reason == f"labctl compare did not end within {GIVEN} s"
    assert 1 <= len(read_comparison(stored).measured.whole_blocks()) < 5


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "1e99", "soon"])
def test_what_is_no_time_is_a_usage_error(bench: Bench, given: str) -> None:
    said = bench.run("list", "--timeout", given)
    assert said.code == 2
    assert "Traceback" not in said.err


def test_zero_is_no_limit(bench: Bench) -> None:
    assert bench.run("list", "--timeout", "0").code == 0


def over() -> TimedOut:
    return TimedOut(what="over")


def test_undo_is_finished_before_the_limit_is_heeded() -> None:
    undone = []

    def undo() -> None:
        with uninterrupted():
            time.sleep(0.2)
            undone.append("all")
        time.sleep(LONG_S)

    with pytest.raises(TimedOut), TimeLimit(0.05, over), interruptible():
        undo()
    assert undone == ["all"]


def test_what_ends_when_a_person_stops_it_ends_by_itself_and_is_then_late() -> None:
    ended = []

    def follow() -> None:
        with asked_to_stop() as stops:
            while not stops():
                time.sleep(0.01)
            ended.append("its own way")

    with pytest.raises(TimedOut), TimeLimit(0.05, over):
        follow()
    assert ended == ["its own way"]


def test_another_error_is_not_hidden_by_a_limit_that_is_over() -> None:
    def fail() -> None:
        with contextlib.suppress(Interrupted):
            time.sleep(LONG_S)
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"), TimeLimit(0.05, over):
        fail()


def test_a_limit_that_was_swallowed_is_still_told() -> None:
    with pytest.raises(TimedOut), TimeLimit(0.05, over), contextlib.suppress(Interrupted):
        time.sleep(LONG_S)
