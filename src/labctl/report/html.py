"""What the HTML page of a comparison says, as facts for `templates/comparison.html`; the markup is the template's.

Every figure on the page can be traced: from the line of a metric to its samples block by block, from a sample to its
check run, and from there to the raw files on disk.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from labctl import units
from labctl.compare.statistics import relative
from labctl.compare.thresholds import ThresholdJudgement
from labctl.model.comparison import ChangeVerdict, Comparison, MetricRow, RunRecord
from labctl.model.evidence import Evidence
from labctl.model.result import Better
from labctl.report.csv import comparison_csv, raw_place
from labctl.report.explanation import explained_tables
from labctl.report.json import comparison_json
from labctl.report.pages import language_tag, page
from labctl.report.sentences import (
    caution_text,
    change_text,
    environment_lines,
    failed_run_lines,
    headline,
    in_report_order,
    interval_text,
    judgement_text,
    level,
    limit_lines,
    method_text,
    mode_text,
    noise_floor_text,
    placement_name,
    refusal_text,
    row_name,
    row_sentence,
    row_values,
    side_names,
    sides,
    standing_text,
    statements,
    undetected_notes,
    undetected_text,
)
from labctl.report.signature import SignatureMatrix, cell_text, matrices
from labctl.report.svg import Point, axis_drawing, changes_drawing, interval_drawing, samples_drawing
from labctl.report.terminal import shortened, telling
from labctl.report.words import ENGLISH, Words

# Beyond these the page would be slow to open: it then names the files of the run directory instead.
_LARGEST_ATTACHMENT_BYTE = 500_000
_MOST_SAMPLES = 2_500
_MOST_NAMES = 8

_RANGE = re.compile(r"([\d.]+–[\d.]+ %)")
_OTHER = re.compile(r"[^A-Za-z0-9_.-]")

Runs = Mapping[tuple[str, int], RunRecord]
"""The runs of one check on one pair, by side and block."""


def comparison_page(
    comparison: Comparison, words: Words = ENGLISH, judgements: Sequence[ThresholdJudgement] = ()
) -> str:
    """The whole page; `judgements` are the results of the thresholds of `--fail-if`."""
    floor = noise_floor_text(comparison, words)
    judged = [row for row in in_report_order(comparison.rows) if row.verdict is not None]
    others = [row for row in in_report_order(comparison.rows) if row.verdict is None]
    a, b = (
        {"style": letter.lower(), "letter": letter, "scenario": side.scenario, "scenario_name": name}
        for (letter, side), name in zip(sides(comparison), side_names(comparison), strict=True)
    )
    return page(
        "comparison.html",
        language=language_tag(words.tag),
        title=words.against.format(a=comparison.a.scenario, b=comparison.b.scenario),
        styles=("report.css",),
        words=words,
        a=a,
        b=b,
        headline=_RANGE.split(headline(comparison, words)),
        statements=[*([floor] if floor else ()), *(f"{who}: {what}" for who, what in statements(comparison))],
        results=_table(comparison, judged, words),
        results_notes=[*undetected_notes(comparison, words), method_text(comparison, words)],
        failed_runs=failed_run_lines(comparison, words),
        thresholds=[judgement_text(judgement, words) for judgement in judgements],
        warnings=[caution_text(caution, words) for caution in comparison.cautions],
        explained=explained_tables(comparison, words),
        limits=_limits(comparison, words),
        limit_note=f"{words.limit_note[:1].upper()}{words.limit_note[1:]}",
        secondary=_table(comparison, others, words),
        cards=_cards(comparison, judged, others, words),
        signatures=[_signature(matrix, side_names(comparison), words) for matrix in matrices(comparison)],
        proofs=list(_proofs(comparison, words)),
        environment=environment_lines(comparison),
        **_raw_data(comparison, words),
    )


# ---- results: one line per metric, one axis for all lines of a table, so that effects can be compared by eye


def _table(comparison: Comparison, rows: Sequence[MetricRow], words: Words) -> dict[str, Any]:
    reach = _reach(rows)
    return {
        "is_judged": any(row.verdict is not None for row in rows),
        "axis": axis_drawing(reach, words.is_lower.format(b="B"), words.is_higher.format(b="B")),
        "groups": [
            {
                "placement": placement_name(placement, words),
                "lines": [_line(comparison, row, reach, words) for row in rows if row.placement is placement],
            }
            for placement in dict.fromkeys(row.placement for row in rows)
        ],
    }


def _line(comparison: Comparison, row: MetricRow, reach: float, words: Words) -> dict[str, Any]:
    a, b = row_values(row)
    change, name = row.change, row_name(comparison, row, words)
    drawing = None
    if change is not None:
        title = f"{name} {change_text(change)} {interval_text(change)}"
        drawing = interval_drawing(
            change.estimate, change.low, change.high, row.margin, reach, title, str(row.verdict or "")
        )
    detail = {
        ChangeVerdict.UNDETECTED: lambda: undetected_text(change),
        ChangeVerdict.REFUSED: lambda: refusal_text(row.refusal, words),
    }
    return {
        "anchor": _anchor(row),
        "name": name,
        "a": a,
        "b": b,
        "has_change": change is not None,
        "change": change_text(change, row.verdict),
        "interval": interval_text(change),
        "drawing": "" if drawing is None else drawing,
        "pairs": "–" if change is None else change.n,
        "verdict": str(row.verdict or ""),
        "verdict_word": "" if row.verdict is None else words.verdicts[row.verdict],
        "detail": detail[row.verdict]() if row.verdict in detail else "",
    }


def _reach(rows: Iterable[MetricRow]) -> float:
    """How far the axis goes: as far as the intervals do, but not so far that one wild one flattens the others."""
    ends = sorted(
        max(abs(row.change.low), abs(row.change.high), (row.margin or 0.0) * 2)
        for row in rows
        if row.change is not None
    )
    typical = ends[(len(ends) * 3) // 4] if ends else 0.0
    return min(max(0.05, typical, min(ends[-1] if ends else 0.0, typical * 1.5)) * 1.1, 2.0)


# ---- samples: a card per metric, what counts first


def _cards(
    comparison: Comparison, judged: Sequence[MetricRow], others: Sequence[MetricRow], words: Words
) -> list[dict[str, Any]]:
    return [
        {"title": title, "cards": [_card(comparison, row, words) for row in rows]}
        for title, rows in ((words.what_counts, judged), (words.secondary_title, others))
        if rows
    ]


def _card(comparison: Comparison, row: MetricRow, words: Words) -> dict[str, Any]:
    runs = {
        (run.side, run.block): run
        for run in comparison.runs
        if (run.check, run.client, run.server) == (row.check, row.client, row.server)
    }
    better = words.better_lower if row.metric.better is Better.LOWER else words.better_higher
    has_changes = bool(row.differences) and row.change is not None
    return {
        "anchor": _anchor(row),
        "name": f"{placement_name(row.placement, words)}{words.joiner}{row_name(comparison, row, words)}",
        "where": f"{row.check} {row.client} → {row.server} · {better}",
        "sentence": row_sentence(comparison, row, words),
        **_samples(comparison, row, runs, words),
        "changes": _changes(row, words) if has_changes else "",
        "changes_text": _changes_text(row, words) if has_changes else "",
        # The figures of each block need room.
        "blocks": _blocks(comparison, row, runs) if has_room(comparison) else None,
    }


def _samples(comparison: Comparison, row: MetricRow, runs: Runs, words: Words) -> dict[str, Any]:
    found: dict[str, Any] = {"always": "", "samples": "", "medians": []}
    samples = {*row.a.samples, *row.b.samples}
    if len(samples) == 1:
        value = units.readable(samples.pop(), row.metric.unit)
        return found | {"always": words.always.format(value=value)}
    a, b = _points(comparison, row, runs)
    if not a or not b or row.a.median is None or row.b.median is None:
        return found
    return found | {
        "samples": samples_drawing(
            a, b, (row.a.median, row.b.median), row.metric.unit, words.samples_in_order, words.block
        ),
        "medians": [
            {"style": side, "text": f"{name} {value}"}
            for side, name, value in zip("ab", side_names(comparison), row_values(row), strict=True)
        ],
    }


def _changes(row: MetricRow, words: Words) -> str:
    assert row.change is not None
    points = [Point(x=block, y=relative(d)) for block, d in zip(row.blocks, row.differences, strict=True)]
    return changes_drawing(
        points,
        row.change.estimate,
        (row.change.low, row.change.high),
        row.margin,
        f"{words.differences_in_order}: {change_text(row.change)} {interval_text(row.change)}",
        words.block,
    )


def _changes_text(row: MetricRow, words: Words) -> str:
    assert row.change is not None
    margin = "" if row.margin is None else f" · {words.margin} ± {units.percent(row.margin)}"
    return f"{words.change} {change_text(row.change)} ({level(row.change)}: {interval_text(row.change)}){margin}"


def _points(comparison: Comparison, row: MetricRow, runs: Runs) -> tuple[list[Point], list[Point]]:
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


def _blocks(comparison: Comparison, row: MetricRow, runs: Runs) -> list[dict[str, Any]]:
    """Block by block: both samples, each leading to its run among the raw data, and the change."""
    keys = (comparison.a.key, comparison.b.key)
    values = [dict(zip(side.blocks, side.samples, strict=True)) for side in (row.a, row.b)]
    changes = dict(zip(row.blocks, row.differences, strict=True))
    scale = units.scale_for(row.metric.unit, [*row.a.samples, *row.b.samples])
    found = []
    for block in sorted({*values[0], *values[1]}):
        change = changes.get(block)
        found.append(
            {
                "number": block,
                "samples": [
                    _sample(of_side.get(block), runs.get((key, block)), row.metric.unit, scale)
                    for key, of_side in zip(keys, values, strict=True)
                ],
                "change": "–" if change is None else units.percent(relative(change), signed=True),
            }
        )
    return found


def _sample(value: float | None, run: RunRecord | None, unit: str, scale: units.Scale) -> dict[str, str] | None:
    if value is None or run is None:
        return None
    return {"run": _run_anchor(run), "value": repr(value), "text": units.readable(value, unit, scale)}


# ---- signatures, limits, proof


def _signature(matrix: SignatureMatrix, names: tuple[str, str], words: Words) -> dict[str, Any]:
    heads = []
    for name, seen in zip(names, (matrix.a, matrix.b), strict=True):
        expected = None if seen is None else seen.is_expected
        note = "" if expected is None else words.as_expected if expected else words.not_as_expected
        heads.append({"name": name, "note": note, "is_wrong": expected is False})
    taps = ", ".join(str(row.role) for row in matrix.silent)
    return {
        "title": f"{placement_name(matrix.placement, words)} {matrix.client} → {matrix.server}",
        "sides": heads,
        "rows": [
            {"role": str(row.role), "a": cell_text(row.a), "b": cell_text(row.b), "differs": row.differs}
            for row in matrix.loud
        ],
        "silent": words.silent_taps.format(taps=taps) if taps else "",
    }


def _limits(comparison: Comparison, words: Words) -> list[dict[str, Any]]:
    """Each side against what was measured between the nodes; empty without a reference."""
    titled: dict[str, list[str]] = {}
    for title, line in limit_lines(comparison, words):
        titled.setdefault(title, []).append(line)
    return [{"title": title, "lines": lines} for title, lines in titled.items()]


def _proofs(comparison: Comparison, words: Words) -> Iterator[dict[str, Any]]:
    for letter, side in sides(comparison):
        mode = comparison.mode(side.key)
        proven = mode is not None and mode.proven
        found: dict[str, Any] = {
            "style": letter.lower(),
            "title": f"{letter} {side.scenario}:",
            "proven": proven,
            "state": standing_text(mode, words),
            "source": f"{side.provider} · {side.source} · {side.digest[:16]}",
            "has_mode": mode is not None,
        }
        if mode is not None:
            told = telling(mode)
            found |= {
                "reason": mode.reason,
                "asked": mode_text(mode.asked),
                "found": mode_text(mode.found),
                "telling": [_evidence(piece, is_short=True) for piece in told],
                "every": [_evidence(piece) for piece in mode.evidence] if told != mode.evidence else [],
            }
        yield found


def _evidence(piece: Evidence, *, is_short: bool = False) -> dict[str, str]:
    """What a witness found, with the command that shows it; short: a long finding's first part."""
    finding = shortened(piece.finding) if is_short and piece.supports else piece.finding
    return {
        "mark": {True: "✓ ", False: "✗ ", None: "" if piece.silence is None else "? "}[piece.supports],
        "text": f"{piece.witness} ({piece.where}): {finding}",
        "command": piece.command,
    }


# ---- raw data: which run on disk, and for each check run its samples and the files behind them


def has_room(comparison: Comparison) -> bool:
    """Whether the page shows every sample."""
    return sum(len(run.samples) for run in comparison.runs) <= _MOST_SAMPLES


def _raw_data(comparison: Comparison, words: Words) -> dict[str, Any]:
    letters = {comparison.a.key: "A", comparison.b.key: "B"}
    return {
        "attachments": [
            _attachment("comparison.json", "application/json", comparison_json(comparison, indent=None)),
            _attachment("samples.csv", "text/csv", comparison_csv(comparison)),
        ],
        "raw_note": words.raw_note.format(runs=_origins(comparison)) if comparison.origins else "",
        "order": comparison.order,
        "sample_count": sum(len(run.samples) for run in comparison.runs),
        "run_heads": (
            words.block, words.side, words.check, words.pair, words.started_at, words.value, words.raw_files
        ),
        "runs": [_run(run, letters.get(run.side, run.side), words) for run in comparison.runs]
        if has_room(comparison)
        else None,
    }  # fmt: skip


def _run(run: RunRecord, letter: str, words: Words) -> dict[str, Any]:
    return {
        "anchor": _run_anchor(run),
        "block": f"{run.block}.{run.position}",
        "side": letter,
        "check": run.check,
        "pair": f"{run.client}→{run.server}",
        "started_at": run.started_at,
        "samples": [
            {
                "metric": sample.metric,
                "value": repr(sample.value),
                "text": units.readable(sample.value, sample.unit),
            }
            for sample in run.samples
        ],
        "verdict": "" if run.samples else words.check_verdicts[run.verdict],
        "files": _files(run.raw),
    }


def _origins(comparison: Comparison) -> str:
    """`A, B: 2026…-compare-legacy-bpf-3fa9c1`, or one for each side where they differ."""
    letters = {comparison.a.key: "A", comparison.b.key: "B"}
    by_run: dict[str, list[str]] = {}
    for key, run in comparison.origins.items():
        by_run.setdefault(run, []).append(letters[key])
    return "; ".join(f"{', '.join(of_run)}: {run}" for run, of_run in by_run.items())


def _attachment(name: str, kind: str, text: str) -> dict[str, str]:
    """The file itself in base64, or its name alone where it would be too large."""
    data = text.encode()
    content = "" if len(data) > _LARGEST_ATTACHMENT_BYTE else base64.b64encode(data).decode()
    return {"name": name, "kind": kind, "content": content}


def _files(raw: Sequence[str]) -> str:
    """`raw/0011-…/client.json, client.stdout`: the directory once. Of many files only their directory and number."""
    if not raw:
        return "–"
    place = raw_place(raw)
    if len(raw) > _MOST_NAMES:
        return f"{place} ({len(raw)})"
    return ", ".join([raw[0], *(name.removeprefix(place) for name in raw[1:])])


# ---- names of places on the page: letters, digits, dots and dashes


def _anchor(row: MetricRow) -> str:
    return _OTHER.sub("-", f"{row.placement}-{row.check}-{row.client}-{row.server}-{row.metric.name}")


def _run_anchor(run: RunRecord) -> str:
    return _OTHER.sub("-", f"run-{run.side}-{run.block}-{run.position}")
