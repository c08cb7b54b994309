"""`labctl node LAB NODE stop|start|reboot`: a node or router of a running lab without power, and back."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, changing_of, find_running
from labctl.cli.output import emit_json, say
from labctl.model.changes import Power

_DONE = {Power.STOP: "is stopped", Power.START: "is started", Power.REBOOT: "was stopped and started"}


@click.command("node")
@click.argument("lab")
@click.argument("node")
@click.argument("act", metavar="stop|start|reboot", type=click.Choice([str(one) for one in Power]))
@as_json
def command(lab: str, node: str, act: str, as_json: bool) -> int:
    """Stop NODE of LAB, start it again, or both.

    A node that stops loses everything: its processes end, its devices, programs, maps, rules and routes are
    gone, and so are its pods'. Started, all of it is made again as the plan says; routers find their neighbours by
    themselves.

    \b
    labctl node clos-bgp spine1 stop
    labctl node bpf node2 reboot
    """
    found, running, provider = find_running(lab)
    power = Power(act)
    with_it = changing_of(provider, running).set_node(found, node, power)
    if as_json:
        record = {"lab": lab, "node": node, "act": act, "state": "stopped" if power is Power.STOP else "up"}
        emit_json({"apiVersion": "labctl/v1", "kind": "Node", **record, "with": list(with_it)})
    else:
        pods = f", and with it its pods: {', '.join(with_it)}" if with_it else ""
        say(f"node {node} of lab {lab} {_DONE[power]}{pods}")
    return 0
