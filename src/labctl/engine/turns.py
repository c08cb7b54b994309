"""One measurement at a time on a host that a class shares: figures of two at once would be about each other.

Checks that only look (a ping that arrives, a path, a table) need no turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator

from labctl.errors import MeasureFailed
from labctl.system import locks

MEASURING = frozenset({"iperf", "latency", "paced", "connect", "load", "convergence", "impairment"})
"""Kinds of checks whose result is a time or a rate."""
_LOCK = "measurement"
_PATIENCE_S = 900.0


@contextlib.contextmanager
def measuring_turn(
    kinds: Collection[str], waits: Callable[[], None], *, timeout_s: float = _PATIENCE_S
) -> Iterator[None]:
    """Held while checks of these kinds run; none where none of them measures. `waits` is called before a wait. Raises
    MeasureFailed when others measured all the time."""
    if not MEASURING & set(kinds):
        yield
        return
    with contextlib.ExitStack() as stack:
        is_mine = stack.enter_context(locks.held(_LOCK, timeout_s=0))
        if not is_mine:
            waits()
            is_mine = stack.enter_context(locks.held(_LOCK, timeout_s=timeout_s))
        if not is_mine:
            raise MeasureFailed(
                what=f"others measured on this host for {timeout_s:g} s",
                cause="in a class one measurement goes on at a time",
                remedy="the same command again, later",
            )
        yield
