"""Builds labs and removes them: a plan applied with undo, so that a lab is there completely or not at all.

What `up` and `down` mean for the same lab again, a changed lab, half a lab and no lab is decided here too.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from labctl.engine.events import (
    BuildDone,
    BuildStarted,
    Event,
    Note,
    Observer,
    Phase,
    Removed,
    StepDone,
    StepStarted,
    Undoing,
    Waiting,
    Working,
)
from labctl.errors import HostLacks, Interrupted, LabError, NeedsRoot, UsageError
from labctl.model.lab import Lab
from labctl.model.plan import Plan, Step
from labctl.planning.show import differences
from labctl.providers.base import Executor, Probe, Provider, RunningLab, Wait
from labctl.system.signals import all_at_once, uninterrupted
from labctl.values import dataclass

ROOT = "root"
"""How providers call the probe for this right."""


LONG_S = 1.0
"""What took less is not worth a line of its own among the times of a build."""


def build(provider: Provider, lab: Lab, observer: Observer, *, retain: bool = False) -> tuple[Phase, ...]:
    """Builds the lab, and says how long each step took. On any failure, and on Ctrl-C, what was built is undone in
    reverse, unless `retain`.

    Raises what made it stop: StepFailed, HostLacks, Interrupted.
    """
    plan = provider.plan(lab)
    begun = time.monotonic()
    observer(BuildStarted(lab=lab.name, steps=len(plan.steps)))
    phases: list[Phase] = []
    acts: list[tuple[str, float]] = []
    with telling(provider, lab.name, observer, acts), provider.executor(lab) as executor:
        undo: list[Step] = []
        try:
            for number, step in enumerate(plan.steps, start=1):
                undo.append(step)
                observer(StepStarted(lab=lab.name, id=step.id, title=step.title, number=number, steps=len(plan.steps)))
                step_begun = time.monotonic()
                acts.clear()
                executor.execute(step.actions)
                took_s = time.monotonic() - step_begun
                phases.append(Phase(id=step.id, title=step.title, duration_s=took_s, acts=tuple(acts)))
                observer(StepDone(lab=lab.name, id=step.id, title=step.title, duration_s=took_s))
            executor.finish(lab)
        except BaseException as stop:
            with uninterrupted():
                _after_stop(provider, executor, plan, lab, undo, stop, _never_raising(observer), retain=retain)
            raise
    observer(BuildDone(lab=lab.name, duration_s=time.monotonic() - begun, phases=tuple(phases)))
    return tuple(phases)


def build_together(jobs: Sequence[tuple[Provider, Lab]], observer: Observer) -> dict[str, tuple[Phase, ...]]:
    """Builds several labs at the same time; gives the times of each by its name. When one fails, or on Ctrl-C, the
    others are stopped, each undoes what it built, and the first error is raised."""
    lock = threading.Lock()

    def one_by_one(event: Event) -> None:
        with lock:
            observer(event)

    built = all_at_once([functools.partial(build, provider, lab, one_by_one) for provider, lab in jobs])
    return {lab.name: phases for (_, lab), phases in zip(jobs, built, strict=True)}


def lacking(provider: Provider, probes: Iterable[Probe], lab: Lab) -> tuple[Probe, ...]:
    """What this lab needs beside what every lab does, and is not there."""
    needed = provider.capabilities.needs(lab)
    return tuple(probe for probe in probes if probe.name in needed and probe.is_looked_at and not probe.present)


def require_host(provider: Provider, lab: Lab | None = None) -> None:
    """Raises HostLacks with everything that is missing and required, by every lab or by this one, and how to fix it."""
    probes = tuple(provider.probes())
    missing = [probe for probe in probes if probe.required and probe.is_looked_at and not probe.present]
    if not missing:
        if lab is not None and (these := lacking(provider, probes, lab)):
            raise HostLacks(
                what=f"this host cannot run scenario {lab.scenario}: it lacks {', '.join(p.name for p in these)}",
                cause="; ".join(f"{p.name}: {p.found} (needed for {p.needed_for})" for p in these),
                remedy="\n".join(dict.fromkeys(p.remedy for p in these if p.remedy)),
            )
        return
    others = [probe for probe in missing if probe.name != ROOT]
    if not others:
        raise NeedsRoot(what=f"building {provider.name} labs needs root", cause=f"this is {missing[0].found}")
    raise HostLacks(
        what=f"this host cannot run {provider.name} labs: it lacks {', '.join(p.name for p in missing)}",
        cause="; ".join(f"{p.name}: {p.found} (needed for {p.needed_for})" for p in missing),
        remedy="\n".join(dict.fromkeys(p.remedy for p in others if p.remedy)),
    )


@contextlib.contextmanager
def built(provider: Provider, lab: Lab, observer: Observer) -> Iterator[tuple[Phase, ...]]:
    """The lab, up within it and gone after it, whatever happens and whenever Ctrl-C comes.

    A lab of that name that was there before, or that another labctl is building, is not touched.
    """
    is_ours = True
    try:
        try:
            phases = build(provider, lab, observer)
        except (UsageError, HostLacks):
            is_ours = False
            raise
        yield phases
    finally:
        if is_ours:
            remove(provider, lab.name, _never_raising(observer))


def _after_stop(
    provider: Provider,
    executor: Executor,
    plan: Plan,
    lab: Lab,
    done: list[Step],
    stop: BaseException,
    observer: Observer,
    *,
    retain: bool,
) -> None:
    if plan.is_resumable:
        observer(Note(text=f"what was built stays: the same command resumes; labctl down {lab.name} removes it"))
    elif retain:
        observer(Note(text=f"what was built stays for inspection; labctl down {lab.name} removes it"))
    else:
        _undo(executor, lab, done, stop, observer)
        # The record of a lab, and what a half-done step left outside its own undo.
        try:
            provider.teardown(lab.name)
        except LabError as failed:
            observer(Note(text=f"parts of {lab.name} may be left: {failed.what}; try: labctl down {lab.name}"))


def _undo(executor: Executor, lab: Lab, done: list[Step], stop: BaseException, observer: Observer) -> None:
    because = "interrupted" if isinstance(stop, KeyboardInterrupt | Interrupted) else str(stop) or type(stop).__name__
    observer(Undoing(lab=lab.name, because=because, steps=len(done)))
    for step in reversed(done):
        try:
            executor.execute(step.undo)
        except LabError as failed:
            observer(Note(text=f"undoing '{step.title}' failed: {failed.what}; continuing with the rest"))


def telling(
    provider: Provider, lab: str, observer: Observer, acts: list[tuple[str, float]] | None = None
) -> contextlib.AbstractContextManager[None]:
    """While it lasts the observer hears what the provider does within steps, if the provider reports that. Those that
    took long are put into `acts`."""

    def tell(act: str | Wait, duration_s: float | None) -> None:
        if isinstance(act, Wait):
            observer(Waiting(lab=lab, wait=act))
            return
        if acts is not None and duration_s is not None and duration_s >= LONG_S:
            acts.append((act, duration_s))
        observer(Working(lab=lab, text=act, duration_s=duration_s))

    return provider.capabilities.telling(tell)


def _never_raising(observer: Observer) -> Observer:
    """Undo has to finish even when its listener has gone (`labctl up bpf 2>&1 | head -1`)."""

    def observe(event: Event) -> None:
        with contextlib.suppress(Exception):
            observer(event)

    return observe


def remove(provider: Provider, name: str, observer: Observer) -> None:
    """Removes the lab of that name, complete or partial."""
    begun = time.monotonic()
    with uninterrupted(), telling(provider, name, observer):
        provider.teardown(name)
    observer(Removed(lab=name, duration_s=time.monotonic() - begun))


class BuildOutcome(StrEnum):
    BUILT = "built"
    UNCHANGED = "unchanged"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLab:
    """A running lab and the provider that found it."""

    running: RunningLab
    provider: Provider


def find(providers: Iterable[Provider], name: str) -> FoundLab | None:
    """The running lab of that name, whichever provider made it. Raises HostLacks when none has it and one of them
    may not look."""
    refused: HostLacks | None = None
    for provider in providers:
        try:
            found = provider.discover(name)
        except HostLacks as lacks:
            refused = refused or lacks
            continue
        for running in found:
            if running.name == name:
                return FoundLab(running=running, provider=provider)
    if refused is not None:
        raise refused
    return None


def up(provider: Provider, lab: Lab, observer: Observer, *, retain: bool = False) -> BuildOutcome:
    """Makes sure that the lab is up. The same lab again is a no-op; one of which something is missing is built again; a
    lab of that name that differs is an error that says how, since taking it down is for its owner to decide. Raises
    what kept its provider from asking whether it is whole."""
    existing = find([provider], lab.name)
    if existing is not None:
        running = existing.running
        if running.is_being_built:
            raise being_built(running.name)
        if running.unasked is not None:
            raise running.unasked
        if running.is_whole and running.digest == lab.digest:
            return BuildOutcome.UNCHANGED
        if running.is_whole or (running.can_be_opened and running.digest != lab.digest):
            raise UsageError(
                what=f"a lab named {lab.name} is already up and differs from this one",
                cause=_what_differs(running, lab),
                remedy=f"labctl down {lab.name}, then the same command again; or give this one another --name",
            )
        half = f"lab {lab.name} is half there (missing: {', '.join(running.missing) or 'its record'})"
        if running.is_resumable:
            observer(Note(text=f"{half}: resuming where it stopped"))
        else:
            rebuilt = running.can_be_opened
            removing = f"{half}: removing it, to build it again" if rebuilt else f"{half}: removing what is left of it"
            observer(Note(text=_and_ending(removing, provider, lab.name)))
            remove(provider, lab.name, observer)
    build(provider, lab, observer, retain=retain)
    return BuildOutcome.BUILT


def down(provider: Provider, running: RunningLab, observer: Observer) -> None:
    """Removes a lab, complete or partial, except one that another labctl is building. Raises what kept its
    provider from asking for it."""
    if running.is_being_built:
        raise being_built(running.name)
    if running.unasked is not None and not running.can_be_removed:
        raise running.unasked
    remove(provider, running.name, observer)


def _and_ending(removing: str, provider: Provider, name: str) -> str:
    """With the processes in the lab, which end with it: a person may have started them hours ago."""
    inside = provider.capabilities.processes(name)
    return f"{removing}, which kills the processes in it: {', '.join(inside)}" if inside else removing


def being_built(name: str) -> UsageError:
    return UsageError(
        what=f"the lab {name} is being built by another labctl right now",
        remedy="wait for it, or stop it with Ctrl-C, which undoes what it built; labctl list shows when the lab is up",
    )


def _what_differs(running: RunningLab, lab: Lab) -> str:
    if running.lab is None:
        return f"it was made from scenario {running.scenario} and its record is gone"
    return "; ".join(differences(running.lab, lab)) or "its digest differs"
