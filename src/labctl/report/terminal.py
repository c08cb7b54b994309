"""Comparisons and labs for a terminal, with rich: effect first, one line per metric, no meaning in colour alone.

`comparison_view` is what a console prints (rich itself honours NO_COLOR and the console's width); `comparison_text` is
the same as plain text of a given width. Of a lab it is what `labctl status` shows: its parts, and the proof of its
mode. Records in, tables out.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from labctl.compare.thresholds import ThresholdJudgement
from labctl.model.comparison import ChangeVerdict, Comparison, MetricRow
from labctl.model.evidence import Evidence, ModeInForce
from labctl.model.impairment import Impairment
from labctl.report.explanation import explained_tables
from labctl.report.grid import Column, Grid
from labctl.report.sentences import (
    asked_and_found,
    caution_text,
    change_text,
    detectable_text,
    failed_run_lines,
    headline,
    in_report_order,
    interval_text,
    judgement_text,
    label,
    limit_lines,
    log_text,
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
    verdict_text,
)
from labctl.report.signature import SignatureMatrix, cell_text, matrices
from labctl.report.words import ENGLISH, Words

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from labctl.model.evidence import Standing
from labctl.model.lab import Lab
from labctl.report.grid import command_line
from labctl.report.json import mode_record

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text


# From this width on there is room for the detectable effect, the corrected p-value and whole-sentence verdicts.
WIDE = 120
# Below this not even the narrow table has room, and each row becomes a block.
STACKED_BELOW = 76

_STYLES = {
    ChangeVerdict.FASTER: "bold green",
    ChangeVerdict.CHEAPER: "bold green",
    ChangeVerdict.SLOWER: "bold red",
    ChangeVerdict.DEARER: "bold red",
    ChangeVerdict.REFUSED: "yellow",
}


def comparison_view(
    comparison: Comparison, *, width: int, words: Words = ENGLISH, judgements: Sequence[ThresholdJudgement] = ()
) -> RenderableType:
    """Everything that a terminal shows of a comparison; `width` decides between the narrow and the wide table."""
    from rich.console import Group
    from rich.text import Text

    a, b = side_names(comparison)
    parts: list[RenderableType] = [
        Text(headline(comparison, words), style="bold"),
        *_noise_floor(comparison, words),
        Text(""),
        Text(words.against.format(a=comparison.a.scenario, b=comparison.b.scenario)),
        _rows_table(comparison, width, words),
        Text(method_text(comparison, words), style="dim"),
        *_left_out(width, words),
        *_undetected_note(comparison, words),
        *_explained(comparison, words),
        *_list_of(words.thresholds, (judgement_text(judgement, words) for judgement in judgements), "bold"),
        *_limits(comparison, words),
        *_list_of(words.statements, (f"{who}: {what}" for who, what in statements(comparison)), ""),
        *_list_of(words.refused_rows, _refusals(comparison, words), "yellow"),
        *_list_of(words.failed_runs, failed_run_lines(comparison, words), "bold red"),
        *_list_of(words.warnings, (caution_text(caution, words) for caution in comparison.cautions), "yellow"),
        Text(""),
        *_proof(comparison, words),
        *_signatures(comparison, (a, b), words),
    ]
    return Group(*parts)


def comparison_text(comparison: Comparison, *, width: int = 80, words: Words = ENGLISH) -> str:
    """The comparison as plain text without escape codes, no line wider than `width`."""
    return plain_text(comparison_view(comparison, width=width, words=words), width=width, crop=False)


def plain_text(view: RenderableType, *, width: int, crop: bool = True) -> str:
    """Any rich view as plain text of that width, without spaces at the ends of lines. What is wider is cut, or stays as
    it is without `crop`."""
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=width, no_color=True, highlight=False, emoji=False, markup=False).print(view, crop=crop)
    return "".join(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())


def signature_table(matrix: SignatureMatrix, names: tuple[str, str], words: Words = ENGLISH) -> Grid:
    """One pair's taps in the order of the way, a column for each side."""
    from rich.text import Text

    columns = [Column(title=f"{placement_name(matrix.placement, words)} {matrix.client} → {matrix.server}")]
    for name, seen in zip(names, (matrix.a, matrix.b), strict=True):
        note, style = "", ""
        if seen is not None and seen.is_expected is not None:
            note = words.as_expected if seen.is_expected else words.not_as_expected
            style = "" if seen.is_expected else "bold red"
        columns.append(Column(title=name, note=note, note_style=style))
    rows = [
        (f"  {row.role}", cell_text(row.a), cell_text(row.b), Text(words.differs if row.differs else "", style="bold"))
        for row in matrix.loud
    ]
    return Grid((*columns, Column()), rows)


def _rows_table(comparison: Comparison, width: int, words: Words) -> Grid:
    """Between `STACKED_BELOW` and `WIDE` columns it leaves out two figures. Narrower, a row is a block that has all."""
    from rich.text import Text

    is_wide = not STACKED_BELOW <= width < WIDE
    interval = words.interval if is_wide else f"{words.interval} %"
    more = (words.detectable, words.p_corrected) if is_wide else ()
    figures = (Column(title=title, is_right=True) for title in ("A", "B", words.change, interval, words.pairs, *more))
    columns = (Column(title=words.metric), *figures, Column(title=words.verdict, is_text=is_wide))
    cells: list[Sequence[str | Text]] = []
    rows = in_report_order(comparison.rows)
    for placement in dict.fromkeys(row.placement for row in rows):
        cells.append((Text(placement_name(placement, words), style="bold"),))
        for row in (row for row in rows if row.placement is placement):
            cells.append(_cells(row, is_wide, words, row_name(comparison, row, words)))
    return Grid(columns, cells, gap=2 if is_wide else 1)


def _left_out(width: int, words: Words) -> Iterable[RenderableType]:
    """Says what a table of this width lacks."""
    from rich.text import Text

    if STACKED_BELOW <= width < WIDE:
        columns = f"{words.detectable}, {words.p_corrected}"
        yield Text(words.left_out.format(width=WIDE, columns=columns), style="dim")


def _cells(row: MetricRow, is_wide: bool, words: Words, name: str) -> tuple[Text, ...]:
    from rich.text import Text

    a, b = row_values(row)
    change = row.change
    verdict = verdict_text(row, words)
    effect = change_text(change, row.verdict)
    if row.verdict is ChangeVerdict.UNDETECTED and not is_wide:
        effect, verdict = f"~ {undetected_text(change)}", words.verdicts[row.verdict]
    texts = [
        f"  {name}",
        a,
        b,
        effect,
        interval_text(change, with_sign=is_wide),
        "–" if change is None else str(change.n),
    ]
    if is_wide:
        texts.append(detectable_text(change))
        texts.append("–" if change is None or change.p_adjusted is None else f"{change.p_adjusted:.3f}")
    style = "" if row.verdict is None else _STYLES.get(row.verdict, "")
    return (*(Text(text, style=_row_style(row)) for text in texts), Text(verdict, style=style or _row_style(row)))


def _row_style(row: MetricRow) -> str:
    return "dim" if row.verdict is None else ""


def _explained(comparison: Comparison, words: Words) -> Iterable[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    tables = explained_tables(comparison, words)
    if not tables:
        return
    yield Text("")
    yield Text(words.explanation, style="bold")
    for shown in tables:
        if shown.reason:
            yield Padding(_bullet(Text(f"{shown.title}: {shown.reason}")), (0, 0, 0, 2))
            continue
        figures = (
            Column(title=title, is_right=True)
            for title in (f"A, {shown.unit}", f"B, {shown.unit}", words.difference, words.interval)
        )
        rows = [
            (Text(f"{'  ' if line.is_part else ''}{line.name}"), line.a, line.b, line.difference, line.interval)
            for line in shown.lines
        ]
        yield Padding(Grid((Column(title=shown.title), *figures), rows, gap=1), (0, 0, 0, 2))
    if not all(shown.reason for shown in tables):
        yield Text(words.explanation_note, style="dim")


def _refusals(comparison: Comparison, words: Words) -> Iterable[str]:
    gathered: dict[str, list[str]] = {}
    for row in in_report_order(comparison.rows):
        if row.verdict is ChangeVerdict.REFUSED:
            name = f"{placement_name(row.placement, words)} {label(row.metric, words)}"
            gathered.setdefault(refusal_text(row.refusal, words), []).append(name)
    return (f"{', '.join(names)}: {reason}" for reason, names in gathered.items())


def _noise_floor(comparison: Comparison, words: Words) -> Iterable[RenderableType]:
    from rich.text import Text

    if said := noise_floor_text(comparison, words):
        yield Text(said)


def _limits(comparison: Comparison, words: Words) -> Iterable[RenderableType]:
    titled: dict[str, list[str]] = {}
    for title, line in limit_lines(comparison, words):
        titled.setdefault(title, []).append(line)
    for title, lines in titled.items():
        yield from _list_of(f"{title}: {words.limit_note}", lines, "")


def _undetected_note(comparison: Comparison, words: Words) -> Iterable[RenderableType]:
    from rich.text import Text

    return (Text(said, style="dim") for said in undetected_notes(comparison, words))


def _list_of(title: str, items: Iterable[str], style: str) -> Iterable[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    lines = tuple(items)
    if lines:
        yield Text("")
        yield Text(title, style="bold")
        for line in lines:
            yield Padding(_bullet(Text(line, style=style)), (0, 0, 0, 2))


def _bullet(text: RenderableType) -> Table:
    """A line that, when it wraps, keeps its indent."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row("-", text)
    return grid


def _proof(comparison: Comparison, words: Words) -> Iterable[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    yield Text(words.mode_in_force, style="bold")
    for letter, side in sides(comparison):
        mode = comparison.mode(side.key)
        title = Text(f"{letter} {side.scenario}: ")
        is_proven = mode is not None and mode.proven
        title.append(standing_text(mode, words), style="green" if is_proven else "bold red")
        if mode is not None and mode.reason:
            title.append(f" ({mode.reason})")
        yield Padding(title, (0, 0, 0, 2))
        if mode is None:
            continue
        yield Padding(_bullet(Text(f"{words.asked}: {mode_text(mode.asked)}")), (0, 0, 0, 4))
        yield Padding(_bullet(Text(f"{words.found}: {mode_text(mode.found)}")), (0, 0, 0, 4))
        for evidence in telling(mode):
            mark = _MARKS[evidence.supports]
            finding = shortened(evidence.finding) if evidence.supports else evidence.finding
            line = f"{words.evidence} {mark}{evidence.witness} ({evidence.where}): {finding}"
            yield Padding(_bullet(Text(line)), (0, 0, 0, 4))


_MARKS = {True: "", False: "✗ ", None: "? "}


def telling(mode: ModeInForce) -> tuple[Evidence, ...]:
    """What a summary shows of the evidence: all that contradicts, what is silent and should not be (each once), and one
    finding for each supporting witness."""
    against = [evidence for evidence in mode.evidence if evidence.supports is False]
    silent = {(one.where, one.finding): one for one in mode.evidence if one.silence is not None}
    first: dict[str, Evidence] = {}
    for evidence in mode.evidence:
        if evidence.supports:
            first.setdefault(evidence.witness, evidence)
    return (*against, *silent.values(), *first.values())


def _signatures(comparison: Comparison, names: tuple[str, str], words: Words) -> Iterable[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    found = matrices(comparison)
    if not found:
        return
    yield Text("")
    yield Text(words.signatures, style="bold")
    yield Text(words.signature_legend, style="dim")
    for matrix in found:
        yield Padding(signature_table(matrix, names, words), (0, 0, 0, 2))
        if matrix.silent:
            taps = ", ".join(str(row.role) for row in matrix.silent)
            yield Padding(Text(words.silent_taps.format(taps=taps), style="dim"), (0, 0, 0, 4))


# A lab of 1,000 pods is summarised; the JSON always has all of them.
PODS_SHOWN = 24
MISSING_SHOWN = 24
# Details of a finding longer than this are left to --json.
LONGEST_DETAIL = 200


PLANNED_ADDRESSES = "the running lab could not be read: addresses, devices and identities below are the planned ones"


def status_record(
    lab: Lab,
    mode: ModeInForce | None,
    *,
    statement: str,
    missing: Sequence[str] = (),
    is_planned: bool = False,
    placement: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, object]:
    """`is_planned`: the running lab could not be read, and addresses, devices and identities are those planned.
    `placement`: which node of its cluster each node of the lab is, where the cluster was there before."""
    return {
        "apiVersion": "labctl/v1",
        "kind": "Status",
        "lab": lab.name,
        "scenario": lab.scenario,
        "provider": lab.provider,
        "statement": statement,
        "digest": lab.digest,
        "asked": lab.asked(),
        "nodes": [
            {
                "name": node.name,
                **({"clusterNode": placement[node.name]} if node.name in placement else {}),
                "address": str(node.address.ip),
                "podCIDR": str(node.pod_cidr),
                "router": str(node.router),
            }
            for node in lab.nodes
        ],
        "pods": [
            {
                "name": pod.name,
                "node": pod.node,
                "address": str(pod.address),
                "mac": pod.mac,
                "lxc": pod.lxc,
                "lxcMac": pod.lxc_mac,
                "identity": pod.identity,
                "labels": dict(pod.labels),
            }
            for pod in lab.pods
        ],
        "pairs": [
            {"client": p.client, "server": p.server, "placement": str(p.placement)} | ({"via": p.via} if p.via else {})
            for p in lab.pairs
        ],
        **_outside(lab),
        "whole": not missing,
        "missing": list(missing),
        "addressesFrom": "plan" if is_planned else "lab",
        "modeInForce": mode_record(None, mode) if mode is not None else None,
    }


def _outside(lab: Lab) -> dict[str, object]:
    hosts = [{"name": host.name, "address": str(host.address)} for host in lab.outside]
    return {"outside": hosts} if hosts else {}


def status_table(
    lab: Lab,
    mode: ModeInForce | None,
    *,
    statement: str,
    missing: Sequence[str] = (),
    is_planned: bool = False,
    placement: Mapping[str, str] = MappingProxyType({}),
    standing: str = "",
    impaired: str = "",
) -> Iterator[RenderableType]:
    """What was asked, what is in force and what is missing, the parts, then the evidence, ready for a rich console.
    `is_planned` as for `status_record`."""
    from rich.text import Text

    yield from status_head(lab, mode, statement=statement, missing=missing, standing=standing, impaired=impaired)
    if is_planned:
        yield Text(PLANNED_ADDRESSES, style="yellow")
    yield Text("")
    nodes = [(node.name, str(node.address.ip), str(node.pod_cidr), str(node.router)) for node in lab.nodes]
    if placement:
        placed = [(name, placement.get(name, "?"), *rest) for name, *rest in nodes]
        yield Grid(_titled("node", "in the cluster", "address", "pod CIDR", "router"), placed)
    else:
        yield Grid(_titled("node", "address", "pod CIDR", "router (cilium_host)"), nodes)
    if lab.outside:
        yield Text("")
        yield Grid(_titled("outside", "address"), [(host.name, str(host.address)) for host in lab.outside])
    yield Text("")
    pods = [(pod.name, pod.node, str(pod.address), pod.lxc, str(pod.identity)) for pod in lab.pods[:PODS_SHOWN]]
    yield Grid(_titled("pod", "node", "address", "lxc on the node", "identity"), pods)
    if len(lab.pods) > PODS_SHOWN:
        yield Text(f"… and {len(lab.pods) - PODS_SHOWN} more pods (--json has all of them)")
    if mode is not None:
        yield from evidence_view(mode)


def impaired_line(asked: Mapping[str, Impairment]) -> str:
    """One line: what is done to the packets of which links on purpose; empty where nothing is."""
    return f"impaired:  {'; '.join(f'{link} {one.words()}' for link, one in asked.items())}" if asked else ""


def status_head(
    lab: Lab,
    mode: ModeInForce | None,
    *,
    statement: str,
    missing: Sequence[str] = (),
    standing: str = "",
    impaired: str = "",
) -> Iterator[RenderableType]:
    """What was asked, what is in force, whether the lab is as it was built (`standing`), which links are `impaired`,
    and what is missing."""
    from rich.text import Text

    yield Text(f"lab {lab.name}: scenario {lab.scenario}, provider {lab.provider}")
    yield Text(statement, style="dim")
    asked = _claims(lab.asked())
    yield Text(f"asked for: {asked}" if asked else "asked for: nothing; what is in force is taken as it is")
    if mode is not None:
        yield in_force(mode)
    if standing:
        yield Text(standing)
    if impaired:
        yield Text(impaired, style="yellow")
    if missing:
        yield Text(f"half there, {len(missing)} missing:", style="bold red")
        yield from (Text(f"  {thing}") for thing in missing[:MISSING_SHOWN])
        if len(missing) > MISSING_SHOWN:
            yield Text(f"  … and {len(missing) - MISSING_SHOWN} more (--json has all of them)")


def _titled(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title=title) for title in titles)


def in_force(mode: ModeInForce) -> Text:
    """The verdict about the mode in one sentence."""
    from rich.text import Text

    if mode.proven and mode.fallback is not None:
        routing = asked_and_found(mode)
        return Text(
            f"in force:  {_claims(_in_order(mode))} (proven)\n"
            f"fell back: asked {routing['asked']}, in force {routing['found']}: {mode.fallback.reason}\n"
            f"agent log: {log_text(mode.fallback)}"
        )
    if mode.proven:
        return Text(f"in force:  {_claims(_in_order(mode))} (proven)")
    found = _claims(_in_order(mode))
    if mode.standing is Standing.NOT_SHOWN:
        so_far = f" (what was seen: {found})" if found else ""
        return Text(f"in force:  not shown. {mode.reason}{so_far}", style="bold yellow")
    return Text(f"in force:  {found or 'unknown'}: NOT what was asked. {mode.reason}", style="bold red")


def evidence_view(mode: ModeInForce) -> Iterator[RenderableType]:
    """All that contradicts, what could not be shown and why, and one finding for each supporting witness, each with the
    command that shows the same by hand. `--json` has every piece of evidence."""
    from rich.padding import Padding
    from rich.text import Text

    pieces = telling(mode)
    yield Text("")
    yield Text(f"evidence, the most telling of {len(mode.evidence)} findings; $ shows the same by hand:")
    for piece in pieces:
        sign, style = _SIGNS[piece.supports]
        finding = f"{sign}: {piece.witness}, {piece.where}: {_as_shown(piece)}"
        yield Padding(Text(finding, style=style), (0, 0, 0, 2))
        if piece.command:
            yield command_line(piece.command, indent=6)


_SIGNS: Mapping[bool | None, tuple[str, str]] = {
    True: ("for", ""),
    False: ("AGAINST", "bold red"),
    None: ("not shown", "bold yellow"),
}


def _as_shown(piece: Evidence) -> str:
    return piece.finding if piece.supports is None else shortened(piece.finding)


def shortened(finding: str) -> str:
    """A finding for a screen: what comes before its list of details."""
    head, colon, rest = finding.partition(": ")
    return head if colon and len(rest) > LONGEST_DETAIL else finding


def _in_order(mode: ModeInForce) -> dict[str, object]:
    """What was found, in the order in which it was asked."""
    known = {key: mode.found[key] for key in mode.asked if key in mode.found}
    return {**known, **{key: claim for key, claim in mode.found.items() if key not in known}}


def _claims(claims: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_word(claim)}" for key, claim in claims.items())


def _word(claim: object) -> str:
    """As the scenario writes it."""
    return str(claim).lower() if isinstance(claim, bool) else str(claim)
