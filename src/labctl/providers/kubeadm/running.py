"""A program on a machine, in an SSH channel of its own; `Running` of the seam. Owns no connection."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import stat
import threading
import time
from collections.abc import Sequence
from typing import Any

from labctl.errors import MeasureFailed
from labctl.providers.base import Completed
from labctl.system.clock import Deadline
from labctl.system.process import MOST_OUTPUT_BYTE, require_bounded

PUMP = "labctl-ssh-output"
"""The name of each thread that passes a program's output on."""
_DRAIN_S = 5.0
_POLL_S = 0.005
_LOOK_S = 0.1
_CHUNK = 65536
_AT_ONCE_BYTE = 4096
"""A pipe that poll(2) calls writable takes so much without waiting (PIPE_BUF of Linux)."""


class SshRunning:
    """A program on a machine, in a channel of its own. Leaving the context of `start` closes the channel.

    `output` is a descriptor of the caller's, which may close it as soon as the program has been started: a copy of it
    is written to, by one thread that holds no lock meanwhile, until the program's output ends or the channel is closed.
    With `is_watched` the channel's input stays open, since its end is the end of the program. `source` is a descriptor,
    copied likewise, that the program reads from after `stdin`.
    """

    def __init__(
        self,
        channel: Any,
        argv: Sequence[str],
        stdin: bytes,
        where: str,
        output: int | None = None,
        *,
        is_watched: bool = False,
        source: int | None = None,
    ) -> None:
        self._channel, self._argv, self._where = channel, tuple(argv), where
        self._out, self._err = bytearray(), bytearray()
        self._begun_s = time.monotonic()
        self._lock = threading.Lock()
        self._unwritten = ""
        """Why output was not written, in the kernel's words."""
        if stdin or source is not None:
            rest = None if source is None else os.dup(source)
            threading.Thread(target=self._feed, args=(stdin, rest, not is_watched), daemon=True).start()
        elif not is_watched:
            channel.shutdown_write()
        self._closing = threading.Event()
        self._pumping: threading.Thread | None = None
        if output is not None:
            self._pumping = threading.Thread(target=self._pump, args=(os.dup(output),), name=PUMP, daemon=True)
            self._pumping.start()

    def _pump(self, output: int) -> None:
        """Passes standard output on as it comes, whether the caller asks or not, and then closes the descriptor."""
        try:
            channel, is_file = self._channel, stat.S_ISREG(os.fstat(output).st_mode)
            while not self._closing.is_set():
                # Asked before it is read: what came before the end is there when it has ended.
                over = channel.closed or channel.eof_received
                if channel.recv_ready():
                    self._pass_on(channel.recv(_CHUNK), output, is_file=is_file)
                elif over:
                    return
                else:
                    self._closing.wait(_POLL_S)
        except OSError as failed:
            self._unwritten = failed.strerror or str(failed)
            self._close_channel()
        finally:
            os.close(output)

    def _pass_on(self, data: bytes, output: int, *, is_file: bool) -> None:
        """Never waits in write(2), where nothing could end it: a full pipe is looked at until it has room."""
        if is_file:
            while data:
                data = data[os.write(output, data) :]
            return
        poll = select.poll()
        poll.register(output, select.POLLOUT)
        view = memoryview(data)
        while view and not self._closing.is_set():
            if poll.poll(_LOOK_S * 1000):
                view = view[os.write(output, view[:_AT_ONCE_BYTE]) :]

    def _feed(self, stdin: bytes, source: int | None, ends: bool) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):  # paramiko's word for a connection that ends meanwhile
                self._channel.sendall(stdin)
                while source is not None and (data := os.read(source, _CHUNK)):
                    self._channel.sendall(data)
                if ends:
                    self._channel.shutdown_write()
        finally:
            if source is not None:
                os.close(source)

    @property
    def argv(self) -> tuple[str, ...]:
        return self._argv

    def _read(self) -> bool:
        """Takes what has come; true when there was something."""
        with self._lock:
            came = False
            while self._pumping is None and self._channel.recv_ready() and not self._is_flooded():
                self._out += self._channel.recv(_CHUNK)
                came = True
            while self._channel.recv_stderr_ready() and not self._is_flooded():
                self._err += self._channel.recv_stderr(_CHUNK)
                came = True
            return came

    def _is_flooded(self) -> bool:
        """Whether it printed more than is kept. The rest waits in paramiko's window, and then on the machine."""
        return max(len(self._out), len(self._err)) >= MOST_OUTPUT_BYTE

    def _require_bounded(self) -> None:
        """Raises MeasureFailed, and closes the channel, when the program printed more than is kept."""
        if self._is_flooded():
            self._close_channel()
        for kept in (self._out, self._err):
            require_bounded(self._argv, len(kept), MOST_OUTPUT_BYTE, bytes(kept[-400:]), f" on {self._where}")

    def _is_over(self) -> bool:
        return bool(self._channel.exit_status_ready() or self._channel.closed)

    def is_alive(self) -> bool:
        self._read()
        return not self._is_over()

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        deadline, wanted = Deadline.after(timeout_s), text.encode()
        while True:
            over = self._is_over()
            self._read()
            self._require_bounded()
            if wanted in self._out or wanted in self._err:
                return
            if over or deadline.is_over():
                seen = bytes(self._err or self._out)[-400:].decode(errors="replace").strip()
                raise MeasureFailed(
                    what=f"{self._argv[0]} on {self._where} ended before it printed '{text}'"
                    if over
                    else f"{self._argv[0]} on {self._where} did not print '{text}' within {timeout_s:g} s",
                    cause=f"it printed: {seen or 'nothing'}",
                    remedy=shlex.join(self._argv),
                )
            time.sleep(_POLL_S)

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        """Closes the program's input and waits. Channels carry no signals: `providers/cilium/targets.py` sends them."""
        del sig
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> Completed:
        deadline = Deadline.after(timeout_s)
        while not self._is_over() and not deadline.is_over():
            if not self._read():
                time.sleep(_POLL_S)
            self._require_bounded()
        timed_out = not self._is_over()
        if timed_out:
            self._close_channel()
        # The end is reported before the last output has been read.
        drained = Deadline.after(_DRAIN_S)
        while not timed_out and not self._is_drained() and not drained.is_over():
            self._read()
            self._require_bounded()
            time.sleep(_POLL_S)
        self._read()
        self._require_bounded()
        if self._unwritten:
            raise MeasureFailed(
                what=f"the output of {self._argv[0]} on {self._where} cannot be written here", cause=self._unwritten
            )
        if self._pumping is not None and self._pumping.is_alive() and not timed_out:
            raise MeasureFailed(
                what=f"the output of {self._argv[0]} on {self._where} is not read",
                cause=f"it has ended, and {_DRAIN_S:g} s later its last output still waits for room in a full pipe",
            )
        status = -signal.SIGKILL if timed_out else self._channel.recv_exit_status()
        if status == -1 and not timed_out:
            raise MeasureFailed(
                what=f"the connection to {self._where} was lost while {self._argv[0]} ran",
                cause="no exit status came back",
                remedy="check that the machine is up, then run the same command again",
            )
        return Completed(
            argv=self._argv,
            returncode=status,
            stdout=bytes(self._out),
            stderr=bytes(self._err),
            duration_s=time.monotonic() - self._begun_s,
            timed_out=timed_out,
        )

    def _close_channel(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # the connection has ended before
            self._channel.close()

    def _is_drained(self) -> bool:
        """Whether the last output has been taken, and passed on."""
        if self._pumping is not None:
            return not self._pumping.is_alive()
        return bool(self._channel.eof_received)

    def close(self) -> None:
        """Ends the program, if the machine watches it. After it nothing is written to the descriptor any more."""
        self._closing.set()
        self._close_channel()
        if self._pumping is not None:
            self._pumping.join(_DRAIN_S)
