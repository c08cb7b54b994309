"""Where a difference comes from, as the lines of a table that every report shows: no layout, no statistics."""

from __future__ import annotations

from labctl import units
from labctl.model.comparison import Comparison, Difference, Explanation, MetricRow
from labctl.model.result import WayPart
from labctl.report.sentences import in_report_order, label, placement_name
from labctl.report.words import Words
from labctl.values import dataclass

_SEEN = 0.005
"""In the unit that is shown: what is less rounds to 0.00 and is left out, where both sides have no more of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedLine:
    """One line: what it is about, each side's value (empty for the rest), B less A, and its interval."""

    name: str
    a: str
    b: str
    difference: str
    interval: str
    is_part: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedTable:
    """One row's explanation: the row itself first, then the parts, the largest difference first, then the rest."""

    title: str
    unit: str
    lines: tuple[ExplainedLine, ...]
    reason: str = ""


def explained_tables(comparison: Comparison, words: Words) -> tuple[ExplainedTable, ...]:
    by_pair = {(each.check, each.client, each.server, each.metric): each for each in comparison.explanations}
    tables = []
    for row in in_report_order(comparison.rows):
        found = by_pair.get((row.check, row.client, row.server, row.metric.name))
        if found is not None:
            tables.append(_table(found, row, words))
    return tuple(tables)


def _table(found: Explanation, row: MetricRow, words: Words) -> ExplainedTable:
    title = f"{placement_name(row.placement, words)} {row.client} → {row.server}"
    if found.difference is None or found.rest is None:
        reason = words.unexplained.format(reason=found.reason)
        return ExplainedTable(title=title, unit="", lines=(), reason=reason)
    medians = [value for value in (row.a.median, row.b.median) if value is not None]
    scale = units.scale_for(found.unit, medians)

    def number(value: float | None, *, signed: bool = False) -> str:
        if value is None:
            return "–"
        size = f"{abs(value) / scale.size:.2f}"
        return ("−" if value < 0 and float(size) else "+" if signed else "") + size

    def line(name: str, a: float | None, b: float | None, by: Difference, *, is_part: bool = True) -> ExplainedLine:
        return ExplainedLine(
            name=name,
            a="" if a is None else number(a),
            b="" if b is None else number(b),
            difference=number(by.estimate, signed=True),
            interval=f"[{number(by.low, signed=True)}, {number(by.high, signed=True)}]",
            is_part=is_part,
        )

    has_netfilter = any(part.part is WayPart.NETFILTER for part in found.parts)
    names = words.parts if has_netfilter else {**words.parts, WayPart.STACK: words.part_with_netfilter}
    shown = [part for part in found.parts if max(abs(part.a), abs(part.b)) >= _SEEN * scale.size]
    parts = sorted(shown, key=lambda part: -abs(part.difference.estimate))
    return ExplainedTable(
        title=title,
        unit=scale.symbol,
        lines=(
            line(label(row.metric, words), row.a.median, row.b.median, found.difference, is_part=False),
            *(line(names[part.part], part.a, part.b, part.difference) for part in parts),
            line(words.not_explained, None, None, found.rest),
        ),
    )
