"""What a labctl that was killed left and no lab's name leads to goes with `down --all`; what is in use stays."""

from __future__ import annotations

import os

from labctl.model.changes import NOTHING
from labctl.providers.netns import kept
from labctl.providers.netns.kept import NetnsKeeping
from labctl.providers.netns.record import claimed
from labctl.providers.netns.tidy import tidy
from labctl.system import files, locks, netns
from labctl.testing.labs import example_lab

LAB = example_lab()


def _cut_off_copy() -> None:
    NetnsKeeping().keep(LAB, NOTHING)
    (kept.DIRECTORY / LAB.name / "lab.json").unlink()


def test_half_a_copy_a_file_beside_its_place_and_a_lock_of_nobody_go() -> None:
    _cut_off_copy()
    with files.open_private(netns.RUN_DIRECTORY / "tags") as folder:
        os.close(folder.create(".x.json.0123456789ab"))
        folder.write("x.json", b"{}\n")
    with locks.held("build-other", timeout_s=0):
        (locks.directory() / "build-dead").touch(mode=0o600)
        tidy()
        assert [one.name for one in locks.directory().iterdir()] == ["build-other"]
    assert not kept.DIRECTORY.exists()
    assert [one.name for one in (netns.RUN_DIRECTORY / "tags").iterdir()] == ["x.json"]


def test_a_copy_that_is_being_written_stays() -> None:
    _cut_off_copy()
    with claimed(LAB.name):
        tidy()
    assert kept.cut_off() == (LAB.name,)


def test_a_copy_of_a_lab_that_is_gone_stays_whole() -> None:
    NetnsKeeping().keep(LAB, NOTHING)
    tidy()
    assert [one.name for one in NetnsKeeping().kept()] == [LAB.name]
