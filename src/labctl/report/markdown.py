"""A comparison as Markdown (GitHub's dialect), short enough for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from labctl.compare.fail_if import Judgement
from labctl.model.comparison import ChangeVerdict, Comparison, MetricRow
from labctl.report.sentences import (
    caution_text,
    change_text,
    detectable_text,
    environment_lines,
    headline,
    in_report_order,
    interval_text,
    judgement_text,
    label,
    limit_lines,
    method_text,
    mode_text,
    noise_floor_text,
    placement_name,
    refusal_text,
    row_values,
    side_names,
    sides,
    statements,
)
from labctl.report.signature import cell_text, matrices
from labctl.report.words import ENGLISH, Words


def comparison_markdown(comparison: Comparison, words: Words = ENGLISH, judgements: Sequence[Judgement] = ()) -> str:
    """Headline, table, warnings; proof, signatures and environment are folded away."""
    a, b = side_names(comparison)
    columns = (words.metric, _escape(a), _escape(b), words.change, words.interval, words.pairs, words.verdict)
    head = " | ".join(columns)
    lines = [f"**{_escape(headline(comparison, words))}**", "", f"| {head} |", "|---|--:|--:|--:|--:|--:|---|"]
    lines += [_row(row, words) for row in in_report_order(comparison.rows)]
    lines += ["", _escape(method_text(comparison, words))]
    lines += [_escape(said) for said in (noise_floor_text(comparison, words),) if said]
    if any(row.verdict is ChangeVerdict.UNDETECTED for row in comparison.rows):
        lines.append(_escape(words.undetected_note))
    lines += ["", *(f"- {who}: {_escape(what)}" for who, what in statements(comparison))]
    lines += _section(words.thresholds, (_escape(judgement_text(judgement, words)) for judgement in judgements))
    lines += _section(words.limit_note, (_escape(line) for _, line in limit_lines(comparison, words)))
    lines += _section(words.warnings, (_escape(caution_text(caution, words)) for caution in comparison.cautions))
    lines += _folded(words.mode_in_force, _proof(comparison, words))
    lines += _folded(words.signatures, _signatures(comparison, (a, b), words))
    lines += _folded(
        words.environment, (f"- {_escape(name)}: {_escape(value)}" for name, value in environment_lines(comparison))
    )
    return "\n".join(lines) + "\n"


def _row(row: MetricRow, words: Words) -> str:
    a, b = row_values(row)
    name = f"{placement_name(row.placement, words)} {label(row.metric, words)}"
    verdict = words.secondary if row.verdict is None else words.verdicts[row.verdict]
    if row.verdict is ChangeVerdict.UNDETECTED:
        verdict += f" ({detectable_text(row.change)})"
    elif row.verdict is ChangeVerdict.REFUSED:
        verdict += f": {refusal_text(row.refusal, words)}"
    elif row.verdict is not None:
        verdict = f"**{verdict}**"
    pairs = "–" if row.change is None else str(row.change.n)
    change = change_text(row.change, row.verdict)
    return f"| {_escape(name)} | {a} | {b} | {change} | {interval_text(row.change)} | {pairs} | {_verdict(verdict)} |"


def _verdict(text: str) -> str:
    """Keeps our own bold marks and escapes the rest."""
    return text if text.startswith("**") else _escape(text)


def _proof(comparison: Comparison, words: Words) -> Iterable[str]:
    for letter, side in sides(comparison):
        mode = comparison.mode(side.key)
        if mode is None:
            yield f"- {letter} {_escape(side.scenario)}: {words.not_proven}"
            continue
        state = words.proven if mode.proven else f"**{words.not_proven}** {_escape(mode.reason)}"
        yield f"- {letter} {_escape(side.scenario)}: {state}"
        yield f"  - {words.asked}: {_escape(mode_text(mode.asked))}"
        yield f"  - {words.found}: {_escape(mode_text(mode.found))}"
        for evidence in mode.evidence:
            yield f"  - {_escape(evidence.witness)} ({_escape(evidence.where)}): {_escape(evidence.finding)}"


def _signatures(comparison: Comparison, names: tuple[str, str], words: Words) -> Iterable[str]:
    for matrix in matrices(comparison):
        title = f"{placement_name(matrix.placement, words)} {matrix.client} → {matrix.server}"
        yield f"| {_escape(title)} | {_escape(names[0])} | {_escape(names[1])} | |"
        yield "|---|---|---|---|"
        for row in matrix.rows:
            yield f"| {row.role} | {cell_text(row.a)} | {cell_text(row.b)} | {words.differs if row.differs else ''} |"
        yield ""


def _section(title: str, items: Iterable[str]) -> list[str]:
    found = [f"- {item}" for item in items]
    return ["", f"**{title}**", "", *found] if found else []


def _folded(title: str, lines: Iterable[str]) -> list[str]:
    found = list(lines)
    return ["", f"<details><summary>{title}</summary>", "", *found, "", "</details>"] if found else []


def _escape(text: str) -> str:
    """Text that Markdown and HTML must not take for markup."""
    for mark in "\\`*_[]|#":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
