"""`labctl schema`: the JSON Schema of scenario files, for editors."""

from __future__ import annotations

import click

from labctl.cli.output import emit_json


@click.command("schema")
@click.option(
    "--kind",
    type=click.Choice(["scenario", "site", "matrix", "lesson", "solution", "class"]),
    default="scenario",
    show_default=True,
    metavar="KIND",
    help="scenario, site, matrix, lesson, solution or class.",
)
@click.option("--json", "as_json", is_flag=True, hidden=True, help="No effect: the output is always JSON.")
def command(kind: str, as_json: bool) -> None:
    """The JSON Schema of scenario files, lab.yaml, matrix files, or of a lesson, its solution, and a class's roster."""
    from labctl.loading.schema import schema

    del as_json
    emit_json(schema(kind.capitalize()))
