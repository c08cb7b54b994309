"""`labctl diff LAB [SCENARIO]`: what a running lab has less, more or other than its plan, or than another scenario."""

from __future__ import annotations

import os
from pathlib import Path

import click

from labctl.cli.options import as_json, find_standing, load_lab, set_option, trust_option
from labctl.cli.output import emit, emit_json, say
from labctl.codec import plain
from labctl.errors import StepFailed, UsageError
from labctl.model.lab import Lab
from labctl.providers.base import Provider


@click.command("diff")
@click.argument("lab")
@click.argument("scenario", required=False)
@set_option
@click.option("--lab", "other_lab", metavar="OTHER", help="Compare with another lab that is up.")
@click.option("--snapshot", metavar="FILE", help="Compare with what labctl snapshot save wrote.")
@trust_option
@as_json
def command(
    lab: str,
    scenario: str | None,
    overrides: tuple[str, ...],
    other_lab: str | None,
    snapshot: str | None,
    trust: bool,
    as_json: bool,
) -> int:
    """What of LAB is missing, changed or extra: against the plan that it was built from, or against SCENARIO, another
    lab or a snapshot. Of two labs that are changed in the same way nothing differs.

    Looked at are namespaces, devices, addresses, routes, neighbours, FDB entries, settings, qdiscs, eBPF programs by
    their tags, the fixed entries of their maps, netfilter's rules, routing daemons with their configuration, and
    processes that nobody looks after. What the kernel adds by itself, what is learned, and what a routing daemon
    writes is no difference.

    Each difference is shown with the key of the scenario that asks for it and a command that mends it by hand; labctl
    reset mends them all. Exit code 1 when something differs.
    """
    from labctl.engine.mend import drifting
    from labctl.report.drift import drift_lines, drift_record, headline, unread_sentence

    if sum(one is not None for one in (scenario or (overrides or None), other_lab, snapshot)) > 1:
        raise UsageError(
            what="LAB is compared with one thing: a scenario, --lab or --snapshot", remedy=f"labctl diff {lab} --help"
        )
    running, provider = find_standing(lab)
    if other_lab is not None or snapshot is not None:
        return _diff_labs(running, provider, other_lab, snapshot, trust=trust, as_json=as_json)
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


def _diff_labs(lab: Lab, provider: Provider, other: str | None, file: str | None, *, trust: bool, as_json: bool) -> int:
    from labctl.cli.commands.snapshot import place_of, show_apart
    from labctl.engine.snapshot import against, between, read

    if other is not None:
        there, its_provider = find_standing(other)
        found = between(provider, lab, there) if its_provider.name == provider.name else None
        what = f"lab {other}"
    else:
        assert file is not None
        path = place_of(file, Path(os.environ.get("LABCTL_SNAPSHOTS_DIR", "snapshots")))
        found, what = against(provider, lab, read(path, trust=trust)), "the snapshot"
    if found is None:
        raise UsageError(
            what=f"lab {lab.name} and {what} cannot be compared",
            cause="their providers differ, or plugins attach their pods, or other programs make what they have",
            remedy=f"labctl status {lab.name}; labctl check {lab.name}",
        )
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "LabsApart",
                "lab": lab.name,
                "comparedWith": other or file,
                "onlyHere": plain(found.only_here),
                "onlyThere": plain(found.only_there),
            }
        )
    elif found.is_nothing:
        say(f"lab {lab.name} is as {what} is")
    else:
        show_apart(found, f"lab {lab.name}", what)
    return 0 if found.is_nothing else 1
