"""`labctl list`: the labs on this host, found by their marks."""

from __future__ import annotations

import click

from labctl.cli.options import as_json
from labctl.cli.output import console, emit_json


@click.command("list")
@as_json
def command(as_json: bool) -> None:
    """The labs on this host."""
    from labctl import app

    labs = [lab for provider in app.providers() for lab in provider.discover()]
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "LabList",
                "labs": [
                    {
                        "lab": lab.name,
                        "provider": lab.provider,
                        "scenario": lab.scenario,
                        "digest": lab.digest,
                        "whole": lab.is_whole,
                        "missing": list(lab.missing),
                    }
                    for lab in labs
                ],
            }
        )
        return
    if not labs:
        click.echo("no lab is up. Start one: labctl up bpf")
        return
    from rich.table import Table

    table = Table("lab", "scenario", "provider", "nodes", "pods", "state", box=None)
    for running in labs:
        lab = running.lab
        table.add_row(
            running.name,
            running.scenario,
            running.provider,
            str(len(lab.nodes)) if lab else "?",
            str(len(lab.pods)) if lab else "?",
            "whole" if running.is_whole else f"half there: {', '.join(running.missing)}",
        )
    console().print(table)
