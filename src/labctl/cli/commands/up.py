"""`labctl up SCENARIO`: builds the lab, or says that it is there already."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, load_lab, provider_of, require_host, scenario_options
from labctl.cli.output import emit_json
from labctl.cli.progress import Progress
from labctl.model.lab import Lab


@click.command("up")
@click.argument("scenario")
@scenario_options
@click.option("--retain", is_flag=True, help="Keep what was built when a step fails, to look at it.")
@as_json
def command(
    scenario: str, provider: str | None, name: str | None, overrides: tuple[str, ...], retain: bool, as_json: bool
) -> None:
    """Build the lab of SCENARIO (a name in scenarios/, or a file).

    The same lab again changes nothing. A failure or Ctrl-C undoes everything.
    """
    from labctl.engine.lifecycle import Outcome, up
    from labctl.system.signals import interruptible

    lab = load_lab(scenario, provider=provider, name=name, overrides=overrides)
    chosen = provider_of(lab)
    require_host(chosen)
    with interruptible(), Progress() as progress:
        outcome = up(chosen, lab, progress, retain=retain)
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Up",
                "lab": lab.name,
                "scenario": lab.scenario,
                "provider": lab.provider,
                "outcome": str(outcome),
                "digest": lab.digest,
                "nodes": [node.name for node in lab.nodes],
                "pods": [pod.name for pod in lab.pods],
            }
        )
        return
    if outcome is Outcome.UNCHANGED:
        click.echo(f"lab {lab.name} is up already and equal to the scenario: nothing to do")
    else:
        click.echo(f"lab {lab.name} is up: {len(lab.nodes)} nodes, {len(lab.pods)} pods. {chosen.statement}")
    click.echo("\n".join(next_things(lab)))


def next_things(lab: Lab) -> list[str]:
    """What a person would try next, with names of this lab."""
    if not lab.pairs:
        return [f"  labctl status {lab.name}", f"  labctl down {lab.name}"]
    pair = lab.pairs[-1]
    server = lab.pod(pair.server)
    return [
        "try next:",
        f"  labctl status {lab.name}",
        f"  labctl exec {lab.name} {pair.client} -- ping -c 3 {server.address}",
        f"  labctl check {lab.name}",
        f"  labctl down {lab.name}",
    ]
