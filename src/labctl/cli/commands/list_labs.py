"""`labctl list`: the labs on this host, found by their marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, discover_all
from labctl.cli.output import emit_json, say, show, tell

if TYPE_CHECKING:
    from labctl.providers.base import RunningLab


@click.command("list")
@as_json
def command(as_json: bool) -> None:
    """The labs on this host."""
    from labctl import app

    found, refused = discover_all(app.providers_with_labs())
    if refused and not found:
        raise refused[0]
    for error in refused:
        tell(f"note: {error.what}" + (f": {'; '.join(error.remedy.splitlines())}" if error.remedy else ""))
    labs = [running for running, _ in found]
    if as_json:
        emit_json({"apiVersion": "labctl/v1", "kind": "LabList", "labs": [_record(lab) for lab in labs]})
    elif not labs:
        say("no lab is up. Start one: labctl up bpf")
    else:
        _show_table(labs)


def _record(running: RunningLab) -> dict[str, object]:
    return {
        "lab": running.name,
        "provider": running.provider,
        "scenario": running.scenario,
        "digest": running.digest,
        "asked": running.lab.datapath.asked() if running.lab else None,
        "nodes": len(running.lab.nodes) if running.lab else None,
        "pods": len(running.lab.pods) if running.lab else None,
        "whole": running.is_whole,
        "beingBuilt": running.is_being_built,
        "missing": list(running.missing),
    }


def _show_table(labs: list[RunningLab]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("lab", "scenario", "provider", "datapath", "nodes", "pods", "state"):
        table.add_column(title, overflow="fold")
    for column, names in zip(table.columns, ([lab.name for lab in labs], [lab.scenario for lab in labs]), strict=False):
        column.min_width = max(map(len, names))  # whole, to be pasted
    for running in labs:
        lab = running.lab
        table.add_row(
            running.name,
            running.scenario or "?",
            running.provider,
            f"{lab.datapath.host_routing}, {lab.datapath.encapsulation}" if lab else "?",
            str(len(lab.nodes)) if lab else "?",
            str(len(lab.pods)) if lab else "?",
            state_of(running),
        )
    show(table)
    broken = [running.name for running in labs if not running.is_whole and not running.is_being_built]
    if broken:
        say(f"half there means that a part is missing, after a crash for example. labctl down {' '.join(broken)}")


def state_of(running: RunningLab) -> str:
    """One or a few words."""
    if running.is_being_built:
        return "being built"
    if running.is_whole:
        return "up"
    count = len(running.missing) or 1
    return f"half there, {count} {'part' if count == 1 else 'parts'} missing"
