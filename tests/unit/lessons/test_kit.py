"""The workshop kit: which packages it wants, what is left out of the clone, its checksums and its script."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.lessons import kit

CHECKOUT = Path(__file__).resolve().parents[3]


def test_the_packages_are_those_of_the_groups_that_a_class_needs() -> None:
    wanted = kit.wanted_packages((CHECKOUT / "setup/packages.txt").read_text())
    assert {"iproute2", "tcpdump", "frr", "python3-venv"} <= set(wanted)
    assert not {"clang", "openssh-server", "docker.io"} & set(wanted)
    assert len(set(wanted)) == len(wanted)


def packed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kit whose packages and wheels are not fetched."""

    def fetched(kind: str) -> object:
        def make(_: object, to: Path) -> int:
            to.mkdir()
            (to / f"one.{kind}").write_text(kind)
            return 1

        return make

    monkeypatch.setattr(kit, "_fetch_packages", fetched("deb"))
    monkeypatch.setattr(kit, "_fetch_wheels", fetched("whl"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    output = folder / "kit.tar"
    told: list[str] = []
    made = kit.pack_class(CHECKOUT, output, told.append)
    assert (made.packages, made.wheels) == (1, 1)
    assert "lxc-one-way" in made.lessons
    assert told
    return output


def test_a_kit_has_the_lessons_without_their_solutions_and_every_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(packed(tmp_path, monkeypatch)) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "there")
    inside = tmp_path / "there" / "labctl-class"
    assert not [name for name in names if "/solutions/" in name or "__pycache__" in name or name.endswith(".pyc")]
    assert (inside / "labctl/lessons/lxc-one-way/zh.md").is_file()
    assert json.loads((inside / "manifest.json").read_text())["kind"] == "ClassKit"
    listed = dict(line.split("  ", 1)[::-1] for line in (inside / "SHA256SUMS").read_text().splitlines())
    there = {str(path.relative_to(inside)) for path in inside.rglob("*") if path.is_file()} - {"SHA256SUMS"}
    assert set(listed) == there
    assert listed["packages/one.deb"] == hashlib.sha256(b"deb").hexdigest()


def test_the_script_refuses_a_kit_that_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(packed(tmp_path, monkeypatch)) as tar:
        tar.extractall(tmp_path / "there")
    inside = tmp_path / "there" / "labctl-class"
    (inside / "wheels/one.whl").write_text("another one")
    done = subprocess.run(["sh", str(inside / "install.sh"), str(tmp_path / "to")], capture_output=True, text=True)
    assert done.returncode
    assert "wheels/one.whl: FAILED" in done.stdout
    assert not (tmp_path / "to").exists()


def test_what_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kit.tar").touch()
    with pytest.raises(UsageError, match="already exists"):
        kit.pack_class(CHECKOUT, tmp_path / "kit.tar", lambda step: None)


def test_a_kit_is_made_from_a_clone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="clone"):
        kit.pack_class(tmp_path, tmp_path / "kit.tar", lambda step: None)
