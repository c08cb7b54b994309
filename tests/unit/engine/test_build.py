"""A lab is there whole or not at all: undo in reverse, on every exception, at every act.

And what `up` and `down` do with what they find: nothing, the same lab, another lab, half a lab, a lab in the making.
What providers tell from within steps reaches whoever listens to the engine; those that tell nothing need not.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from labctl.engine.build import BuildOutcome, build, built, down, find, remove, up
from labctl.engine.events import (
    BuildDone,
    BuildStarted,
    Event,
    Note,
    Removed,
    StepDone,
    StepStarted,
    Undoing,
    Working,
    silent,
)
from labctl.errors import HostLacks, Interrupted, LabError, NeedsRoot, StepFailed, UsageError
from labctl.model.lab import HostRouting
from labctl.providers.base import Capabilities, Executor, Tell
from labctl.system.signals import interruptible
from labctl.testing.labs import example_lab
from labctl.testing.provider import TITLES, ScriptedProvider, acts, running_lab

LAB = example_lab()


def test_all_steps_are_carried_out_in_order_and_then_the_lab_is_finished() -> None:
    world = ScriptedProvider()
    phases = build(world, LAB, silent)
    assert world.log == [*acts(), "closed"]
    assert [phase.title for phase in phases] == list(TITLES)


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
    assert Note(text="undoing 'node2' failed: busy; continuing with the rest") in events
    assert "remove underlay-link" in world.log
    assert world.log[-2:] == ["teardown example", "closed"]


def test_a_teardown_that_fails_is_told_with_the_command_and_hides_nothing() -> None:
    world = ScriptedProvider(fails={"make node1-link": StepFailed("no"), "teardown example": StepFailed("still there")})
    events: list[Event] = []
    with pytest.raises(StepFailed, match="no"):
        build(world, LAB, events.append)
    assert events[-1] == Note(text="parts of example may be left: still there; try: labctl down example")


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
    assert events[-1] == Note(text="what was built stays for inspection; labctl down example removes it")


def test_a_plan_that_can_be_gone_on_with_is_left_as_it_is() -> None:
    world = ScriptedProvider(is_resumable=True, fails={"make node2-link": StepFailed("a machine does not answer")})
    events: list[Event] = []
    with pytest.raises(StepFailed):
        build(world, LAB, events.append)
    assert world.things
    assert events[-1] == Note(text="what was built stays: the same command resumes; labctl down example removes it")


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


def test_a_lab_that_is_not_there_is_built() -> None:
    world = ScriptedProvider()
    assert up(world, LAB, silent) is BuildOutcome.BUILT
    assert world.log == [*acts(), "closed"]


def test_the_same_lab_again_changes_nothing() -> None:
    world = ScriptedProvider(running=[running_lab(LAB)])
    assert up(world, LAB, silent) is BuildOutcome.UNCHANGED
    assert world.log == []


def test_another_lab_of_the_same_name_is_left_alone_and_the_difference_is_named() -> None:
    other = replace(example_lab(host_routing=HostRouting.BPF), digest="1" * 64)
    world = ScriptedProvider(running=[running_lab(other)])
    with pytest.raises(UsageError) as raised:
        up(world, LAB, silent)
    assert raised.value.lines() == (
        "error: a lab named example is already up and differs from this one",
        "  why: datapath.hostRouting is legacy, was bpf",
        "  try: labctl down example, then the same command again; or give this one another --name",
    )
    assert world.log == []


def test_a_lab_without_a_record_that_differs_says_which_scenario_it_was_made_from() -> None:
    world = ScriptedProvider(running=[running_lab(LAB, lab=None, digest="1" * 64, scenario="bpf")])
    with pytest.raises(UsageError) as raised:
        up(world, LAB, silent)
    assert raised.value.cause == "it was made from scenario bpf and its record is gone"


@pytest.mark.parametrize("digest", [LAB.digest, "1" * 64], ids=["of this lab", "of another"])
def test_what_is_left_of_a_lab_is_removed_before_it_is_built(digest: str) -> None:
    world = ScriptedProvider(
        running=[running_lab(LAB, is_whole=False, missing=("node2",), digest=digest)], things=["node1-link"]
    )
    events: list[Event] = []
    assert up(world, LAB, events.append) is BuildOutcome.BUILT
    assert world.log == ["teardown example", *acts(), "closed"]
    assert events[0] == Note(text="lab example is half there (missing: node2): removing what is left of it")


def test_a_lab_that_can_be_gone_on_with_is_not_removed_first() -> None:
    world = ScriptedProvider(running=[running_lab(LAB, is_whole=False, missing=("node2",), is_resumable=True)])
    events: list[Event] = []
    assert up(world, LAB, events.append) is BuildOutcome.BUILT
    assert world.log == [*acts(), "closed"]
    assert events[0] == Note(text="lab example is half there (missing: node2): resuming where it stopped")


BEING_BUILT = (
    "error: the lab example is being built by another labctl right now",
    "  try: wait for it, or stop it with Ctrl-C, which undoes what it built; labctl list shows when the lab is up",
)


def test_a_lab_that_another_labctl_is_building_is_not_taken_for_remains() -> None:
    world = ScriptedProvider(running=[running_lab(LAB, is_whole=False, is_being_built=True)], things=["node1-link"])
    with pytest.raises(UsageError) as raised:
        up(world, LAB, silent)
    assert raised.value.lines() == BEING_BUILT
    assert (world.log, world.things) == ([], ["node1-link"])


def test_down_does_not_pull_a_lab_from_under_the_labctl_that_builds_it() -> None:
    lab = running_lab(LAB, is_whole=False, is_being_built=True)
    world = ScriptedProvider(running=[lab], things=["node1-link"])
    with pytest.raises(UsageError) as raised:
        down(world, lab, silent)
    assert raised.value.lines() == BEING_BUILT
    assert (world.log, world.things) == ([], ["node1-link"])


@pytest.mark.parametrize("is_whole", [True, False])
def test_down_removes_a_lab_whole_or_in_pieces(is_whole: bool) -> None:
    lab = running_lab(LAB, is_whole=is_whole)
    world = ScriptedProvider(running=[lab], things=["node1-link"])
    down(world, lab, silent)
    assert (world.running, world.things) == ([], [])


@pytest.mark.parametrize("can_be_removed", [True, False])
def test_down_removes_a_lab_that_could_not_be_read_only_where_its_mark_says_all_that_is_its_own(
    can_be_removed: bool,
) -> None:
    unread = LabError("it could not be read")
    provider = ScriptedProvider()
    running = running_lab(LAB, is_whole=False, lab=None, unasked=unread, can_be_removed=can_be_removed)
    provider.running = [running]
    with pytest.raises(LabError) as raised:
        up(provider, LAB, silent)
    assert raised.value is unread
    with contextlib.nullcontext() if can_be_removed else pytest.raises(LabError):
        down(provider, running, silent)
    assert provider.log == ([f"teardown {LAB.name}"] if can_be_removed else [])


def test_a_lab_is_found_whichever_provider_made_it() -> None:
    first = ScriptedProvider(name="first", running=[running_lab(replace(LAB, name="other"))])
    second = ScriptedProvider(name="second", running=[running_lab(LAB)])
    found = find([first, second], "example")
    assert found is not None
    assert found.provider is second
    assert find([first, second], "nowhere") is None


def test_a_provider_that_may_not_look_hides_no_lab_of_another() -> None:
    blind = ScriptedProvider(name="blind", refused=NeedsRoot("finding labs needs root"))
    seeing = ScriptedProvider(name="seeing", running=[running_lab(LAB)])
    found = find([blind, seeing], "example")
    assert found is not None
    assert found.provider is seeing


def test_a_lab_that_nobody_has_is_not_called_missing_while_a_provider_may_not_look() -> None:
    with pytest.raises(HostLacks, match="finding labs needs root"):
        find([ScriptedProvider(refused=NeedsRoot("finding labs needs root")), ScriptedProvider()], "example")


def test_a_failure_that_is_no_missing_right_is_not_taken_for_an_empty_host() -> None:
    with pytest.raises(StepFailed):
        find([ScriptedProvider(refused=StepFailed("docker does not answer"))], "example")


@dataclass(slots=True, kw_only=True)
class Teller(ScriptedProvider):
    """Tells one act of building and one of teardown, while anybody listens."""

    tell: Tell | None = None

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(telling=self.telling)

    @contextmanager
    def telling(self, tell: Tell) -> Iterator[None]:
        self.tell = tell
        try:
            yield
        finally:
            self.tell = None

    @contextmanager
    def _executor(self) -> Iterator[Executor]:
        assert self.tell is not None
        self.tell("Load", None)
        self.tell("Load", 2.5)
        yield self

    def teardown(self, name: str) -> None:
        assert self.tell is not None
        self.tell("Reset", None)


def working(events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, Working)]


def test_what_a_provider_does_within_steps_is_heard_while_it_builds() -> None:
    events: list[Event] = []
    world = Teller()
    build(world, LAB, events.append)
    assert working(events) == [
        Working(lab="example", text="Load"), Working(lab="example", text="Load", duration_s=2.5),
    ]  # fmt: skip
    assert world.tell is None


def test_it_is_heard_while_a_lab_is_removed() -> None:
    events: list[Event] = []
    remove(Teller(), "example", events.append)
    assert working(events) == [Working(lab="example", text="Reset")]


def test_a_provider_that_tells_nothing_is_built_all_the_same() -> None:
    events: list[Event] = []
    build(ScriptedProvider(), LAB, events.append)
    assert working(events) == []
