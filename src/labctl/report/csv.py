"""Every sample of a comparison as CSV (RFC 4180), one line per sample, in the order in which the runs were made."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from labctl.model.comparison import Comparison
from labctl.text import visible

_FORMULA = re.compile(r"[\s\x00-\x1f\ufeff]*[=+\-@|%\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER = re.compile(r"-?(\d+(\.\d+)?(e[+-]?\d+)?|inf)", re.ASCII)
COLUMNS = (
    "side",
    "scenario",
    "block",
    "position",
    "check",
    "placement",
    "client",
    "server",
    "metric",
    "value",
    "unit",
    "verdict",
    "started_at",
    "raw",
)


def comparison_csv(comparison: Comparison) -> str:
    """A header line and the samples, in base units. A run without samples has one line with an empty metric."""
    return comparisons_csv((comparison,))


def comparisons_csv(comparisons: Sequence[Comparison]) -> str:
    """The same for several comparisons of one measurement; the runs of a side that they share stand there once."""
    scenarios = {side.key: side.scenario for each in comparisons for side in (each.a, each.b)}
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    runs = dict.fromkeys(run for comparison in comparisons for run in comparison.runs)
    for run in sorted(runs, key=lambda run: (run.block, run.position, run.side)):
        head = (run.side, scenarios.get(run.side, ""), run.block, run.position, run.check, str(run.placement))
        pair = (run.client, run.server)
        tail = (str(run.verdict), run.started_at, raw_place(run.raw))
        numbers = [(sample.metric, repr(sample.value), sample.unit) for sample in run.samples] or [("", "", "")]
        for number in numbers:
            writer.writerow([harmless(cell) for cell in (*head, *pair, *number, *tail)])
    return buffer.getvalue()


def raw_place(raw: Sequence[str]) -> str:
    """Where the raw files of one check run are: the file, the directory that holds all of them, or else their names."""
    directories = {name.rpartition("/")[0] for name in raw}
    return f"{directories.pop()}/" if len(raw) > 1 and len(directories) == 1 else " ".join(raw)


def harmless(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe, which spreadsheets
    hide. Numbers stay numbers, negative ones too. (OWASP, CSV Injection.)"""
    if not isinstance(cell, str):
        return cell
    cell = visible(cell)
    if not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"
