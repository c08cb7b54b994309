"""`make upgrade`: makes the lock files from the ranges in pyproject.toml, and shows what changed.

    setup/upgrade.py              every package to the newest version that pyproject.toml allows
    setup/upgrade.py NAME…        these alone; what pyproject.toml lists for the first time is added, the rest stays
                                  ("NAME<2" also keeps it below 2, this time)

The resolver is uv, at the version in setup/pins.txt, in a virtual environment that is thrown away. It resolves for
every Python from requires-python on at once, and takes packages from the index that pip is set up for; the name of
that index is in no file. Uses the standard library only. Exit codes are labctl's: 3 when uv or the index failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
PINS = TREE / "setup/pins.txt"
RESOLVER_LOCK = TREE / "setup/requirements-upgrade.txt"
PYTHON_SERIES = "3.11"
"""The oldest Python that is supported: requires-python of pyproject.toml."""

TOOLS = {"setup/requirements-build.txt": ("pip", "setuptools"), "setup/requirements-upgrade.txt": ("uv",)}
"""Lock files of single tools, by the tools of setup/pins.txt that are in them."""

PACKAGES = {
    "requirements-dev.txt": ("--extra", "dev"),
    "requirements.txt": ("--constraint", "requirements-dev.txt"),  # running and developing have the same versions
}
"""Lock files made from pyproject.toml, in the order in which they are made, with what makes them differ."""

SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}
"""What pip calls them → uv's variables for them."""

_PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9._-]+")

Versions = Mapping[str, tuple[str, ...]]
"""The versions in a lock by package; several where Pythons need different ones."""


def pins(text: str) -> dict[str, str]:
    """NAME → VERSION of setup/pins.txt."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return {line[0]: line[1] for line in lines if len(line) == 2}


def versions(lock: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for pin in _PIN.finditer(lock):
        found[pin["name"]] = (*found.get(pin["name"], ()), pin["version"])
    return found


def changes(before: Versions, after: Versions) -> list[str]:
    """One line a package whose versions are not what they were."""
    lines = []
    for name in sorted({*before, *after}):
        old, new = (", ".join(found.get(name, ())) or "-" for found in (before, after))
        if old != new:
            lines.append(f"  {name}: {old} → {new}")
    return lines


def canonical(name: str) -> str:
    """A package name as the packaging standard compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Failed(Exception):
    """The locks could not be made: what, why, and what to try."""


def _run(argv: Sequence[str], text: str = "") -> None:
    environment = {**os.environ, **_index(), "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if subprocess.run(argv, cwd=TREE, env=environment, input=text, text=True, check=False).returncode:
        raise Failed(
            "the lock files could not be made",
            f"{Path(argv[0]).name} failed, and its own message is above",
            "check the network or PIP_INDEX_URL, and the ranges in pyproject.toml; then run again: make upgrade",
        )


def _index() -> dict[str, str]:
    """Where pip takes packages from, in uv's variables: the environment first, then pip's configuration."""
    found: dict[str, str] = {}
    for name, variable in SETTINGS.items():
        value = os.environ.get(f"PIP_{name.upper().replace('-', '_')}", "")
        for scope in ("global", "install"):
            value = value or _pip_setting(f"{scope}.{name}")
        if value and variable not in os.environ:
            found[variable] = value
    return found


def _pip_setting(name: str) -> str:
    argv = (sys.executable, "-m", "pip", "config", "get", name)
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def _resolver(directory: str) -> str:
    """The path of uv, installed into `directory`."""
    venv.create(directory, with_pip=True)
    pip = (f"{directory}/bin/python", "-m", "pip", "--quiet", "install", "--require-hashes")
    _run((*pip, "-r", str(RESOLVER_LOCK)))
    return f"{directory}/bin/uv"


def _compile(uv: str, lock: str, arguments: Sequence[str], text: str = "") -> None:
    _run(
        (
            uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url",
            "--python-version", PYTHON_SERIES, "--custom-compile-command", "make upgrade", "--output-file", lock,
            *arguments,
        ),
        text,
    )  # fmt: skip


def _moved(wanted: Sequence[str], names: Iterable[str]) -> list[str]:
    """The arguments that let uv move what was asked for, where `names` are all that could be. Nothing asked: all."""
    if not wanted:
        return ["--upgrade"]
    there = set(names)
    return [
        argument
        for requirement in wanted
        if not there or _name(requirement) in there
        for argument in ("--upgrade-package", requirement)
    ]


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return canonical(found.group()) if found else ""


def upgrade(wanted: Sequence[str]) -> dict[str, list[str]]:
    """Makes every lock file. Returns what changed in each: lock → lines."""
    before = {lock: versions(_read(TREE / lock)) for lock in (*TOOLS, *PACKAGES)}
    with tempfile.TemporaryDirectory(prefix="labctl-upgrade-") as directory:
        uv = _resolver(directory)
        for lock, names in TOOLS.items():
            _lock_tools(uv, lock, names, wanted)
        for lock, arguments in PACKAGES.items():
            _compile(uv, lock, ["pyproject.toml", *arguments, *_moved(wanted, ())])
    _write_pins()
    after = {lock: versions(_read(TREE / lock)) for lock in before}
    unknown = set(map(_name, wanted)) - set().union(*after.values())
    if unknown:
        raise Failed(
            f"no lock file has {', '.join(sorted(unknown))}",
            "nothing that pyproject.toml lists needs it",
            "write it into pyproject.toml first, or correct the name",
        )
    return {lock: changes(before[lock], after[lock]) for lock in before}


def _lock_tools(uv: str, lock: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    """A tool that is not to be moved has the version of setup/pins.txt, which may have been changed by hand."""
    pinned = pins(_read(PINS))
    asked = set(map(_name, wanted))
    lines = [name if not wanted or name in asked else f"{name}=={pinned[name]}" for name in names]
    _compile(uv, lock, ["-", "--no-annotate", *_moved(wanted, names)], "\n".join(lines))


def _write_pins() -> None:
    """Into setup/pins.txt, keeping its columns."""
    text = _read(PINS)
    for lock in TOOLS:
        for name, (version, *_) in versions(_read(TREE / lock)).items():
            line = re.search(rf"(?m)^({name} +)(\S+ *)", text)
            if line:
                text = f"{text[: line.start(2)]}{version.ljust(len(line[2]) - 1)} {text[line.end(2) :]}"
    PINS.write_text(text, encoding="utf-8")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments: Sequence[str]) -> int:
    try:
        changed = upgrade(arguments)
    except Failed as failed:
        sys.stderr.write("error: {}\n  why: {}\n  try: {}\n".format(*failed.args))
        return 3
    for lock, lines in changed.items():
        sys.stdout.write(f"{lock}:\n" if lines else f"{lock}: unchanged\n")
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
