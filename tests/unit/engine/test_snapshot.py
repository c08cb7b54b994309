"""Files of snapshots: written whole and once, read as strictly as scenarios are, and never by way of a link."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from labctl.engine.snapshot import SUFFIX, read, stored, write
from labctl.errors import UsageError
from labctl.model.changes import Changes
from labctl.model.lab import Lab
from labctl.model.pod_network import NetworkType, PodNetworkChoice
from labctl.model.snapshot import Snapshot
from labctl.planning.record import digest_of
from labctl.planning.snapshot import snapshot_document
from labctl.system import files
from labctl.testing.labs import example_lab


def snapshot_of(lab: Lab) -> Snapshot:
    return Snapshot(
        saved_at="2026-11-30T08:30:00.000Z", versions={}, scenario="", lab=replace(lab, digest=digest_of(lab)),
        changes=Changes(links_down=("node1",)), addresses=(), differences=(), plan={},
    )  # fmt: skip


SNAPSHOT = snapshot_of(example_lab())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"lab{SUFFIX}"


def test_what_is_written_is_read_back_and_is_its_owners_alone(path: Path) -> None:
    assert write(path, SNAPSHOT) == path.stat().st_size
    assert path.stat().st_mode & 0o077 == 0
    assert read(path) == SNAPSHOT


def test_nothing_is_overwritten(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        write(path, SNAPSHOT)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("what", ["link", "folder", "pipe", "nothing", "large"])
def test_what_is_no_file_is_not_read(path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "link":
        target = path.with_name("target")
        target.write_bytes(snapshot_document(SNAPSHOT))
        path.symlink_to(target)
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "large":
        path.write_bytes(b"x" * 2048)
        content = files.Folder.read
        monkeypatch.setattr(files.Folder, "read", lambda *args, **kw: content(*args, **kw, most_byte=1024))
    with pytest.raises(UsageError, match="cannot be read"):
        read(path)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read(Path("a\0b"))


@pytest.mark.parametrize("of", ["file", "folder"])
def test_root_goes_by_none_that_another_user_could_have_written(
    path: Path, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, SNAPSHOT)
    (path if of == "file" else path.parent).chmod(0o777)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UsageError, match="dubious ownership") as refused:
        read(path)
    assert "every user may write to it" in refused.value.cause
    assert read(path, trust=True) == SNAPSHOT


def test_of_what_is_no_snapshot_the_reason_is_given_and_nothing_quoted(path: Path) -> None:
    path.write_text("root:secret:0:0\n")
    with pytest.raises(UsageError, match="is no snapshot that can be loaded") as refused:
        read(path)
    assert "secret" not in "\n".join(refused.value.lines())


def test_one_that_names_plugins_is_loaded_only_when_it_is_trusted(path: Path) -> None:
    network = PodNetworkChoice(
        type=NetworkType.CNI, conflist={"plugins": [{"type": "bridge"}]}, plugin_directory="/tmp"
    )
    write(path, snapshot_of(replace(example_lab(), pod_network=network)))
    with pytest.raises(UsageError, match="names plugins, which would run as root on this host"):
        read(path)
    assert read(path, trust=True).lab.pod_network == network


def test_a_folder_lists_every_good_one_among_bad_ones(path: Path) -> None:
    assert stored(path.parent / "missing") == ()
    write(path, SNAPSHOT)
    (path.parent / f"bad{SUFFIX}").write_text("{")
    (path.parent / "other.json").write_text("{}")
    bad, good = stored(path.parent)
    assert (good.snapshot, bad.snapshot) == (SNAPSHOT, None)
    assert "no JSON document" in bad.problem
