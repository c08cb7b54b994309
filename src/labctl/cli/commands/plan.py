"""`labctl plan SCENARIO [--shell]`: what `up` would do, before it does it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from labctl.cli.options import as_json, context_option, load_lab, provider_of, scenario_options
from labctl.cli.output import emit, emit_json, translated
from labctl.cli.streams import line_width
from labctl.errors import UsageError
from labctl.model.lab import Lab
from labctl.providers.base import Provider
from labctl.text import utf8


@click.command("plan")
@click.argument("scenario")
@scenario_options
@context_option
@click.option(
    "--rbac",
    is_flag=True,
    help="The smallest rights that the lab takes on a cluster, as a manifest (provider cluster).",
)
@click.option(
    "--subject",
    metavar="KIND:NAME",
    default="user:labctl",
    show_default=True,
    help="With --rbac, whom they are for: user:NAME, group:NAME, serviceaccount:NAMESPACE:NAME.",
)
@click.option("--without-agents", is_flag=True, help="With --rbac: no right to ask Cilium's agents.")
@click.option("--shell", is_flag=True, help="A POSIX shell script that builds the same lab by hand.")
@as_json
def command(
    scenario: str,
    provider: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    rbac: bool,
    subject: str,
    without_agents: bool,
    shell: bool,
    as_json: bool,
) -> None:
    """Show the steps that `up` would take."""
    from labctl.planning.show import as_record, as_script, as_text

    lab = load_lab(scenario, provider=provider, name=name, overrides=overrides, trust=trust)
    provider_chosen = provider_of(lab)
    if rbac:
        emit(_rights(provider_chosen, lab)(lab, subject, not without_agents), nl=False, as_it_is=True)
        return
    plan = provider_chosen.plan(lab)
    if as_json:
        emit_json(as_record(plan))
    else:
        # A script is a file.
        text = utf8(as_script(plan)) if shell else as_text(plan, width=line_width(sys.stdout), say=translated)
        emit(text, nl=False, as_it_is=True)


def _rights(provider: Provider, lab: Lab) -> Callable[[Lab, str, bool], str]:
    """What prints the rights. Raises UsageError for a provider whose labs take none that could be given."""
    if provider.capabilities.rights is None:
        raise UsageError(
            what=f"labs of the provider {provider.name} take no rights that --rbac could print",
            cause="they are made on this host, or on a cluster that labctl makes",
            remedy=f"labctl plan {lab.scenario} --provider cluster --rbac",
        )
    return provider.capabilities.rights
