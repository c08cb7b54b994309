"""A comparison as one HTML file that needs nothing else: no network, no JavaScript; looks are `html_style`'s.

Every figure on the page can be traced: to the samples drawn above it, to the table of raw samples, and through that
to the raw files; the whole comparison is attached as JSON and CSV.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable
from html import escape

from labctl import units
from labctl.compare.statistics import relative
from labctl.model.comparison import ChangeVerdict, Comparison, MetricRow
from labctl.model.result import Better
from labctl.report.csv import comparison_csv
from labctl.report.html_style import STYLE
from labctl.report.json import comparison_json
from labctl.report.sentences import (
    caution_text,
    change_text,
    detectable_text,
    environment_lines,
    headline,
    in_report_order,
    interval_text,
    label,
    level,
    limit_lines,
    method_text,
    mode_text,
    noise_floor_text,
    placement_name,
    refusal_text,
    row_sentence,
    row_values,
    side_names,
    sides,
    statements,
)
from labctl.report.signature import Matrix, cell_text, matrices
from labctl.report.svg import Point, changes_drawing, interval_drawing, samples_drawing
from labctl.report.words import ENGLISH, Words

# Beyond these the page would be slow to open: it then names the files of the run directory instead.
_LARGEST_ATTACHMENT_BYTE = 500_000
_MOST_TABLE_LINES = 2_500


def comparison_page(comparison: Comparison, words: Words = ENGLISH) -> str:
    """The whole page."""
    a, b = side_names(comparison)
    title = words.against.format(a=comparison.a.scenario, b=comparison.b.scenario)
    language = "zh-CN" if words.tag == "zh" else words.tag
    keys = "".join(f'<span class="key {side}"></span>{escape(name)} &nbsp; ' for side, name in (("a", a), ("b", b)))
    body = "".join(
        (
            f'<p class="over">{keys}</p>',
            f"<h1>{escape(headline(comparison, words))}</h1>",
            _statements(comparison, words),
            _warnings(comparison, words),
            _section("results", words.results, _results(comparison, words)),
            _section("limit", words.limit_note, _limits(comparison, words)),
            _section("samples", words.samples, _cards(comparison, words)),
            _section("signatures", words.signatures, _signatures(comparison, words)),
            _section("proof", words.mode_in_force, _proof(comparison, words)),
            _section("environment", words.environment, _environment(comparison)),
            _section("raw", words.raw_data, _raw(comparison, words)),
        )
    )
    # A figure and its percent sign stay on one line.
    body = body.replace(" %", "\u00a0%")
    return (
        f'<!doctype html>\n<html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>' if content else ""


def _statements(comparison: Comparison, words: Words) -> str:
    floor = noise_floor_text(comparison, words)
    lines = (f"<p>{escape(floor)}</p>" if floor else "") + "".join(
        f"<p>{escape(who)}: {escape(what)}</p>" for who, what in statements(comparison)
    )
    return f'<div class="statement">{lines}</div>' if lines else ""


def _warnings(comparison: Comparison, words: Words) -> str:
    items = "".join(f"<li>{escape(caution_text(caution, words))}</li>" for caution in comparison.cautions)
    return f'<div class="notice"><strong>{escape(words.warnings)}</strong><ul>{items}</ul></div>' if items else ""


def _results(comparison: Comparison, words: Words) -> str:
    rows = in_report_order(comparison.rows)
    head = "".join(
        f'<th class="{style}" scope="col">{escape(text)}</th>'
        for style, text in (
            ("", words.metric),
            ("n wide", "A"),
            ("n wide", "B"),
            ("n", words.change),
            ("n wide", words.interval),
            ("wide", ""),
            ("n wide", words.pairs),
            ("", words.verdict),
        )
    )
    lines = []
    for placement in dict.fromkeys(row.placement for row in rows):
        group = [row for row in rows if row.placement is placement]
        reach = _reach(group)
        lines.append(
            f'<tr class="group"><th colspan="8" scope="rowgroup">{escape(placement_name(placement, words))}</th></tr>'
        )
        lines += [_result_line(row, reach, words) for row in group]
    note = (
        f'<p class="soft">{escape(words.undetected_note)}</p>'
        if any(row.verdict is ChangeVerdict.UNDETECTED for row in rows)
        else ""
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        f'<p class="soft">{escape(method_text(comparison, words))} {escape(words.primary_note)}</p>{note}'
    )


def _result_line(row: MetricRow, reach: float, words: Words) -> str:
    a, b = row_values(row)
    change = row.change
    drawing = ""
    if change is not None:
        title = f"{label(row.metric, words)} {change_text(change)} {interval_text(change)}"
        drawing = interval_drawing(change.estimate, change.low, change.high, row.margin, reach, title)
    verdict = words.secondary if row.verdict is None else words.verdicts[row.verdict]
    detail = ""
    if row.verdict is ChangeVerdict.UNDETECTED:
        detail = detectable_text(change)
    elif row.verdict is ChangeVerdict.REFUSED:
        detail = refusal_text(row.refusal, words)
    cells = (
        f'<td><a href="#{_anchor(row)}">{escape(label(row.metric, words))}</a>'
        f'<small class="narrow">{escape(a)} → {escape(b)}</small></td>'
        f'<td class="n wide">{escape(a)}</td><td class="n wide">{escape(b)}</td>'
        f'<td class="n">{escape(change_text(change, row.verdict))}'
        f'<small class="narrow">{escape(interval_text(change))}</small></td>'
        f'<td class="n wide">{escape(interval_text(change))}</td><td class="wide">{drawing}</td>'
        f'<td class="n wide">{"–" if change is None else change.n}</td>'
        f'<td><span class="word {row.verdict or ""}">{escape(verdict)}</span> <small>{escape(detail)}</small></td>'
    )
    return f'<tr class="{"secondary" if row.verdict is None else ""}">{cells}</tr>'


def _limits(comparison: Comparison, words: Words) -> str:
    """Each side against what was measured between the nodes; empty without a reference."""
    titled: dict[str, list[str]] = {}
    for title, line in limit_lines(comparison, words):
        titled.setdefault(title, []).append(f"<li>{escape(line)}</li>")
    return "".join(f"<p>{escape(title)}</p><ul>{''.join(items)}</ul>" for title, items in titled.items())


def _anchor(row: MetricRow) -> str:
    """The row's fragment in this page, made of letters, digits, dots and dashes."""
    text = f"{row.placement}-{row.check}-{row.client}-{row.server}-{row.metric.name}"
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)


def _reach(rows: Iterable[MetricRow]) -> float:
    """How far the forest plot goes: as far as the judged intervals do, so that noise does not flatten them."""
    ends = [
        abs(end)
        for row in rows
        if row.change is not None and row.verdict is not None
        for end in (row.change.low, row.change.high)
    ]
    return min(max([0.1, *ends]) * 1.1, 2.0)


def _cards(comparison: Comparison, words: Words) -> str:
    cards = "".join(_card(comparison, row, words) for row in in_report_order(comparison.rows))
    return f'<div class="cards">{cards}</div>' if cards else ""


def _card(comparison: Comparison, row: MetricRow, words: Words) -> str:
    name = f"{placement_name(row.placement, words)}{words.joiner}{label(row.metric, words)}"
    better = words.better_lower if row.metric.better is Better.LOWER else words.better_higher
    parts = [
        f"<h3>{escape(name)}</h3>",
        f'<p class="soft">{escape(row.check)} {escape(row.client)} → {escape(row.server)} · {escape(better)}</p>',
    ]
    sentence = row_sentence(comparison, row, words)
    if sentence:
        parts.append(f"<p>{escape(sentence)}</p>")
    a, b = _points(comparison, row)
    if a and b and row.a.median is not None and row.b.median is not None:
        parts.append(samples_drawing(a, b, (row.a.median, row.b.median), row.metric.unit, words.samples_in_order))
        parts.append(f'<p class="soft">{_legend(row, words)}{escape(words.samples_in_order)}</p>')
    if row.differences and row.change is not None:
        changes = [Point(x=block, y=relative(d)) for block, d in zip(row.blocks, row.differences, strict=True)]
        change = row.change
        parts.append(
            changes_drawing(changes, change.estimate, (change.low, change.high), row.margin, words.differences_in_order)
        )
        margin = "" if row.margin is None else f" · {words.margin} {units.percent(row.margin)}"
        parts.append(
            f'<p class="soft">{escape(words.differences_in_order)}: {escape(change_text(change))} '
            f"({escape(level(change))}: {escape(interval_text(change))}){escape(margin)}</p>"
        )
    return f'<article class="card" id="{_anchor(row)}">{"".join(parts)}</article>'


def _legend(row: MetricRow, words: Words) -> str:
    a, b = row_values(row)
    keys = f'<span class="key a"></span>A {escape(a)} &nbsp;<span class="key b"></span>B {escape(b)}'
    return f"{keys} ({escape(words.median)}) · "


def _points(comparison: Comparison, row: MetricRow) -> tuple[list[Point], list[Point]]:
    """Both sides' samples; of the two runs in a block the one that was made first stands to the left."""
    position = {
        (run.block, run.side): run.position
        for run in comparison.runs
        if (run.check, run.client, run.server) == (row.check, row.client, row.server)
    }
    keys = (comparison.a.key, comparison.b.key)

    def place(block: int, mine: str, other: str) -> float:
        is_first = position.get((block, mine), 0) <= position.get((block, other), 0)
        return block - 0.18 if is_first else block + 0.18

    def points(blocks: Iterable[int], samples: Iterable[float], mine: str, other: str) -> list[Point]:
        pairs = zip(blocks, samples, strict=True)
        return [Point(x=place(block, mine, other), y=value) for block, value in pairs if math.isfinite(value)]

    return (
        points(row.a.blocks, row.a.samples, keys[0], keys[1]),
        points(row.b.blocks, row.b.samples, keys[1], keys[0]),
    )


def _signatures(comparison: Comparison, words: Words) -> str:
    names = side_names(comparison)
    tables = "".join(_signature(matrix, names, words) for matrix in matrices(comparison))
    return (
        f'<p class="soft">{escape(words.signature_legend)}</p><div class="cards broad">{tables}</div>' if tables else ""
    )


def _signature(matrix: Matrix, names: tuple[str, str], words: Words) -> str:
    title = f"{placement_name(matrix.placement, words)} {matrix.client} → {matrix.server}"
    notes = []
    for seen in (matrix.a, matrix.b):
        expected = None if seen is None else seen.is_expected
        note = "" if expected is None else words.as_expected if expected else words.not_as_expected
        notes.append(f'<br><small class="{"" if expected in (None, True) else "refused"}">{escape(note)}</small>')
    head = "".join(f'<th scope="col">{escape(name)}{note}</th>' for name, note in zip(names, notes, strict=True))
    lines = "".join(
        f'<tr class="{"differs" if row.differs else ""}"><td class="mono whole">{escape(str(row.role))}</td>'
        f'<td class="mono">{escape(cell_text(row.a))}</td><td class="mono">{escape(cell_text(row.b))}</td>'
        f"<td>{escape(words.differs) if row.differs else ''}</td></tr>"
        for row in matrix.loud
    )
    taps = ", ".join(str(row.role) for row in matrix.silent)
    silent = f'<p class="soft">{escape(words.silent_taps.format(taps=taps))}</p>' if taps else ""
    return (
        f'<article class="card"><h3>{escape(title)}</h3><div class="scroll"><table><thead><tr><th></th>{head}<th></th>'
        f"</tr></thead><tbody>{lines}</tbody></table></div>{silent}</article>"
    )


def _proof(comparison: Comparison, words: Words) -> str:
    return f'<div class="cards broad">{"".join(_side_proof(comparison, words))}</div>'


def _side_proof(comparison: Comparison, words: Words) -> Iterable[str]:
    for letter, side in sides(comparison):
        mode = comparison.mode(side.key)
        proven = mode is not None and mode.proven
        state = words.proven if proven else words.not_proven
        title = f'<span class="key {letter.lower()}"></span>{letter} {escape(side.scenario)}: '
        word = f'<span class="word {"faster" if proven else "refused"}">{escape(state)}</span>'
        parts = [f"<h3>{title}{word}</h3>"]
        if mode is not None:
            if mode.reason:
                parts.append(f"<p>{escape(mode.reason)}</p>")
            parts.append(f"<p>{escape(words.asked)}: {escape(mode_text(mode.asked))}<br>")
            parts.append(f"{escape(words.found)}: {escape(mode_text(mode.found))}</p><ul>")
            for evidence in mode.evidence:
                mark = {True: "✓ ", False: "✗ ", None: ""}[evidence.supports]
                command = f"<br><code>{escape(evidence.command)}</code>" if evidence.command else ""
                what = f"{evidence.witness} ({evidence.where}): {evidence.finding}"
                parts.append(f"<li>{mark}{escape(what)}{command}</li>")
            parts.append("</ul>")
        parts.append(
            f'<p class="soft">{escape(side.provider)} · {escape(side.source)} · {escape(side.digest[:16])}</p>'
        )
        yield f'<article class="card">{"".join(parts)}</article>'


def _environment(comparison: Comparison) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in environment_lines(comparison))
    return f"<dl>{lines}</dl>"


def _raw(comparison: Comparison, words: Words) -> str:
    links = [
        _attachment("comparison.json", "application/json", comparison_json(comparison)),
        _attachment("samples.csv", "text/csv", comparison_csv(comparison)),
    ]
    parts = [f"<p>{escape(words.data_note)} {' · '.join(links)}</p>"]
    parts.append(
        f"<details><summary>{escape(words.run_order)}</summary><pre>{escape(comparison.order)}</pre></details>"
    )
    count = sum(len(run.samples) for run in comparison.runs)
    if count <= _MOST_TABLE_LINES:
        parts.append(f"<details><summary>{escape(words.raw_data)} ({count})</summary>{_table(comparison, words)}")
        parts.append("</details>")
    return "".join(parts)


def _attachment(name: str, kind: str, text: str) -> str:
    """A link that holds the file itself, or its name alone where it would be too large."""
    data = text.encode()
    if len(data) > _LARGEST_ATTACHMENT_BYTE:
        return f"<code>{escape(name)}</code>"
    encoded = base64.b64encode(data).decode()
    return f'<a download="{escape(name)}" href="data:{kind};charset=utf-8;base64,{encoded}">{escape(name)}</a>'


def _table(comparison: Comparison, words: Words) -> str:
    heads = (words.block, words.side, words.check, words.pair, words.metric, words.value, "", words.started_at, "")
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = []
    for run in comparison.runs:
        start = f"<tr><td>{run.block}.{run.position}<td>{escape(run.side)}<td>{escape(run.check)}"
        start += f"<td>{escape(run.client)}→{escape(run.server)}"
        end = f"<td>{escape(run.started_at)}<td>{escape(' '.join(run.raw))}"
        for sample in run.samples:
            value = f'<td>{escape(sample.metric)}<td class="n">{sample.value!r}<td>{escape(sample.unit)}'
            lines.append(start + value + end)
    return (
        f'<div class="scroll"><table class="mono"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</table></div>'
    )
