"""The shipped objects are what the C source gives, and the check that says so can fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.datapath import loader
from labctl.datapath.loader import object_path
from labctl.model.datapath import Encapsulation, HostRouting

DATAPATH = Path(loader.__file__).parent
needs_compiler = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("clang", "llvm-strip")) or not Path("/usr/include/bpf").exists(),
    reason="needs clang, llvm and libbpf-dev",
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for part in ("source", "objects"):
        shutil.copytree(DATAPATH / part, tmp_path / part)
    return tmp_path


def check(tree: Path) -> subprocess.CompletedProcess[str]:
    script = tree / "source" / "rebuild.py"
    return subprocess.run((sys.executable, script, "check"), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("encapsulation", Encapsulation)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_every_mode_has_an_object(host_routing: HostRouting, encapsulation: Encapsulation) -> None:
    path = object_path(host_routing, encapsulation)
    assert path.name == f"{host_routing}-{encapsulation}.o"
    assert path.read_bytes()[:6] == b"\x7fELF\x02\x01"  # 64 bits, little-endian


@needs_compiler
def test_the_shipped_objects_are_what_the_source_gives(copy: Path) -> None:
    done = check(copy)
    assert (done.returncode, done.stdout[-40:]) == (0, "the objects are what the source gives\n"[-40:]), done.stdout


def test_a_source_newer_than_its_objects_is_an_error(copy: Path) -> None:
    with (copy / "source" / "layout.h").open("a", encoding="utf-8") as file:
        file.write("// changed\n")
    done = check(copy)
    assert done.returncode == 1
    assert "error: the source has changed since the objects were built" in done.stdout
    assert f"try: make -C {copy} objects" in done.stdout


def test_an_object_that_was_tampered_with_is_an_error(copy: Path) -> None:
    with (copy / "objects" / "bpf-vxlan.o").open("ab") as file:
        file.write(b"\0")
    done = check(copy)
    assert done.returncode == 1
    assert "error: bpf-vxlan.o is not the object that the manifest describes" in done.stdout


@needs_compiler
def test_another_clang_is_said_and_is_no_error(copy: Path) -> None:
    manifest = copy / "objects" / "manifest.json"
    recorded = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**recorded, "clang": "clang version 99"}), encoding="utf-8")
    done = check(copy)
    assert done.returncode == 0
    assert "note: built with clang version 99, here is " in done.stdout
