"""The slices of a stored comparison, read again from their raw files: as tables, and as JSON. Records in, tables out.

It stands alone because it is a report, and the command that prints it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from labctl import units
from labctl.codec import plain
from labctl.model.load_slices import SliceKind, SlicesOfRun
from labctl.report.grid import Column, Grid

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLUMNS = ("block", "side", "load", "slices", "again", "p50", "p90", "p99", "p99.9", "longest", "own CPU", "waited")


def slices_document(run: str, runs: Sequence[SlicesOfRun]) -> dict[str, object]:
    """`{"apiVersion", "kind": "SliceReport", "run", "asRecorded", "runs": [{"block", "side", …, "kinds": […]}]}`."""
    return {
        "apiVersion": "labctl/v1",
        "kind": "SliceReport",
        "run": run,
        "asRecorded": all(one.is_as_recorded for one in runs),
        "runs": [plain(one) for one in runs],
    }


def slices_tables(runs: Sequence[SlicesOfRun]) -> Iterator[RenderableType]:
    """A table for each pair, with a line for each kind of load of each run, and what does not agree below it."""
    for check, client, server in dict.fromkeys((one.check, one.client, one.server) for one in runs):
        of_pair = [one for one in runs if (one.check, one.client, one.server) == (check, client, server)]
        yield ""
        yield _bold(f"{check}, {of_pair[0].placement} {client} → {server}")
        columns = [Column(title=title, is_right=number > 2) for number, title in enumerate(_COLUMNS)]
        yield Grid(columns, [_row(one, kind) for one in of_pair for kind in one.kinds])
    for one in runs:
        if one.unread:
            yield f"{one.file} cannot be read: {one.unread}"
        elif one.differs:
            yield f"{one.file} gives other figures than the run has of: {one.differs}"
    if all(one.is_as_recorded for one in runs):
        yield ""
        yield f"The files of {len(runs)} runs give what the run has of them, to the last bit."


def _row(one: SlicesOfRun, kind: SliceKind) -> tuple[str, ...]:
    load = f"{kind.kind} {kind.argument}" if kind.argument else kind.kind
    times = (kind.p50_s, kind.p90_s, kind.p99_s, kind.p999_s, kind.longest_s)
    return (
        str(one.block),
        one.side,
        load,
        str(kind.slices),
        str(kind.repeated),
        *("–" if time is None else units.readable(time, "s") for time in times),
        units.readable(kind.cpu_s, "s"),
        units.percent(kind.waited_share),
    )


def _bold(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="bold")
