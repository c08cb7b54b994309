"""`labctl graph LAB|SCENARIO`: nodes, routers, pods and what joins them, as text, Mermaid, SVG or a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.commands.check import named_lab
from labctl.cli.options import as_json, scenario_options
from labctl.cli.output import emit, emit_json, show, spoken
from labctl.cli.reports import require_place, write_text
from labctl.errors import UsageError

if TYPE_CHECKING:
    from labctl.model.lab import Lab
    from labctl.model.trace import Trace
    from labctl.report.graph import Graph

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("graph")
@click.argument("what", metavar="LAB|SCENARIO")
@scenario_options
@click.option("--mermaid", is_flag=True, help="A flowchart for Markdown.")
@click.option("--svg", type=_FILE, metavar="FILE", help="Write a picture.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write a page with the picture.")
@click.option(
    "--trace",
    "traced",
    nargs=2,
    metavar="CLIENT SERVER",
    help="Mark the way of a packet, which is sent for it: the lab must be up.",
)
@as_json
def command(
    what: str,
    provider: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    mermaid: bool,
    svg: Path | None,
    html: Path | None,
    traced: tuple[str, str] | None,
    as_json: bool,
) -> None:
    """Show what a lab is made of: nodes, routers, pods, devices, addresses, tunnels."""
    from labctl.networks import node_devices
    from labctl.report import graph as drawn

    for path in filter(None, (svg, html)):
        require_place(path)
    lab, _, is_up = named_lab(what, provider, name, overrides, trust=trust)
    if traced and not is_up:
        raise UsageError(
            what=f"no lab named {what} is up", cause="--trace sends a packet", remedy=f"labctl up {what}, then again"
        )
    if is_up and lab.pod_network.chain:
        lab = _as_it_is(lab)
    graph = drawn.graph_of(lab, _trace(lab, *traced) if traced else None, node_devices(lab))
    if svg is not None or html is not None:
        _write(graph, svg, html)
    if as_json:
        emit_json(drawn.as_json(graph))
    elif mermaid:
        emit(drawn.as_mermaid(graph), nl=False, as_it_is=True)
    elif svg is None and html is None:
        show(drawn.as_tree(graph))


def _as_it_is(lab: Lab) -> Lab:
    """With the names that CNI's plugins gave to the pods' devices."""
    from labctl.cli.options import provider_of

    provider = provider_of(lab)
    with provider.open(lab) as open_lab:
        return open_lab.lab


def _write(graph: Graph, svg: Path | None, html: Path | None) -> None:
    from labctl.report.graph_svg import graph_file, graph_page

    if svg is not None:
        write_text(svg, graph_file(graph))
        emit(f"picture: {svg}")
    if html is not None:
        write_text(html, graph_page(graph, spoken(in_files=True)))
        emit(f"picture: {html}")


def _trace(lab: Lab, client: str, server: str) -> Trace:
    from labctl.cli.options import provider_of
    from labctl.engine.trace import pair_between, trace
    from labctl.system.signals import interruptible

    pair = pair_between(lab, client, server)
    provider = provider_of(lab)
    with interruptible(), provider.open(lab) as open_lab:
        return trace(open_lab, pair)
