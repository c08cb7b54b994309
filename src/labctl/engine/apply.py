"""Brings a lab that is up to another scenario by the least change, whole or not at all.

What was changed by hand before (an impairment, a link that is down) is as the scenario says then, and forgotten.

What it is to become is written down before the first step and struck out after the last: when an apply fails, the lab
is brought back to its own record; when it is killed, the next command brings it to what was written down.
"""

from __future__ import annotations

from labctl.engine.events import Note, Observer
from labctl.engine.mend import drifting, reach
from labctl.errors import LabError
from labctl.model.lab import Lab
from labctl.providers.base import Provider
from labctl.system.signals import uninterrupted


def apply(provider: Provider, before: Lab, after: Lab, observer: Observer) -> int:
    """Changes the lab from `before`, its record, to `after`, which has the same name; gives how many steps it took.
    Raises what made it stop, after the lab is as before again."""
    seam = drifting(provider, before)
    seam.begin_change(after)
    try:
        _, steps = reach(seam, after, observer)
        seam.forget_changes(after)
    except BaseException as stop:
        with uninterrupted():
            because = stop.what if isinstance(stop, LabError) else type(stop).__name__
            observer(Note(text=f"the change stopped ({because}): taking lab {before.name} back to what it was"))
            try:
                reach(seam, before, observer)
                seam.forget_changes(before)
            except LabError as failed:
                observer(Note(text=f"{failed.what}; to build it again: labctl reset {before.name} --hard"))
            seam.end_change(before)
        raise
    seam.end_change(after)
    return steps


def complete(provider: Provider, before: Lab, observer: Observer) -> Lab | None:
    """Completes a change of the lab that was cut off, or takes it back where that cannot be; gives what the lab is
    then, None where no change was cut off."""
    seam = provider.capabilities.drifting
    after = None if seam is None else seam.cut_off(before.name)
    if seam is None or after is None:
        return None
    observer(Note(text=f"the change of lab {before.name} to scenario {after.scenario} was cut off: completing it"))
    apply(provider, before, after, observer)
    return after
