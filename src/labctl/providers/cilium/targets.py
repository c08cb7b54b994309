"""Pods and nodes as `Target`s: argv behind a door (`kubectl exec`, `docker exec`, `nsenter` over SSH)."""

from __future__ import annotations

import contextlib
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from labctl.errors import LabError, MeasureFailed
from labctl.model.tools import require_success
from labctl.providers.base import Completed, Running, TargetKind
from labctl.providers.cilium.commands import Commands, pasted
from labctl.providers.cilium.remote import argv_signal, unwrapped, wrapped

_GRACE_S = 5.0
_SIGNAL_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A way in: the words before argv, without and with standard input."""

    closed: tuple[str, ...]
    open: tuple[str, ...]

    def words(self, *, with_input: bool) -> tuple[str, ...]:
        return self.open if with_input else self.closed


def pod_door(kubectl: tuple[str, ...], namespace: str, pod: str, container: str) -> Door:
    base, rest = (*kubectl, "-n", namespace, "exec"), (pod, "-c", container, "--")
    return Door(closed=(*base, *rest), open=(*base, "-i", *rest))


class RemoteRunning:
    """A process behind a door; `Running` of the seam."""

    def __init__(self, target: DoorTarget, argv: Sequence[str], local: Running, pid_file: str) -> None:
        self._target, self._local, self._pid_file = target, local, pid_file
        self._argv = tuple(argv)

    @property
    def argv(self) -> tuple[str, ...]:
        return self._argv

    def is_alive(self) -> bool:
        return self._local.is_alive()

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        self._local.wait_for_output(text, timeout_s=timeout_s)

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        if self._local.is_alive():
            self._target.send_signal(self._pid_file, sig)
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> Completed:
        done = self._local.wait(timeout_s=timeout_s)
        if done.timed_out:
            self.kill()
        return unwrapped(done, self._argv, self._target.name)

    def kill(self) -> None:
        with contextlib.suppress(LabError):
            self._target.send_signal(self._pid_file, signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorTarget:
    """A pod or a node. `name` is the scenario's."""

    name: str
    kind: TargetKind
    door: Door
    commands: Commands

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        return (*self.commands.prefix, *self.door.closed, *argv)

    def run(self, argv: Sequence[str], *, timeout_s: float, cpu: int | None = None, stdin: bytes = b"") -> Completed:
        pid_file = _pid_file()
        words = self.door.words(with_input=bool(stdin))
        try:
            done = self.commands.run(
                (*words, *wrapped(argv, pid_file=pid_file, cpu=cpu)), timeout_s=timeout_s, stdin=stdin
            )
        except MeasureFailed:  # it printed too much: the door is closed, and it may go on behind it
            with contextlib.suppress(LabError):
                self.send_signal(pid_file, signal.SIGKILL)
            raise
        if done.timed_out:
            with contextlib.suppress(LabError):
                self.send_signal(pid_file, signal.SIGKILL)
        return unwrapped(done, argv, self.name)

    def start(
        self, argv: Sequence[str], *, cpu: int | None = None, output: int | None = None
    ) -> AbstractContextManager[Running]:
        return self._started(argv, cpu, output)

    @contextlib.contextmanager
    def _started(self, argv: Sequence[str], cpu: int | None, output: int | None) -> Iterator[Running]:
        pid_file = _pid_file()
        words = (*self.door.closed, *wrapped(argv, pid_file=pid_file, cpu=cpu))
        with self.commands.start(words, output=output) as local:
            running = RemoteRunning(self, argv, local, pid_file)
            try:
                yield running
            except MeasureFailed:
                if not local.is_alive():
                    running.kill()  # as above
                raise
            finally:
                if local.is_alive():
                    running.kill()
                    # The door closes by itself when the program is gone; its context kills it otherwise.
                    local.wait(timeout_s=_GRACE_S)

    def send_signal(self, pid_file: str, number: int) -> None:
        self.commands.run((*self.door.closed, *argv_signal(pid_file, number)), timeout_s=_SIGNAL_S)

    def read(self, script: str, *, timeout_s: float = 30.0) -> str:
        """What a shell script prints there; for looking, so its CPU time does not matter. Raises MeasureFailed."""
        return require_success(self.run(("sh", "-c", script), timeout_s=timeout_s), f"cannot look at {self.name}").text

    def shown(self, argv: Sequence[str]) -> str:
        return pasted(self.commands.prefix, (*self.door.closed, *argv))


def _pid_file() -> str:
    """A name of its own for every process that is started: where others may write, they cannot be there first."""
    return f"/tmp/labctl-{secrets.token_hex(8)}.pid"  # nosec B108  # nobody there can know the name before
