"""What is attached to a lab and what its maps hold, as tables and as JSON: `labctl status LAB --datapath`.

Next to every list stands the command that shows the same by hand. Records in, tables out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from labctl.codec import Rest, View, viewed
from labctl.model.evidence import AttachedProgram, DatapathState, MapTable, NodeDatapath
from labctl.report.grid import Column, Grid, command_line

if TYPE_CHECKING:
    from rich.console import RenderableType

ROWS_SHOWN = 40
"""Of one map on the terminal; the JSON has all of them."""
WIDE = 110
"""Columns of a terminal from which the table has the programs' tags; the JSON always has them."""
STACKED_BELOW = 76
"""Columns below which each program is a block, which has its tag."""
STATISTICS_ON = "sysctl -w kernel.bpf_stats_enabled=1"


_VIEW: View = {
    NodeDatapath: (
        "node",
        ("commands", lambda node: [command for command in node.commands if command]),
        "programs",
        "maps",
    ),
    MapTable: (
        Rest("columns", "rows"),
        ("entries", lambda table: [dict(zip(table.columns, row, strict=True)) for row in table.rows]),
    ),
}


def datapath_record(state: DatapathState) -> dict[str, object]:
    """`{"runsCounted", "nodes": [{"node", "commands", "programs": […], "maps": [{"name", "entries": [{…}]}]}]}`."""
    return viewed(state, _VIEW)


def datapath_tables(state: DatapathState, *, width: int) -> Iterator[RenderableType]:
    """One block per node: its programs, then its maps. `width` decides whether there is room for the programs' tags."""
    for node in state.nodes:
        yield ""
        yield from _programs(node, state, has_tags=not STACKED_BELOW <= width < WIDE)
        for table in node.maps:
            yield ""
            yield from _map(table)
    yield ""
    if STACKED_BELOW <= width < WIDE and any(program.tag for node in state.nodes for program in node.programs):
        yield f"The programs' tags: on a terminal of {WIDE} columns, and in --json."
    yield (
        "Runs are counted by the kernel. Back to how it was: sysctl -w kernel.bpf_stats_enabled=0"
        if state.counts_runs
        else f"The kernel does not count runs of programs now. To count them: {STATISTICS_ON} "
        "(on the whole host; every program then runs a little slower)."
    )


def _programs(node: NodeDatapath, state: DatapathState, *, has_tags: bool) -> Iterator[RenderableType]:
    yield _bold(f"{node.node}: {len(node.programs)} programs attached")
    yield from (_command(command) for command in node.commands if command)
    runs = ("runs",) if state.counts_runs or any(p.run_count is not None for p in node.programs) else ()
    tags = ("tag",) if has_tags and any(program.tag for program in node.programs) else ()
    # Names are whole: bpf_redirect and bpf_redirect_peer are two modes.
    titles = ("device", "hook", "program", "id", *tags, *runs)
    columns = (
        *(Column(title=title) for title in titles),
        Column(title="what it did with packets so far", is_text=True),
    )
    rows = [
        (
            program.device,
            f"{program.attach} {program.hook}" if has_tags else f"{program.attach}\n{program.hook}",
            program.name,
            str(program.program_id),
            *((program.tag,) if tags else ()),
            *((_runs(program),) if runs else ()),
            "\n".join(program.did) or "-",
        )
        for program in node.programs
    ]
    yield Grid(columns, rows)


def _runs(program: AttachedProgram) -> str:
    if program.run_count is None:
        return "-"
    if not program.run_count or not program.run_time_ns:
        return str(program.run_count)
    return f"{program.run_count} ({program.run_time_ns / program.run_count:.0f} ns each)"


def _map(table: MapTable) -> Iterator[RenderableType]:
    size = "1 entry" if len(table.rows) == 1 else f"{len(table.rows)} entries"
    meaning = _sentence(table.meaning)
    if table.max_entries is None:
        yield _bold(f"{table.name} ({table.kind}): {size}. {meaning}")
    else:
        yield _bold(f"{table.name} ({table.kind}): {size} of at most {table.max_entries}. {meaning}")
    yield _command(table.command + (f"      in Cilium: {table.cilium_command}" if table.cilium_command else ""))
    if not table.rows:
        return
    yield Grid([Column(title=title) for title in table.columns], table.rows[:ROWS_SHOWN])
    if len(table.rows) > ROWS_SHOWN:
        yield f"  … and {len(table.rows) - ROWS_SHOWN} more entries (--json has all of them)"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _bold(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="bold")


def _command(text: str) -> RenderableType:
    return command_line(text, indent=2, style="dim")
