"""The results of `labctl check` for a terminal: one line per result, then the signatures tap by tap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl import units
from labctl.model.result import CheckResult, Verdict
from labctl.report.grid import Column, Grid, command_line
from labctl.report.sentences import placement_name
from labctl.report.signature import cell_text
from labctl.report.terminal import plain_text
from labctl.report.words import ENGLISH, Words

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.ERROR: "bold magenta", Verdict.SKIP: "yellow"}


def check_view(results: Sequence[CheckResult], *, words: Words = ENGLISH) -> RenderableType:
    """Everything that a terminal shows of checks. Verdicts are words; colour only repeats them."""
    from rich.console import Group
    from rich.text import Text

    columns = (
        Column(title=words.verdict),
        Column(title=words.check),
        Column(title=words.pair, is_text=True),
        Column(title=words.seen, is_text=True),
    )
    rows = []
    for result in results:
        pair = f"{result.client}→{result.server} {placement_name(result.placement, words)}"
        verdict = Text(words.check_verdicts[result.verdict], style=_STYLES[result.verdict])
        rows.append((verdict, result.check, pair, _seen(result, words)))
    parts: list[RenderableType] = [Grid(columns, rows, heads=2)]
    for result in results:
        if result.findings:
            parts += [Text(""), _findings(result, words)]
        if result.signature is not None:
            parts += [Text(""), _signature(result, words)]
    parts += [Text(""), Text(_count(results, words), style="bold")]
    return Group(*parts)


def check_text(results: Sequence[CheckResult], *, width: int = 80, words: Words = ENGLISH) -> str:
    """The same as plain text; only commands are wider than `width`."""
    return plain_text(check_view(results, words=words), width=width, crop=False)


def _seen(result: CheckResult, words: Words) -> str:
    """The reason, that it is a second attempt's, then the numbers in readable units."""
    numbers = ", ".join(f"{sample.metric} {units.readable(sample.value, sample.unit)}" for sample in result.samples)
    again = words.retried.format(reason=result.retried) if result.retried else ""
    return "\n".join(part for part in (result.reason, again, numbers) if part)


def _findings(result: CheckResult, words: Words) -> RenderableType:
    """A line each; the lesson under it, and the command that shows the same by hand, in one line to be pasted."""
    from rich.cells import cell_len
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    verdicts = {finding.verdict: words.check_verdicts[finding.verdict] for finding in result.findings}
    room = max(map(cell_len, verdicts.values()))
    indent = room + 2
    place = placement_name(result.placement, words)
    title = Text(f"{result.check} {place} {result.client}→{result.server}", style="bold")
    parts: list[RenderableType] = [Padding(title, (0, 0, 0, indent))]
    for finding in result.findings:
        line = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        line.add_column(no_wrap=True, min_width=room)
        line.add_column(overflow="fold")
        verdict = Text(verdicts[finding.verdict], style=_STYLES[finding.verdict])
        line.add_row(verdict, Text(f"{finding.name}: {finding.sentence}"))
        parts.append(line)
        if finding.lesson:
            parts.append(Padding(Text(finding.lesson, style="dim"), (0, 0, 0, indent + 2)))
        if finding.command:
            parts.append(command_line(finding.command, indent=indent + 2, style="dim"))
    return Group(*parts)


def _signature(result: CheckResult, words: Words) -> RenderableType:
    from rich.text import Text

    place = placement_name(result.placement, words)
    title = f"{result.check} {place} {result.client}→{result.server}"
    taps = result.signature.taps if result.signature is not None else ()
    rows = [(f"  {sight.role}", cell_text(sight), Text(sight.tap, style="dim")) for sight in taps]
    return Grid((Column(), Column(), Column()), [(title,), *rows], has_head=False)


def _count(results: Sequence[CheckResult], words: Words) -> str:
    counts = [(words.check_verdicts[verdict], sum(r.verdict is verdict for r in results)) for verdict in Verdict]
    return ", ".join(f"{count} {word}" for word, count in counts if count) or "–"
