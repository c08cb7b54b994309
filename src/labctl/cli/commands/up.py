"""`labctl up SCENARIO`: builds the lab, or says that it is already there, and shows the mode that it is in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import (
    as_json,
    context_option,
    load_lab,
    located,
    provider_of,
    scenario_options,
    standing,
    up_again,
    with_bundle,
)
from labctl.cli.output import emit, emit_json, say, tell
from labctl.cli.progress import Progress
from labctl.codec import plain
from labctl.errors import StepFailed, UsageError
from labctl.model.lab import EndpointKind, Lab

if TYPE_CHECKING:
    from labctl.engine.events import Phase
    from labctl.model.evidence import ModeInForce
    from labctl.providers.base import OpenLab, Provider


@click.command("up")
@click.argument("scenario", metavar="SCENARIO|LAB")
@scenario_options
@context_option
@click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="FILE", help="Images and chart from this bundle only."
)
@click.option("--retain", is_flag=True, help="Keep what was built when a step fails, for inspection.")
@click.option("--apply", "applies", is_flag=True, help="Change a lab of that name that is up, by the least change.")
@click.option(
    "--again", is_flag=True, help="Bring back the lab of that name, as it was before this host was restarted."
)
@as_json
def command(
    scenario: str,
    provider: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    bundle: Path | None,
    retain: bool,
    applies: bool,
    again: bool,
    as_json: bool,
) -> int:
    """Build the lab of SCENARIO (a name in scenarios/, or a file).

    Running it again for the same lab changes nothing. A failure or Ctrl-C undoes everything. With real Cilium the mode
    in force is proven at the end: if it is not the one asked for, the exit code is 4 and the lab stays up for
    inspection. A scenario with allowFallback: true takes Legacy where BPF host routing cannot be had.

    With --apply a lab of that name that is up is changed to SCENARIO: what both have stays untouched, what cannot be
    changed in place is made again (labctl plan SCENARIO --against LAB shows what). A change that fails is taken back;
    one that was killed is completed by the next command.

    With --again LAB, a lab that was up when this host was restarted is built from its own record, whatever its file
    says by now, and what was changed in it with labctl link, node, impair and break is made again; what cannot be is
    named, with exit code 4. labctl enable LAB does that at every boot.
    """
    from labctl.engine.again import kept_labs
    from labctl.engine.apply import apply, complete
    from labctl.engine.arrival import arrived, refuse_fallback
    from labctl.engine.build import BuildOutcome, require_host, up
    from labctl.engine.events import BuildDone, Event
    from labctl.system.signals import interruptible

    if again:
        if provider or name or overrides or trust or bundle or retain or applies:
            raise UsageError(
                what="--again takes nothing but a lab's name: the lab comes back as it was",
                remedy=f"labctl up --again {scenario}",
            )
        return _bring_back(scenario, as_json=as_json)
    lab = load_lab(scenario, provider=provider, name=name, overrides=overrides, is_final=bundle is None, trust=trust)
    chosen = provider_of(lab)
    require_host(chosen, lab)
    if bundle is not None:
        lab = with_bundle(chosen, lab, bundle)
    phases: list[Phase] = []
    is_located = located(scenario, provider=provider, overrides=overrides)
    with is_located, interruptible(), Progress() as progress:

        def observer(event: Event) -> None:
            if isinstance(event, BuildDone):
                phases.extend(event.phases)
            progress(event)

        running = standing(chosen, lab.name) if applies else None
        before_boot = [] if running else [of.kept for of in kept_labs([chosen], lab.name)]
        if running is None:
            outcome = up(chosen, lab, observer, retain=retain)
        else:
            before = complete(chosen, running, observer) or running
            outcome = BuildOutcome.CHANGED if apply(chosen, before, lab, observer) else BuildOutcome.UNCHANGED
        if outcome is BuildOutcome.BUILT:
            for kept in before_boot:
                if changed := kept.changes.sentences():
                    tell(f"note: what was changed in lab {lab.name} when it was up before is not: {'; '.join(changed)}")
        keep_now(chosen, lab)
        found = arrived(chosen, lab, lambda open_lab: _mode_of(open_lab, progress))
    if as_json:
        from labctl.report.json import mode_record

        fallback = found.lab.fallback
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Up",
                "lab": lab.name,
                "scenario": lab.scenario,
                "provider": lab.provider,
                "outcome": str(outcome),
                "digest": lab.digest,
                "nodes": [node.name for node in found.lab.nodes],
                "pods": [pod.name for pod in lab.pods],
                "addresses": {pod.name: str(pod.address) for pod in found.lab.pods},
                "modeInForce": None if found.mode is None else mode_record(None, found.mode),
                "phases": [phase.record() for phase in phases],
            }
            | ({} if fallback is None else {"fallback": plain(fallback)})
        )
        refuse_fallback(found)
        return 0
    refuse_fallback(found)
    if outcome is BuildOutcome.UNCHANGED:
        say(f"lab {lab.name} is already up and matches the scenario: nothing to do")
    elif outcome is BuildOutcome.CHANGED:
        say(f"lab {lab.name} was changed to scenario {lab.scenario}")
    else:
        say(f"lab {lab.name} is up: {len(found.lab.nodes)} nodes, {len(lab.pods)} pods")
        say(chosen.statements(lab)[0])
        if slow := slow_phases(phases):
            say(f"it took: {slow}")
    if found.mode is not None:
        if placed := chosen.capabilities.placement(lab.name):
            say(f"in the cluster: {', '.join(' = '.join(pair) for pair in placed.items())}")
        claims = found.mode.found.items()
        said = ", ".join(f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in claims)
        say(f"in force, by {len(found.mode.evidence)} pieces of evidence: {said}")
    if (fallback := found.lab.fallback) is not None:
        from labctl.report.sentences import log_text

        say(f"asked for BPF host routing, and allowed to fall back: it runs Legacy, since {fallback.reason}")
        say(log_text(fallback))
    emit("\n".join(next_things(found.lab)))
    return 0


def _mode_of(open_lab: OpenLab, progress: Progress) -> ModeInForce:
    from labctl import app
    from labctl.engine.prove import prove
    from labctl.store.runs import MemorySinks

    return prove(app.checks(), open_lab, MemorySinks(), progress).mode


def keep_now(provider: Provider, lab: Lab) -> None:
    """That a lab could not be brought back after a boot is no reason not to have it now."""
    from labctl.engine.again import keep

    try:
        keep(provider, lab)
    except StepFailed as failed:
        tell("\n".join((f"note: {failed.what}", *failed.lines()[1:])))


def _bring_back(name: str, *, as_json: bool) -> int:
    from labctl import app
    from labctl.engine.again import bring_back, kept_labs
    from labctl.engine.build import BuildOutcome
    from labctl.system.signals import interruptible

    found = kept_labs(app.providers_with_labs(), name)
    if not found:
        raise _not_kept(name)
    with interruptible(), Progress(quiet=as_json) as progress:
        restored = bring_back(found[0], progress)
    lab, changed = restored.lab, restored.changes.sentences()
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Up",
                "lab": lab.name,
                "scenario": lab.scenario,
                "provider": lab.provider,
                "outcome": str(restored.outcome),
                "digest": lab.digest,
                "nodes": [node.name for node in lab.nodes],
                "pods": [pod.name for pod in lab.pods],
                "addresses": {pod.name: str(pod.address) for pod in lab.pods},
                "restored": list(changed),
                "notRestored": [{"what": what, "why": why.what} for what, why in restored.failed],
            }
        )
    elif restored.outcome is BuildOutcome.UNCHANGED:
        say(f"lab {name} is up already: nothing to do")
    else:
        say(f"lab {name} is back: {len(lab.nodes)} nodes, {len(lab.pods)} pods")
        if changed:
            say(f"changed as it was: {'; '.join(changed)}")
    for what, why in restored.failed:
        tell("\n".join((f"note: {what} is not as it was: {why.what}", *why.lines()[1:])))
    return StepFailed.exit_code if restored.failed else 0


def _not_kept(name: str) -> UsageError:
    """Of labs whose nodes are containers or machines nothing has to be brought back by labctl."""
    from labctl import app
    from labctl.engine.again import kept_labs
    from labctl.engine.build import find

    found = find(app.providers_with_labs(), name)
    if found is None:
        names = [of.kept.name for of in kept_labs(app.providers_with_labs())]
        return UsageError(
            what=f"nothing is kept of a lab named '{name}'",
            cause=f"kept are: {', '.join(names)}"
            if names
            else "no lab is kept: labctl up keeps one, labctl down forgets it",
            remedy=f"labctl up SCENARIO --name {name}",
        )
    running, provider = found.running, found.provider
    if provider.capabilities.keeping is not None:
        return UsageError(
            what=f"nothing is kept of lab {name}, from which it could be brought back",
            cause="labctl up did not build it",
            remedy=f"labctl reset {name} --hard; or: {up_again(running)}",
        )
    return UsageError(
        what=f"--again is for labs of the provider netns, and lab {name} is built by {provider.name}",
        cause=provider.capabilities.after_boot,
        remedy=f"labctl status {name}"
        if running.is_whole
        else f"{up_again(running)}  # resumes or builds what is missing",
    )


def slow_phases(phases: Sequence[Phase]) -> str:
    """The steps that took a second or more, by their ids, in order; empty where all was quicker."""
    return ", ".join(f"{phase.id} {phase.duration_s:.1f} s" for phase in phases if phase.duration_s >= LONG_S)


LONG_S = 1.0


def next_things(lab: Lab) -> list[str]:
    """Commands to try next, with names and addresses of this lab."""
    traffic = []
    if lab.pairs:
        answering = [pair for pair in lab.pairs if lab.server(pair).kind is not EndpointKind.SERVICE]
        traffic = [
            *(
                (f"labctl exec {lab.name} {pair.client} -- ping -c 3 {lab.server(pair).address}", "traffic by hand")
                for pair in answering[-1:]
            ),
            (f"labctl check {lab.name}", "all checks, judged"),
        ]
    commands = [
        (f"labctl status {lab.name}", "the mode in force"),
        *traffic,
        (f"labctl down {lab.name}", "remove it"),
    ]
    width = max(len(command) for command, _ in commands)
    return ["try next:", *(f"  {command:<{width}}  # {what}" for command, what in commands)]
