"""Builds the eBPF objects from the C source, and checks that the shipped ones are what the source gives.

Needs clang, llvm-strip and libbpf-dev; users of labctl need none of them, nor this script. It imports the standard
library only, so that it runs before anything is installed:

    python3 rebuild.py build          writes ../objects/*.o and ../objects/manifest.json
    python3 rebuild.py check          rebuilds aside and compares; exit code 1 when the objects are not the source's

The manifest says what the objects were built from (digests of the source and of what the preprocessor made of it,
which covers the system's headers) and with which clang. Only the same clang on the same preprocessed text must give the
same bytes; with another clang or other headers `check` says "not compared", and still proves that everything compiles.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent
OBJECTS = SOURCE.parent / "objects"
MANIFEST = OBJECTS / "manifest.json"
MAIN = "labctl.bpf.c"
OF_ANY_DEVICE = {"impair.o": "impair.bpf.c", "delay.o": "delay.bpf.c", "places.o": "places.bpf.c"}
"""Of no mode."""
MODES = [
    (routing, encapsulation, variant)
    for variant, routings in (("", ("legacy", "bpf")), ("lb", ("legacy", "bpf")), ("kube-proxy", ("legacy",)))
    for routing in routings
    for encapsulation in ("vxlan", "native")
]
DEFINES: dict[str, tuple[str, ...]] = {"": (), "lb": ("-DSERVICES",), "kube-proxy": ("-DKUBE_PROXY",)}


def sources() -> dict[str, tuple[str, list[str]]]:
    """Each object's source file and the flags of its own."""
    made = {f"{'-'.join(filter(None, mode))}.o": (MAIN, [*defines(*mode)]) for mode in MODES}
    return {**made, **{name: (source, []) for name, source in OF_ANY_DEVICE.items()}}


def defines(routing: str, encapsulation: str, variant: str) -> list[str]:
    return [f"-DHOST_ROUTING_{routing.upper()}", f"-DENCAPSULATION_{encapsulation.upper()}", *DEFINES[variant]]


def flags() -> list[str]:
    """Little-endian; mcpu v3 (kernel 5.1) for 32-bit jumps; paths out of the debug information."""
    return [
        *("-target", "bpfel", "-mcpu=v3", "-O2", "-g", f"-fdebug-prefix-map={SOURCE}=."),
        *("-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"),
        f"-I/usr/include/{platform.machine()}-linux-gnu",
    ]


def run(*argv: str) -> bytes:
    try:
        return subprocess.run(argv, cwd=SOURCE, check=True, stdout=subprocess.PIPE).stdout
    except FileNotFoundError:
        raise SystemExit(
            f"error: {argv[0]} is not there\n  try: apt-get install clang llvm libbpf-dev linux-libc-dev"
        ) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"error: {' '.join(argv)}\n  why: exit code {error.returncode}") from None


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def source_digest() -> str:
    """Of the names and contents of all C files, in the order of their names."""
    parts = [f"{path.name}\0".encode() + path.read_bytes() for path in sorted(SOURCE.glob("*.[ch]"))]
    return digest(b"\0".join(parts))


def build(into: Path) -> dict[str, Any]:
    """Writes the objects, and gives the manifest that belongs to them."""
    objects = {}
    for name, (source, own) in sources().items():
        target = into / name
        run("clang", *flags(), *own, "-c", source, "-o", str(target))
        # DWARF goes, BTF stays; its relocations, which libbpf does not read, are a quarter of an object.
        run("llvm-strip", "-g", "-R", ".rel.BTF", "-R", ".rel.BTF.ext", str(target))
        objects[name] = {
            "sha256": digest(target.read_bytes()),
            "preprocessed": digest(run("clang", *flags(), *own, "-E", "-P", source)),
        }
    return {
        "clang": run("clang", "--version").decode().splitlines()[0],
        "source": source_digest(),
        "objects": objects,
    }


def check() -> int:
    shipped = json.loads(MANIFEST.read_text(encoding="utf-8"))
    wrong: list[str] = []
    if shipped["source"] != source_digest():
        wrong.append("the source has changed since the objects were built")
    for name, recorded in shipped["objects"].items():
        path = OBJECTS / name
        if not path.exists() or digest(path.read_bytes()) != recorded["sha256"]:
            wrong.append(f"{name} is not the object that the manifest describes")
    if wrong:
        return refuse(wrong)
    with tempfile.TemporaryDirectory() as directory:
        fresh = build(Path(directory))
    if fresh["clang"] != shipped["clang"]:
        say(f"not compared: built with {shipped['clang']}, here is {fresh['clang']}; the source compiles")
        return 0
    differs: list[str] = []
    for name, recorded in shipped["objects"].items():
        now = fresh["objects"][name]
        if now["preprocessed"] != recorded["preprocessed"]:
            differs.append(name)
        elif now["sha256"] != recorded["sha256"]:
            wrong.append(f"{name} is not what {fresh['clang']} makes of the source")
    if wrong:
        return refuse(wrong)
    if differs:
        say(f"not compared: the system's headers are not those of {', '.join(differs)}; the source compiles")
    else:
        say("the objects are what the source gives")
    return 0


def refuse(reasons: list[str]) -> int:
    for reason in reasons:
        say(f"error: {reason}")
    say(f"  try: make -C {SOURCE.parent} objects")
    return 1


def main(arguments: list[str]) -> int:
    if arguments == ["build"]:
        OBJECTS.mkdir(exist_ok=True)
        MANIFEST.write_text(json.dumps(build(OBJECTS), indent=2) + "\n", encoding="utf-8")
        return 0
    if arguments == ["check"]:
        return check()
    say("usage: rebuild.py build | check")
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
