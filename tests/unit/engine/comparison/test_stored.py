"""Runs of comparisons on disk: read back to the last bit, cut short, gone on with, edited, held against each other."""

from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from engine.engine_world import HERE, World, lab, planned_of
from labctl.engine.comparison.stored import chosen_sides, measured_from, read_comparison, require_common, unpaired
from labctl.errors import Interrupted, LabError, NotInForce, UsageError
from labctl.model.comparison import CautionKind, ChangeVerdict
from labctl.planning.record import digest_of, lab_from_json, lab_to_json
from labctl.report.json import matrix_document
from labctl.store.journal import RunState, read_journal
from labctl.store.reading import open_run
from labctl.system.signals import interruptible


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(runs_dir=tmp_path / "runs")


class Stopper:
    """Raises Interrupted before the run of that number."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, side: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted(what="stopped by SIGINT")


def test_a_stored_comparison_read_back_is_the_same_to_the_last_bit(world: World) -> None:
    measured = world.measure(world.question())
    stored = world.read()
    assert stored.comparisons() == measured
    result = json.loads((world.only_run() / "result.json").read_text())
    assert json.loads(json.dumps(matrix_document(stored.comparisons()))) == result
    (row,) = measured[0].rows
    assert row.verdict is ChangeVerdict.FASTER


def test_signatures_modes_and_statements_come_back_with_it(world: World) -> None:
    world.measure(world.question())
    (comparison,) = world.read().comparisons()
    assert [seen.side for seen in comparison.signatures] == ["a", "b"]
    assert comparison.signatures[0].signature.ping_ttl == 62
    mode = comparison.mode("a")
    assert mode is not None
    assert mode.evidence[0].finding == "it is so"
    assert comparison.a.statements == ("Nothing of this is real.", "legacy carries nothing.")
    assert comparison.environment == HERE


def test_three_sides_make_two_comparisons_against_the_first(world: World) -> None:
    world.measure(world.question("legacy", "bpf", "third"))
    found = world.read().comparisons()
    assert [(each.a.scenario, each.b.scenario) for each in found] == [("legacy", "bpf"), ("legacy", "third")]
    assert [each.rows[0].verdict for each in found] == [ChangeVerdict.FASTER, ChangeVerdict.SLOWER]
    document = json.loads((world.only_run() / "result.json").read_text())
    assert document["kind"] == "ComparisonMatrix"
    assert [each["kind"] for each in document["comparisons"]] == ["Comparison", "Comparison"]


@pytest.mark.parametrize("stop_at", [1, 2, 6, 9])
def test_a_run_that_was_stopped_is_readable_and_goes_on_without_measuring_a_block_twice(
    world: World, stop_at: int
) -> None:
    question = world.question()
    world.ping.before = Stopper(stop_at)
    with pytest.raises(Interrupted):
        world.measure(question)
    assert world.provider.up == {}
    stored = world.read()
    assert stored.run.manifest.state is RunState.INTERRUPTED
    assert len(stored.measured.records) == stop_at - 1
    if stop_at > 1:
        assert CautionKind.CUT_SHORT in [caution.kind for caution in stored.comparisons()[0].cautions]

    whole = stored.measured.whole_blocks()
    again: list[str] = []
    world.ping.before = again.append
    world.go_on(world.only_run(), question)
    assert len(again) == sum(run.block not in whole for run in planned_of(question))
    assert world.provider.up == {}

    finished = world.read()
    assert finished.run.manifest.state is RunState.COMPLETE
    of_block = Counter((run.block, run.side) for run in finished.measured.records)
    assert of_block == {(block, side): 1 for block in range(1, 7) for side in "ab"}
    untouched = World(runs_dir=world.runs_dir.with_name("untouched"))
    expected = untouched.measure(question)[0]
    found = finished.comparisons()[0]
    assert [row.change for row in found.rows] == [row.change for row in expected.rows]
    assert found.order == expected.order
    assert found.cautions == expected.cautions == ()


def test_a_second_ctrl_c_while_labs_are_removed_leaves_none_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    teardown = world.provider.teardown

    def impatient(name: str) -> None:
        signal.raise_signal(signal.SIGINT)
        teardown(name)

    monkeypatch.setattr(world.provider, "teardown", impatient)
    world.ping.before = Stopper(3)
    with pytest.raises(Interrupted), interruptible():
        world.measure(world.question())
    assert world.provider.up == {}


def test_labs_that_a_killed_process_left_behind_are_removed_before_it_goes_on(world: World) -> None:
    question = world.question()
    world.ping.before = Stopper(3)
    with pytest.raises(Interrupted):
        world.measure(question)
    left = question.sides[0].lab
    world.provider.up = {left.name: left, "somebody-elses": lab("somebody-elses")}
    world.ping.before = lambda side: None
    world.go_on(world.only_run(), question)
    assert list(world.provider.up) == ["somebody-elses"]


def test_a_journal_that_ends_in_half_a_line_is_read_up_to_there(world: World) -> None:
    question = world.question()
    world.ping.before = Stopper(6)
    with pytest.raises(Interrupted):
        world.measure(question)
    path = world.only_run()
    (path / "SHA256SUMS").unlink()  # a killed process seals nothing
    journal = path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert len(world.read().measured.records) == 4
    world.ping.before = lambda side: None
    world.go_on(path, question)
    assert len(world.read().measured.records) == 12


def test_a_lab_that_is_not_in_force_stops_the_comparison_before_any_number(world: World) -> None:
    world.provider.is_in_force = False
    asked: list[str] = []
    world.ping.before = asked.append
    with pytest.raises(NotInForce, match=r"side a .legacy.*side b .bpf"):
        world.measure(world.question())
    assert asked == []
    assert world.provider.up == {}
    stored = world.read()
    assert stored.run.manifest.state is RunState.FAILED
    assert not any(mode.proven for mode in stored.measured.modes.values())


def test_a_rebuild_that_is_not_in_force_refuses_every_row_that_was_measured_before(world: World) -> None:
    def fall_back(side: str) -> None:
        world.provider.is_in_force = False

    world.ping.before = fall_back
    with pytest.raises(NotInForce):
        world.measure(world.question())
    (row,) = world.read().comparisons()[0].rows
    assert row.a.samples
    assert row.verdict is ChangeVerdict.REFUSED


def test_an_edited_run_is_refused_and_names_the_file(world: World) -> None:
    world.measure(world.question())
    journal = world.only_run() / "journal.jsonl"
    journal.write_text(journal.read_text().replace("so imagined", "so edited", 1))
    with pytest.raises(LabError, match="was changed after it ended") as refused:
        world.read()
    assert "journal.jsonl" in refused.value.cause


def test_an_order_that_does_not_follow_from_the_seed_is_refused(world: World) -> None:
    """A run of another version, whose order was made otherwise: its figures would be given the wrong plan."""
    world.measure(world.question())
    path = world.only_run()
    (path / "SHA256SUMS").unlink()
    manifest = json.loads((path / "run.json").read_text())
    manifest["settings"]["order"] = "block 1: a ping client→server"
    (path / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="cannot be read by this labctl") as refused:
        world.read()
    assert "result.json" in refused.value.remedy


@pytest.mark.parametrize("key", ["seed", "work", "sides", "checks", "parameters"])
def test_a_manifest_that_lacks_what_was_asked_is_refused_and_says_what(world: World, key: str) -> None:
    world.measure(world.question())
    path = world.only_run()
    (path / "SHA256SUMS").unlink()
    manifest = json.loads((path / "run.json").read_text())
    del manifest["settings"]["asked"][key]
    (path / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(LabError, match=r"run\.json cannot be read") as refused:
        world.read()
    assert key in refused.value.cause


def test_a_check_run_is_no_comparison(world: World) -> None:
    world.measure(world.question())
    path = world.only_run()
    (path / "SHA256SUMS").unlink()
    manifest = json.loads((path / "run.json").read_text())
    manifest["runKind"] = "check"
    (path / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="is not a comparison"):
        read_comparison(open_run(path))


def test_a_journal_entry_of_another_form_is_refused_with_its_time(world: World) -> None:
    world.measure(world.question())
    path = world.only_run()
    journal = path / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"block":1', '"block":"one"', 1))
    with pytest.raises(LabError, match="entry of 20") as refused:
        measured_from(read_journal(journal), str(journal))
    assert "block" in refused.value.cause


def test_two_runs_are_compared_side_by_side_and_say_that_they_were_not_interleaved(tmp_path: Path) -> None:
    monday, tuesday = World(runs_dir=tmp_path / "monday"), World(runs_dir=tmp_path / "tuesday")
    monday.measure(monday.question())
    tuesday.ping.speed["bpf"] = 0.5
    tuesday.measure(tuesday.question("bpf", "third", seed=8))
    a, b = monday.read(), tuesday.read()
    assert chosen_sides(a, "", b, "") == (("b", "a"),)
    found = unpaired(a, "b", b, "a")
    assert (found.a.scenario, found.b.scenario, found.is_paired) == ("bpf", "bpf", False)
    assert [caution.kind for caution in found.cautions] == [CautionKind.UNPAIRED]
    (row,) = found.rows
    assert row.verdict is ChangeVerdict.FASTER
    assert row.change is not None
    assert row.change.high < -0.4


def test_sides_of_stored_runs_can_be_named_and_unknown_ones_are_told(tmp_path: Path) -> None:
    world = World(runs_dir=tmp_path)
    world.measure(world.question())
    stored = world.read()
    assert chosen_sides(stored, "legacy", stored, "bpf") == (("a", "b"),)
    assert chosen_sides(stored, "", stored, "") == (("a", "a"), ("b", "b"))
    with pytest.raises(UsageError, match="has no side cilium") as refused:
        chosen_sides(stored, "cilium", stored, "bpf")
    assert "legacy, bpf" in refused.value.cause


def test_stored_runs_of_unlike_labs_say_what_differs(tmp_path: Path) -> None:
    world, other = World(runs_dir=tmp_path / "a"), World(runs_dir=tmp_path / "b")
    world.measure(world.question())
    other.measure(other.question())
    path = other.only_run()
    (path / "SHA256SUMS").unlink()
    manifest = json.loads((path / "run.json").read_text())
    made = lab_from_json(manifest["labs"]["a"])
    made = replace(made, network=replace(made.network, mtu=9000))
    manifest["labs"]["a"] = lab_to_json(replace(made, digest=digest_of(made)))
    (path / "run.json").write_text(json.dumps(manifest))
    found = unpaired(world.read(), "a", other.read(), "a")
    assert [caution.kind for caution in found.cautions] == [CautionKind.UNPAIRED, CautionKind.DIFFERENT_LAB]
    assert "9000" in str(found.cautions[1].facts["what"])


def test_a_baseline_whose_labs_cannot_be_read_is_refused_before_anything_is_measured(world: World) -> None:
    world.measure(world.question())
    stored = world.read()
    labs = {key: {**record, "digest": "0" * 64} for key, record in stored.run.manifest.labs.items()}  # type: ignore[dict-item]
    other = replace(stored, run=replace(stored.run, manifest=replace(stored.run.manifest, labs=labs)))
    with pytest.raises(LabError, match=r"lab a of run .* cannot be read") as refused:
        require_common(other, stored.asked)
    assert "use the labctl that wrote it" in refused.value.remedy
