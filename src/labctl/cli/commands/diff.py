"""`labctl diff LAB [SCENARIO]`: what a running lab has less, more or other than its plan, or than another scenario."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, find_standing, load_lab, set_option, trust_option
from labctl.cli.output import emit, emit_json, say
from labctl.errors import StepFailed


@click.command("diff")
@click.argument("lab")
@click.argument("scenario", required=False)
@set_option
@trust_option
@as_json
def command(lab: str, scenario: str | None, overrides: tuple[str, ...], trust: bool, as_json: bool) -> int:
    """What of LAB is missing, changed or extra: against the plan that it was built from, or against SCENARIO.

    Looked at are namespaces, devices, addresses, routes, neighbours, FDB entries, settings, qdiscs, eBPF programs by
    their tags, the fixed entries of their maps, netfilter's rules, routing daemons with their configuration, and
    processes that nobody looks after. What the kernel adds by itself, what is learned, and what a routing daemon
    writes is no difference.

    Each difference is shown with the key of the scenario that asks for it and a command that mends it by hand; labctl
    reset mends them all. Exit code 1 when something differs.
    """
    from labctl.engine.mend import drifting
    from labctl.report.drift import drift_lines, drift_record, headline, unread_sentence

    running, provider = find_standing(lab)
    wanted, other = running, ""
    if scenario is not None or overrides:
        wanted = load_lab(
            scenario or running.source or running.scenario,
            provider=running.provider,
            name=lab,
            overrides=overrides,
            trust=trust,
        )
        other = wanted.scenario
    drift = drifting(provider, running).compared(wanted, scenario=other).drift
    if as_json:
        emit_json(drift_record(drift))
    else:
        say(headline(drift))
        for sentence, key, by_hand in drift_lines(drift):
            say(sentence)
            emit(f"  {key}" if key else "", nl=bool(key), as_it_is=True)
            if by_hand:
                emit(f"  {by_hand}", as_it_is=True)
        for one in drift.unread:
            say(unread_sentence(one))
        if drift.differences and not scenario and not overrides:
            say(f"to mend all of it: labctl reset {lab}")
    if drift.differences:
        return 1
    return StepFailed.exit_code if drift.unread else 0
