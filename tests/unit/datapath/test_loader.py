"""The shipped objects are what the C source gives, and the check that says so can fail."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.datapath import loader
from labctl.datapath.loader import object_path
from labctl.model.lab import Encapsulation, HostRouting
from labctl.testing.labs import RECORDED

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


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_every_mode_has_an_object(host_routing: HostRouting, encapsulation: Encapsulation) -> None:
    path = object_path(host_routing, encapsulation)
    assert path.name == f"{host_routing}-{encapsulation}.o"
    assert path.read_bytes()[:6] == b"\x7fELF\x02\x01"  # 64 bits, little-endian


def verdict(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.strip().splitlines()[-1]


@needs_compiler
def test_the_shipped_objects_are_what_the_source_gives_or_it_is_said_why_that_was_not_compared(copy: Path) -> None:
    done = check(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    built_with = json.loads((copy / "objects" / "manifest.json").read_text(encoding="utf-8"))["clang"]
    here = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    if here == built_with:
        not_compared = r"not compared: the system's headers are not those of .*; the source compiles"
        assert verdict(done) == "the objects are what the source gives" or re.fullmatch(not_compared, verdict(done))
    else:
        assert verdict(done) == f"not compared: built with {built_with}, here is {here}; the source compiles"


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


def change_manifest(copy: Path, **changes: object) -> None:
    manifest = copy / "objects" / "manifest.json"
    recorded = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**recorded, **changes}), encoding="utf-8")


@needs_compiler
def test_objects_of_another_clang_are_not_compared_and_never_called_the_sources(copy: Path) -> None:
    change_manifest(copy, clang="clang version 99")
    done = check(copy)
    assert done.returncode == 0
    assert verdict(done).startswith("not compared: built with clang version 99, here is ")
    assert verdict(done).endswith("; the source compiles")
    assert "are what the source gives" not in done.stdout


@needs_compiler
def test_a_source_that_does_not_compile_is_an_error_on_another_clang_too(copy: Path) -> None:
    source = copy / "source" / "packet.h"
    source.write_text(source.read_text(encoding="utf-8") + "#error broken\n", encoding="utf-8")
    change_manifest(copy, clang="clang version 99", source=digest_of(copy))
    done = check(copy)
    assert done.returncode != 0
    assert "broken" in done.stderr
    assert "compiles" not in done.stdout


@needs_compiler
@pytest.mark.parametrize("here", ["before", "after", "with the same text"])
def test_headers_that_have_likely_themselves_are_no_trouble(copy: Path, here: str) -> None:
    """As libbpf 1.6 has it in bpf_helpers.h."""
    packet = copy / "source" / "packet.h"
    ours = packet.read_text(encoding="utf-8")
    text = "__builtin_expect(!!(x), 1)" if here == "with the same text" else "(__builtin_expect(!!(x), 1))"
    theirs = f"#ifndef likely\n#define likely(x) {text}\n#endif\n"
    once = "#pragma once\n"
    packet.write_text(ours + theirs if here == "after" else ours.replace(once, once + theirs), encoding="utf-8")
    assert compiled(copy) == ""


@needs_compiler
def test_our_own_likely_would_be_refused_without_its_guard(copy: Path) -> None:
    packet = copy / "source" / "packet.h"
    unguarded = packet.read_text(encoding="utf-8").replace("#ifndef likely\n", "#if 1\n")
    theirs = "#pragma once\n#define likely(x) (__builtin_expect(!!(x), 1))\n"
    packet.write_text(unguarded.replace("#pragma once\n", theirs), encoding="utf-8")
    assert "redefined" in compiled(copy)


def compiled(copy: Path) -> str:
    """What the compiler says about the source of one object, which is not written."""
    program = "import rebuild, subprocess; flags = [*rebuild.flags(), *rebuild.defines('bpf', 'vxlan', '')]; "
    program += "subprocess.run(['clang', *flags, '-fsyntax-only', rebuild.MAIN])"
    here = copy / "source"
    done = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True, check=True)
    return done.stderr


def digest_of(copy: Path) -> str:
    """As `rebuild.py` computes it for the changed copy."""
    program = "import rebuild; print(rebuild.source_digest())"
    here = copy / "source"
    done = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True, check=True)
    return done.stdout.strip()
