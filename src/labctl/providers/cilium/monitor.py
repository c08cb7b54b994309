"""`cilium monitor`: what the datapath's programs say of each packet, per hop. Argv, parser, and what it proves. Pure.

Run it filtered to endpoints: unfiltered over `kubectl exec` it traces its own output without end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from labctl.errors import MeasureFailed
from labctl.providers.cilium.status import IN_AGENT

READY = "Press Ctrl-C to quit"

_LINE = re.compile(
    r"^(?P<arrow>->|<-) (?P<point>[a-z0-9-]+)(?: (?P<endpoint>\d+))? flow (?P<flow>0x[0-9a-f]+) ?,? ?"
    r"identity (?P<source>[\w-]+)->(?P<destination>[\w-]+) state (?P<state>\w+) "
    r"ifindex (?P<interface>\S+) orig-ip (?P<original>[^:\s]+): "
    r"(?P<from>\S+) -> (?P<to>\S+) (?P<what>.*)$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One trace line. `point` is `to-` or `from-` and where: `to-stack`, `from-overlay`, `to-endpoint`, …"""

    point: str
    endpoint: int | None
    source_identity: str
    destination_identity: str
    state: str
    interface: str
    source: str
    destination: str
    what: str
    raw: str = ""


def argv_monitor(endpoints: Iterable[int]) -> tuple[str, ...]:
    """Every trace event that involves one of these endpoints. Raises MeasureFailed without any: see above."""
    related = [word for endpoint in endpoints for word in ("--related-to", str(endpoint))]
    if not related:
        raise MeasureFailed(
            what="the pod has no endpoint to watch",
            cause="a monitor of every packet would trace its own output without end",
        )
    return (*IN_AGENT, "monitor", "-t", "trace", *related)


def parse_monitor(text: str) -> tuple[Trace, ...]:
    """The trace lines, in the order printed; headers, drops and debug lines are left out."""
    traces = []
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match is None:
            continue
        endpoint = match["endpoint"]
        traces.append(
            Trace(
                point=("to-" if match["arrow"] == "->" else "from-") + match["point"],
                endpoint=int(endpoint) if endpoint else None,
                source_identity=match["source"],
                destination_identity=match["destination"],
                state=match["state"],
                interface=match["interface"],
                source=match["from"],
                destination=match["to"],
                what=match["what"].strip(),
                raw=line.strip(),
            )
        )
    return tuple(traces)


def host_routing_of(traces: Iterable[Trace], source: str, destination: str) -> str | None:
    """What the way from one pod to another tells, seen on the source's node: up the stack is Legacy, straight to the
    network is BPF. With a tunnel both modes print the same, and the answer is None."""
    points = [
        trace.point for trace in traces if _host(trace.source) == source and _host(trace.destination) == destination
    ]
    if "to-stack" in points:
        return "legacy"
    if "to-network" in points and "to-overlay" not in points:
        return "bpf"
    return None


def _host(address: str) -> str:
    """The address without its port (IPv4)."""
    return address.rsplit(":", 1)[0] if address.count(":") == 1 else address
