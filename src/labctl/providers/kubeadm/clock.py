"""How far a machine's clock is from this host's: asked over SSH, estimated from several round trips, judged. Pure but
for `measure`.

Cristian's method: the answer's time stands for the middle of its round trip, and the shortest round trip errs least.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass

from labctl.errors import MeasureFailed
from labctl.providers.base import ClockOffset
from labctl.providers.cilium.commands import Commands

_ROUNDS = 5
_ASK_S = 60.0
"""Where sudo waits for a name server that is not there, each command takes 20 s."""
_ENOUGH_S = 10.0
"""After it no further question is asked of a machine that has answered once: a slow one need not hold up the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question for the time: when it was sent and answered by our clock, and what the machine said. Seconds."""

    sent_s: float
    answered_s: float
    said_s: float


def argv_time() -> tuple[str, ...]:
    return ("date", "+%s.%N")


def parse_time(node: str, text: str) -> float:
    try:
        return float(text.strip())
    except ValueError as failed:
        raise MeasureFailed(
            what=f"the time of {node} is not a number",
            cause=f"date +%s.%N printed: {text.strip()[:80] or 'nothing'}",
            remedy="take what a login prints (banners, echo in .bashrc) away from shells that are not interactive",
        ) from failed


def offset_of(node: str, exchanges: Iterable[Exchange]) -> ClockOffset:
    """From the exchange with the shortest round trip. Raises ValueError when there is none."""
    best = min(exchanges, key=lambda e: e.answered_s - e.sent_s)
    return ClockOffset(
        node=node,
        offset_s=best.said_s - (best.sent_s + best.answered_s) / 2,
        error_s=(best.answered_s - best.sent_s) / 2,
    )


def in_words(offset: ClockOffset) -> str:
    """`node2 is 0.4 ms ahead, ± 0.3 ms`, `node2 is 4 min 16 s behind, ± 0.3 s`."""
    way = "ahead" if offset.offset_s >= 0 else "behind"
    return f"{offset.node} is {_span(abs(offset.offset_s))} {way}, ± {_span(offset.error_s)}"


def _span(span_s: float) -> str:
    if span_s < 1:
        return f"{span_s * 1000:.1f} ms"
    if span_s < 60:
        return f"{span_s:.1f} s"
    minutes, seconds = divmod(round(span_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def are_apart(clocks: Iterable[ClockOffset], limit_s: float) -> bool:
    """Whether two of the clocks surely differ by more than the limit. Clocks that are wrong together do no harm."""
    known = list(clocks)
    least = min((c.offset_s + c.error_s for c in known), default=0.0)
    most = max((c.offset_s - c.error_s for c in known), default=0.0)
    return most - least > limit_s


def measure(node: str, commands: Commands) -> ClockOffset:
    """Asks several times over the connection that is there. Raises MeasureFailed for a machine that does not answer,
    or not with a number."""
    exchanges: list[Exchange] = []
    begun_s = time.monotonic()
    for _ in range(_ROUNDS):
        sent_s = time.time()
        done = commands.run(argv_time(), timeout_s=_ASK_S)
        answered_s = time.time()
        if done.timed_out:
            raise MeasureFailed(
                what=f"{node} did not tell its time in {_ASK_S:g} s",
                cause="it takes commands over SSH, but is too slow to end the shortest of them (overloaded?)",
                remedy=shlex.join((*commands.prefix, "uptime")),
            )
        exchanges.append(Exchange(sent_s=sent_s, answered_s=answered_s, said_s=parse_time(node, done.text)))
        if time.monotonic() - begun_s > _ENOUGH_S:
            break
    return offset_of(node, exchanges)
