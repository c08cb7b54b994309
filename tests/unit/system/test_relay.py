"""The relay by itself, with a pair of sockets for its TAP device: what it holds back, for how long, in which order."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from labctl.system import relay

MS = 1_000_000


@contextmanager
def relaying(delay_ns: int, jitter_ns: int = 0) -> Iterator[socket.socket]:
    """A relay process, and the kernel's end of its device."""
    kernel, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel:
        with tap:
            tap.setblocking(False)
            words = ("labctl-wait1", str(tap.fileno()), str(delay_ns), str(jitter_ns), "7")
            argv = (sys.executable, "-I", "-S", relay.__file__, *words)
            process = subprocess.Popen(argv, pass_fds=(tap.fileno(),))
        try:
            kernel.settimeout(60)
            yield kernel
        finally:
            process.kill()
            process.wait(timeout=60)


def send(kernel: socket.socket, frame: bytes, came_ns: int) -> None:
    kernel.send(came_ns.to_bytes(8, sys.byteorder) + frame)


def test_a_frame_comes_back_after_its_time_and_not_before() -> None:
    with relaying(50 * MS) as kernel:
        came_ns = time.monotonic_ns()
        send(kernel, b"frame", came_ns)
        assert kernel.recv(100) == b"frame"
        assert time.monotonic_ns() - came_ns >= 50 * MS


def test_the_time_counts_from_when_the_frame_came_not_from_when_it_was_read() -> None:
    uptime_ns = time.monotonic_ns()
    with relaying(uptime_ns) as kernel:
        send(kernel, b"late", uptime_ns)
        send(kernel, b"due", 0)  # it came when the machine started
        assert kernel.recv(100) == b"due"


def test_frames_without_a_jitter_keep_their_order() -> None:
    frames = [number.to_bytes(2, "big") for number in range(200)]
    with relaying(20 * MS) as kernel:
        for frame in frames:
            send(kernel, frame, time.monotonic_ns())
        assert [kernel.recv(100) for _ in frames] == frames


def test_frames_with_a_jitter_overtake_each_other_as_the_seed_says() -> None:
    frames = [number.to_bytes(2, "big") for number in range(200)]
    with relaying(100 * MS, 100 * MS) as one, relaying(100 * MS, 100 * MS) as other:
        came_ns = time.monotonic_ns() + 2_000 * MS  # all are there before the first is due
        for frame in frames:
            send(one, frame, came_ns)
            send(other, frame, came_ns)
        orders = [[kernel.recv(100) for _ in frames] for kernel in (one, other)]
    assert sorted(orders[0]) == frames
    assert orders[0] != frames
    assert orders[0] == orders[1]


@pytest.mark.parametrize("words", [("labctl-wait1", "0", "0", "0", "1")])
def test_it_ends_when_its_device_is_gone(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    try:
        argv = (sys.executable, "-I", "-S", relay.__file__, *words)
        done = subprocess.run(argv, stdin=reader, timeout=60, capture_output=True, check=False)
    finally:
        os.close(reader)
    assert (done.returncode, done.stderr) == (0, b"")
