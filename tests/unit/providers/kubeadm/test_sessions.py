"""How many sessions go over how many connections; whose a program is; which traffic is labctl's own."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped]
import pytest

from labctl.errors import MeasureFailed, StepFailed
from labctl.providers.kubeadm import sessions
from labctl.providers.kubeadm.sessions import Sessions, is_gone, own_traffic, owner, watched


class Channel:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Connection:
    """An sshd that allows `most` sessions, each counted until its program has ended (`ends`), not its channel."""

    def __init__(self, most: int) -> None:
        self.most, self.is_connected, self.running = most, True, 0
        self.transport = self

    def open_session(self, timeout: float) -> Channel:
        if not self.is_connected:
            raise EOFError
        if self.running >= self.most:
            raise paramiko.ChannelException(2, "Connect failed")
        self.running += 1
        return Channel()

    def close(self) -> None:
        self.is_connected = False


class Sshd:
    def __init__(self, most: int) -> None:
        self.most, self.made = most, list[Connection]()

    def connect(self) -> Any:
        self.made.append(Connection(self.most))
        return self.made[-1]

    def sessions(self) -> Sessions:
        return Sessions(self.connect, "node1", "root@node1")


@pytest.mark.parametrize(("most", "count", "connections"), [(10, 80, 8), (2, 80, 40), (1, 5, 5), (100, 80, 1)])
def test_the_limit_is_learnt_once_and_connections_are_no_more_than_needed(
    most: int, count: int, connections: int
) -> None:
    sshd = Sshd(most)
    opened = sshd.sessions()
    for _ in range(count):
        opened.open()
    assert [one.running for one in sshd.made[:-1]] == [most] * (connections - 1)
    assert len(sshd.made) == opened.connections == connections


def test_a_place_that_became_free_is_used_again() -> None:
    sshd = Sshd(2)
    opened = sshd.sessions()
    channels = [opened.open() for _ in range(4)]
    for number in (1, 2):
        channels[number].close()
        sshd.made[number // 2].running -= 1
    for _ in range(2):
        opened.open()
    assert len(sshd.made) == 2


def test_a_session_whose_program_has_not_ended_yet_does_not_lower_what_was_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "_REST_S", 0.0)
    sshd = Sshd(4)
    opened = sshd.sessions()
    channels = [opened.open() for _ in range(5)]
    for channel in channels[:4]:
        channel.close()  # here; there the programs go on for a moment
    opened.open()
    assert opened.limit == 4
    sshd.made[0].running = 0
    for _ in range(4):
        opened.open()
    assert len(sshd.made) == 2


def test_a_connection_that_was_lost_is_replaced_and_others_stay() -> None:
    sshd = Sshd(1)
    opened = sshd.sessions()
    opened.open()
    kept = opened.open()
    sshd.made[0].is_connected = False
    opened.open()
    assert (len(sshd.made), opened.connections, kept.closed) == (3, 2, False)
    assert sshd.made[1].is_connected


def test_an_sshd_without_sessions_is_told_and_not_asked_for_ever() -> None:
    sshd = Sshd(0)
    with pytest.raises(StepFailed, match="node1: sshd allows no session on a connection"):
        sshd.sessions().open()
    assert len(sshd.made) == 1
    assert not sshd.made[0].is_connected


def test_more_than_can_be_carried_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(sessions, "_FULL_S", 0.1)
    opened = Sshd(2).sessions()
    for _ in range(6):
        opened.open()
    with pytest.raises(MeasureFailed, match="3 SSH connections are full"):
        opened.open()


def test_a_short_program_is_waited_for_before_a_connection_is_made() -> None:
    sshd = Sshd(1)
    opened = sshd.sessions()
    with opened.short():
        channel = opened.open()

        def leave() -> None:
            channel.close()
            sshd.made[0].running = 0

        threading.Timer(0.1, leave).start()
        opened.open()
    assert len(sshd.made) == 1


def test_an_owner_is_gone_only_where_that_is_sure() -> None:
    host, boot, numbers, pid, start = owner().split(".")
    ended = subprocess.Popen(("true",))
    ended.wait()
    marks = {
        owner(): False,
        f"{host}.{boot}.{numbers}.{ended.pid}.1": True,
        f"{host}.{boot}.{numbers}.{pid}.{int(start) + 1}": True,  # another process got its number
        f"{host}.{'0' * 8}.{numbers}.{pid}.{start}": True,  # before this host's last boot
        f"{host}.{boot}.{int(numbers) + 1}.{ended.pid}.1": False,  # in a container, perhaps alive
        f"{'f' * 16}.{boot}.{numbers}.{ended.pid}.1": False,
        "": False,
        f"{owner()}\n": False,
        "$(reboot)": False,
    }
    assert {mark: is_gone(mark) for mark in marks} == marks


def test_a_zombie_owns_nothing() -> None:
    host, boot, numbers, _, _ = owner().split(".")
    ended = subprocess.Popen(("true",))
    try:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        start = Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()[19]
        assert is_gone(f"{host}.{boot}.{numbers}.{ended.pid}.{start}")
    finally:
        ended.wait()


def test_traffic_is_told_by_address_and_port_in_both_families() -> None:
    said = [
        "192.0.2.1 51000 10.0.0.5 22",
        "192.0.2.1 51002 10.0.0.5 22",
        "2001:db8::1 40000 2001:db8::5 2222\n",
        "fe80::1%eth0 40000 fe80::5%eth0 22",
        "::ffff:192.0.2.9 1 ::ffff:10.0.0.6 22",
        "UNKNOWN 65535 UNKNOWN 65535",
        "192.0.2.1 1 10.0.0.5 22) or (tcp",
        "",
    ]
    assert own_traffic(said).split(" or ") == [
        "(tcp port 22 and host 192.0.2.1 and host 10.0.0.5)",
        "(tcp port 2222 and host 2001:db8::1 and host 2001:db8::5)",
        "(tcp port 22 and host fe80::1 and host fe80::5)",
        "(tcp port 22 and host 192.0.2.9 and host 10.0.0.6)",
    ]
    assert own_traffic(["UNKNOWN 65535 UNKNOWN 65535"]) == ""


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -INT $$", 130), ("cat; exit 3", 3)])
def test_under_the_watchdog_a_program_ends_as_it_does_without(script: str, status: int) -> None:
    """Its input is empty, SIGINT reaches it, its status is its own."""
    running = subprocess.Popen(
        (*watched(60), "sh", "-c", f"echo out; echo aside >&2; {script}"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stderr is not None
    try:
        assert running.wait(timeout=60) == status
        assert (running.stdout.read(), running.stderr.read().splitlines()[:1]) == (b"out\n", [b"aside"])
    finally:
        running.communicate()


@pytest.mark.parametrize("end", ["input", "time"])
def test_the_watchdog_ends_the_program_and_what_it_started(end: str) -> None:
    running = subprocess.Popen(
        (*watched(1 if end == "time" else 600), "sh", "-c", "sleep 600 & sleep 600"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert running.stdin is not None
    assert running.stdout is not None
    begun_s = time.monotonic()
    if end == "input":
        running.stdin.close()
    assert running.stdout.read() == b""  # held open by every process of it
    assert running.wait(timeout=60) != 0
    assert time.monotonic() - begun_s < 300
    running.stdin.close()
    running.stdout.close()
