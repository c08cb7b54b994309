"""What is kept of a lab for after a boot: whole or not there, followed by every change, gone with `down`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labctl.errors import StepFailed
from labctl.model.changes import NOTHING, Broken, ChangeKind, Changes, Pending
from labctl.model.impairment import Impairment
from labctl.providers.netns import kept
from labctl.providers.netns.changes import update_changes
from labctl.providers.netns.kept import NetnsKeeping, follow_changes, follow_record
from labctl.providers.netns.record import record_path
from labctl.system import clock
from labctl.testing.labs import example_lab

KEEPING = NetnsKeeping()
LAB = example_lab()
CHANGED = Changes(
    links_down=("node1",),
    nodes_stopped=("node2",),
    faults=(Broken(fault="wrong-vtep", where="node1: tunnel", seed=7),),
    impairments={"client": Impairment(loss=0.01)},
)


def test_a_lab_comes_back_as_it_was_kept_with_its_changes() -> None:
    assert KEEPING.kept() == ()
    KEEPING.keep(LAB, CHANGED)
    (one,) = KEEPING.kept()
    assert (one.name, one.lab, one.changes, one.is_of_this_boot, one.problem) == (LAB.name, LAB, CHANGED, True, "")
    assert KEEPING.kept(LAB.name) == (one,)
    assert KEEPING.kept("another") == ()


def test_after_a_boot_it_is_known_to_be_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    KEEPING.keep(LAB, NOTHING)
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(clock, "BOOT_ID", tmp_path / "boot_id")
    assert not KEEPING.kept()[0].is_of_this_boot
    KEEPING.keep(LAB, NOTHING)
    assert KEEPING.kept()[0].is_of_this_boot


def test_what_is_changed_later_follows_and_so_does_what_it_becomes() -> None:
    KEEPING.keep(LAB, NOTHING)
    record_path(LAB.name).parent.mkdir(parents=True, mode=0o700)
    update_changes(LAB.name, lambda changes: changes.with_link("node1", is_up=False))
    follow_record(replace(LAB, digest="f" * 64))
    (one,) = KEEPING.kept()
    assert one.changes == Changes(links_down=("node1",))
    assert one.lab is not None
    assert one.lab.digest == "f" * 64
    update_changes(LAB.name, lambda changes: NOTHING)
    assert KEEPING.kept()[0].changes == NOTHING


def test_of_a_lab_that_is_not_kept_nothing_follows() -> None:
    follow_changes(LAB.name, CHANGED)
    follow_record(LAB)
    assert KEEPING.kept() == ()
    assert not kept.DIRECTORY.exists()


def test_forgetting_it_leaves_nothing_and_can_be_repeated() -> None:
    KEEPING.keep(LAB, CHANGED)
    KEEPING.keep(replace(LAB, name="second"), NOTHING)
    KEEPING.forget(LAB.name)
    assert [one.name for one in KEEPING.kept()] == ["second"]
    KEEPING.forget("second")
    KEEPING.forget("second")
    assert not kept.DIRECTORY.parent.exists()


@pytest.mark.parametrize("name", ["../../etc", "", "a/b", "A"])
def test_a_name_that_is_a_path_leads_nowhere(name: str) -> None:
    with pytest.raises(ValueError, match="not a valid lab name"):
        KEEPING.forget(name)
    assert KEEPING.kept(name) == ()


def test_other_users_can_read_and_write_nothing_of_it() -> None:
    KEEPING.keep(LAB, CHANGED)
    for path in (kept.DIRECTORY, kept.DIRECTORY / LAB.name, *(kept.DIRECTORY / LAB.name).iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("lab.json", b"{", "not whole"),
        ("lab.json", b'{"apiVersion": "labctl/v9", "kind": "Lab"}', "another version"),
        ("changes.json", b"{", "Expecting property name"),
        ("changes.json", b'{"linksDown": 1}', "linksDown"),
        ("boot", b"\xff", "codec can't decode"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason_and_does_not_hide_the_others(
    file: str, content: bytes, why: str
) -> None:
    KEEPING.keep(LAB, CHANGED)
    KEEPING.keep(replace(LAB, name="whole"), NOTHING)
    (kept.DIRECTORY / LAB.name / file).write_bytes(content)
    spoilt, whole = KEEPING.kept()
    assert (spoilt.lab, whole.lab is not None) == (None, True)
    assert why in spoilt.problem


def test_the_record_of_one_lab_is_not_taken_for_anothers() -> None:
    KEEPING.keep(LAB, NOTHING)
    (kept.DIRECTORY / LAB.name).rename(kept.DIRECTORY / "other")
    (one,) = KEEPING.kept()
    assert (one.lab, one.problem) == (None, f"it is the record of lab {LAB.name}")


def test_a_copy_that_was_cut_off_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "boot_id", lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StepFailed, match="cannot be brought back after a boot") as failed:
        KEEPING.keep(LAB, CHANGED)
    assert "No space left" in failed.value.cause
    monkeypatch.undo()
    assert KEEPING.kept(LAB.name) == ()


def test_the_acts_of_changes_make_them_and_without_them_nothing_is_left() -> None:
    acts = CHANGED.acts()
    assert [act.kind for act in acts] == [ChangeKind.IMPAIRMENT, ChangeKind.FAULT, ChangeKind.LINK, ChangeKind.NODE]
    left = CHANGED
    for act in acts:
        left = left.without(act)
    assert left == NOTHING
    assert CHANGED.without(Pending(kind=ChangeKind.LINK, name="other")) == CHANGED


def test_the_folders_above_go_even_when_the_lower_one_was_never_made() -> None:
    kept.DIRECTORY.parent.mkdir(parents=True)
    KEEPING.forget(LAB.name)
    assert not kept.DIRECTORY.parent.exists()


def test_a_copy_that_was_cut_off_before_its_record_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.cut_off() == ()
    KEEPING.keep(LAB, NOTHING)
    assert kept.cut_off() == ()
    (kept.DIRECTORY / LAB.name / "lab.json").unlink()
    assert kept.cut_off() == (LAB.name,)
    assert KEEPING.kept() == ()
