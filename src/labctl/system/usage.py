"""What a thread and the programs that it started take: bytes read, memory. For libraries that start programs themselves
and bound neither. It stands alone because `process` bounds what labctl starts itself, in another way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_KIB = 1024


class ThreadUsage:
    """Of a thread of this process that has been started. Where the kernel does not say a figure (without
    CONFIG_TASK_IO_ACCOUNTING, CONFIG_PROC_CHILDREN), it is 0."""

    def __init__(self, thread: threading.Thread) -> None:
        self._task = _PROC / "self/task" / str(thread.native_id)

    def read_byte(self) -> int:
        """What its read(2) and alike have returned since it began: files, pipes, terminals."""
        with contextlib.suppress(OSError, ValueError):
            for line in (self._task / "io").read_text().splitlines():
                name, _, figure = line.partition(":")
                if name == "rchar":
                    return int(figure)
        return 0

    def memory_byte(self) -> int:
        """Of the programs that it started, and of theirs: memory that they share counts once."""
        return sum(_memory_byte(number) for number in self._programs(self._task))

    def kill(self) -> None:
        """Ends all of those programs, whatever sessions they made for themselves. For a thread that starts few and
        waits for each: a process number is used right after it was read."""
        stopped = []
        for number in self._programs(self._task):  # each before its children are asked for, so that it gets no more
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGSTOP)
                stopped.append(number)
        for number in stopped:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)

    def _programs(self, task: Path) -> Iterator[int]:
        for number in _children(task):
            yield number
            with contextlib.suppress(OSError):
                for thread in (_PROC / str(number) / "task").iterdir():
                    yield from self._programs(thread)


def _children(task: Path) -> tuple[int, ...]:
    try:
        return tuple(map(int, (task / "children").read_text().split()))
    except (OSError, ValueError):
        return ()


def _memory_byte(number: int) -> int:
    """Its proportional share (Pss in /proc/PID/smaps_rollup); 0 when it has just ended."""
    with contextlib.suppress(OSError, ValueError):
        for line in (_PROC / str(number) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    return 0
