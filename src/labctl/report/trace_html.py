"""What the HTML page of a trace says, as facts for `templates/trace.html`. The picture is `trace_svg`'s.

It stands alone because pages are imported only when one is asked for; the commands that can show one are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labctl.language import Language, translator
from labctl.model.trace import Hop, PacketPath, Trace
from labctl.report.drawing.topology import can_be_drawn
from labctl.report.pages import language_tag, page
from labctl.report.trace_svg import trace_drawing
from labctl.report.trace_words import (
    NotSeen,
    brought_words,
    different,
    direction_words,
    envelope_lines,
    headline,
    mac_words,
    movement_words,
    path_title,
    seen_words,
    since_words,
    steps,
    translation_words,
    unshown_words,
    way_words,
)

_WORDS = {
    "request": "request, numbers in circles",
    "reply": "reply, numbers in squares",
    "unseen": "no packet of this exchange was seen here",
    "envelope": "in an envelope",
    "past": "a line beside a device: the packet went past it",
    "seen_at": "seen at",
    "direction": "direction",
    "since": "since before",
    "macs": "MACs and envelope",
    "brought": "what brought it here",
    "after": "after that",
    "differs": "Where it differs from what is expected",
    "evidence": "Evidence",
    "of_evidence": ("witness", "where", "what it shows", "by hand"),
    "by_hand": "By hand:",
}


def trace_page(trace: Trace, language: Language = Language.ENGLISH) -> str:
    """The whole page."""
    keys = ("hostRouting", "encapsulation", "podNetwork", "backend", "mode")
    asked = ", ".join(str(trace.asked[key]) for key in keys if key in trace.asked)
    return page(
        "trace.html",
        language=language_tag(language),
        title=f"{trace.client} → {trace.server}: where the packet went",
        styles=("report.css", "trace.css"),
        main_class="trace",
        trace=trace,
        over=f"lab {trace.lab} · asked for {asked} · {trace.placement} · {trace.protocol}",
        headline=_sentence(headline(trace)),
        seen=_sentence(seen_words(trace)),
        translations=[_sentence(translation_words(one)) for one in trace.translations],
        has_envelopes=any(hop.envelope for path in trace.paths for hop in path.hops),
        words=_WORDS,
        expected=f"Expected: {trace.expected_source}",
        known_from=f"What every tap should show is known from: {trace.expected_source}",
        drawing=trace_drawing(trace, translator(language).translated) if can_be_drawn(trace) else "",
        paths=[_path(path, numbers, trace) for path, numbers in different(trace)],
        notes=[*trace.notes, *(f"Not shown: {unshown_words(one)}" for one in trace.unshown)],
    )


def _path(path: PacketPath, numbers: tuple[int, ...], trace: Trace) -> dict[str, Any]:
    alike = f", and {way_words(path.way)} {', '.join(map(str, numbers[1:]))} alike" if len(numbers) > 1 else ""
    return {
        "way": str(path.way),
        "title": _sentence(path_title(path)) + alike,
        "hops": list(_hops(path, trace)),
        "after": [movement_words(act, trace) for act in path.after],
        "lost": path.lost and f"{'lost' if path.is_sent else 'not sent'}: {path.lost}",
    }


def _hops(path: PacketPath, trace: Trace) -> Iterator[dict[str, Any]]:
    last: Hop | None = None
    number = 0
    for step in steps(path):
        if isinstance(step, NotSeen):
            yield {"skipped": ", ".join(step.taps), "reason": f"skipped: {step.reason}"}
            continue
        number += 1
        yield _hop(step, last, number, trace)
        last = step


def _hop(hop: Hop, last: Hop | None, number: int, trace: Trace) -> dict[str, Any]:
    facts = []
    if last is None or (hop.src_mac, hop.dst_mac) != (last.src_mac, last.dst_mac):
        facts.append(mac_words(hop))
    if hop.envelope is not None and (last is None or hop.envelope != last.envelope):
        facts += envelope_lines(hop.envelope)
    return {
        "skipped": "",
        "number": number,
        "tap": hop.tap,
        "direction": direction_words(hop),
        "ttl": hop.ttl,
        "since": since_words(hop),
        "facts": facts,
        "acts": list(brought_words(hop, trace)),
    }


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
