"""A process that holds back frames: read from a TAP device, waited for by the kernel's timers, written back to it.

It is run as a file (`python -I -S relay.py …`), without labctl's other modules, and stands alone because it is another
process: it holds the descriptors of the device and of what sends frames to it, so that both are gone when it ends,
however that comes, and frames go their way as if it had never been. It sleeps until a frame comes or is due.

Each frame has eight bytes before it, the time at which it came (CLOCK_MONOTONIC, nanoseconds). With a jitter frames may
overtake each other, as with netem.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import heapq
import os
import random
import select
import sys
import time

_PR_SET_NAME, _PR_SET_TIMERSLACK = 15, 29
_STAMP_BYTES = 8
_FRAME_BYTES = 1 << 16
_AT_ONCE = 64
"""Frames that are read before those that are due are looked at again."""
_MOST_WAITING = 100_000
_SECOND_NS = 1_000_000_000


def relay(tap: int, *, delay_ns: int, jitter_ns: int, seed: int) -> None:
    """Until the device is gone. `tap` does not block."""
    draw, number = random.Random(seed).uniform, 0  # nosec B311  # a jitter that can be repeated
    waiting: list[tuple[int, int, bytes]] = []
    while True:
        while waiting and waiting[0][0] <= time.monotonic_ns():
            os.write(tap, heapq.heappop(waiting)[2])
        left_s = max(waiting[0][0] - time.monotonic_ns(), 0) / _SECOND_NS if waiting else None
        if not select.select((tap,), (), (), left_s)[0]:
            continue
        with contextlib.suppress(BlockingIOError):
            for _ in range(_AT_ONCE):
                frame = os.read(tap, _FRAME_BYTES)
                if len(waiting) >= _MOST_WAITING:
                    continue  # a queue that is full loses what comes last
                number += 1
                due_ns = int.from_bytes(frame[:_STAMP_BYTES], sys.byteorder) + delay_ns
                if jitter_ns:
                    due_ns += round(draw(-jitter_ns, jitter_ns))
                heapq.heappush(waiting, (due_ns, number, frame[_STAMP_BYTES:]))


def main(arguments: list[str]) -> None:
    """NAME TAP DELAY JITTER SEED: what the process is called, the descriptor, nanoseconds. Before frames are held the
    process asks to be woken first and on time; where it may not, it is woken as all others."""
    name, tap, delay_ns, jitter_ns, seed = arguments[0], *map(int, arguments[1:])
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    library.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gc.disable()  # nothing here refers to itself
    try:
        relay(tap, delay_ns=delay_ns, jitter_ns=jitter_ns, seed=seed)
    except OSError:
        return  # the device is gone


if __name__ == "__main__":
    main(sys.argv[1:])
