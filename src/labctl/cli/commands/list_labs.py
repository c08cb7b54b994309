"""`labctl list`: the labs on this host, by their marks. One whose provider cannot be asked is no error: exit 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, discover_all, known_drift, missing_parts, uncompared, up_again, why_gone
from labctl.cli.output import emit_json, say, show, tell
from labctl.cli.session import current_session
from labctl.system.systemd import is_enabled

if TYPE_CHECKING:
    from labctl.engine.again import KeptLab
    from labctl.errors import LabError
    from labctl.model.drift import Drift
    from labctl.model.lab import Lab
    from labctl.providers.base import Kept, RunningLab


@click.command("list")
@as_json
def command(as_json: bool) -> None:
    """The labs on this host, and those that went when it was restarted, with the command that brings them back."""
    from labctl import app
    from labctl.engine.again import kept_labs

    found, refused = discover_all(app.providers_with_labs())
    session = current_session()
    if session is not None:
        found = [one for one in found if session.owns(one[0].name)]
    names = {running.name for running, _ in found}
    gone = [of for of in kept_labs(app.providers_with_labs()) if of.kept.name not in names]
    if session is not None:
        gone = [of for of in gone if session.owns(of.kept.name)]
    if refused and not found and not gone:
        raise refused[0]
    for error in refused:
        tell(f"note: {error.what}" + (f": {'; '.join(error.remedy.splitlines())}" if error.remedy else ""))
    labs = [running for running, _ in found]
    drifts = {running.name: known_drift(provider, running) for running, provider in found if running.is_whole}
    for running, provider in found:
        if running.is_whole and (why := uncompared(provider, running)):
            tell(f"note: {why}")
    for note in dict.fromkeys(_note_of(lab.unasked) for lab in labs if lab.unasked is not None):
        tell(note)
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "LabList",
                "labs": [_record(lab, drifts.get(lab.name)) for lab in labs],
                "gone": [_gone_record(of) for of in gone],
            }
        )
    elif not labs and not gone:
        say("no lab is up. Start one: labctl up bpf")
    else:
        _show_table(labs, drifts, gone)


def _record(running: RunningLab, drift: Drift | None) -> dict[str, object]:
    return {
        "lab": running.name,
        "provider": running.provider,
        "scenario": running.scenario,
        "digest": running.digest,
        "asked": running.lab.asked() if running.lab else None,
        "nodes": len(running.lab.nodes) if running.lab else None,
        "pods": len(running.lab.pods) if running.lab else None,
        "state": state_of(running),
        "whole": running.is_whole if running.unasked is None else None,
        "asBuilt": (False if running.missing else None if drift is None or drift.unread else drift.is_as_wanted),
        "beingBuilt": running.is_being_built,
        "byRecord": running.is_by_record,
        "missing": list(running.missing),
        "atBoot": is_enabled(running.name),
        "notAsked": None if running.unasked is None else _error_record(running.unasked),
    }


def _gone_record(of: KeptLab) -> dict[str, object]:
    lab = of.kept.lab
    return {
        "lab": of.kept.name,
        "provider": of.provider.name,
        "scenario": lab.scenario if lab else None,
        "digest": lab.digest if lab else None,
        "asked": lab.asked() if lab else None,
        "nodes": len(lab.nodes) if lab else None,
        "pods": len(lab.pods) if lab else None,
        "why": why_gone(of.kept),
        "changed": list(of.kept.changes.sentences()),
        "problem": of.kept.problem or None,
        "atBoot": is_enabled(of.kept.name),
    }


def _error_record(error: LabError) -> dict[str, str]:
    return {"what": error.what, "cause": error.cause, "remedy": error.remedy}


def _note_of(error: LabError) -> str:
    """Why its provider could not be asked, as the fields of an error."""
    first, *rest = error.lines()
    return "\n".join((first.replace("error:", "note:", 1), *rest))


def _show_table(labs: list[RunningLab], drifts: Mapping[str, Drift | None], gone: list[KeptLab]) -> None:
    from labctl.report.grid import Column, Grid

    titles = ("lab", "scenario", "provider", "datapath", "nodes", "pods", "state")
    rows = []
    for running in labs:
        state = _marked(running, drifts.get(running.name))
        rows.append(_row(running.name, running.scenario, running.provider, running.lab, state))
    for of in gone:
        rows.append(
            _row(of.kept.name, of.kept.lab.scenario if of.kept.lab else "", of.provider.name, of.kept.lab, "gone")
        )
    show(Grid([Column(title=title, is_text=title == "state") for title in titles], rows))
    for name, drift in drifts.items():
        if drift is not None and drift.differences:
            say(
                f"{name} is not as it was built: labctl diff {name} shows what differs; to mend it: labctl reset {name}"
            )
    for running in labs:
        if not running.is_whole and not running.is_being_built and running.unasked is None:
            say(f"{running.name} is half there, missing: {missing_parts(running)}")
            say(
                f"  {up_again(running)}  # builds it again (with its --set, if it had any); to remove it: labctl down "
                f"{running.name}"
            )

    for of in gone:
        _show_gone(of.kept)
    for name in (*(running.name for running in labs), *(of.kept.name for of in gone)):
        if is_enabled(name):
            say(f"{name} comes back at every boot; not any more after: labctl disable {name}")


def _row(name: str, scenario: str, provider: str, lab: Lab | None, state: str) -> tuple[str, ...]:
    counts = (str(len(lab.nodes)), str(len(lab.pods))) if lab else ("?", "?")
    return (name, scenario or "?", provider, datapath_of(lab) if lab else "?", *counts, state)


def _show_gone(kept: Kept) -> None:
    changed = kept.changes.sentences()
    say(f"{kept.name} is gone: {why_gone(kept)}" + (f"; changed in it: {'; '.join(changed)}" if changed else ""))
    if kept.lab is None:
        say(f"  labctl down {kept.name}  # forgets it: what is kept of it cannot be read ({kept.problem})")
    else:
        say(f"  labctl up --again {kept.name}  # brings it back; to forget it: labctl down {kept.name}")


def _marked(running: RunningLab, drift: Drift | None) -> str:
    """The state, and whether a whole lab is not as it was built."""
    state = state_of(running)
    if drift is None or not drift.differences:
        return state
    count = len(drift.differences)
    return f"{state}, changed in {count} places" if count > 1 else f"{state}, changed in 1 place"


def datapath_of(lab: Lab) -> str:
    """What was asked for, in a few words."""
    asked = lab.asked()
    if not asked:
        return "as it is"
    first = asked.pop("podNetwork", None) or asked.pop("hostRouting", None)
    keys = ("encapsulation", "backend", "mode")
    return ", ".join(str(one) for one in (first, *(asked[key] for key in keys if key in asked)))


def state_of(running: RunningLab) -> str:
    """One or a few words."""
    if running.is_being_built:
        return "being built"
    if running.unasked is not None:
        return f"unknown: {running.unasked.what}"
    if running.is_whole:
        return "up, by the record" if running.is_by_record else "up"
    count = len(running.missing) or 1
    return "half there, 1 part missing" if count == 1 else f"half there, {count} parts missing"
