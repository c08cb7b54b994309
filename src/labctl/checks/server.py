"""A server that a check starts in the server's pod: observed to be ready, watched, and gone with the check."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from labctl.checks.base import CheckContext
from labctl.checks.outcome import RawFiles
from labctl.errors import MeasureFailed, Starved
from labctl.model.lab import EndpointKind, Lab, Pair
from labctl.model.tools import remedy_for, require_ended, why
from labctl.providers.base import Completed


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """What to run as a server, the words by which it says that it listens, and how long that may take."""

    argv: tuple[str, ...]
    ready: str
    ready_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A client that met a server. Both have ended: the client by itself, the server because it was stopped."""

    client: Completed
    server: Completed


def address_of(lab: Lab, name: str) -> IPv4Address:
    """Where packets to a pod, a node or a host outside are sent: a pair of nodes shows what the wire between them
    gives."""
    return lab.endpoint(name).address


def unfit_as_server(lab: Lab, pair: Pair) -> str:
    """`ForSomePairs.unfit` of a check that starts a server program where the pair ends, and asks for it there."""
    if lab.server(pair).kind is EndpointKind.SERVICE:
        return "a Service answers at its backends: this check measures what answers itself"
    return ""


def unfit_unless_pods(lab: Lab, pair: Pair) -> str:
    """`ForSomePairs.unfit` of a check whose expectations are of two pods at their own addresses."""
    return "" if lab.is_between_pods(pair) else "this check is about the way between two pods"


def exchange(
    context: CheckContext, raw: RawFiles, *, service: ServerCommand, client_argv: tuple[str, ...], timeout_s: float
) -> Exchange:
    """Starts the server, waits until it listens, runs the client to its end, ends the server.

    Both outputs are saved, also when this raises MeasureFailed: for a server that did not come up (Starved when it was
    still at it) or that died while the client was running (whatever the client then said), and for a client that did
    not end by itself.
    """
    server_pod = context.open_lab.target(context.pair.server)
    client_pod = context.open_lab.target(context.pair.client)
    program = service.argv[0]
    with server_pod.start(service.argv, cpu=context.server_cpu) as running:
        try:
            running.wait_for_output(service.ready, timeout_s=service.ready_timeout_s)
        except MeasureFailed as error:
            is_waiting = running.is_alive()
            ended = raw.save_completed("server", running.stop())
            kind = Starved if is_waiting else MeasureFailed
            raise kind(f"the {program} server did not come up", why(ended), remedy_for(ended)) from error
        try:
            completed = client_pod.run(client_argv, timeout_s=timeout_s, cpu=context.client_cpu)
        except MeasureFailed:
            raw.save_completed("server", running.stop())
            raise
        is_alive = running.is_alive()
        server = running.stop()
    raw.save_completed("client", completed)
    raw.save_completed("server", server)
    if not is_alive:
        raise MeasureFailed(f"the {program} server died during the run", f"status {server.returncode}; {why(server)}")
    require_ended(completed)
    return Exchange(client=completed, server=server)
