"""`labctl plan SCENARIO [--shell]`: what `up` would do, before it does it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from labctl.cli.options import as_json, context_option, find_standing, load_lab, provider_of, scenario_options
from labctl.cli.output import emit, emit_json, say, translated
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
@click.option("--against", metavar="LAB", help="How that lab, which is up, becomes SCENARIO (up --apply).")
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
    against: str | None,
    as_json: bool,
) -> None:
    """Show the steps that `up` would take, or, with --against LAB, those by which `up --apply` changes a lab that is
    up: what is made again is named, with the reason."""
    from labctl.planning.show import as_record, as_script, as_text

    if against is not None:
        _show_change(load_lab(scenario, provider=provider, name=against, overrides=overrides, trust=trust), as_json)
        return
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


def _show_change(wanted: Lab, as_json: bool) -> None:
    from labctl.engine.mend import drifting
    from labctl.planning.show import as_record, as_text
    from labctl.report.drift import drift_record

    running, provider = find_standing(wanted.name)
    if running.provider != wanted.provider:
        raise UsageError(
            what=f"lab {wanted.name} is built by {running.provider}, this scenario by {wanted.provider}",
            remedy=f"labctl plan {wanted.scenario} --against {wanted.name} --provider {running.provider}",
        )
    compared = drifting(provider, running).compared(wanted, scenario=wanted.scenario)
    if as_json:
        emit_json({**as_record(compared.plan), "differences": drift_record(compared.drift)["differences"]})
        return
    if not compared.plan.steps:
        say(f"lab {wanted.name} is as scenario {wanted.scenario} says: nothing to do")
        return
    emit(as_text(compared.plan, width=line_width(sys.stdout), say=translated), nl=False, as_it_is=True)
    for one in compared.drift.differences:
        if one.why:
            say(f"{one.part}: {one.name.rpartition(' ')[0]} is made again: {one.why}")


def _rights(provider: Provider, lab: Lab) -> Callable[[Lab, str, bool], str]:
    """What prints the rights. Raises UsageError for a provider whose labs take none that could be given."""
    if provider.capabilities.rights is None:
        raise UsageError(
            what=f"labs of the provider {provider.name} take no rights that --rbac could print",
            cause="they are made on this host, or on a cluster that labctl makes",
            remedy=f"labctl plan {lab.scenario} --provider cluster --rbac",
        )
    return provider.capabilities.rights
