"""Proves that a capture filter can see a packet, before "nothing was seen" is believed: known packets are sent and the
same filter has to catch them at the same taps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from labctl.engine.trace import marked_packets
from labctl.errors import MeasureFailed
from labctl.model.path import Protocol, Way
from labctl.path.capture import capturing, require_trustworthy
from labctl.path.sighting import sightings
from labctl.providers.base import OpenLab, Tap

_SETTLE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sanity:
    """Which known packets the filter let through, and at how many of the taps. `sent` names all that were sent."""

    sent: tuple[str, ...]
    seen: tuple[str, ...]
    taps: tuple[str, ...]

    @property
    def sentence(self) -> str:
        return f"the filter can see packets: it let {', '.join(self.seen)} through at {', '.join(self.taps)}"


def prove_filter(open_lab: OpenLab, taps: Sequence[Tap], expression: str) -> Sanity:
    """Sends one packet of each protocol between the pods of each of the lab's pairs.

    Raises MeasureFailed when the filter caught none of them, or a sender or a capture failed: then silence would mean
    nothing.
    """
    sent: list[str] = []
    seen: dict[str, None] = {}
    at: dict[str, None] = {}
    lab = open_lab.lab
    matchers = []
    with capturing(taps, expression, nanoseconds=True) as live:
        for pair in lab.pairs:
            for protocol in Protocol:
                marked = marked_packets(lab, pair, protocol, 1)
                marked.require_sent(open_lab.target(pair.client).run(marked.argv(), timeout_s=marked.timeout_s))
                matchers.append((protocol, marked.matcher()))
                sent.append(f"{protocol} {pair.client} → {pair.server}")
        time.sleep(_SETTLE_S)
        captures = live.stop()
    require_trustworthy(captures)
    for capture in captures:
        records = capture.records()
        for protocol, matcher in matchers:
            for sighting in sightings(records, matcher, tap=capture.tap.name, role=capture.tap.role):
                seen[f"{protocol} {sighting.way}" if sighting.way is Way.REPLY else str(protocol)] = None
                at[sighting.tap] = None
    if not seen:
        raise MeasureFailed(
            what="the filter sees none of the known packets, so its silence would mean nothing",
            cause=f"sent were: {', '.join(sent) or 'none, the lab has no pairs'}; the taps were "
            f"{', '.join(tap.name for tap in taps)}",
            remedy=f"labctl capture {lab.name} --sanity --filter 'icmp or udp port 8472'",
        )
    return Sanity(sent=tuple(sent), seen=tuple(seen), taps=tuple(at))
