"""Image archives are loaded where containerd lacks an image, whatever was loaded before."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "playbooks" / "files" / "load-archive.py"
CTR = """#!/bin/sh
echo "$*" >>"$STATE/said"
case "$*" in
*"images check --quiet") [ -e "$STATE/old" ] && exit 1; cat "$STATE/images" ;;
*"images list -q") cat "$STATE/images" ;;
*"images import "*) cp "$STATE/archived" "$STATE/images" ;;
esac
"""
OCI = {"manifests": [{"annotations": {"io.containerd.image.name": name}} for name in ("quay.io/x/a:1", "reg:5000/b:2")]}
ARCHIVES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "docker save": (
        {"manifest.json": [{"RepoTags": ["tools:1", "me/tools:1"]}, {"RepoTags": ["registry.k8s.io/pause:3.6"]}]},
        {"docker.io/library/tools:1", "docker.io/me/tools:1", "registry.k8s.io/pause:3.6"},
    ),
    "ctr export": ({"index.json": OCI}, {"quay.io/x/a:1", "reg:5000/b:2"}),
    "both": (
        {"index.json": OCI, "./manifest.json": [{"RepoTags": None}, {"RepoTags": ["localhost/c:3"]}]},
        {"quay.io/x/a:1", "reg:5000/b:2", "localhost/c:3"},
    ),
}


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ctr").write_text(CTR)
        (folder / "ctr").chmod(0o755)
        (folder / "images").write_text("")
        self.archive = folder / "a.tar"

    def bring(self, members: dict[str, Any], names: set[str], extra: bytes = b"") -> None:
        (self.folder / "archived").write_text("\n".join(sorted(names)))
        with tarfile.open(self.archive, "w") as tar:
            for name, content in {**members, "blobs/x": extra.decode()}.items():
                data = json.dumps(content).encode()
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    def load(self, *there: str) -> str:
        (self.folder / "said").write_text("")
        world = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "STATE": str(self.folder)}
        argv = (sys.executable, str(SCRIPT), "/run/containerd.sock", str(self.archive), *there)
        done = subprocess.run(argv, env=world, capture_output=True, text=True, check=True)
        return done.stdout

    def pinned(self) -> set[str]:
        lines = (self.folder / "said").read_text().splitlines()
        return {line.split()[-2] for line in lines if line.endswith("io.cri-containerd.pinned=pinned")}


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("case", ARCHIVES)
def test_what_the_machine_lacks_is_loaded_and_pinned_and_nothing_twice(case: str, is_old: bool, tmp_path: Path) -> None:
    members, names = ARCHIVES[case]
    machine = Machine(tmp_path)
    if is_old:
        (tmp_path / "old").touch()
    machine.bring(members, names)
    assert machine.load().startswith("loaded ")
    assert machine.pinned() == names
    assert machine.load() == ""
    # The kubelet's garbage collection took one of them, the note of what was loaded is still there.
    gone = sorted(names)[-1]
    (tmp_path / "images").write_text("\n".join(sorted(names - {gone})))
    assert f"(missing: {gone})" in machine.load()
    assert machine.pinned() == names
    # The same names with another content.
    machine.bring(members, names, b"new")
    assert machine.load().startswith("loaded ")
    assert machine.load() == ""


def test_images_that_are_there_are_pinned_without_the_archive(tmp_path: Path) -> None:
    """labctl has asked: the archive was not even copied."""
    machine = Machine(tmp_path)
    assert not machine.archive.exists()
    assert machine.load("docker.io/library/tools:1", "quay.io/x/a:1") == ""
    assert machine.pinned() == {"docker.io/library/tools:1", "quay.io/x/a:1"}
    assert "import" not in (tmp_path / "said").read_text()
