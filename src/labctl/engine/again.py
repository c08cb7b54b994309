"""Brings back a lab that went with a boot of the host: built from what is kept of it, then changed as it was.

It is the lab of its record, not of what its scenario file says by now. What was changed on purpose (links down, nodes
stopped, faults, impairments) is made again one by one; what cannot be is reported, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from labctl.engine.build import BuildOutcome, find, require_host, up
from labctl.engine.events import Observer
from labctl.errors import LabError, UsageError
from labctl.model.changes import NOTHING, Changes
from labctl.model.lab import Lab
from labctl.providers.base import Keeping, Kept, Provider
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The lab, which is up. `changes` are those that it has again, `failed` those that could not be made (`link
    node1`), with why."""

    lab: Lab
    outcome: BuildOutcome
    changes: Changes = NOTHING
    failed: tuple[tuple[str, LabError], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLab:
    """What is kept of a lab, and the provider that builds it."""

    kept: Kept
    provider: Provider
    keeping: Keeping


def kept_labs(providers: Iterable[Provider], name: str | None = None) -> tuple[KeptLab, ...]:
    """Everything that is kept on this host, or of the lab of that name, whether it is up or not."""
    seams = ((provider, provider.capabilities.keeping) for provider in providers)
    return tuple(
        KeptLab(kept=kept, provider=provider, keeping=keeping)
        for provider, keeping in seams
        if keeping is not None
        for kept in keeping.kept(name)
    )


def keep(provider: Provider, lab: Lab) -> None:
    """Keeps the lab, which is up, and what is changed in it, for after the next boot. Raises StepFailed."""
    keeping, changing = provider.capabilities.keeping, provider.capabilities.changing
    if keeping is not None:
        keeping.keep(lab, NOTHING if changing is None else changing.changes(lab))


def bring_back(of: KeptLab, observer: Observer) -> Restored:
    """The lab as it was. One that is up already is left as it is, but for changes that a command that was killed did
    not come to make. Raises UsageError when what is kept cannot be read, and as `up`."""
    lab = of.kept.lab
    if lab is None:
        raise UsageError(
            what=f"lab {of.kept.name} cannot be brought back: what is kept of it cannot be read",
            cause=of.kept.problem,
            remedy=f"labctl down {of.kept.name}  # forgets it; then labctl up SCENARIO --name {of.kept.name}",
        )
    existing = find([of.provider], lab.name)
    running = existing.running if existing is not None else None
    if running is not None and running.can_be_opened and running.digest == lab.digest and not running.is_being_built:
        outcome = BuildOutcome.UNCHANGED  # what differs in it may be meant: labctl reset mends, and says what
    else:
        require_host(of.provider, lab)
        outcome = up(of.provider, lab, observer)
    return change(of.provider, lab, of.kept.changes, outcome)


def change(provider: Provider, lab: Lab, changes: Changes, outcome: BuildOutcome) -> Restored:
    """Makes those changes in a lab that is up, and keeps it so."""
    changing, wanted = provider.capabilities.changing, replace(changes, pending=())
    failed: tuple[tuple[str, LabError], ...] = ()
    if changing is not None and (outcome is BuildOutcome.BUILT or changing.changes(lab) != wanted):
        failed = changing.restore(lab, wanted) if wanted != NOTHING else ()
        wanted = changing.changes(lab)
    keep(provider, lab)
    return Restored(lab=lab, outcome=outcome, changes=wanted, failed=failed)
