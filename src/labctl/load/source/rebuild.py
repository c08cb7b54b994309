"""Builds the load program from the C source, and checks that the shipped binaries are what the source gives.

Needs gcc with a static C library for each machine; users of labctl need neither, nor this script. It imports the
standard library only, so that it runs before anything is installed:

    python3 rebuild.py build          writes ../programs/labctl-load-* and ../programs/manifest.json
    python3 rebuild.py check          rebuilds aside and compares; exit code 1 when the binaries are not the source's

The manifest says what the binaries were built from (a digest of the source), with which compiler and with which C
library. The same compiler and library must give the same bytes; with others `check` says "not compared", and still
proves that everything compiles.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent
PROGRAMS = SOURCE.parent / "programs"
MANIFEST = PROGRAMS / "manifest.json"
MACHINES = ("x86_64", "aarch64")
FLAGS = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-fno-asynchronous-unwind-tables"),
    *("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-Wl,--build-id=none"),
)


def run(*argv: str) -> bytes:
    try:
        return subprocess.run(argv, cwd=SOURCE, check=True, stdout=subprocess.PIPE).stdout
    except FileNotFoundError:
        raise SystemExit(
            f"error: {argv[0]} is not there\n  try: apt-get install gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
        ) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"error: {' '.join(argv)}\n  why: exit code {error.returncode}") from None


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source_digest() -> str:
    """Of the names and contents of all C files, in the order of their names."""
    parts = [f"{path.name}\0".encode() + path.read_bytes() for path in sorted(SOURCE.glob("*.[ch]"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def compiler_for(machine: str) -> str:
    return "gcc" if machine == platform.machine() else f"{machine.replace('_', '-')}-linux-gnu-gcc"


def build(into: Path, machines: Sequence[str]) -> dict[str, Any]:
    """Writes the binaries, and gives the manifest that belongs to them."""
    programs = {}
    sources = [path.name for path in sorted(SOURCE.glob("*.c"))]
    for machine in machines:
        compiler = compiler_for(machine)
        target = into / f"labctl-load-{machine}"
        run(compiler, *FLAGS, "-o", str(target), *sources)
        library = Path(run(compiler, "-print-file-name=libc.a").decode().strip())
        programs[target.name] = {
            "sha256": digest(target),
            # Of another machine it names itself differently, and is the same.
            "compiler": run(compiler, "-dumpfullversion").decode().strip(),
            "library": digest(library),
        }
    return {"source": source_digest(), "programs": programs}


def check() -> int:
    shipped = json.loads(MANIFEST.read_text(encoding="utf-8"))
    wrong: list[str] = []
    if shipped["source"] != source_digest():
        wrong.append("the source has changed since the programs were built")
    for name, recorded in shipped["programs"].items():
        path = PROGRAMS / name
        if not path.exists() or digest(path) != recorded["sha256"]:
            wrong.append(f"{name} is not the program that the manifest describes")
    if wrong:
        return refuse(wrong)
    here = [machine for machine in MACHINES if shutil.which(compiler_for(machine))]
    with tempfile.TemporaryDirectory() as directory:
        fresh = build(Path(directory), here)
    for name, recorded in shipped["programs"].items():
        now = fresh["programs"].get(name)
        if now is None:
            say(f"not compared: {name}: there is no compiler for that machine here")
        elif (now["compiler"], now["library"]) != (recorded["compiler"], recorded["library"]):
            said = f"was built with gcc {recorded['compiler']} and its C library, here is gcc {now['compiler']}"
            say(f"not compared: {name} {said}; it compiles")
        elif now["sha256"] != recorded["sha256"]:
            wrong.append(f"{name} is not what gcc {now['compiler']} makes of the source")
        else:
            say(f"{name} is what the source gives")
    return refuse(wrong) if wrong else 0


def refuse(reasons: list[str]) -> int:
    for reason in reasons:
        say(f"error: {reason}")
    say(f"  try: make -C {SOURCE.parent} programs")
    return 1


def main(arguments: list[str]) -> int:
    if arguments == ["build"]:
        PROGRAMS.mkdir(exist_ok=True)
        MANIFEST.write_text(json.dumps(build(PROGRAMS, MACHINES), indent=2) + "\n", encoding="utf-8")
        return 0
    if arguments == ["check"]:
        return check()
    say("usage: rebuild.py build | check")
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
