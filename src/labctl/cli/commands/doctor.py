"""`labctl doctor`: what this host has and lacks, each lack with the command that mends it."""

from __future__ import annotations

import click

from labctl.cli.options import as_json
from labctl.cli.output import console, emit_json
from labctl.errors import HostLacks


@click.command("doctor")
@click.option("--provider", default="netns", show_default=True, metavar="P", help="For labs of this provider.")
@as_json
def command(provider: str, as_json: bool) -> int:
    """What this host has and lacks, found by trying, with the command that mends it."""
    from labctl import app

    probes = list(app.provider(provider).probes())
    missing = [probe for probe in probes if probe.required and not probe.present]
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Doctor",
                "provider": provider,
                "ready": not missing,
                "probes": [
                    {
                        "name": p.name,
                        "present": p.present,
                        "found": p.found,
                        "neededFor": p.needed_for,
                        "remedy": p.remedy,
                        "required": p.required,
                    }
                    for p in probes
                ],
            }
        )
        return HostLacks.exit_code if missing else 0
    from rich.table import Table

    table = Table("", "what", "found", "needed for", box=None)
    for probe in probes:
        sign = "ok" if probe.present else ("MISSING" if probe.required else "absent")
        table.add_row(sign, probe.name, probe.found, probe.needed_for)
    console().print(table)
    for probe in probes:
        if not probe.present and probe.remedy:
            click.echo(f"{probe.name}: {probe.remedy}")
    if not missing:
        click.echo(f"this host can run {provider} labs")
    return HostLacks.exit_code if missing else 0
