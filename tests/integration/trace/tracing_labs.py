"""Builds labs to trace and capture in, and runs the command line on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from labctl.engine.build import build, remove
from labctl.engine.trace import pair_between, trace
from labctl.model.lab import Encapsulation, Fault, HostRouting, Lab
from labctl.model.trace import PacketPath, ProbeProtocol, Trace
from labctl.providers.base import OpenLab
from labctl.providers.netns.provider import NetnsProvider
from labctl.testing.labs import sample_lab

needs = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it builds labs"),
    *(
        pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}: apt-get install {package}")
        for tool, package in (("tcpdump", "tcpdump"), ("nft", "nftables"), ("ping", "iputils-ping"))
    ),
]


@contextmanager
def running(
    name: str, host_routing: HostRouting, encapsulation: Encapsulation, *, faults: tuple[Fault, ...] = ()
) -> Iterator[tuple[Lab, OpenLab]]:
    provider = NetnsProvider()
    lab = sample_lab(name, host_routing=host_routing, encapsulation=encapsulation, faults=faults)
    build(provider, lab, lambda event: None)
    try:
        with provider.open(lab) as open_lab:
            yield lab, open_lab
    finally:
        remove(provider, lab.name, lambda event: None)


def traced(
    lab: Lab, open_lab: OpenLab, server: str, *, protocol: ProbeProtocol = ProbeProtocol.ICMP, count: int = 1
) -> Trace:
    return trace(open_lab, pair_between(lab, "client", server), protocol=protocol, count=count)


def acts(path: PacketPath) -> list[str]:
    """Everything that acted on the packet up to its last sighting, one word each."""
    return [f"{act.what}:{act.helper}" for hop in path.hops for act in hop.moved_by]


HANG_S = 300.0
"""Only a command that hangs takes so long: in a guest that is emulated on a busy host, one takes a minute and more."""


def labctl(*argv: str, timeout_s: float = HANG_S, runs_dir: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs are kept in `runs_dir`; without it they are gone with the command."""
    with tempfile.TemporaryDirectory() as gone:
        return subprocess.run(
            (sys.executable, "-m", "labctl", *argv),
            env=os.environ | {"LABCTL_RUNS_DIR": str(runs_dir or gone)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def tshark(file: str, *fields: str, options: tuple[str, ...] = ()) -> list[list[str]]:
    wanted = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(
        ("tshark", "-n", "-r", file, *options, "-T", "fields", *wanted),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


def as_json(text: str) -> Any:
    return json.loads(text)
