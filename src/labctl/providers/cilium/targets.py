"""Pods and nodes as `Target`s: argv behind a door (`kubectl exec`, `docker exec`, `nsenter` over SSH).

Running argv behind `kubectl exec` or `docker exec`: signals, exit status and CPU time across that door. Pure text.

Neither door forwards signals or reports CPU time. So argv runs inside a small shell script: an inner shell writes its
process id to a file and becomes the program; the outer one waits and prints the shell's `times` (10 ms resolution).
A program that is started and not waited for has a watcher beside it, which reads the numbers of signals from the door's
standard input: signalling opens no second door, which takes an API server or sshd long where many are open and fails
where the first one was cut; and the program ends when its door is closed, by whatever.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from labctl.errors import LabError, MeasureFailed, ToolMissing
from labctl.model.tools import require_success
from labctl.providers.base import Completed, Running, TargetKind
from labctl.providers.cilium.commands import Commands, pasted
from labctl.values import dataclass

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
    """A process behind a door; `Running` of the seam. Its watcher reads what is written to the descriptor `words`."""

    def __init__(self, argv: Sequence[str], where: str, local: Running, words: int) -> None:
        self._argv, self._where, self._local, self._words = tuple(argv), where, local, words

    @property
    def argv(self) -> tuple[str, ...]:
        return self._argv

    def is_alive(self) -> bool:
        return self._local.is_alive()

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        self._local.wait_for_output(text, timeout_s=timeout_s)

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        if self._local.is_alive():
            self.send(sig)
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> Completed:
        """At the deadline the door is closed, which ends it."""
        return unwrapped(self._local.wait(timeout_s=timeout_s), self._argv, self._where)

    def send(self, number: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # the door has closed by itself
            os.write(self._words, f"{int(number)}\n".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorTarget:
    """A pod or a node. `name` is the scenario's."""

    name: str
    kind: TargetKind
    door: Door
    commands: Commands

    def command(self, argv: Sequence[str], *, with_input: bool = False) -> tuple[str, ...]:
        """Behind ssh a second shell reads the words: where that matters they are one word, quoted for it."""
        prefix, words = self.commands.prefix, (*self.door.words(with_input=with_input), *argv)
        there = shlex.join(words)
        return (*prefix, there) if prefix and there != " ".join(words) else (*prefix, *words)

    def run(self, argv: Sequence[str], *, timeout_s: float, cpu: int | None = None, stdin: bytes = b"") -> Completed:
        pid_file = _pid_file()
        words = self.door.words(with_input=bool(stdin))
        try:
            done = self.commands.run(
                (*words, *wrapped(argv, pid_file=pid_file, cpu=cpu)), timeout_s=timeout_s, stdin=stdin
            )
        except MeasureFailed:  # it printed too much: the door is closed, but it may still run behind it
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
        there = (*self.door.open, *wrapped(argv, pid_file=_pid_file(), cpu=cpu, is_watched=True))
        heard, words = os.pipe2(os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, words)
            try:
                local = stack.enter_context(self.commands.start(there, stdin=heard, output=output))
            finally:
                os.close(heard)
            running = RemoteRunning(argv, self.name, local, words)
            try:
                yield running
            finally:
                if local.is_alive():
                    running.send(signal.SIGKILL)
                    # The door closes by itself when the program is gone; its context closes it otherwise.
                    with contextlib.suppress(LabError):
                        local.wait(timeout_s=_GRACE_S)

    def converse(self, argv: Sequence[str], *, stdin: int, output: int) -> AbstractContextManager[Running]:
        """As `ByStream` of the load program asks for it."""
        return self.commands.start((*self.door.open, *argv), stdin=stdin, output=output)

    def send_signal(self, pid_file: str, number: int) -> None:
        self.commands.run((*self.door.closed, *argv_signal(pid_file, number)), timeout_s=_SIGNAL_S)

    def read(self, script: str, *, timeout_s: float = 30.0) -> str:
        """What a shell script prints there; for looking, so its CPU time does not matter. Raises MeasureFailed."""
        return require_success(
            self.run(("sh", "-c", script), timeout_s=timeout_s), f"cannot read from {self.name}"
        ).text

    def shown(self, argv: Sequence[str]) -> str:
        return pasted(self.commands.prefix, (*self.door.closed, *argv))


def _pid_file() -> str:
    """A different name for each process that is started: other users of the folder cannot take it first."""
    return f"/tmp/labctl-{secrets.token_hex(8)}.pid"  # nosec B108  # it cannot be guessed


TIMES = "labctl-times"
_INNER = 'echo $$ > "$0"; exec "$@"'
_PINNED = 'if taskset -c "$LABCTL_CPU" true 2>/dev/null; then exec taskset -c "$LABCTL_CPU" "$@"; else exec "$@"; fi'
_END = f"echo {TIMES} >&2; times >&2; exit $code"
_OUTER = f'sh -c \'{_INNER}\' "$@"; code=$?; rm -f "$1"; {_END}'
_SEND = (
    'n=0; while [ ! -s "$f" ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done; '
    '[ ! -s "$f" ] || kill -"$s" "$(cat "$f")" 2>/dev/null || true'
)
"""A program that is only just starting has not written its number yet."""
_WATCHED = (
    f'exec 9<&0 </dev/null; f=$1; ( trap "" HUP INT TERM; while read -r s <&9; do {_SEND}; done; s=TERM; {_SEND}; '
    'n=0; while [ $n -lt 20 ]; do sleep 0.1; n=$((n+1)); done; rm -f "$f"; kill -KILL 0 ) >/dev/null 2>&1 & w=$!; '
    f'sh -c \'{_INNER}\' "$@" 9<&-; code=$?; rm -f "$1"; {{ kill -KILL $w; wait $w; }} 2>/dev/null; {_END}'
)
"""The program stays in the foreground, since a shell lets its background ignore SIGINT. The watcher mostly stands in
`read` without a child, so that killing it leaves none to a container's first process, which may not collect it."""
_MISSING_STATUS = (126, 127)
_SIGNAL_BASE = 128
_LAST_SIGNAL = 64
_CLOCK = re.compile(r"(\d+)m([\d.]+)s")
_KUBECTL_STATUS = re.compile(rb"^command terminated with exit code \d+\n?", re.MULTILINE)


def wrapped(argv: Sequence[str], *, pid_file: str, cpu: int | None = None, is_watched: bool = False) -> tuple[str, ...]:
    """argv as it is handed to the door. `cpu` pins it where `taskset` is there and that CPU exists. `is_watched`: it
    reads nothing, is sent each signal whose number is a line on standard input, and ends, with what it started, when
    that ends."""
    program: tuple[str, ...] = ("env", "LC_ALL=C", *argv)
    if cpu is not None:
        program = ("env", f"LABCTL_CPU={cpu}", "sh", "-c", _PINNED, "sh", *program)
    return ("sh", "-c", _WATCHED if is_watched else _OUTER, "sh", pid_file, *program)


def argv_signal(pid_file: str, number: int) -> tuple[str, ...]:
    """Sends a signal to the program that wrote the file. After SIGKILL the file goes too: the script that would have
    removed it may have died with the door."""
    script = f"f=$0; s={int(number)}; {_SEND}"
    if number == signal.SIGKILL:
        script += '; rm -f "$0"'
    return ("sh", "-c", script, pid_file)


def unwrapped(done: Completed, argv: Sequence[str], where: str) -> Completed:
    """The program's own end out of the door's: its stderr without the script's lines, its status, its CPU time.

    Raises MeasureFailed when the door did not open, ToolMissing when the program is not there. A program that was cut
    off by its deadline has no CPU time.
    """
    stderr = _KUBECTL_STATUS.sub(b"", done.stderr)
    text, found, times = stderr.rpartition(f"{TIMES}\n".encode())
    if not found:
        if done.timed_out or done.returncode < 0:
            return replace(done, argv=tuple(argv), stderr=stderr, cpu_s=None)
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise MeasureFailed(
            what=f"could not run {argv[0]} in {where}",
            cause=lines[-1] if lines else f"it ended with status {done.returncode}, and no output",
            remedy=f"is it still there? by hand: {shlex.join((*_door(done.argv), *argv))}",
        )
    if done.returncode in _MISSING_STATUS and re.search(rb"(No such file|not found|can't execute)", text):
        raise ToolMissing(
            what=f"the program {argv[0]} is not in {where}",
            cause=text.decode(errors="replace").strip().splitlines()[-1],
            remedy="a toolsImage (kindCluster:, kubeadm:) that has it; docs/kind.md lists what is needed",
        )
    code = done.returncode
    if _SIGNAL_BASE < code <= _SIGNAL_BASE + _LAST_SIGNAL:
        code = _SIGNAL_BASE - code
    return replace(
        done, argv=tuple(argv), returncode=code, stderr=text, cpu_s=parse_times(times.decode(errors="replace"))
    )


def _door(argv: Sequence[str]) -> tuple[str, ...]:
    """What stands before the script: the words that open the door."""
    words = tuple(argv)
    return words[: words.index("sh")] if "sh" in words else words


def parse_times(text: str) -> float | None:
    """User and system seconds of the shell's children: the second line of POSIX `times`."""
    lines = text.strip().splitlines()
    if len(lines) < 2:
        return None
    return sum(int(minutes) * 60 + float(seconds) for minutes, seconds in _CLOCK.findall(lines[1]))
