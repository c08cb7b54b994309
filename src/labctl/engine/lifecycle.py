"""What `up` and `down` mean: same lab again, changed lab, half a lab, no lab."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from labctl.engine.build import build, remove
from labctl.engine.events import Note, Observer
from labctl.errors import HostLacks, UsageError
from labctl.model.lab import Lab
from labctl.planning.difference import differences
from labctl.providers.base import HoldsProcesses, Provider, RunningLab


class Outcome(StrEnum):
    BUILT = "built"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A running lab and the provider that found it."""

    running: RunningLab
    provider: Provider


def find(providers: Iterable[Provider], name: str) -> Found | None:
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
                return Found(running=running, provider=provider)
    if refused is not None:
        raise refused
    return None


def up(provider: Provider, lab: Lab, observer: Observer, *, retain: bool = False) -> Outcome:
    """Makes the lab be there. The same lab again is a no-op; one of which something is missing is built again; a lab of
    that name that differs is an error that says how, since taking it down is for its owner to decide. Raises what kept
    its provider from asking whether it is whole."""
    existing = find([provider], lab.name)
    if existing is not None:
        running = existing.running
        if running.is_being_built:
            raise being_built(running.name)
        if running.unasked is not None:
            raise running.unasked
        if running.is_whole and running.digest == lab.digest:
            return Outcome.UNCHANGED
        if running.is_whole or (running.can_be_opened and running.digest != lab.digest):
            raise UsageError(
                what=f"a lab named {lab.name} is already up and it is not this one",
                cause=_what_differs(running, lab),
                remedy=f"labctl down {lab.name}, then the same command again; or give this one another --name",
            )
        half = f"lab {lab.name} is half there (missing: {', '.join(running.missing) or 'its record'})"
        if running.is_resumable:
            observer(Note(text=f"{half}: going on where it stopped"))
        else:
            rest = "it, to build it again" if running.can_be_opened else "what is left of it"
            observer(Note(text=f"{half}: removing {rest}{_and_ending(provider, lab.name)}"))
            remove(provider, lab.name, observer)
    build(provider, lab, observer, retain=retain)
    return Outcome.BUILT


def down(provider: Provider, running: RunningLab, observer: Observer) -> None:
    """Removes a lab, whole or in pieces, except under the hands of a labctl that is building it. Raises what kept its
    provider from asking for it."""
    if running.is_being_built:
        raise being_built(running.name)
    if running.unasked is not None:
        raise running.unasked
    remove(provider, running.name, observer)


def _and_ending(provider: Provider, name: str) -> str:
    """What else goes with the lab: a person may have started it hours ago."""
    inside = provider.processes(name) if isinstance(provider, HoldsProcesses) else ()
    return f", which ends what runs inside it: {', '.join(inside)}" if inside else ""


def being_built(name: str) -> UsageError:
    return UsageError(
        what=f"the lab {name} is being built by another labctl right now",
        remedy="wait for it or stop it with Ctrl-C, which takes back what it built; labctl list shows when it is there",
    )


def _what_differs(running: RunningLab, lab: Lab) -> str:
    if running.lab is None:
        return f"it was made from scenario {running.scenario} and its record is gone"
    return "; ".join(differences(running.lab, lab)) or "its digest differs"
