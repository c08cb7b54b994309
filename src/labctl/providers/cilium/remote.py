"""Running argv behind `kubectl exec` or `docker exec`: signals, exit status and CPU time across that door. Pure text.

Neither door forwards signals or tells CPU time. So argv runs inside a small shell script: an inner shell writes its
process id to a file and becomes the program; the outer one waits and prints the shell's `times` (10 ms resolution).
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Sequence
from dataclasses import replace

from labctl.errors import MeasureFailed, ToolMissing
from labctl.providers.base import Completed

TIMES = "labctl-times"
_INNER = 'echo $$ > "$0"; exec "$@"'
_PINNED = 'if taskset -c "$LABCTL_CPU" true 2>/dev/null; then exec taskset -c "$LABCTL_CPU" "$@"; else exec "$@"; fi'
_OUTER = f'sh -c \'{_INNER}\' "$@"; code=$?; rm -f "$1"; echo {TIMES} >&2; times >&2; exit $code'
_MISSING_STATUS = (126, 127)
_SIGNAL_BASE = 128
_LAST_SIGNAL = 64
_CLOCK = re.compile(r"(\d+)m([\d.]+)s")
_KUBECTL_STATUS = re.compile(rb"^command terminated with exit code \d+\n?", re.MULTILINE)


def wrapped(argv: Sequence[str], *, pid_file: str, cpu: int | None = None) -> tuple[str, ...]:
    """argv as it is handed to the door. `cpu` pins it where `taskset` is there and that CPU exists."""
    program: tuple[str, ...] = ("env", "LC_ALL=C", *argv)
    if cpu is not None:
        program = ("env", f"LABCTL_CPU={cpu}", "sh", "-c", _PINNED, "sh", *program)
    return ("sh", "-c", _OUTER, "sh", pid_file, *program)


def argv_signal(pid_file: str, number: int) -> tuple[str, ...]:
    """Sends a signal to the program that wrote the file; waits for the file, as it may only just be starting.

    After SIGKILL the file goes too: the script that would have removed it may have died with the door.
    """
    script = (
        'n=0; while [ ! -s "$0" ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done; '
        f'[ ! -s "$0" ] || kill -{number} "$(cat "$0")" 2>/dev/null || true'
    )
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
            cause=lines[-1] if lines else f"the door ended with status {done.returncode}, and no word",
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
