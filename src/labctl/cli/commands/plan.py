"""`labctl plan SCENARIO [--shell]`: what `up` would do, before it does it."""

from __future__ import annotations

import sys

import click

from labctl.cli.options import as_json, load_lab, provider_of, scenario_options
from labctl.cli.output import emit, emit_json, translated
from labctl.cli.streams import line_width
from labctl.text import utf8


@click.command("plan")
@click.argument("scenario")
@scenario_options
@click.option("--shell", is_flag=True, help="A POSIX shell script that builds the same lab by hand.")
@as_json
def command(
    scenario: str,
    provider: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    shell: bool,
    as_json: bool,
) -> None:
    """Show the steps that `up` would take."""
    from labctl.planning.show import as_record, as_script, as_text

    lab = load_lab(scenario, provider=provider, name=name, overrides=overrides, trust=trust)
    plan = provider_of(lab).plan(lab)
    if as_json:
        emit_json(as_record(plan))
    else:
        # A script is a file.
        text = utf8(as_script(plan)) if shell else as_text(plan, width=line_width(sys.stdout), say=translated)
        emit(text, nl=False, as_it_is=True)
