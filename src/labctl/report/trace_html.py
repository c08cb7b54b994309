"""A trace as one HTML page that needs nothing else: no network, no JavaScript. The picture is `trace_svg`'s."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from labctl.model.path import Carriage, Hop, PacketPath, Trace, Way
from labctl.report.html_style import STYLE
from labctl.report.trace_style import TRACE_STYLE
from labctl.report.trace_svg import trace_drawing
from labctl.report.trace_words import (
    NotSeen,
    carried_words,
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
    way_words,
)


def trace_page(trace: Trace) -> str:
    """The whole page."""
    title = f"{trace.client} → {trace.server}: where the packet went"
    asked = ", ".join(str(trace.asked[key]) for key in ("hostRouting", "encapsulation") if key in trace.asked)
    over = f"lab {trace.lab} · asked for {asked} · {trace.placement} · {trace.protocol}"
    body = "".join(
        (
            f'<p class="over">{escape(over)}</p>',
            f"<h1>{escape(_sentence(headline(trace)))}</h1>",
            f'<div class="statement"><p>{escape(trace.statement)}</p></div>',
            _seen(trace),
            _legend(trace),
            f'<div class="scroll">{trace_drawing(trace)}</div>',
            *(_hops(path, numbers, trace) for path, numbers in different(trace)),
            _differences(trace),
            _evidence(trace),
            _notes(trace),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{TRACE_STYLE}</style></head>"
        f'<body><main class="trace">{body}</main></body></html>\n'
    )


def _seen(trace: Trace) -> str:
    text = seen_words(trace)
    return f"<p>{escape(_sentence(text))}</p>" if text else ""


def _legend(trace: Trace) -> str:
    keys = [
        (f'<path class="{Way.REQUEST}" d="M0 7H46"/>', "request, numbers in circles"),
        (f'<path class="{Way.REPLY}" d="M0 7H46"/>', "reply, numbers in squares"),
        ('<rect x="3" y="0" width="40" height="14" rx="3"/>', "no packet of this exchange was seen here"),
    ]
    if any(hop.envelope for path in trace.paths for hop in path.hops):
        keys.append(('<path class="tunnel" d="M0 7H46"/>', "in a VXLAN envelope"))
    items = "".join(f'<span><svg viewBox="0 0 46 14">{drawn}</svg>{words}</span>' for drawn, words in keys)
    return f'<div class="legend">{items}<span>a line beside a device: the packet went past it</span></div>'


def _hops(path: PacketPath, numbers: tuple[int, ...], trace: Trace) -> str:
    rows: list[str] = []
    last: Hop | None = None
    number = 0
    for step in steps(path):
        if isinstance(step, NotSeen):
            rows.append(
                f'<tr class="skipped"><td></td><td><code>{escape(", ".join(step.taps))}</code></td>'
                f'<td colspan="5">skipped: {escape(step.reason)}</td></tr>'
            )
            continue
        number += 1
        rows.append(_hop(step, last, number, path.way, trace))
        last = step
    if path.after:
        acts = _listed(movement_words(act, trace) for act in path.after)
        rows.append(f'<tr><td></td><td colspan="5">after that</td><td>{acts}</td></tr>')
    if path.lost:
        rows.append(f'<tr class="lost"><td>✗</td><td colspan="6">lost: {escape(path.lost)}</td></tr>')
    head = "".join(
        f'<th scope="col"{style}>{text}</th>'
        for text, style in (
            ("", ""),
            ("seen at", ""),
            ("way", ""),
            ("TTL", ' class="n"'),
            ("since before", ' class="n"'),
            ("MACs and envelope", ""),
            ("what brought it here", ""),
        )
    )
    others = f", and {way_words(path.way)} {', '.join(map(str, numbers[1:]))} alike" if len(numbers) > 1 else ""
    return (
        f"<section><h2>{escape(_sentence(path_title(path)) + others)}</h2><div class='scroll'>"
        f'<table class="hops"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _hop(hop: Hop, last: Hop | None, number: int, way: Way, trace: Trace) -> str:
    facts = []
    if last is None or (hop.src_mac, hop.dst_mac) != (last.src_mac, last.dst_mac):
        facts.append(mac_words(hop))
    if hop.envelope is not None and (last is None or hop.envelope != last.envelope):
        facts += envelope_lines(hop.envelope)
    acts = [movement_words(act, trace) for act in hop.moved_by]
    if not acts or hop.carriage in (Carriage.KERNEL, Carriage.TUNNEL, Carriage.UNOBSERVED):
        acts += [carried_words(hop)] if carried_words(hop) else []
    cells = "".join(
        f"<td{style}>{content}</td>"
        for content, style in (
            (f'<span class="mark {way}">{number}</span>', ""),
            (f"<code>{escape(hop.tap)}</code>", ""),
            (escape(direction_words(hop)), ""),
            (str(hop.ttl), ' class="n"'),
            (escape(since_words(hop)), ' class="n"'),
            (_listed(facts), ""),
            (_listed(acts), ""),
        )
    )
    return f"<tr>{cells}</tr>"


def _listed(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _differences(trace: Trace) -> str:
    if not trace.differences:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in trace.differences)
    source = f'<p class="soft">Expected: {escape(trace.expected_source)}</p>' if trace.expected_source else ""
    title = "<h2>Where it differs from what is expected</h2>"
    return f'<section class="notice wrong">{title}<ul>{items}</ul>{source}</section>'


def _evidence(trace: Trace) -> str:
    if not trace.evidence:
        return ""
    rows = "".join(
        f"<tr><td>{escape(piece.witness)}</td><td>{escape(piece.where)}</td><td>{escape(piece.finding)}</td>"
        f"<td><code>{escape(piece.command)}</code></td></tr>"
        for piece in trace.evidence
    )
    head = "".join(f'<th scope="col">{text}</th>' for text in ("witness", "where", "what it shows", "by hand"))
    return (
        f'<section><h2>Evidence</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _notes(trace: Trace) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in trace.notes)
    command = f"<p>By hand: <code>{escape(trace.command)}</code></p>" if trace.command else ""
    source = "" if trace.differences or not trace.expected_source else (
        f'<p class="soft">What every tap should show is known from: {escape(trace.expected_source)}</p>'
    )  # fmt: skip
    return (f"<ul>{notes}</ul>" if notes else "") + command + source


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
