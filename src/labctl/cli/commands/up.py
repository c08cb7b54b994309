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
    with_bundle,
)
from labctl.cli.output import emit, emit_json, say
from labctl.cli.progress import Progress
from labctl.codec import plain
from labctl.model.lab import EndpointKind, Lab

if TYPE_CHECKING:
    from labctl.engine.events import Phase


@click.command("up")
@click.argument("scenario")
@scenario_options
@context_option
@click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="FILE", help="Images and chart from this bundle only."
)
@click.option("--retain", is_flag=True, help="Keep what was built when a step fails, for inspection.")
@click.option("--apply", "applies", is_flag=True, help="Change a lab of that name that is up, by the least change.")
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
    as_json: bool,
) -> None:
    """Build the lab of SCENARIO (a name in scenarios/, or a file).

    Running it again for the same lab changes nothing. A failure or Ctrl-C undoes everything. With real Cilium the mode
    in force is proven at the end: if it is not the one asked for, the exit code is 4 and the lab stays up for
    inspection. A scenario with allowFallback: true takes Legacy where BPF host routing cannot be had.

    With --apply a lab of that name that is up is changed to SCENARIO: what both have stays untouched, what cannot be
    changed in place is made again (labctl plan SCENARIO --against LAB shows what). A change that fails is taken back;
    one that was killed is completed by the next command.
    """
    from labctl import app
    from labctl.engine.apply import apply, complete
    from labctl.engine.build import BuildOutcome, require_host, up
    from labctl.engine.events import BuildDone, Event
    from labctl.engine.prove import arrived, refuse_fallback
    from labctl.report.json import mode_record
    from labctl.report.sentences import log_text
    from labctl.store.runs import MemorySinks
    from labctl.system.signals import interruptible

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
        if running is None:
            outcome = up(chosen, lab, observer, retain=retain)
        else:
            before = complete(chosen, running, observer) or running
            outcome = BuildOutcome.CHANGED if apply(chosen, before, lab, observer) else BuildOutcome.UNCHANGED
        found = arrived(chosen, lab, app.checks(), MemorySinks(), progress)
    if as_json:
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
        return
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
        say(f"asked for BPF host routing, and allowed to fall back: it runs Legacy, since {fallback.reason}")
        say(log_text(fallback))
    emit("\n".join(next_things(found.lab)))


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
