"""Sides of a comparison that take turns on one lab: whether they do, why, and the switch from one to the next.

In which order they take turns is `compare/order.py`'s; proving and measuring are `measure.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from labctl.engine.events import BuildDone, BuildStarted, Observer, StepDone, StepStarted
from labctl.errors import UsageError
from labctl.model.lab import Lab
from labctl.model.strategy import Strategy
from labctl.providers.base import Provider, Switches


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """`statement` is what a reader of the report must know; empty where nothing was to be chosen."""

    takes_turns: bool
    statement: str = ""


SIDE_BY_SIDE = Turns(takes_turns=False)
_PROBE = "switched"


def choose(labs: Sequence[Lab], providers: Mapping[str, Provider], asked: Strategy = Strategy.AUTO) -> Turns:
    """Raises UsageError when turns are asked for, on the command line or in the scenario, and cannot be had."""
    names = {lab.provider for lab in labs}
    provider = providers[labs[0].provider]
    if len(names) > 1 or not isinstance(provider, Switches):
        if asked is Strategy.SWITCH:
            raise UsageError(
                what="--strategy switch cannot be had here",
                cause=f"the scenarios have different providers: {', '.join(sorted(names))}"
                if len(names) > 1
                else f"the provider {provider.name} cannot change the datapath of a lab that is up",
                remedy="leave it out: the labs are then built side by side",
            )
        return SIDE_BY_SIDE
    if asked is Strategy.PARALLEL:
        return _parallel("--strategy parallel was asked for")
    if asked is Strategy.SWITCH:
        because, is_asked = "--strategy switch was asked for", True
    else:
        choice = provider.strategy(labs[0], sides=len(labs))
        if not choice.switches:
            return _parallel(choice.because)
        because, is_asked = choice.because, choice.is_asked
    # A switch is possible from every side to the next when the labs differ in their datapath alone.
    as_one = [replace(lab, name=_PROBE) for lab in labs]
    try:
        for before, after in pairwise(as_one):
            provider.switch(before, after)
    except UsageError as refusal:
        if is_asked:
            raise
        return _parallel(f"{because}; but {refusal.what}: {refusal.cause}")
    return Turns(
        takes_turns=True,
        statement=f"the sides took turns on one lab that was switched between them (strategy switch: {because})",
    )


def _parallel(because: str) -> Turns:
    return Turns(takes_turns=False, statement=f"the labs stood side by side (strategy parallel: {because})")


def switch(provider: Provider, before: Lab, after: Lab, observer: Observer) -> None:
    """Changes the datapath of a lab that is up. Nothing is undone when that fails: who built the lab removes it.

    Raises UsageError when this provider cannot, StepFailed when a step fails.
    """
    if not isinstance(provider, Switches):
        raise UsageError(what=f"the provider {provider.name} cannot change the datapath of a lab that is up")
    plan = provider.switch(before, after)
    begun = time.monotonic()
    observer(BuildStarted(lab=after.name, steps=len(plan.steps)))
    with provider.executor(after) as executor:
        for number, step in enumerate(plan.steps, start=1):
            observer(StepStarted(lab=after.name, id=step.id, title=step.title, number=number, steps=len(plan.steps)))
            step_begun = time.monotonic()
            executor.execute(step.actions)
            observer(StepDone(lab=after.name, id=step.id, title=step.title, duration_s=time.monotonic() - step_begun))
        # From here on the lab is the other one, also for whoever looks for it later.
        executor.finish(after)
    observer(BuildDone(lab=after.name, duration_s=time.monotonic() - begun))
