"""What `up` and `down` do with what they find: nothing, the same lab, another lab, half a lab, a lab in the making."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.engine.build import BuildOutcome, down, find, up
from labctl.engine.events import Event, Note, silent
from labctl.errors import HostLacks, NeedsRoot, StepFailed, UsageError
from labctl.model.lab import HostRouting
from labctl.testing.labs import example_lab
from labctl.testing.provider import ScriptedProvider, acts, running_lab

LAB = example_lab()


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
        "error: a lab named example is already up and it is not this one",
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
    assert events[0] == Note(text="lab example is half there (missing: node2): going on where it stopped")


BEING_BUILT = (
    "error: the lab example is being built by another labctl right now",
    "  try: wait for it or stop it with Ctrl-C, which takes back what it built; labctl list shows when it is there",
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
