"""`labctl list`: the labs on this host, by their marks. One whose provider cannot be asked is no error: exit 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, discover_all, known_drift, missing_parts, up_again
from labctl.cli.output import emit_json, say, show, tell

if TYPE_CHECKING:
    from labctl.errors import LabError
    from labctl.model.drift import Drift
    from labctl.model.lab import Lab
    from labctl.providers.base import RunningLab


@click.command("list")
@as_json
def command(as_json: bool) -> None:
    """The labs on this host."""
    from labctl import app

    found, refused = discover_all(app.providers_with_labs())
    if refused and not found:
        raise refused[0]
    for error in refused:
        tell(f"note: {error.what}" + (f": {'; '.join(error.remedy.splitlines())}" if error.remedy else ""))
    labs = [running for running, _ in found]
    drifts = {running.name: known_drift(provider, running) for running, provider in found if running.is_whole}
    for note in dict.fromkeys(_note_of(lab.unasked) for lab in labs if lab.unasked is not None):
        tell(note)
    if as_json:
        emit_json(
            {"apiVersion": "labctl/v1", "kind": "LabList", "labs": [_record(lab, drifts.get(lab.name)) for lab in labs]}
        )
    elif not labs:
        say("no lab is up. Start one: labctl up bpf")
    else:
        _show_table(labs, drifts)


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
        "notAsked": None if running.unasked is None else _error_record(running.unasked),
    }


def _error_record(error: LabError) -> dict[str, str]:
    return {"what": error.what, "cause": error.cause, "remedy": error.remedy}


def _note_of(error: LabError) -> str:
    """Why its provider could not be asked, as the fields of an error."""
    first, *rest = error.lines()
    return "\n".join((first.replace("error:", "note:", 1), *rest))


def _show_table(labs: list[RunningLab], drifts: Mapping[str, Drift | None]) -> None:
    from labctl.report.grid import Column, Grid

    titles = ("lab", "scenario", "provider", "datapath", "nodes", "pods", "state")
    rows = []
    for running in labs:
        lab = running.lab
        rows.append(
            (
                running.name,
                running.scenario or "?",
                running.provider,
                datapath_of(lab) if lab else "?",
                str(len(lab.nodes)) if lab else "?",
                str(len(lab.pods)) if lab else "?",
                _marked(running, drifts.get(running.name)),
            )
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
