"""What happens in a lab is told as it happens, and the screen follows it and leaves the terminal as it was."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from test_faults import CHANGING, running
from test_links_and_nodes import CHECKOUT, until

from labctl.model.changes import Power
from labctl.model.impairment import impairment_of
from labctl.model.lab import Lab
from labctl.model.lab_event import EventKind, LabEvent
from labctl.providers.netns.events import LabEvents, watching_events

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
]


def told(source: LabEvents, is_last: Callable[[LabEvent], bool]) -> list[LabEvent]:
    found: list[LabEvent] = []

    def has_come() -> bool:
        found.extend(source.wait(0.2))
        return any(map(is_last, found))

    until(has_come, "it was not told")
    return found


def test_what_is_changed_is_told_by_the_kernel(host_as_found: str) -> None:
    with running("bpf", host_as_found) as (lab, _), watching_events(lab) as source:
        assert source.wait(0.1) == ()
        CHANGING.set_link(lab, ("node2",), is_up=False)
        told(source, lambda event: (event.part, event.what) == ("node2", "device eth0 is up without carrier"))
        assert {link.name for link in source.look().links if link.state != "up"} == {"node2"}
        CHANGING.set_link(lab, ("node2",), is_up=True)
        told(source, lambda event: (event.part, event.what) == ("node2", "device eth0 is up"))
        CHANGING.impair(lab, ("node1",), impairment_of(("loss=1%", "direction=to")))
        told(source, lambda event: event.what == "program impair attached to eth0 ingress")
        CHANGING.impair(lab, ("node1",), None)
        told(source, lambda event: event.what.endswith("gone from eth0 ingress"))
        CHANGING.break_(lab, "xdp-drop", seed=None, is_hidden=False)
        told(source, lambda event: event.what == "XDP program attached to eth0")
        CHANGING.mend(lab, None)
        CHANGING.set_node(lab, "node2", Power.REBOOT)
        told(source, lambda event: (event.part, event.what) == ("server", "its namespace is there"))
        nodes = {node.name: node for node in source.look().nodes}
        assert nodes["node2"].is_there
        assert nodes["node2"].devices == nodes["node2"].devices_up == 5
        assert not [event for event in source.wait(0.2) if event.kind is EventKind.LOST]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT / "src"), "TERM": "xterm", "LC_ALL": "C.UTF-8"}


@pytest.mark.thorough
def test_events_as_json_are_one_document_however_it_ends(host_as_found: str) -> None:
    with running("legacy-native", host_as_found) as (lab, _):
        argv = (sys.executable, "-m", "labctl", "events", lab.name, "--json")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment(), text=True) as listening:
            assert listening.stdout is not None
            assert '"events": [' in listening.stdout.readline()
            CHANGING.set_link(lab, ("node2",), is_up=False)
            first = listening.stdout.readline()
            listening.send_signal(signal.SIGINT)
            rest = listening.stdout.read()
        document = json.loads('{"events": [' + first + rest)
        assert {"part", "what", "kind", "atNs"} <= set(document["events"][0])


@contextmanager
def watched(lab: Lab, columns: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    leader, follower = pty.openpty()
    env = {**environment(), "COLUMNS": str(columns), "LINES": "24"}
    argv = (sys.executable, "-m", "labctl", "watch", lab.name, "--no-proof")

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that a Ctrl-C typed there is a signal

    with subprocess.Popen(
        argv, stdin=follower, stdout=follower, stderr=follower, env=env, preexec_fn=own_terminal
    ) as watching:
        try:
            yield watching, leader
        finally:
            watching.kill()
            os.close(follower)
            os.close(leader)


def seen(leader: int, wanted: str) -> str:
    text, end = "", time.monotonic() + 60
    while wanted not in text:
        assert time.monotonic() < end, text[-2000:]
        if select.select([leader], [], [], 0.5)[0]:
            text += os.read(leader, 65536).decode(errors="replace")
    return text


@pytest.mark.thorough
@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("ending", [b"q", b"\x03"])
def test_the_screen_follows_the_lab_and_leaves_the_terminal_as_it_was(
    host_as_found: str, columns: int, ending: bytes
) -> None:
    with running("bpf", host_as_found) as (lab, _), watched(lab, columns) as (watching, leader):
        text = seen(leader, "as it was built")
        assert "node1  up" in text
        CHANGING.set_link(lab, ("node2",), is_up=False)
        text = seen(leader, "link node2 is down")
        lines = text.replace("\x1b[K", "").split("\r\n")
        assert all(len(line.rpartition("\x1b[H")[2]) <= columns + 40 for line in lines)  # with colours
        os.write(leader, ending)
        assert "\x1b[?1049l" in seen(leader, "\x1b[?1049l")
        assert watching.wait(timeout=30) == 0
