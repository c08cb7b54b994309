"""A host that is started again: its labs are gone, are listed, and come back as they were. The boot is one beneath
labctl: namespaces, records and pins are removed, and the boot has another id."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.cli import group
from labctl.providers.netns import kept
from labctl.providers.netns.changes import read_changes
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.record import parse_document, record_path
from labctl.system import clock, netns

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
]


@pytest.fixture
def lab(host_as_found: str) -> Iterator[str]:
    name = f"{host_as_found}-again"
    try:
        yield name
    finally:
        with contextlib.suppress(Exception):
            labctl("down", name)
        NetnsProvider().teardown(name)
        assert not (kept.DIRECTORY / name).exists()


CHANGES = (
    ("link", "server", "down"),
    ("impair", "client", "loss=5%", "seed=7"),
    ("break", "wrong-vtep"),
    ("node", "node3", "stop"),
)


def labctl(*args: str) -> int:
    return group.run([*args])


def differences(lab: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """Without the commands that mend them by hand, in which maps have other numbers in each boot."""
    capsys.readouterr()
    assert labctl("diff", lab, "--json") == 1
    return [one | {"command": ""} for one in json.loads(capsys.readouterr().out)["differences"]]


def boots(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a boot does to a lab: processes and namespaces end, /run is empty."""
    for namespace in [one for one in netns.names() if one.startswith(f"labctl.{name}.")]:
        key = netns.key_of(namespace)
        assert key is not None
        netns.end_processes([key])
        subprocess.run(("ip", "netns", "delete", namespace), check=True, timeout=60)
    shutil.rmtree(record_path(name).parent)
    (tmp_path / "boot_id").write_text("another boot\n")
    monkeypatch.setattr(clock, "BOOT_ID", tmp_path / "boot_id")


def test_after_a_boot_a_lab_is_listed_as_gone_and_comes_back_as_it_was(
    lab: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert labctl("up", "bpf", "--name", lab) == 0
    for command, *rest in CHANGES:
        assert labctl(command, lab, *rest) == 0
    before, record = read_changes(lab), record_path(lab).read_text()
    drift = differences(lab, capsys)

    boots(lab, monkeypatch, tmp_path)
    assert labctl("list", "--json") == 0
    gone = {one["lab"]: one for one in json.loads(capsys.readouterr().out)["gone"]}
    assert gone[lab]["why"] == "this host was started again while it was up"
    assert gone[lab]["changed"] == list(before.sentences())
    assert labctl("status", lab) == 2
    assert f"labctl up --again {lab}" in capsys.readouterr().err

    assert labctl("up", "--again", lab) == 0
    assert parse_document(record_path(lab).read_text()) == parse_document(record)
    assert read_changes(lab) == before
    assert differences(lab, capsys) == drift

    assert labctl("up", "--again", lab) == 0  # up with links down: nothing is rebuilt
    assert "is up already: nothing to do" in capsys.readouterr().out
    assert read_changes(lab) == before
    assert labctl("reset", lab, "--hard") == 0
    assert (kept.DIRECTORY / lab / "lab.json").exists()
    assert not (kept.DIRECTORY / lab / "changes.json").exists()
    assert labctl("down", lab) == 0
    assert not (kept.DIRECTORY / lab).exists()


def test_a_snapshot_gives_the_same_lab_under_another_name(
    lab: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, file = f"{lab}-copy", str(tmp_path / "snapshots" / "saved.snapshot.json")
    assert labctl("up", "bpf", "--name", lab) == 0
    try:
        for command, *rest in CHANGES:
            assert labctl(command, lab, *rest) == 0
        added = ("ip", "-n", f"labctl.{lab}.client", "address", "add", "10.9.9.9/24", "dev", "eth0")
        subprocess.run(added, check=True, timeout=60)
        assert labctl("snapshot", "save", lab, "-o", file) == 0
        assert labctl("snapshot", "load", file, "--name", copy) == 0, capsys.readouterr().err
        assert read_changes(copy) == read_changes(lab)
        for args in (("--lab", lab), ("--snapshot", file)):
            assert labctl("diff", copy, *args) == 0
        subprocess.run((*added[:2], f"labctl.{copy}.client", *added[3:4], "delete", *added[5:]), check=True, timeout=60)
        capsys.readouterr()
        assert labctl("diff", copy, "--lab", lab, "--json") == 1
        (only,) = json.loads(capsys.readouterr().out)["onlyThere"]
        assert (only["part"], only["name"]) == ("client", "address 10.9.9.9 dev eth0")
    finally:
        labctl("down", copy)
