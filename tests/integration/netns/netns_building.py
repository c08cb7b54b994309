"""Builds and looks at netns labs in tests, through the provider and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from labctl.model.lab import Lab
from labctl.model.plan import Step
from labctl.providers.netns.provider import NetnsProvider
from labctl.system import netns

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces")


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
    argv = ("ping", "-n", "-c", str(count), "-i", "0.01", "-W", "1", str(address))
    inside = netns.command(f"labctl.{lab.name}.{client}", argv)
    return subprocess.run(inside, capture_output=True, text=True, timeout=20, check=False)


def as_json(*argv: str) -> Any:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    return json.loads(done.stdout or "[]")


def program_ids(lab: Lab) -> set[int]:
    """Ids of every program that is attached in the lab's nodes."""
    found: set[int] = set()
    for node in lab.nodes:
        argv = netns.command(f"labctl.{lab.name}.{node.name}", ("bpftool", "-j", "net"))
        found |= {attached["id"] for one in as_json(*argv) for attached in one.get("tc", ())}
    return found
