"""Runs labctl as people do, in a process of its own, in a directory with scenarios whose names are the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labctl.system import netns

TOOLS = ("ping", "iperf3", "sockperf", "tcpdump", "iptables-restore")
TIMEOUT_S = 600.0

needs_labs = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it builds labs"),
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}: setup/prepare.sh installs them"
    ),
]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What one command gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document of stdout; anything else there fails the test."""
        return json.loads(self.out)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A directory to work in, and the beginning that all names of its labs have."""

    directory: Path
    prefix: str

    def scenario(self, extends: str, more: str = "") -> str:
        """A scenario file whose labs have names of the test's own."""
        path = self.directory / f"{self.prefix}-{extends}.yaml"
        path.write_text(f"apiVersion: labctl/v1\nkind: Scenario\nextends: {extends}\n{more}")
        return path.name

    def run(self, *args: str, before: tuple[str, ...] = (), stdin: str = "") -> Ended:
        ended = subprocess.run(
            [*before, sys.executable, "-m", "labctl", *args],
            cwd=self.directory,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Ended(code=ended.returncode, out=ended.stdout, err=ended.stderr)

    def environment(self) -> dict[str, str]:
        return os.environ | {"LABCTL_RUNS_DIR": str(self.directory / "runs")}

    @contextlib.contextmanager
    def started(self, *args: str) -> Iterator[Running]:
        """A labctl whose progress is read as the test asks for it. It gets a few lines ahead and no further: a test
        that stops it after a line stops it there, however busy the machine is."""
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes it its smallest: some six lines
        with ours, subprocess.Popen(
            [sys.executable, "-m", "labctl", *args],
            cwd=self.directory,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=theirs.fileno(),
        ) as process:  # fmt: skip
            theirs.close()
            try:
                yield Running(process, ours)
            finally:
                process.kill()

    def labs(self) -> list[str]:
        """The labs of this test that are there, whole or in pieces."""
        parts = [name.split(".") for name in netns.names()]
        return sorted({part[1] for part in parts if part[0] == "labctl" and part[1].startswith(self.prefix)})


class Running:
    """A labctl at work, whose progress can be waited for."""

    def __init__(self, process: subprocess.Popen[bytes], progress: socket.socket) -> None:
        self._process = process
        self._progress = progress
        self.seen: list[str] = []

    def wait_for(self, text: str) -> None:
        """Reads on until a line has `text`."""
        deadline = time.monotonic() + TIMEOUT_S
        while not any(text in line for line in self.seen):
            line = self._next_line(deadline)
            if not line:
                pytest.fail(f"“{text}” did not come; last seen: {self.seen[-5:]}")
            self.seen.append(line)

    def send(self, signal_number: int) -> None:
        self._process.send_signal(signal_number)

    def end(self, signal_number: int) -> int:
        """Sends the signal and gives the exit code."""
        self.send(signal_number)
        deadline = time.monotonic() + TIMEOUT_S
        while line := self._next_line(deadline):
            self.seen.append(line)
        return self._process.wait(timeout=TIMEOUT_S)

    def _next_line(self, deadline_s: float) -> str:
        """The next line; empty at the end and at the deadline. Byte by byte: what is read on makes room for more."""
        line = b""
        while not line.endswith(b"\n"):
            self._progress.settimeout(max(0.001, deadline_s - time.monotonic()))
            try:
                byte = self._progress.recv(1)
            except (TimeoutError, ConnectionResetError):
                byte = b""
            if not byte:
                return ""
            line += byte
        return line.decode()


@pytest.fixture(name="desk")
def desk_fixture(host_as_found: str, tmp_path: Path) -> Iterator[Desk]:
    """Its labs have the test's prefix; none may be left, and the host must be as it was found.

    Test modules import it; a conftest.py here would be the second module of that name.
    """
    made = Desk(directory=tmp_path, prefix=host_as_found)
    yield made
    left = made.labs()
    if left:  # a test that failed must not disturb the next one
        made.run("down", *left)
    assert left == []
