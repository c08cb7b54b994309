"""A comparison as Markdown (GitHub's dialect), short enough for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from labctl.compare.thresholds import ThresholdJudgement
from labctl.model.comparison import ChangeVerdict, Comparison, MetricRow
from labctl.report.explanation import explained_tables
from labctl.report.sentences import (
    caution_text,
    change_text,
    environment_lines,
    failed_run_lines,
    headline,
    in_report_order,
    interval_text,
    judgement_text,
    limit_lines,
    method_text,
    mode_text,
    noise_floor_text,
    placement_name,
    refusal_text,
    row_name,
    row_values,
    side_names,
    sides,
    standing_text,
    statements,
    undetected_notes,
    undetected_text,
)
from labctl.report.signature import cell_text, matrices
from labctl.report.words import ENGLISH, Words
from labctl.text import visible

_LEADING = re.compile(r"@(?=\w)|(?<=\w):(?=//)|\b(?:www(?=\.)|(?:mailto|xmpp):)", re.IGNORECASE)


def comparison_markdown(
    comparison: Comparison, words: Words = ENGLISH, judgements: Sequence[ThresholdJudgement] = ()
) -> str:
    """Headline, table, warnings; proof, signatures and environment are folded away."""
    a, b = side_names(comparison)
    columns = (words.metric, escaped(a), escaped(b), words.change, words.interval, words.pairs, words.verdict)
    head = " | ".join(columns)
    lines = [f"**{escaped(headline(comparison, words))}**", "", f"| {head} |", "|---|--:|--:|--:|--:|--:|---|"]
    lines += [_row(comparison, row, words) for row in in_report_order(comparison.rows)]
    lines += ["", escaped(method_text(comparison, words))]
    lines += [escaped(said) for said in (noise_floor_text(comparison, words),) if said]
    lines += [escaped(said) for said in undetected_notes(comparison, words)]
    lines += _explained(comparison, words)
    lines += ["", *(f"- {who}: {escaped(what)}" for who, what in statements(comparison))]
    lines += _section(words.thresholds, (escaped(judgement_text(judgement, words)) for judgement in judgements))
    lines += _section(words.limit_note, (escaped(line) for _, line in limit_lines(comparison, words)))
    lines += _section(words.failed_runs, (escaped(line) for line in failed_run_lines(comparison, words)))
    lines += _section(words.warnings, (escaped(caution_text(caution, words)) for caution in comparison.cautions))
    lines += _folded(words.mode_in_force, _proof(comparison, words))
    lines += _folded(words.signatures, _signatures(comparison, (a, b), words))
    lines += _folded(
        words.environment, (f"- {escaped(name)}: {escaped(value)}" for name, value in environment_lines(comparison))
    )
    return "\n".join(lines) + "\n"


def _row(comparison: Comparison, row: MetricRow, words: Words) -> str:
    a, b = row_values(row)
    name = f"{placement_name(row.placement, words)} {row_name(comparison, row, words)}"
    verdict = words.secondary if row.verdict is None else words.verdicts[row.verdict]
    if row.verdict is ChangeVerdict.UNDETECTED:
        verdict += f" ({undetected_text(row.change)})"
    elif row.verdict is ChangeVerdict.REFUSED:
        verdict += f": {refusal_text(row.refusal, words)}"
    elif row.verdict is not None:
        verdict = f"**{verdict}**"
    pairs = "–" if row.change is None else str(row.change.n)
    change = change_text(row.change, row.verdict)
    cells = (escaped(name), escaped(a), escaped(b), change, interval_text(row.change), pairs, _verdict(verdict))
    return f"| {' | '.join(cells)} |"


def _explained(comparison: Comparison, words: Words) -> list[str]:
    tables = explained_tables(comparison, words)
    lines = ["", f"**{words.explanation}**"] if tables else []
    for shown in tables:
        if shown.reason:
            lines += ["", f"- {escaped(shown.title)}: {escaped(shown.reason)}"]
            continue
        head = (shown.title, f"A, {shown.unit}", f"B, {shown.unit}", words.difference, words.interval)
        lines += ["", f"| {' | '.join(map(escaped, head))} |", "|---|--:|--:|--:|--:|"]
        for line in shown.lines:
            cells = (line.name, line.a, line.b, line.difference, line.interval)
            lines.append(f"| {' | '.join(map(escaped, cells))} |")
    if any(not shown.reason for shown in tables):
        lines += ["", escaped(words.explanation_note)]
    return lines


def _verdict(text: str) -> str:
    """Keeps our own bold marks and escapes the rest."""
    return text if text.startswith("**") else escaped(text)


def _proof(comparison: Comparison, words: Words) -> Iterable[str]:
    for letter, side in sides(comparison):
        mode = comparison.mode(side.key)
        said = standing_text(mode, words)
        if mode is None:
            yield f"- {letter} {escaped(side.scenario)}: {said}"
            continue
        state = said if mode.proven else f"**{said}** {escaped(mode.reason)}"
        yield f"- {letter} {escaped(side.scenario)}: {state}"
        yield f"  - {words.asked}: {escaped(mode_text(mode.asked))}"
        yield f"  - {words.found}: {escaped(mode_text(mode.found))}"
        for evidence in mode.evidence:
            yield f"  - {escaped(evidence.witness)} ({escaped(evidence.where)}): {escaped(evidence.finding)}"


def _signatures(comparison: Comparison, names: tuple[str, str], words: Words) -> Iterable[str]:
    for matrix in matrices(comparison):
        title = f"{placement_name(matrix.placement, words)} {matrix.client} → {matrix.server}"
        yield f"| {escaped(title)} | {escaped(names[0])} | {escaped(names[1])} | |"
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


def escaped(text: str) -> str:
    """Text that Markdown and HTML must not take for markup, nor GitHub for a user to notify or an address to link to:
    these two it looks for in the finished page, where only a comment between their signs keeps them apart."""
    for mark in "\\`*_[]|#~$":
        text = text.replace(mark, "\\" + mark)
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
    return _LEADING.sub(lambda found: f"{found[0]}<!-- -->", visible(text))
