"""Several comparisons side by side: a column for each, a line for each primary metric."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from labctl.model.comparison import ChangeVerdict, Comparison, MetricRow
from labctl.report.grid import Column, Grid
from labctl.report.markdown import escaped
from labctl.report.sentences import change_text, headline, in_report_order, label, placement_name, undetected_text
from labctl.report.words import ENGLISH, Words
from labctl.values import dataclass

if TYPE_CHECKING:
    from rich.console import RenderableType


MIN_STATIONS = 2
"""Fewer make no curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixLine:
    """One judged metric of one pair: what each comparison says of it, None where it has no such row."""

    placement: str
    name: str
    rows: tuple[MetricRow | None, ...]


def matrix_lines(comparisons: Sequence[Comparison], words: Words = ENGLISH) -> tuple[MatrixLine, ...]:
    """The judged rows of all comparisons, in the order of the reports."""
    by_key = [{_key(row): row for row in each.rows if row.verdict is not None} for each in comparisons]
    every = {key: row for rows in by_key for key, row in rows.items()}
    lines = []
    for row in in_report_order(every.values()):
        name = label(row.metric, words)
        alike = [r for r in every.values() if (r.metric.name, r.placement) == (row.metric.name, row.placement)]
        if len(alike) > 1:
            name += f" ({row.check} {row.client}→{row.server})"
        placement = placement_name(row.placement, words)
        lines.append(MatrixLine(placement=placement, name=name, rows=tuple(rows.get(_key(row)) for rows in by_key)))
    return tuple(lines)


def cell(row: MetricRow | None, words: Words = ENGLISH) -> str:
    """`−21 % faster`, `~ (≥ 4 %)`, `refused`: what one comparison says of one metric."""
    if row is None or row.verdict is None:
        return "–"
    word = words.verdicts[row.verdict]
    if row.verdict is ChangeVerdict.REFUSED:
        return word
    if row.verdict is ChangeVerdict.UNDETECTED:
        return f"~ ({undetected_text(row.change)})"
    return f"{change_text(row.change, row.verdict)} {word}"


def matrix_view(comparisons: Sequence[Comparison], words: Words = ENGLISH) -> RenderableType:
    """For a terminal: the headline of each comparison, then the table."""
    from rich.console import Group
    from rich.text import Text

    columns = (Column(title=title(comparisons, words)), *(Column(title=name) for name in column_names(comparisons)))
    rows: list[tuple[str | Text, ...]] = []
    placement = ""
    for line in matrix_lines(comparisons, words):
        if line.placement != placement:
            placement = line.placement
            rows.append((Text(placement, style="bold"),))
        rows.append((f"  {line.name}", *(cell(row, words) for row in line.rows)))
    headlines = [Text(f"- {headline(comparison, words)}") for comparison in comparisons]
    return Group(*headlines, Text(""), Grid(columns, rows), Text(words.matrix_note, style="dim"))


def matrix_markdown(comparisons: Sequence[Comparison], words: Words = ENGLISH) -> str:
    """The same table in GitHub's dialect."""
    names = column_names(comparisons)
    lines = [
        f"| {escaped(title(comparisons, words))} | {' | '.join(map(escaped, names))} |",
        "|---|" + "---|" * len(names),
    ]
    for line in matrix_lines(comparisons, words):
        cells = " | ".join(escaped(cell(row, words)) for row in line.rows)
        lines.append(f"| {escaped(f'{line.placement} {line.name}')} | {cells} |")
    said = [f"- {escaped(sentence)}" for sentence in _statements(comparisons)]
    return "\n".join([*lines, "", words.matrix_note, "", *said]) + "\n"


def matrix_page(comparisons: Sequence[Comparison], links: Sequence[str], words: Words = ENGLISH) -> str:
    """One page with the table; each column leads to the page of its comparison (`links`, in the same order)."""
    from labctl.report.pages import language_tag, page

    return page(
        "matrix.html",
        language=language_tag(words.tag),
        title=title(comparisons, words),
        styles=("report.css",),
        words=words,
        headlines=[headline(comparison, words) for comparison in comparisons],
        statements=_statements(comparisons),
        columns=list(zip(column_names(comparisons), links, strict=True)),
        lines=[
            {
                "name": f"{line.placement} {line.name}",
                "cells": [
                    {"verdict": str(row.verdict or "") if row is not None else "", "text": cell(row, words)}
                    for row in line.rows
                ],
            }
            for line in matrix_lines(comparisons, words)
        ],
        curves=_curves(comparisons, words),
    )


def _curves(comparisons: Sequence[Comparison], words: Words) -> list[dict[str, str]]:
    """A drawing of each judged metric: its change from column to column. It begins at what all are compared with, where
    that is one side. Empty where there is one column."""
    from labctl.report.svg import Station, curve_drawing

    if len(comparisons) < MIN_STATIONS:
        return []
    is_one = len({(each.a.key, each.a.scenario) for each in comparisons}) == 1
    names = short_names([*([comparisons[0].a.scenario] if is_one else []), *column_names(comparisons)])
    curves = []
    for line in matrix_lines(comparisons, words):
        changes = [
            None if row is None or row.change is None else (row.change.estimate, row.change.low, row.change.high)
            for row in line.rows
        ]
        first = [(0.0, 0.0, 0.0)] if is_one else []
        stations = [Station(name=name, change=change) for name, change in zip(names, [*first, *changes], strict=True)]
        if sum(one.change is not None for one in stations) >= MIN_STATIONS:
            margin = next(row.margin for row in line.rows if row is not None)
            title = f"{line.placement} {line.name}"
            curves.append({"title": title, "drawing": curve_drawing(stations, margin, title)})
    return curves


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names without the words that all of them begin with: `bpf-rules-0`, `bpf-rules-28` are 0 and 28."""
    words = [name.split("-") for name in names]
    common = sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False)))
    return tuple("-".join(each[common:]) or name for each, name in zip(words, names, strict=True))


def _statements(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """What a reader must know before the figures, each sentence once, with the scenarios that it is about."""
    about: dict[str, dict[str, None]] = {}
    for comparison in comparisons:
        for side in (comparison.a, comparison.b):
            for sentence in side.statements:
                about.setdefault(sentence, {})[side.scenario] = None
    return tuple(f"{', '.join(names)}: {sentence}" for sentence, names in about.items())


def title(comparisons: Sequence[Comparison], words: Words) -> str:
    """`Compared with legacy`, or only “change” where the first side is not the same in all of them."""
    firsts = {comparison.a.scenario for comparison in comparisons}
    return words.against_first.format(a=firsts.pop()) if len(firsts) == 1 else words.change


def column_names(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """What to call the other side of each comparison: its scenario, with its key where two are the same; both sides
    where the first one is not the same everywhere (stored runs)."""
    if len({(each.a.key, each.a.scenario) for each in comparisons}) > 1 or not all(c.is_paired for c in comparisons):
        return tuple(f"{each.a.scenario} → {each.b.scenario}" for each in comparisons)
    scenarios = [comparison.b.scenario for comparison in comparisons]
    return tuple(
        each.b.scenario if scenarios.count(each.b.scenario) == 1 else f"{each.b.scenario} ({each.b.key})"
        for each in comparisons
    )


def _key(row: MetricRow) -> tuple[str, str, str, str, str]:
    return row.placement, row.check, row.client, row.server, row.metric.name
