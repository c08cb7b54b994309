"""The samples of the HTML report: for each metric both sides in the order of the runs, the changes, and the figures
of each block with a link to the run that they come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from labctl import units
from labctl.compare.statistics import relative
from labctl.model.comparison import Comparison, MetricRow, RunRecord
from labctl.model.result import Better
from labctl.report.html_names import anchor, run_anchor
from labctl.report.sentences import (
    change_text,
    in_report_order,
    interval_text,
    level,
    placement_name,
    row_name,
    row_sentence,
    row_values,
    side_names,
)
from labctl.report.svg import Point, changes_drawing, samples_drawing
from labctl.report.words import Words

Position = Mapping[tuple[str, int], RunRecord]
"""The runs of one check on one pair, by side and block."""


def cards(comparison: Comparison, words: Words, *, with_figures: bool) -> str:
    """A card a metric, what counts first; `with_figures` adds the figures of each block, which need room."""
    rows = in_report_order(comparison.rows)
    groups = (
        (words.what_counts, [row for row in rows if row.verdict is not None]),
        (words.secondary_title, [row for row in rows if row.verdict is None]),
    )
    parts = [f'<p class="soft">{escape(words.samples_note)}</p>'] if rows else []
    for title, group in groups:
        if group:
            shown = "".join(_card(comparison, row, words, with_figures=with_figures) for row in group)
            parts.append(f'<h3 class="part">{escape(title)}</h3><div class="cards">{shown}</div>')
    return "".join(parts)


def _card(comparison: Comparison, row: MetricRow, words: Words, *, with_figures: bool) -> str:
    runs = {
        (run.side, run.block): run
        for run in comparison.runs
        if (run.check, run.client, run.server) == (row.check, row.client, row.server)
    }
    name = f"{placement_name(row.placement, words)}{words.joiner}{row_name(comparison, row, words)}"
    better = words.better_lower if row.metric.better is Better.LOWER else words.better_higher
    parts = [
        f"<h4>{escape(name)}</h4>",
        f'<p class="soft">{escape(row.check)} {escape(row.client)} → {escape(row.server)} · {escape(better)}</p>',
    ]
    sentence = row_sentence(comparison, row, words)
    if sentence:
        parts.append(f"<p>{escape(sentence)}</p>")
    parts.append(_samples(comparison, row, runs, words))
    if row.differences and row.change is not None:
        parts.append(_changes(row, words))
    if with_figures:
        parts.append(_figures(comparison, row, runs, words))
    return f'<article class="card" id="{anchor(row)}">{"".join(parts)}</article>'


def _samples(comparison: Comparison, row: MetricRow, runs: Position, words: Words) -> str:
    samples = {*row.a.samples, *row.b.samples}
    if len(samples) == 1:
        value = units.readable(samples.pop(), row.metric.unit)
        return f'<p class="soft">{escape(words.always.format(value=value))}</p>'
    a, b = _points(comparison, row, runs)
    if not a or not b or row.a.median is None or row.b.median is None:
        return ""
    drawing = samples_drawing(a, b, (row.a.median, row.b.median), row.metric.unit, words.samples_in_order, words.block)
    texts = "".join(
        f' <span class="whole"><span class="key {side}"></span>{escape(name)} {escape(value)}</span>'
        for side, name, value in zip("ab", side_names(comparison), row_values(row), strict=True)
    )
    return f'{drawing}<p class="soft">{escape(words.median)}{texts}</p>'


def _changes(row: MetricRow, words: Words) -> str:
    change = row.change
    assert change is not None
    points = [Point(x=block, y=relative(d)) for block, d in zip(row.blocks, row.differences, strict=True)]
    drawing = changes_drawing(
        points,
        change.estimate,
        (change.low, change.high),
        row.margin,
        f"{words.differences_in_order}: {change_text(change)} {interval_text(change)}",
        words.block,
    )
    margin = "" if row.margin is None else f" · {words.margin} ± {units.percent(row.margin)}"
    said = f"{words.change} {change_text(change)} ({level(change)}: {interval_text(change)}){margin}"
    return f'{drawing}<p class="soft">{escape(said)}</p>'


def _points(comparison: Comparison, row: MetricRow, runs: Position) -> tuple[list[Point], list[Point]]:
    """Both sides' samples; of the two runs in a block the one that was made first stands to the left."""
    keys = (comparison.a.key, comparison.b.key)

    def position(block: int, side: str) -> int:
        run = runs.get((side, block))
        return 0 if run is None else run.position

    def place(block: int, mine: str, other: str) -> float:
        return block - 0.18 if position(block, mine) <= position(block, other) else block + 0.18

    def points(blocks: Iterable[int], samples: Iterable[float], mine: str, other: str) -> list[Point]:
        pairs = zip(blocks, samples, strict=True)
        return [Point(x=place(block, mine, other), y=value) for block, value in pairs if math.isfinite(value)]

    return (
        points(row.a.blocks, row.a.samples, keys[0], keys[1]),
        points(row.b.blocks, row.b.samples, keys[1], keys[0]),
    )


def _figures(comparison: Comparison, row: MetricRow, runs: Position, words: Words) -> str:
    """Block by block: both samples, each leading to its run among the raw data, and the change."""
    keys = (comparison.a.key, comparison.b.key)
    values = [dict(zip(side.blocks, side.samples, strict=True)) for side in (row.a, row.b)]
    changes = dict(zip(row.blocks, row.differences, strict=True))
    scale = units.scale_for(row.metric.unit, [*row.a.samples, *row.b.samples])
    lines = []
    for block in sorted({*values[0], *values[1]}):
        cells = "".join(
            _sample(of_side.get(block), runs.get((key, block)), row.metric.unit, scale)
            for key, of_side in zip(keys, values, strict=True)
        )
        change = changes.get(block)
        said = "–" if change is None else units.percent(relative(change), signed=True)
        lines.append(f'<tr><td>{block}</td>{cells}<td class="n">{escape(said)}</td></tr>')
    heads: Sequence[str] = (words.block, "A", "B", words.change)
    head = "".join(f'<th class="{"n" if number else ""}">{escape(text)}</th>' for number, text in enumerate(heads))
    return (
        f'<details><summary>{escape(words.by_block)}</summary><table class="figures"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></details>"
    )


def _sample(value: float | None, run: RunRecord | None, unit: str, scale: units.Scale) -> str:
    if value is None or run is None:
        return '<td class="n">–</td>'
    text = escape(units.readable(value, unit, scale))
    return f'<td class="n"><a href="#{run_anchor(run)}"><data value="{value!r}">{text}</data></a></td>'
