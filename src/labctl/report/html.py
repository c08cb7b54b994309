"""A comparison as one HTML file that needs nothing else: no network, no JavaScript; looks are `html_style`'s.

Every figure on the page can be traced: from the line of a metric (`html_results`) to its samples block by block
(`html_cards`), from a sample to its check run and to the raw files on disk (`html_raw`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from labctl.compare.fail_if import Judgement
from labctl.model.comparison import Comparison
from labctl.model.proof import Evidence
from labctl.report.html_cards import cards
from labctl.report.html_raw import has_room, raw_data
from labctl.report.html_results import results, secondary_results
from labctl.report.html_style import STYLE
from labctl.report.sentences import (
    caution_text,
    environment_lines,
    failed_run_lines,
    headline,
    judgement_text,
    limit_lines,
    mode_text,
    noise_floor_text,
    placement_name,
    side_names,
    sides,
    statements,
)
from labctl.report.signature import Matrix, cell_text, matrices
from labctl.report.status import shortened
from labctl.report.terminal import telling
from labctl.report.words import ENGLISH, Words

_RANGE = re.compile(r"[\d.]+–[\d.]+ %")
_ON_ONE_LINE = r'<span class="whole">\g<0></span>'


def comparison_page(comparison: Comparison, words: Words = ENGLISH, judgements: Sequence[Judgement] = ()) -> str:
    """The whole page; `judgements` are what became of the thresholds of `--fail-if`."""
    title = words.against.format(a=comparison.a.scenario, b=comparison.b.scenario)
    language = "zh-CN" if words.tag == "zh" else words.tag
    keys = "".join(
        f'<span class="key {letter.lower()}"></span>{letter} {escape(name)} &nbsp; '
        for letter, name in (("A", comparison.a.scenario), ("B", comparison.b.scenario))
    )
    body = "".join(
        (
            f'<p class="over">{keys}</p>',
            f"<h1>{_RANGE.sub(_ON_ONE_LINE, escape(headline(comparison, words)))}</h1>",
            _statements(comparison, words),
            _section("results", words.results, results(comparison, words)),
            _notice(words.failed_runs, failed_run_lines(comparison, words), "bad"),
            _notice(words.thresholds, [judgement_text(judgement, words) for judgement in judgements], "plain"),
            _notice(words.warnings, [caution_text(caution, words) for caution in comparison.cautions], ""),
            _limits(comparison, words),
            _section("secondary", words.secondary_title, secondary_results(comparison, words)),
            _section("samples", words.samples, cards(comparison, words, with_figures=has_room(comparison))),
            _section("signatures", words.signatures, _signatures(comparison, words)),
            _section("proof", words.mode_in_force, _proof(comparison, words)),
            _section("environment", words.environment, _environment(comparison)),
            _section("raw", words.raw_data, raw_data(comparison, words)),
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


def _notice(title: str, lines: Sequence[str], style: str) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="notice {style}"><strong>{escape(title)}</strong><ul>{items}</ul></div>' if items else ""


def _limits(comparison: Comparison, words: Words) -> str:
    """Each side against what was measured between the nodes; empty without a reference."""
    titled: dict[str, list[str]] = {}
    for title, line in limit_lines(comparison, words):
        titled.setdefault(title, []).append(f"<li>{escape(line)}</li>")
    note = f"{words.limit_note[:1].upper()}{words.limit_note[1:]}"
    return "".join(
        _section(f"limit-{number}", title, f'<p class="soft">{escape(note)}</p><ul>{"".join(items)}</ul>')
        for number, (title, items) in enumerate(titled.items(), start=1)
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
            parts.append(f"{escape(words.found)}: {escape(mode_text(mode.found))}</p>")
            told = telling(mode)
            parts.append(_evidence(told, is_short=True))
            if told != mode.evidence:
                every = f"{escape(words.evidence)} ({len(mode.evidence)})"
                parts.append(f"<details><summary>{every}</summary>{_evidence(mode.evidence)}</details>")
        parts.append(
            f'<p class="soft">{escape(side.provider)} · {escape(side.source)} · {escape(side.digest[:16])}</p>'
        )
        yield f'<article class="card">{"".join(parts)}</article>'


def _evidence(found: Sequence[Evidence], *, is_short: bool = False) -> str:
    """A list of what witnesses found, each with the command that shows it; short: a long finding's first part."""
    items = []
    for evidence in found:
        mark = {True: "✓ ", False: "✗ ", None: ""}[evidence.supports]
        command = f"<br><code>{escape(evidence.command)}</code>" if evidence.command else ""
        finding = shortened(evidence.finding) if is_short and evidence.supports else evidence.finding
        what = f"{evidence.witness} ({evidence.where}): {finding}"
        items.append(f"<li>{mark}{escape(what)}{command}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _environment(comparison: Comparison) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in environment_lines(comparison))
    return f"<dl>{lines}</dl>"
