"""`labctl runs`: the runs on disk, when they were made, and how they ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, runs_dir_option
from labctl.cli.output import emit, emit_json, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from labctl.store.reading import StoredRun, UnreadableRun


@click.command("runs")
@runs_dir_option
@as_json
def command(runs_dir: Path, as_json: bool) -> int:
    """List the runs on disk, the oldest first."""
    from labctl.store.reading import list_runs

    found = list_runs(runs_dir)
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "RunList",
                "directory": str(runs_dir),
                "runs": [_record(run) for run in found],
            }
        )
        return 0
    if not found:
        emit(f"no runs in {runs_dir}. Make one: labctl compare legacy bpf")
        return 0
    show(*_table(found))
    return 0


def _record(run: StoredRun | UnreadableRun) -> dict[str, object]:
    from labctl.engine.comparison.request import MOST_ROUNDS
    from labctl.store.reading import UnreadableRun

    if isinstance(run, UnreadableRun):
        return {"path": str(run.path), "state": "unreadable", "problem": run.problem}
    manifest, rounds = run.manifest, run.manifest.settings.get("rounds")
    return {
        "id": manifest.id,
        "path": str(run.path),
        "runKind": manifest.run_kind,
        "name": manifest.name,
        "state": str(manifest.state),
        "reason": manifest.reason,
        "startedAt": manifest.started_at,
        "endedAt": manifest.ended_at,
        "labctlVersion": manifest.labctl_version,
        "blocks": _blocks(run),
        "rounds": rounds if type(rounds) is int and rounds <= MOST_ROUNDS else None,
    }


def _blocks(run: StoredRun) -> int | None:
    """How many blocks are whole; None for what has no blocks, or cannot be read."""
    from labctl.engine.comparison.stored import COMPARE, MATRIX, NOISE
    from labctl.errors import LabError

    if run.manifest.run_kind not in (COMPARE, MATRIX):
        return None
    try:
        return run.count(NOISE)
    except LabError:
        return None


def _table(found: tuple[StoredRun | UnreadableRun, ...]) -> Iterator[RenderableType]:
    from rich.text import Text

    from labctl.report.grid import Column, Grid

    rows = []
    for run in found:
        record = _record(run)
        if "problem" in record:
            rows.append((Text(run.path.name), "", Text(f"unreadable: {record['problem']}", style="red")))
            continue
        blocks = "" if record["blocks"] is None else f"{record['blocks']}/{record['rounds']}"
        style = {"complete": "", "running": "bold"}.get(str(record["state"]), "yellow")
        state = Text(str(record["state"]), style=style)
        if record["reason"]:
            state.append(f"\n{record['reason']}", style="dim")
        rows.append((Text(run.path.name), blocks, state))
    # The name is whole, so that it can be pasted; kind and scenarios are in it.
    yield Grid((Column(title="run"), Column(title="blocks"), Column(title="state", is_text=True)), rows)
    yield Text("show one: labctl report RUN (or: last)", style="dim")
