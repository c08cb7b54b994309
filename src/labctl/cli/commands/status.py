"""`labctl status LAB`: what the lab is, which mode it proves to be in, and what is attached to its devices."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from labctl.cli.options import as_json, find_running, known_drift, uncompared
from labctl.cli.output import console, emit_json, show
from labctl.cli.progress import Progress
from labctl.codec import plain
from labctl.errors import Interrupted, LabError, NotInForce

if TYPE_CHECKING:  # typing only: keeps `labctl --help` fast
    from labctl.model.node_status import NodeStatus


@click.command("status")
@click.argument("lab")
@click.option("--no-proof", is_flag=True, help="Send no packets: show what was asked for, not what is in force.")
@click.option(
    "--datapath", is_flag=True, help="Also the programs on every device and the maps' entries; sends no packets."
)
@click.option("--cilium", is_flag=True, help="Every line of cilium status --verbose for each node, with its proof.")
@as_json
def command(lab: str, no_proof: bool, datapath: bool, cilium: bool, as_json: bool) -> int:
    """What LAB is made of, and which mode is in force, with the evidence. Sends a few echo requests to find out.

    With --datapath: which program is attached to which hook of which device, its counters, and the entries of the maps,
    with the command that shows each by hand. It then sends no packets, so that the counters do not change.

    With --cilium: each node in the words and order of cilium status --verbose, on every provider. A line says what
    shows it; one that has no counterpart reads "not on netns".

    The line "as built" says whether anything of the lab is missing, changed or extra; labctl diff LAB shows what. The
    line "impaired" says what is done to the packets of which links, by the scenario or by labctl impair.

    Exit code 1 when something of the lab is missing, 4 when the mode in force is not the one that was asked for.
    """
    from labctl import app
    from labctl.engine.prove import prove
    from labctl.model.pod_network import NetworkType
    from labctl.report.cilium_status import cilium_block, cilium_record, cilium_view
    from labctl.report.datapath import datapath_record, datapath_tables
    from labctl.report.drift import standing_line
    from labctl.report.terminal import impaired_line, status_head, status_record, status_table
    from labctl.store.runs import MemorySinks
    from labctl.system.signals import interruptible

    found, running, provider = find_running(lab)
    mode = state = None
    statuses: tuple[NodeStatus, ...] = ()
    is_planned = False
    with interruptible(), Progress(quiet=True) as progress:
        try:
            with provider.open(found) as open_lab:
                # A cluster gives out addresses, devices and identities itself: what was planned is not what is there.
                found = open_lab.lab
                if datapath:
                    state = open_lab.datapath_state()
                elif not no_proof:
                    mode = prove(app.checks(), open_lab, MemorySinks(), progress).mode
                if cilium:
                    statuses = open_lab.node_statuses([node.name for node in found.nodes], mode)
                elif not (datapath or no_proof or as_json) and found.pod_network.type is NetworkType.CILIUM:
                    with suppress(LabError):  # the proof above says what cannot be read
                        names = [node.name for node in found.nodes if found.pods_on(node.name)]
                        statuses = open_lab.node_statuses(names[:1], mode)
        except LabError as failed:
            if datapath or not no_proof or isinstance(failed, Interrupted):
                raise
            is_planned = True
    about: dict[str, Any] = {
        "statement": provider.statements(found)[0],
        "missing": running.missing,
        "is_planned": is_planned,
        "placement": provider.capabilities.placement(found.name),
    }
    changing = provider.capabilities.changing
    impairments = changing.impairments(found) if changing is not None else {}
    drift = known_drift(provider, running)
    why = uncompared(provider, running)
    standing = standing_line(drift) if drift is not None else f"as built:  not known: {why}" if why else ""
    if as_json:
        record = status_record(found, mode, **about)
        more: dict[str, object] = {"asBuilt": None if drift is None or drift.unread else drift.is_as_wanted}
        more |= {"impairments": plain(impairments)} if impairments else {}
        more |= {"datapath": datapath_record(state)} if state is not None else {}
        emit_json({**record, **more, **({"cilium": cilium_record(statuses)} if cilium else {})})
    else:
        if cilium:
            head = status_head(
                found,
                mode,
                statement=provider.statements(found)[0],
                missing=running.missing,
                standing=standing,
                impaired=impaired_line(impairments),
            )
            parts = [*head, *cilium_view(statuses)]
        else:
            parts = [*status_table(found, mode, **about, standing=standing, impaired=impaired_line(impairments))]
        if statuses and not cilium:
            parts += cilium_block(statuses[0], found.name)
        show(*parts, *(datapath_tables(state, width=console().width) if state is not None else ()))
    if mode is not None and not mode.proven:
        return NotInForce.exit_code
    return 1 if running.missing else 0
