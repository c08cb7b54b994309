"""The raw data of the HTML report: which run on disk, and for each check run its samples and the files behind them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from labctl import units
from labctl.model.comparison import Comparison, RunRecord
from labctl.report.csv import comparison_csv, raw_place
from labctl.report.html_names import run_anchor
from labctl.report.json import comparison_json
from labctl.report.words import Words

# Beyond these the page would be slow to open: it then names the files of the run directory instead.
_LARGEST_ATTACHMENT_BYTE = 500_000
_MOST_SAMPLES = 2_500
_MOST_NAMES = 8


def has_room(comparison: Comparison) -> bool:
    """Whether the page shows every sample."""
    return sum(len(run.samples) for run in comparison.runs) <= _MOST_SAMPLES


def raw_data(comparison: Comparison, words: Words) -> str:
    links = [
        _attachment("comparison.json", "application/json", comparison_json(comparison, indent=None)),
        _attachment("samples.csv", "text/csv", comparison_csv(comparison)),
    ]
    parts = [f"<p>{escape(words.data_note)} {' · '.join(links)}</p>"]
    if comparison.origins:
        note = escape(words.raw_note.format(runs=_origins(comparison)))
        parts.append(f"<p>{note}</p>")
    parts.append(
        f"<details><summary>{escape(words.run_order)}</summary><pre>{escape(comparison.order)}</pre></details>"
    )
    if has_room(comparison):
        count = sum(len(run.samples) for run in comparison.runs)
        parts.append(f"<details><summary>{escape(words.raw_data)} ({count})</summary>{_table(comparison, words)}")
        parts.append("</details>")
    return "".join(parts)


def _origins(comparison: Comparison) -> str:
    """`A, B: 2026…-compare-legacy-bpf-3fa9c1`, or one for each side where they differ."""
    letters = {comparison.a.key: "A", comparison.b.key: "B"}
    by_run: dict[str, list[str]] = {}
    for key, run in comparison.origins.items():
        by_run.setdefault(run, []).append(letters[key])
    return "; ".join(f"{', '.join(sides)}: {run}" for run, sides in by_run.items())


def _attachment(name: str, kind: str, text: str) -> str:
    """A link that holds the file itself, or its name alone where it would be too large."""
    data = text.encode()
    if len(data) > _LARGEST_ATTACHMENT_BYTE:
        return f"<code>{escape(name)}</code>"
    encoded = base64.b64encode(data).decode()
    return f'<a download="{escape(name)}" href="data:{kind};charset=utf-8;base64,{encoded}">{escape(name)}</a>'


def _table(comparison: Comparison, words: Words) -> str:
    heads = (words.block, words.side, words.check, words.pair, words.started_at, words.value, words.raw_files)
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    letters = {comparison.a.key: "A", comparison.b.key: "B"}
    lines = "".join(_line(run, letters.get(run.side, run.side), words) for run in comparison.runs)
    body = f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
    return f'<div class="scroll"><table class="mono runs">{body}</table></div>'


def _line(run: RunRecord, letter: str, words: Words) -> str:
    values = "<br>".join(
        f'{escape(sample.metric)} <data value="{sample.value!r}">{escape(units.readable(sample.value, sample.unit))}'
        "</data>"
        for sample in run.samples
    )
    verdict = "" if run.samples else escape(words.check_verdicts[run.verdict])
    return (
        f'<tr id="{run_anchor(run)}"><td>{run.block}.{run.position}<td>{letter}<td>{escape(run.check)}'
        f"<td>{escape(run.client)}→{escape(run.server)}<td>{escape(run.started_at)}<td>{values}{verdict}"
        f"<td>{escape(_files(run.raw))}"
    )


def _files(raw: Sequence[str]) -> str:
    """`raw/0011-…/client.json, client.stdout`: the directory once. Of many files only their directory and number."""
    if not raw:
        return "–"
    place = raw_place(raw)
    if len(raw) > _MOST_NAMES:
        return f"{place} ({len(raw)})"
    return ", ".join([raw[0], *(name.removeprefix(place) for name in raw[1:])])
