"""`labctl trace LAB CLIENT SERVER`: the whole way of a marked packet and of its answer, hop by hop."""

from __future__ import annotations

from pathlib import Path

import click

from labctl.cli.options import as_json, find_lab
from labctl.cli.output import console, emit_json
from labctl.errors import LabError


@click.command("trace")
@click.argument("lab")
@click.argument("client")
@click.argument("server")
@click.option(
    "--protocol",
    type=click.Choice(("icmp", "tcp", "udp")),
    default="icmp",
    show_default=True,
    help="An ICMP echo; a TCP SYN or a UDP datagram to a closed port of SERVER, which answers it.",
)
@click.option("--count", type=int, default=1, show_default=True, metavar="N", help="How many packets to send.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the picture: one self-contained page.",
)
@as_json
def command(lab: str, client: str, server: str, protocol: str, count: int, html: Path | None, as_json: bool) -> int:
    """Where does a packet from CLIENT to SERVER go? Sends marked packets between the two pods, captures at every tap of
    their way, and shows for each hop what moved the packet there, as it was observed. Exits with 1 when a packet is
    lost or takes another way than the mode that was asked for should show."""
    from labctl.engine.trace import marked_packets, pair_between, trace
    from labctl.model.path import Protocol
    from labctl.system.signals import interruptible

    found, provider = find_lab(lab)
    pair = pair_between(found, client, server)
    wanted = Protocol(protocol)
    marked_packets(found, pair, wanted, count)  # refuses a count before anything is started
    with interruptible(), provider.open(found) as open_lab:
        traced = trace(open_lab, pair, protocol=wanted, count=count, statement=provider.statement)
    if html is not None:
        from labctl.report.trace_html import trace_page

        _write(html, trace_page(traced))
    if as_json:
        from labctl.report.trace_json import trace_document

        emit_json(trace_document(traced))
    else:
        from labctl.report.trace_text import trace_view

        screen = console()
        screen.print(trace_view(traced, width=screen.width))
        if html is not None:
            click.echo(f"picture: {html}")
    return 0 if traced.is_well else 1


def _write(path: Path, text: str) -> None:
    from labctl.system.files import write_atomically

    try:
        write_atomically(path, text.encode())
    except OSError as failed:
        raise LabError(
            what=f"the picture cannot be written to {path}", cause=str(failed), remedy=f"ls -ld {path.parent}"
        ) from failed
