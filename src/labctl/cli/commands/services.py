"""`labctl services LAB`: what each node translates, beside `cilium service list` and `cilium bpf lb list`."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, find_lab
from labctl.cli.output import emit_json, show


@click.command("services")
@click.argument("lab")
@as_json
def command(lab: str, as_json: bool) -> int:
    """The Services of LAB as its nodes translate them now: every frontend with its backends, and every entry of the
    load balancer's map, in the form of `cilium service list` and `cilium bpf lb list`.

    They are read from the programs' maps, or asked of Cilium's agents, not taken from the scenario. A backend that is
    gone gets no new connection. Where kube-proxy translates, its rules have the Services, and the maps have none.
    """
    from labctl.report.service_lists import services_record, services_tables

    found, provider = find_lab(lab)
    with provider.open(found) as open_lab:
        nodes = open_lab.services()
    if as_json:
        emit_json(services_record(lab, nodes))
    else:
        show(*services_tables(nodes))
    return 0
