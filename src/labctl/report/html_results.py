"""The results of the HTML report: one line a metric with a picture of its interval; what counts stands first.

One axis for all lines of a table, so that effects can be compared by eye. On a phone the picture takes a line of its
own under the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from labctl.model.comparison import ChangeVerdict, Comparison, MetricRow
from labctl.report.html_names import anchor
from labctl.report.sentences import (
    change_text,
    in_report_order,
    interval_text,
    method_text,
    placement_name,
    refusal_text,
    row_name,
    row_values,
    side_names,
)
from labctl.report.svg import axis_drawing, interval_drawing
from labctl.report.undetected import undetected_notes, undetected_text
from labctl.report.words import Words


def results(comparison: Comparison, words: Words) -> str:
    """The judged rows, and how they were measured."""
    rows = [row for row in in_report_order(comparison.rows) if row.verdict is not None]
    note = "".join(f'<p class="soft">{escape(said)}</p>' for said in undetected_notes(comparison, words))
    return f'{_table(comparison, rows, words)}{note}<p class="soft">{escape(method_text(comparison, words))}</p>'


def secondary_results(comparison: Comparison, words: Words) -> str:
    """The rows without a verdict; empty when there are none."""
    rows = [row for row in in_report_order(comparison.rows) if row.verdict is None]
    if not rows:
        return ""
    return f'{_table(comparison, rows, words)}<p class="soft">{escape(words.primary_note)}</p>'


def _table(comparison: Comparison, rows: Sequence[MetricRow], words: Words) -> str:
    reach = _reach(rows)
    a, b = side_names(comparison)
    is_judged = any(row.verdict is not None for row in rows)
    axis = axis_drawing(reach, words.is_lower.format(b="B"), words.is_higher.format(b="B"))
    head = "".join(
        f'<th class="{style}" scope="col">{text}</th>'
        for style, text in (
            ("", escape(words.metric)),
            ("n wide", f'<span class="key a"></span>A {escape(a)}'),
            ("n wide", f'<span class="key b"></span>B {escape(b)}'),
            ("n", escape(words.change)),
            ("n wide", escape(words.interval)),
            ("plot", axis),
            ("n wide", escape(words.pairs)),
            *((("", escape(words.verdict)),) if is_judged else ()),
        )
    )
    lines = []
    for placement in dict.fromkeys(row.placement for row in rows):
        name = escape(placement_name(placement, words))
        lines.append(f'<tr class="group"><th colspan="{7 + is_judged}" scope="rowgroup">{name}</th></tr>')
        lines += [_line(comparison, row, reach, words) for row in rows if row.placement is placement]
    style = "results judged" if is_judged else "results secondary"
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _line(comparison: Comparison, row: MetricRow, reach: float, words: Words) -> str:
    a, b = row_values(row)
    change = row.change
    name = row_name(comparison, row, words)
    drawing = under_change = ""
    if change is not None:
        under_change = f'<small class="narrow">{escape(interval_text(change))}</small>'
        title = f"{name} {change_text(change)} {interval_text(change)}"
        drawing = interval_drawing(
            change.estimate, change.low, change.high, row.margin, reach, title, str(row.verdict or "")
        )
    cells = (
        f'<td><a href="#{anchor(row)}">{escape(name)}</a><small class="narrow">{escape(a)} → {escape(b)}</small></td>'
        f'<td class="n wide">{escape(a)}</td><td class="n wide">{escape(b)}</td>'
        f'<td class="n">{escape(change_text(change, row.verdict))}'
        f"{under_change}</td>"
        f'<td class="n wide">{escape(interval_text(change))}</td><td class="plot">{drawing}</td>'
        f'<td class="n wide">{"–" if change is None else change.n}</td>{_verdict(row, words)}'
    )
    return f"<tr>{cells}</tr>"


def _verdict(row: MetricRow, words: Words) -> str:
    if row.verdict is None:
        return ""
    detail = ""
    if row.verdict is ChangeVerdict.UNDETECTED:
        detail = undetected_text(row.change)
    elif row.verdict is ChangeVerdict.REFUSED:
        detail = refusal_text(row.refusal, words)
    return (
        f'<td><span class="word {row.verdict}">{escape(words.verdicts[row.verdict])}</span> '
        f"<small>{escape(detail)}</small></td>"
    )


def _reach(rows: Iterable[MetricRow]) -> float:
    """How far the axis goes: as far as the intervals do, but not so far that one wild one flattens the others."""
    ends = sorted(
        max(abs(row.change.low), abs(row.change.high), (row.margin or 0.0) * 2)
        for row in rows
        if row.change is not None
    )
    typical = ends[(len(ends) * 3) // 4] if ends else 0.0
    return min(max(0.05, typical, min(ends[-1] if ends else 0.0, typical * 1.5)) * 1.1, 2.0)
