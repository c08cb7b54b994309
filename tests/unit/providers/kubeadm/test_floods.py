"""A machine that prints without an end takes neither memory nor time without an end."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import MeasureFailed
from labctl.providers.kubeadm import ssh
from labctl.providers.kubeadm.runner import _last_lines
from labctl.providers.kubeadm.ssh import SshRunning

MIB = 1 << 20


class Endless:
    """A channel of paramiko whose other end prints for ever, on one of its streams."""

    def __init__(self, stream: str, data: bytes) -> None:
        self.closed, self.eof_received = False, False
        self._stream, self._data = stream, data

    def shutdown_write(self) -> None: ...

    def recv_ready(self) -> bool:
        return not self.closed and self._stream == "stdout"

    def recv_stderr_ready(self) -> bool:
        return not self.closed and self._stream == "stderr"

    def recv(self, size: int) -> bytes:
        return self._data[:size]

    recv_stderr = recv

    def exit_status_ready(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("data", [b"y\n" * 32768, b"\x00" * 65536], ids=["lines", "a line without an end"])
@pytest.mark.parametrize("ask", ["wait", "wait_for_output", "stop", "is_alive first"])
def test_it_is_cut_off_and_is_an_error(stream: str, data: bytes, ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "MOST_OUTPUT_BYTE", 2 * MIB)
    channel: Any = Endless(stream, data)
    running = SshRunning(channel, ("journalctl", "-f"), b"", "node1")
    if ask == "is_alive first":
        assert running.is_alive()
    ways: dict[str, Callable[[], object]] = {
        "wait_for_output": lambda: running.wait_for_output("ready", timeout_s=60),
        "stop": lambda: running.stop(timeout_s=60),
    }
    tracemalloc.start()
    with pytest.raises(MeasureFailed, match="journalctl on node1 printed more than 2 MiB"):
        ways.get(ask, lambda: running.wait(timeout_s=60))()
    _, peak_byte = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert channel.closed
    assert peak_byte < 16 * MIB


def test_of_a_log_of_any_size_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "stdout"
    with log.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, 2)
        file.write(b"\nthe reason\n")
    assert _last_lines(log).endswith("; the reason")
