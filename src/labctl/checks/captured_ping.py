"""Marked echo requests of a pair while every tap on its way is captured, until a capture is complete.

What the tcpdump and the addressing check have in common. What the captures mean is theirs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from labctl.checks.base import CheckContext
from labctl.checks.captures import TapCapture, capturing, require_trustworthy
from labctl.checks.outcome import RawFiles
from labctl.checks.ping import argv_ping, ping_timeout_s
from labctl.errors import MeasureFailed
from labctl.model.parameters import PingParameters
from labctl.path.sent import require_sent
from labctl.providers.base import Completed

_INTERVAL_S = 0.01
_TOKEN_BYTE = 16
_SETTLE_S = (0.05, 0.25, 1.0)
"""How long tcpdump gets to take the last packets out of the kernel, by attempt. Whether that was enough is seen from
its own counts, and if it was not, the capture is repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PingSending:
    """One sending: the token in its packets, what ping said, what every tap saw. `is_last`: no other will come."""

    token: bytes
    sent: Completed
    captures: tuple[TapCapture, ...]
    is_last: bool


def _random_token() -> bytes:
    return secrets.token_bytes(_TOKEN_BYTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedPing:
    """`token` and `sleep` are for tests: the mark in the packets' payload, and how to wait."""

    token: Callable[[], bytes] = _random_token
    sleep: Callable[[float], None] = time.sleep

    def sendings(
        self,
        context: CheckContext,
        raw: RawFiles,
        expression: str,
        *,
        count: int,
        before: Callable[[str], None] = lambda again: None,
    ) -> Iterator[PingSending]:
        """`count` requests whose captures are complete, and once more for as long as that is not enough. `before` is
        called when the taps listen, with what to add to names of raw files. Raises MeasureFailed when ping could not
        send, when the captures cannot be trusted, and when none is complete."""
        open_lab, pair = context.open_lab, context.pair
        pod, server = open_lab.target(pair.client), str(open_lab.lab.pod(pair.server).address)
        # The neighbours on the way are resolved first, so that no packet waits for ARP while it is being watched.
        once = PingParameters(count=1, interval_s=_INTERVAL_S)
        warm = raw.save_completed("warm-up", pod.run(argv_ping(server, once), timeout_s=ping_timeout_s(once)))
        require_sent(warm, once.count)
        marked = PingParameters(count=count, interval_s=_INTERVAL_S)
        for attempt, settle_s in enumerate(_SETTLE_S, start=1):
            again = "" if attempt == 1 else f"-{attempt}"
            token = self.token()
            with capturing(open_lab.taps(pair), expression) as live:
                before(again)
                sent = pod.run(argv_ping(server, marked, pattern=token), timeout_s=ping_timeout_s(marked))
                self.sleep(settle_s)
                captures = live.stop()
            raw.save_completed(f"ping{again}", sent)
            for capture in captures:
                raw.save_completed(f"{capture.tap.role}{again}", capture.completed, output="pcap")
            require_trustworthy(captures)
            require_sent(sent, count)
            if not any(capture.counts is not None and capture.counts.left_behind for capture in captures):
                yield PingSending(token=token, sent=sent, captures=captures, is_last=attempt == len(_SETTLE_S))
        raise MeasureFailed(
            "the capture is not complete",
            f"in {len(_SETTLE_S)} attempts tcpdump left packets behind in the kernel's buffer: the host is overloaded",
        )
