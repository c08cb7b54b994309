"""How far a machine's clock is from this host's: asked over SSH, estimated from several round trips, judged. Pure but
for `measure`.

Cristian's method: the answer's time stands for the middle of its round trip, and the shortest round trip errs least.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from labctl.errors import MeasureFailed
from labctl.providers.base import ClockOffset
from labctl.providers.cilium.commands import Commands

_ROUNDS = 5
_ASK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question for the time: when it was sent and answered by our clock, and what the machine said. Seconds."""

    sent_s: float
    answered_s: float
    said_s: float


def argv_time() -> tuple[str, ...]:
    return ("date", "+%s.%N")


def parse_time(text: str) -> float:
    try:
        return float(text.strip())
    except ValueError as failed:
        raise MeasureFailed(what="a machine's time is not a number", cause=text.strip()[:80]) from failed


def offset_of(node: str, exchanges: Iterable[Exchange]) -> ClockOffset:
    """From the exchange with the shortest round trip. Raises ValueError when there is none."""
    best = min(exchanges, key=lambda e: e.answered_s - e.sent_s)
    return ClockOffset(
        node=node,
        offset_s=best.said_s - (best.sent_s + best.answered_s) / 2,
        error_s=(best.answered_s - best.sent_s) / 2,
    )


def in_words(offset: ClockOffset) -> str:
    """`node2 is 0.4 ms ahead, ± 0.3 ms`."""
    way = "ahead" if offset.offset_s >= 0 else "behind"
    return f"{offset.node} is {abs(offset.offset_s) * 1000:.1f} ms {way}, ± {offset.error_s * 1000:.1f} ms"


def measure(node: str, commands: Commands) -> ClockOffset:
    """Asks several times over the connection that is there."""
    exchanges = []
    for _ in range(_ROUNDS):
        sent_s = time.time()
        done = commands.run(argv_time(), timeout_s=_ASK_S)
        exchanges.append(Exchange(sent_s=sent_s, answered_s=time.time(), said_s=parse_time(done.text)))
    return offset_of(node, exchanges)
