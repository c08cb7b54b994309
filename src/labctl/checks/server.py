"""A server that a check starts in the server's pod: observed to be ready, watched, and gone with the check.

Where a Service is the server of a pair, each of its backends gets one, on the port that the Service leads to.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address

from labctl.checks.base import CheckContext
from labctl.checks.outcome import RawFiles
from labctl.errors import MeasureFailed, Starved
from labctl.model.lab import EndpointKind, Lab, Pair, ServiceProtocol
from labctl.model.tools import remedy_for, require_ended, why
from labctl.providers.base import Completed, Running
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """What to run as a server, the words by which it says that it listens, and how long that may take."""

    argv: tuple[str, ...]
    ready: str
    ready_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A client that met a server, or the servers behind a Service. All have ended: the client by itself, the servers
    because they were stopped."""

    client: Completed
    servers: tuple[Completed, ...]

    @property
    def server(self) -> Completed:
        return self.servers[0]

    @property
    def cpu_s(self) -> float | None:
        """Own CPU time of client and servers, where the provider reports it of each."""
        times = [ended.cpu_s for ended in (self.client, *self.servers)]
        known = [time for time in times if time is not None]
        return sum(known) if len(known) == len(times) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Where the client of a pair connects to, and what listens for it: address and port by the target's name."""

    address: IPv4Address
    port: int
    listening: Mapping[str, tuple[IPv4Address, int]]


def asked_of(lab: Lab, pair: Pair, port: int) -> Asked:
    """`port` is the check's own, for whatever answers itself; a Service has its ports."""
    server = lab.server(pair)
    if server.kind is not EndpointKind.SERVICE:
        return Asked(address=server.address, port=port, listening={pair.server: (server.address, port)})
    service = lab.service(pair.server)
    at = service.port if pair.via is None or service.node_port is None else service.node_port
    listening = {pod.name: (pod.address, service.target_port) for pod in lab.backends(pair)}
    return Asked(address=server.address, port=at, listening=listening)


def address_of(lab: Lab, name: str) -> IPv4Address:
    """Where packets to a pod, a node or a host outside are sent: a pair of nodes shows what the wire between them
    gives."""
    return lab.endpoint(name).address


def unfit_as_server(lab: Lab, pair: Pair) -> str:
    """`ForSomePairs.unfit` of a check that starts a server program where the pair ends, and asks for it there."""
    if lab.server(pair).kind is EndpointKind.SERVICE:
        return "a Service answers at its backends: this check measures what answers itself"
    return ""


def unfit_over_tcp(lab: Lab, pair: Pair) -> str:
    """`ForSomePairs.unfit` of a check that makes TCP connections, to whatever answers itself or to a Service."""
    if lab.server(pair).kind is not EndpointKind.SERVICE:
        return ""
    if lab.service(pair.server).protocol is not ServiceProtocol.TCP:
        return "this check makes TCP connections, and the Service has none"
    return "" if lab.backends(pair) else "the Service has no backends"


def unfit_unless_pods(lab: Lab, pair: Pair) -> str:
    """`ForSomePairs.unfit` of a check whose expectations are of two pods at their own addresses."""
    return "" if lab.is_between_pods(pair) else "this check is about the way between two pods"


def exchange(
    context: CheckContext, raw: RawFiles, *, service: ServerCommand, client_argv: tuple[str, ...], timeout_s: float
) -> Exchange:
    """`exchange_with` the one server that the pair names."""
    servers = {context.pair.server: service}
    return exchange_with(context, raw, servers=servers, client_argv=client_argv, timeout_s=timeout_s)


def exchange_with(
    context: CheckContext,
    raw: RawFiles,
    *,
    servers: Mapping[str, ServerCommand],
    client_argv: tuple[str, ...],
    timeout_s: float,
) -> Exchange:
    """Starts the servers, by their targets' names, waits until they listen, runs the client to its end, ends them.

    All outputs are saved, also when this raises MeasureFailed: for a server that did not come up (Starved when it was
    still at it) or that died while the client was running (whatever the client then said), and for a client that did
    not end by itself.
    """
    client_pod = context.open_lab.target(context.pair.client)
    with ExitStack() as standing:
        running: dict[str, Running] = {}
        for name, service in servers.items():
            target = context.open_lab.target(name)
            running[name] = standing.enter_context(target.start(service.argv, cpu=context.server_cpu))
        saved = {name: "server" if len(running) == 1 else f"server-{name}" for name in running}
        for name, service in servers.items():
            _wait_for(running[name], service, raw, saved[name])
        try:
            completed = client_pod.run(client_argv, timeout_s=timeout_s, cpu=context.client_cpu)
        except MeasureFailed:
            for name, server in running.items():
                raw.save_completed(saved[name], server.stop())
            raise
        died = [name for name, server in running.items() if not server.is_alive()]
        ended = {name: server.stop() for name, server in running.items()}
    raw.save_completed("client", completed)
    for name, server_ended in ended.items():
        raw.save_completed(saved[name], server_ended)
    for name in died:
        program, status = servers[name].argv[0], ended[name].returncode
        raise MeasureFailed(f"the {program} server died during the run", f"status {status}; {why(ended[name])}")
    require_ended(completed)
    return Exchange(client=completed, servers=tuple(ended.values()))


def _wait_for(running: Running, service: ServerCommand, raw: RawFiles, name: str) -> None:
    try:
        running.wait_for_output(service.ready, timeout_s=service.ready_timeout_s)
    except MeasureFailed as error:
        is_waiting = running.is_alive()
        ended = raw.save_completed(name, running.stop())
        kind = Starved if is_waiting else MeasureFailed
        raise kind(f"the {service.argv[0]} server did not come up", why(ended), remedy_for(ended)) from error
