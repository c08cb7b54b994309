"""`labctl down LAB… | --all`: removes labs by their mark."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, unknown_lab
from labctl.cli.output import emit_json
from labctl.cli.progress import Progress
from labctl.errors import UsageError


@click.command("down")
@click.argument("labs", nargs=-1, metavar="LAB…")
@click.option("--all", "every", is_flag=True, help="Every lab on this host.")
@as_json
def command(labs: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Remove labs, whole or in pieces, and nothing that is not theirs."""
    from labctl import app
    from labctl.engine.build import remove

    if bool(labs) == every:
        raise UsageError(
            what="which lab?" if not labs else "either names or --all, not both",
            remedy="labctl down LAB… or labctl down --all; labctl list shows the names",
        )
    providers = tuple(app.providers())
    running = {lab.name: provider for provider in providers for lab in provider.discover()}
    for name in labs:
        if name not in running:
            raise unknown_lab(name, providers)
    removed = list(dict.fromkeys(labs)) if labs else list(running)
    with Progress() as progress:
        for name in removed:
            remove(running[name], name, progress)
    if as_json:
        emit_json({"apiVersion": "labctl/v1", "kind": "Down", "removed": removed})
    elif not removed:
        click.echo("no lab is up: nothing to do")
