"""A lab is there whole or not at all: undo in reverse, on every exception, at every act."""

from __future__ import annotations

import signal

import pytest

from labctl.engine.build import build, built, remove
from labctl.engine.events import BuildDone, BuildStarted, Event, Note, Removed, StepDone, StepStarted, Undoing, silent
from labctl.errors import HostLacks, Interrupted, StepFailed, UsageError
from labctl.system.signals import interruptible
from labctl.testing.labs import example_lab
from labctl.testing.provider import TITLES, ScriptedProvider, acts

LAB = example_lab()


def test_all_steps_are_carried_out_in_order_and_then_the_lab_is_finished() -> None:
    world = ScriptedProvider()
    plan = build(world, LAB, silent)
    assert world.log == [*acts(), "closed"]
    assert [step.title for step in plan.steps] == list(TITLES)


def test_progress_names_each_step_before_it_is_done_and_its_time_after() -> None:
    events: list[Event] = []
    build(ScriptedProvider(), LAB, events.append)
    assert events[0] == BuildStarted(lab="example", steps=4)
    assert isinstance(events[-1], BuildDone)
    started = [event for event in events if isinstance(event, StepStarted)]
    done = [event for event in events if isinstance(event, StepDone)]
    assert [(event.title, event.number) for event in started] == [(t, n) for n, t in enumerate(TITLES, start=1)]
    assert [event.title for event in done] == list(TITLES)
    assert all(event.duration_s >= 0 for event in done)


def test_undo_runs_in_reverse_and_includes_the_step_that_failed_half_way() -> None:
    world = ScriptedProvider(fails={"make node1-address": StepFailed("the kernel refused")})
    with pytest.raises(StepFailed, match="the kernel refused"):
        build(world, LAB, silent)
    assert world.log == [
        "make underlay-link",
        "make underlay-address",
        "make node1-link",
        "make node1-address",
        "remove node1-address",
        "remove node1-link",
        "remove underlay-address",
        "remove underlay-link",
        "teardown example",
        "closed",
    ]
    assert world.things == []


@pytest.mark.parametrize("act", acts())
@pytest.mark.parametrize(
    "stop",
    [KeyboardInterrupt(), Interrupted("stopped by SIGINT"), StepFailed("no"), MemoryError(), SystemExit(1)],
    ids=["ctrl-c", "interrupted", "step failed", "out of memory", "exit"],
)
def test_whatever_stops_it_and_wherever_nothing_stays(act: str, stop: BaseException) -> None:
    world = ScriptedProvider(fails={act: stop})
    with pytest.raises(type(stop)) as raised:
        build(world, LAB, silent)
    assert raised.value is stop
    assert world.things == []
    assert world.log[-2:] == ["teardown example", "closed"]


def test_a_step_is_on_the_undo_list_before_it_is_told_or_done() -> None:
    """Ctrl-C may come while the step is only being announced."""
    world = ScriptedProvider()

    def stop_at_node2(event: Event) -> None:
        if isinstance(event, StepStarted) and event.title == "node2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(world, LAB, stop_at_node2)
    assert "remove node2-link" in world.log
    assert world.things == []


def test_a_failure_of_undo_is_told_and_the_rest_goes_on() -> None:
    world = ScriptedProvider(
        fails={"make record-link": StepFailed("disk full"), "remove node2-address": StepFailed("busy")}
    )
    events: list[Event] = []
    with pytest.raises(StepFailed, match="disk full"):
        build(world, LAB, events.append)
    assert Note(text="undoing 'node2' failed: busy; going on with the rest") in events
    assert "remove underlay-link" in world.log
    assert world.log[-2:] == ["teardown example", "closed"]


def test_a_teardown_that_fails_is_told_with_the_command_and_hides_nothing() -> None:
    world = ScriptedProvider(fails={"make node1-link": StepFailed("no"), "teardown example": StepFailed("still there")})
    events: list[Event] = []
    with pytest.raises(StepFailed, match="no"):
        build(world, LAB, events.append)
    assert events[-1] == Note(text="something of example may be left: still there; try: labctl down example")


@pytest.mark.parametrize(
    ("stop", "because"),
    [(KeyboardInterrupt(), "interrupted"), (Interrupted("stopped by SIGTERM"), "interrupted"),
     (StepFailed("the kernel refused: ip link"), "the kernel refused: ip link"), (MemoryError(), "MemoryError")],
)  # fmt: skip
def test_it_says_why_it_undoes_and_how_much(stop: BaseException, because: str) -> None:
    events: list[Event] = []
    with pytest.raises(type(stop)):
        build(ScriptedProvider(fails={"make node2-link": stop}), LAB, events.append)
    assert Undoing(lab="example", because=because, steps=3) in events


def test_retain_keeps_what_was_built_and_says_how_to_take_it_away() -> None:
    world = ScriptedProvider(fails={"make node1-address": StepFailed("no")})
    events: list[Event] = []
    with pytest.raises(StepFailed):
        build(world, LAB, events.append, retain=True)
    assert world.things == ["underlay-link", "underlay-address", "node1-link"]
    assert events[-1] == Note(text="what was built stays, to look at it; labctl down example takes it back")


def test_a_plan_that_can_be_gone_on_with_is_left_as_it_is() -> None:
    world = ScriptedProvider(is_resumable=True, fails={"make node2-link": StepFailed("a machine does not answer")})
    events: list[Event] = []
    with pytest.raises(StepFailed):
        build(world, LAB, events.append)
    assert world.things
    assert events[-1] == Note(text="what was built stays: the same command goes on; labctl down example takes it back")


def test_undo_finishes_when_nobody_listens_to_it_any_more() -> None:
    """`labctl up bpf 2>&1 | head -1`: the progress can no longer be written."""
    world = ScriptedProvider(fails={"make node2-address": StepFailed("no")})

    def gone(event: Event) -> None:
        if isinstance(event, Undoing | Note):
            raise BrokenPipeError

    with pytest.raises(StepFailed):
        build(world, LAB, gone)
    assert world.things == []
    assert world.log[-2:] == ["teardown example", "closed"]


def test_ctrl_c_during_undo_waits_until_undo_is_over() -> None:
    world = ScriptedProvider(fails={"make node1-link": StepFailed("no")})

    def impatient(event: Event) -> None:
        if isinstance(event, Undoing):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="SIGINT"), interruptible():
        build(world, LAB, impatient)
    assert world.things == []
    assert world.log[-2:] == ["teardown example", "closed"]


def test_a_lab_that_cannot_be_begun_is_not_torn_down() -> None:
    """Its name may be another lab's."""
    world = ScriptedProvider(refused=UsageError("the lab example is being built by another labctl right now"))
    with pytest.raises(UsageError):
        build(world, LAB, silent)
    assert world.log == []


def test_a_built_lab_is_there_within_the_context_and_gone_after_it() -> None:
    world = ScriptedProvider()
    with built(world, LAB, silent):
        assert "record-address" in world.things
    assert world.things == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), UsageError("no such pod")], ids=["ctrl-c", "usage"])
def test_a_built_lab_goes_whatever_happens_within_the_context(stop: BaseException) -> None:
    world = ScriptedProvider()
    with pytest.raises(type(stop)), built(world, LAB, silent):
        raise stop
    assert world.things == []
    assert world.log[-1] == "teardown example"


@pytest.mark.parametrize("refused", [UsageError("is there already"), HostLacks("no root")])
def test_the_context_does_not_remove_a_lab_that_it_did_not_build(refused: Exception) -> None:
    world = ScriptedProvider(refused=refused)
    with pytest.raises(type(refused)), built(world, LAB, silent):
        pytest.fail("there is no lab")
    assert world.log == []


def test_removing_tells_when_it_is_done() -> None:
    events: list[Event] = []
    world = ScriptedProvider(things=["node1-link"])
    remove(world, "example", events.append)
    assert world.things == []
    assert isinstance(events[-1], Removed)
    assert events[-1].lab == "example"


def test_removing_is_not_cut_in_two_by_ctrl_c() -> None:
    class Slow(ScriptedProvider):
        def teardown(self, name: str) -> None:
            signal.raise_signal(signal.SIGINT)
            ScriptedProvider.teardown(self, name)

    world = Slow(things=["node1-link"])
    with pytest.raises(Interrupted), interruptible():
        remove(world, "example", silent)
    assert world.things == []
