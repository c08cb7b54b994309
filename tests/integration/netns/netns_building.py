"""Builds and looks at netns labs in tests, through the provider and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from labctl.model.lab import Lab
from labctl.model.plan import Step
from labctl.providers.netns.provider import NetnsProvider
from labctl.system import netns

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces")
SOURCE = Path(__file__).parents[3] / "src"


def build(lab: Lab, steps: Sequence[Step] | None = None) -> None:
    provider = NetnsProvider()
    with provider.executor(lab) as executor:
        for step in provider.plan(lab).steps if steps is None else steps:
            executor.execute(step.actions)
        executor.finish(lab)


@contextmanager
def running(lab: Lab) -> Iterator[Lab]:
    """The lab, up within it and gone after it."""
    try:
        build(lab)
        yield lab
    finally:
        NetnsProvider().teardown(lab.name)


def names_of(lab: str) -> tuple[str, ...]:
    return tuple(name for name in netns.names() if name.startswith(f"labctl.{lab}."))


def ping(lab: Lab, client: str, address: object, *, count: int = 3) -> subprocess.CompletedProcess[str]:
    argv = ("ping", "-n", "-c", str(count), "-i", "0.01", "-W", "5", str(address))
    inside = netns.command(f"labctl.{lab.name}.{client}", argv)
    return subprocess.run(inside, capture_output=True, text=True, timeout=120, check=False)


def as_json(*argv: str) -> Any:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout or "[]")


def program_ids(lab: Lab) -> set[int]:
    """Ids of every program that is attached in the lab's nodes."""
    found: set[int] = set()
    for node in lab.nodes:
        argv = netns.command(f"labctl.{lab.name}.{node.name}", ("bpftool", "-j", "net"))
        found |= {attached["id"] for one in as_json(*argv) for attached in one.get("tc", ())}
    return found


_OUTSIDE = """
import sys, sysconfig
{imports}
base = sysconfig.get_path("purelib")
files = {{name: str(getattr(module, "__file__", "")) for name, module in sys.modules.items()}}
tops = {{name.partition(".")[0] for name, file in files.items() if base in file}}
print(*(files[name] for name in sorted(tops) if name in files), sep="\\n")
"""


def copied_for(program: str, directory: Path) -> Path:
    """A folder with labctl and the packages that the program's imports lead to, for a process that is root of a user
    namespace alone: that is not root of this host, and may not look into another user's home."""
    imports = "\n".join(line for line in program.splitlines() if line.startswith(("from ", "import ")))
    argv = (sys.executable, "-c", _OUTSIDE.format(imports=imports))
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    found = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, env=environment)
    into = directory / "copied"
    shutil.copytree(SOURCE / "labctl", into / "labctl", ignore=shutil.ignore_patterns("__pycache__"))
    for path in map(Path, found.stdout.split("\n")):
        if path.name == "__init__.py":
            shutil.copytree(path.parent, into / path.parent.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.name:
            shutil.copy(path, into)
    return into
