"""Applies a plan with undo: a lab is there whole, or not at all."""

from __future__ import annotations

import time
from contextlib import suppress

from labctl.engine.events import BuildDone, BuildStarted, Note, Observer, Removed, StepDone, StepStarted, Undoing
from labctl.errors import Interrupted, LabError
from labctl.model.lab import Lab
from labctl.model.plan import Plan, Step
from labctl.providers.base import Executor, Provider
from labctl.system.signals import uninterrupted


def build(provider: Provider, lab: Lab, observer: Observer, *, retain: bool = False) -> Plan:
    """Builds the lab. On any failure, and on Ctrl-C, what was built is undone in reverse, unless `retain`.

    Raises what made it stop: StepFailed, HostLacks, Interrupted.
    """
    plan = provider.plan(lab)
    begun = time.monotonic()
    observer(BuildStarted(lab=lab.name, steps=len(plan.steps)))
    with provider.executor(lab) as executor:
        undo: list[Step] = []
        try:
            for number, step in enumerate(plan.steps, start=1):
                undo.append(step)
                observer(StepStarted(lab=lab.name, id=step.id, title=step.title, number=number, steps=len(plan.steps)))
                step_begun = time.monotonic()
                executor.execute(step.actions)
                observer(StepDone(lab=lab.name, id=step.id, title=step.title, duration_s=time.monotonic() - step_begun))
            executor.finish(lab)
        except BaseException as stop:
            if plan.is_resumable:
                observer(
                    Note(text=f"what was built stays: the same command goes on; labctl down {lab.name} takes it back")
                )
            elif not retain:
                with uninterrupted():
                    _undo(executor, lab, undo, stop, observer)
                    # The record of a lab and whatever a half-done step left outside its own undo.
                    with suppress(LabError):
                        provider.teardown(lab.name)
            raise
    observer(BuildDone(lab=lab.name, duration_s=time.monotonic() - begun))
    return plan


def _undo(executor: Executor, lab: Lab, done: list[Step], stop: BaseException, observer: Observer) -> None:
    because = "interrupted" if isinstance(stop, KeyboardInterrupt | Interrupted) else str(stop)
    observer(Undoing(lab=lab.name, because=because, steps=len(done)))
    for step in reversed(done):
        try:
            executor.execute(step.undo)
        except LabError as failed:
            observer(Note(text=f"undoing '{step.title}' failed: {failed.what}; going on with the rest"))


def remove(provider: Provider, name: str, observer: Observer) -> None:
    """Removes the lab of that name, whole or in pieces."""
    begun = time.monotonic()
    with uninterrupted():
        provider.teardown(name)
    observer(Removed(lab=name, duration_s=time.monotonic() - begun))
