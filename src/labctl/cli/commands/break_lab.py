"""`labctl break LAB [FAULT]`: the faults that a lab can have, and one of them put in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, changing_of, find_running
from labctl.cli.output import emit_json, say, show
from labctl.errors import UsageError

if TYPE_CHECKING:
    from labctl.model.fault import FaultText


@click.command("break")
@click.argument("lab")
@click.argument("fault", required=False)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Which place, and with `any` which fault.")
@click.option("--hidden", is_flag=True, help="Say nothing of which fault it is nor where, and record nothing.")
@as_json
def command(lab: str, fault: str | None, seed: int | None, hidden: bool, as_json: bool) -> int:
    """Put FAULT into LAB, or list the faults that it can have. `any` is one that the seed chooses.

    Each fault has what one sees, the labctl command that finds it, and its repair: docs/faults.md. With --hidden none
    of that is said, and no record of the lab has it: it has to be found by looking. `labctl mend LAB` heals it all the
    same.

    \b
    labctl break bpf
    labctl break bpf wrong-vtep
    labctl break bpf any --seed 7 --hidden
    """
    found, running, provider = find_running(lab)
    changing = changing_of(provider, running)
    if fault is None:
        if hidden or seed is not None:
            raise UsageError(what="--seed and --hidden are for a fault", remedy=f"labctl break {lab} any --hidden")
        _list(lab, changing.faults(found), as_json=as_json)
        return 0
    text, site = changing.break_(found, fault, seed=seed, is_hidden=hidden)
    if hidden:
        if as_json:
            emit_json({"apiVersion": "labctl/v1", "kind": "Fault", "lab": lab, "hidden": True})
        else:
            say(f"lab {lab} is broken; find out how; to heal it: labctl mend {lab}")
        return 0
    client, server = site.pair
    finds = text.finds.replace("LAB", lab).replace("CLIENT", client).replace("SERVER", server)
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Fault",
                "lab": lab,
                "hidden": False,
                "fault": text.name,
                "where": site.where,
                "pair": list(site.pair),
                "what": text.what,
                "seen": text.seen,
                "finds": [one.strip() for one in finds.split(";")],
                "repair": text.repair,
            }
        )
        return 0
    say(f"lab {lab} is broken by {text.name} at {site.where}: {text.what}")
    say(f"what one sees: {text.seen}")
    say(f"found by: {finds}")
    say(f"repair: {text.repair}; or: labctl mend {lab} {text.name}")
    return 0


def _list(lab: str, faults: tuple[tuple[FaultText, str], ...], *, as_json: bool) -> None:
    from labctl.report.grid import Column, Grid

    if as_json:
        every = [
            {"fault": text.name, "what": text.what, "seen": text.seen, "repair": text.repair, "unfit": unfit or None}
            for text, unfit in faults
        ]
        emit_json({"apiVersion": "labctl/v1", "kind": "FaultList", "lab": lab, "faults": every})
        return
    rows = [(text.name, f"not in this lab: {unfit}" if unfit else text.what) for text, unfit in faults]
    show(Grid((Column(title="fault"), Column(title="what it is", is_text=True)), rows))
