"""The load program where labctl is not: carried into a pod, and driven there through one stream.

The stream is what `kubectl exec -i`, `docker exec -i` or SSH make of a shell there: the shell says which machine it is
on, takes the program's bytes, forgets the file's name, and becomes the program, which then gets its commands through
the same stream. So one stream for each pod is all that is open, and nothing is left in the pod, also when labctl is
killed: the program ends when its input does.
"""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from statistics import median
from typing import Protocol, runtime_checkable

from labctl.errors import LabError, MeasureFailed, ToolMissing
from labctl.load.program import LoadEnd, load_program_for
from labctl.model.result import Completed
from labctl.system import files

_BECOME = (
    r'm=$(uname -m); f=; for d in /tmp /dev/shm /var/tmp /run "$HOME" .; do t=$d/$0; '
    r'if (umask 077; printf "#!/bin/sh\n" >"$t") 2>/dev/null && chmod 700 "$t" && "$t" 2>/dev/null; '
    r'then f=$t; break; fi; rm -f "$t" 2>/dev/null; done; '
    r'[ -n "$f" ] || { echo "none $m"; exit 1; }; echo "room $m"; read -r n || n=0; '
    r'[ "$n" -gt 0 ] && head -c "$n" >"$f"; exec 3<"$f"; rm -f "$f"; [ "$n" -gt 0 ] || exit 1; exec /proc/self/fd/3'
)
"""A folder in which a program can be written and started, found by trying: some are read-only, some do not start any.
Without stdin it removes its file and ends. The program's own copy is reached by its descriptor alone."""
_OPEN_S, _END_S = 60.0, 5.0
_TRIES = 15
_MACHINE = re.compile(r"(room|none) ([\w-]{1,20})")


class Running(Protocol):
    def wait(self, *, timeout_s: float) -> Completed: ...


@runtime_checkable
class ByStream(Protocol):
    """A pod or node elsewhere in which a program can be talked to through one stream."""

    @property
    def name(self) -> str: ...

    def converse(self, argv: Sequence[str], *, stdin: int, output: int) -> AbstractContextManager[Running]:
        """Starts argv there, which reads what comes from the descriptor `stdin` and prints to `output`; both may be
        closed then. It ends when what it reads does."""
        ...


class CannotCarry(ToolMissing):
    """The load program cannot run there; `what` is a sentence about it."""


@contextmanager
def carried_end(target: ByStream, name: str) -> Iterator[LoadEnd]:
    """A process of the load program in that pod, which ends with the context. `name` is what messages call it. Raises
    CannotCarry."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            argv = ("sh", "-c", _BECOME, f"labctl-load-{secrets.token_hex(4)}")
            try:
                stream = target.converse(argv, stdin=theirs.fileno(), output=theirs.fileno())
                running = stream.__enter__()
            except LabError as failed:
                raise CannotCarry(f"{target.name} does not let a program run: {failed.what}") from failed
        try:
            end = LoadEnd(ours, name)
            try:
                _become(end, target.name)
            except MeasureFailed as failed:
                if isinstance(failed, CannotCarry):
                    raise
                raise CannotCarry(
                    f"{target.name} does not let a program run: {_why(running, ours, failed)}"
                ) from failed
            yield end
        finally:
            _ended(running, ours)
            stream.__exit__(None, None, None)


def _become(end: LoadEnd, name: str) -> None:
    """The shell at the other end becomes the program. Raises CannotCarry, MeasureFailed."""
    found = _MACHINE.fullmatch(end.line(_OPEN_S))
    if found is None:
        raise MeasureFailed("the shell there said something else than was expected")
    if found[1] == "none":
        raise CannotCarry(f"no folder of {name} takes a program: each is read-only, or starts none")
    program = load_program_for(found[2])
    if program is None:
        raise CannotCarry(f"there is no load program for the machine of {name} ({found[2]})")
    data = files.read_file(program, follow=True)
    end.send(f"{len(data)}\n".encode() + data, _OPEN_S)
    end.nice()


def _why(running: Running, ours: socket.socket, failed: MeasureFailed) -> str:
    """What the door or the shell said last, which tells more than that the stream has ended."""
    done = _ended(running, ours)
    lines = done.error_text.strip().splitlines() if done is not None else []
    return lines[-1] if lines else failed.cause or failed.what


def _ended(running: Running, ours: socket.socket) -> Completed | None:
    """What is there ends by itself when nothing comes any more: the shell removes its file before."""
    with suppress(OSError):
        ours.shutdown(socket.SHUT_WR)
    with suppress(LabError):
        return running.wait(timeout_s=_END_S)
    return None


def channel_s(ends: Sequence[LoadEnd]) -> float:
    """How long a command and its answer take on the way to those programs and back: the median of the slowest."""

    def once(end: LoadEnd) -> float:
        begun_s = time.monotonic()
        end.nice()
        return time.monotonic() - begun_s

    return max(median(once(end) for _ in range(_TRIES)) for end in ends)
