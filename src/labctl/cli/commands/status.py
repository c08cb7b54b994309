"""`labctl status LAB`: what the lab is, and which mode it proves to be in."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, find_lab
from labctl.cli.output import console, emit_json
from labctl.cli.progress import Progress
from labctl.errors import NotInForce


@click.command("status")
@click.argument("lab")
@click.option("--no-proof", is_flag=True, help="Send no packets: what was asked for, without what is in force.")
@as_json
def command(lab: str, no_proof: bool, as_json: bool) -> int:
    """What LAB is made of, and which mode is in force, with the evidence. Sends a few echo requests to find out."""
    from labctl import app
    from labctl.engine.prove import prove
    from labctl.report.status import status_record, status_table
    from labctl.store.raw import MemorySinks
    from labctl.system.signals import interruptible

    found, provider = find_lab(lab)
    mode = None
    if not no_proof:
        with interruptible(), Progress(quiet=True) as progress, provider.open(found) as open_lab:
            mode = prove(app.checks(), open_lab, MemorySinks(), progress).mode
    if as_json:
        emit_json(status_record(found, mode, statement=provider.statement))
    else:
        for part in status_table(found, mode, statement=provider.statement):
            console().print(part)
    return NotInForce.exit_code if mode is not None and not mode.proven else 0
