"""Brings a lab that is up to what is wanted of it: compares, carries out the steps, and looks again.

What a step takes with it shows only afterwards (an address that goes takes routes along), so that it goes on until
nothing differs. To be stopped in between harms nothing: the next one goes on from what is there.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from labctl.engine.events import Observer, StepDone, StepStarted
from labctl.errors import StepFailed, UsageError
from labctl.model.drift import Drift
from labctl.model.lab import Lab
from labctl.model.plan import Plan
from labctl.providers.base import Drifting, Executor, Provider
from labctl.values import dataclass

_MOST_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """What was found before, and how long it took to mend it."""

    before: Drift
    steps: int
    duration_s: float


def drifting(provider: Provider, lab: Lab) -> Drifting:
    """For comparing labs of that provider. Raises UsageError where it cannot."""
    if (found := provider.capabilities.drifting) is not None:
        return found
    raise UsageError(
        what=f"labs of the provider {provider.name} cannot be compared with their plan",
        cause="this provider does not say what of a lab is there",
        remedy=f"labctl status {lab.name}; labctl check {lab.name}",
    )


def mend(provider: Provider, lab: Lab, observer: Observer, *, parts: Collection[str] = ()) -> Mended:
    """Mends what of the lab is not as its plan says, and nothing else. Raises StepFailed when something stays as it
    is, with the command that a person would type."""
    seam, begun = drifting(provider, lab), time.monotonic()
    before, steps = reach(seam, lab, observer, parts=parts)
    seam.forget_changes(lab, parts)
    return Mended(before=before, steps=steps, duration_s=time.monotonic() - begun)


def reach(seam: Drifting, wanted: Lab, observer: Observer, *, parts: Collection[str] = ()) -> tuple[Drift, int]:
    """Brings the lab of that name to `wanted`; gives what differed before, and how many steps it took. Raises
    StepFailed when something stays as it is."""
    compared, steps = seam.compared(wanted, parts=parts), 0
    before = compared.drift
    for _ in range(_MOST_ROUNDS):
        if not compared.plan.steps:
            break
        with seam.mending(wanted) as executor:
            carry_out(executor, compared.plan, observer)
        steps += len(compared.plan.steps)
        compared = seam.compared(wanted, parts=parts)
    _refuse_rest(compared.drift)
    return before, steps


def carry_out(executor: Executor, plan: Plan, observer: Observer) -> None:
    """Every step, in order. Raises what made one stop."""
    for number, step in enumerate(plan.steps, start=1):
        observer(StepStarted(lab=plan.lab, id=step.id, title=step.title, number=number, steps=len(plan.steps)))
        step_begun = time.monotonic()
        executor.execute(step.actions)
        took_s = time.monotonic() - step_begun
        observer(StepDone(lab=plan.lab, id=step.id, title=step.title, duration_s=took_s))


def _refuse_rest(drift: Drift) -> None:
    """Raises StepFailed when something still differs, or cannot be read."""
    if drift.unread:
        first = drift.unread[0]
        raise StepFailed(
            what=f"lab {drift.lab}: {first.kind} of {first.part} cannot be read",
            cause=first.why,
            remedy=f"labctl diff {drift.lab}",
        )
    if drift.differences:
        rest = drift.differences[0]
        raise StepFailed(
            what=f"lab {drift.lab} still differs: {rest.part}: {rest.name} is {rest.change}",
            cause=f"{len(drift.differences)} differences are left",
            remedy=rest.command or f"labctl reset {drift.lab} --hard",
        )


def rebuild(provider: Provider, lab: Lab, observer: Observer) -> float:
    """Removes the lab and builds it again from its own record. The seconds that it took."""
    from labctl.engine.again import keep, kept_labs  # not where a lab is only mended
    from labctl.engine.build import build, remove

    begun = time.monotonic()
    remove(provider, lab.name, observer)
    build(provider, lab, observer)
    if kept_labs([provider], lab.name):
        keep(provider, lab)
    return time.monotonic() - begun
