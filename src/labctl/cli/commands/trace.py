"""`labctl trace LAB CLIENT SERVER`: the whole path of a marked packet and of its answer, hop by hop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from labctl.cli.options import as_json, find_lab, runs_dir_option
from labctl.cli.output import emit
from labctl.cli.reports import require_place, show_trace, trace_exit_code


@click.command("trace")
@click.argument("lab")
@click.argument("client")
@click.argument("server")
@click.option(
    "--protocol",
    type=click.Choice(("icmp", "tcp", "udp")),
    help="An ICMP echo (the default); a TCP SYN or a UDP datagram to a closed port of SERVER, which answers it. To a "
    "Service: what it takes, at its port.",
)
@click.option("--count", type=int, default=1, show_default=True, metavar="N", help="How many packets to send.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the picture as one self-contained HTML page.",
)
@click.option("--no-run", is_flag=True, help="Write no run directory with the captures.")
@runs_dir_option
@as_json
def command(
    lab: str,
    client: str,
    server: str,
    protocol: str | None,
    count: int,
    html: Path | None,
    no_run: bool,
    runs_dir: Path,
    as_json: bool,
) -> int:
    """Where does a packet from CLIENT to SERVER go? Sends marked packets between the two pods, captures at every tap of
    their path, and shows for each hop what moved the packet there, as it was observed. Exits with 1 when a packet is
    lost or takes a different path than the mode that was asked for. The captures are kept in a run directory;
    `labctl report last` shows the trace again."""
    from labctl.engine.trace import marked_packets, pair_between, protocol_for, trace
    from labctl.model.trace import ProbeProtocol
    from labctl.system.signals import interruptible

    if html is not None:
        require_place(html)
    found, provider = find_lab(lab)
    pair = pair_between(found, client, server)
    wanted = protocol_for(found, pair) if protocol is None else ProbeProtocol(protocol)
    marked_packets(found, pair, wanted, count)  # refuses a count before anything is started
    changing = provider.capabilities.changing

    def differing(parts: Sequence[str]) -> tuple[str, ...]:
        return () if changing is None else changing.differing(found, pair, parts)

    if no_run:
        with interruptible(), provider.open(found) as open_lab:
            statement = provider.statements(open_lab.lab)[0]
            traced = trace(open_lab, pair, protocol=wanted, count=count, statement=statement, differing=differing)
        show_trace(traced, is_json=as_json, html=html)
        return trace_exit_code(traced)

    from labctl.engine.trace import TRACE, trace_into
    from labctl.planning.record import lab_to_json
    from labctl.report.json import trace_document
    from labctl.store.runs import create_run

    labs = {"lab": lab_to_json(found)}
    with (
        create_run(runs_dir, kind=TRACE, name=f"{lab}-{client}-{server}", labs=labs) as run,
        interruptible(),
        provider.open(found) as open_lab,
    ):
        statement = provider.statements(open_lab.lab)[0]
        traced = trace_into(run, open_lab, pair, protocol=wanted, count=count, statement=statement, differing=differing)
        run.save_result(trace_document(traced))
    show_trace(traced, is_json=as_json, html=html)
    if not as_json:
        emit(f"raw files: {run.path}")
    return trace_exit_code(traced)
