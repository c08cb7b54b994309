"""The connect check: short TCP connections one after the other, which show what a new connection costs (conntrack).

No tool of the usual ones counts connections: sockperf and iperf3 open one and keep it. So client and server are a few
lines of Python that run in the pods (`python3 -c`): connect, one byte there, one byte back, close. The client closes
with a reset, so that no TIME_WAIT fills the ports. Python's own time (some 30 µs a connection) is in the figure.

To a Service, a server listens in each of its backends, and each connection is given one of them: the figure then has
what finding a backend costs, which with kube-proxy's iptables rules grows with the number of Services.
"""

from __future__ import annotations

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Judgement, Measured, RawFiles, failed, measure, passed
from labctl.checks.server import Exchange, ServerCommand, asked_of, exchange_with, unfit_over_tcp
from labctl.errors import MeasureFailed
from labctl.json_text import parse_json
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import CheckParameters, ConnectParameters
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.model.tools import UNREACHED, is_of_the_network, require_success
from labctl.values import dataclass

PORT = 11112
_SLACK_S = 20.0
_SHORTEST_SHARE = 0.9
_UNREACHED = (*UNREACHED, "timed out")
_ENDED = ("the server answered with something else", "Broken pipe", "Operation not permitted")
"""What else a connection may come to that is no fault of the client: a rule on the way out refuses its first packet."""

SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1024)
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    try:
        connection.sendall(connection.recv(1))
        connection.recv(1)
    except OSError:
        pass
    connection.close()
"""
CLIENT = """
import json, socket, struct, sys, time
address, duration_s = (sys.argv[1], int(sys.argv[2])), float(sys.argv[3])
reset = struct.pack("ii", 1, 0)
count, error, begun = 0, "", time.monotonic()
try:
    while time.monotonic() - begun < duration_s:
        with socket.create_connection(address, timeout=3) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            connection.sendall(b"x")
            if connection.recv(1) != b"x":
                raise OSError("the server answered with something else")
        count += 1
except OSError as failed:
    error = failed.strerror or str(failed)
print(json.dumps({"connections": count, "seconds": time.monotonic() - begun, "error": error}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectReport:
    """What the client printed. `error` is the words of the first connection that failed, which ended it."""

    connections: int
    duration_s: float
    error: str = ""

    @property
    def connections_per_s(self) -> float:
        return self.connections / self.duration_s


def argv_connect_server(address: str, port: int = PORT) -> tuple[str, ...]:
    return ("python3", "-c", SERVER, address, str(port))


def argv_connect_client(address: str, parameters: ConnectParameters, port: int = PORT) -> tuple[str, ...]:
    return ("python3", "-c", CLIENT, address, str(port), f"{parameters.duration_s:g}")


def parse_connect(text: str) -> ConnectReport:
    """Raises MeasureFailed when it is not the client's JSON."""
    try:
        document = parse_json(text)
        return ConnectReport(
            connections=int(document["connections"]),
            duration_s=float(document["seconds"]),
            error=str(document["error"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MeasureFailed("the client's output cannot be read", f"{type(error).__name__}: {error}") from error


def judge_connect(report: ConnectReport, parameters: ConnectParameters) -> Judgement:
    """Fails when the network or the server refused a connection. Raises MeasureFailed when the client itself could
    make none (no port or descriptor left), and when the run was cut short without a reason."""
    if report.error and not is_of_the_network(report.error) and report.error not in _ENDED:
        raise MeasureFailed("the client could not connect", f"after {report.connections} connections: {report.error}")
    if report.error:
        reached = "was not reached" if any(words in report.error for words in _UNREACHED) else "ended a connection"
        return failed(f"the server {reached} after {report.connections} connections: {report.error}")
    if report.duration_s < _SHORTEST_SHARE * parameters.duration_s or not report.connections:
        raise MeasureFailed("the client ended early", f"{report.connections} connections in {report.duration_s:.2f} s")
    return passed(f"{report.connections_per_s:,.0f} connections/s, one after the other")


def measured_connect(ended: Exchange, parameters: ConnectParameters) -> Measured:
    """From the end of client and server to the values; own CPU where the provider reports a process's time."""
    client = ended.client
    require_success(client, f"the client ended with status {client.returncode}")
    report = parse_connect(client.text)
    judgement = judge_connect(report, parameters)
    values = {"connections_per_s": report.connections_per_s} if not report.error else {}
    if values and ended.cpu_s is not None:
        values["cpu_per_connection"] = ended.cpu_s / report.connections
    return Measured(judgement=judgement, values=values)


class ConnectCheck:
    """Short connections from a client to a server, or to a Service."""

    kind = "connect"
    tools = ("python3",)

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        return (
            Metric(
                name="connections_per_s",
                label="connections per second",
                unit="count/s",
                better=Better.HIGHER,
                family=MetricFamily.THROUGHPUT,
            ),
            Metric(
                name="cpu_per_connection",
                label="own CPU per connection",
                unit="cpu-s",
                better=Better.LOWER,
                family=MetricFamily.CPU,
            ),
        )

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_over_tcp(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, ConnectParameters):
            raise TypeError(f"connect cannot run with {type(parameters).__name__}")
        asked = asked_of(context.open_lab.lab, context.pair, PORT)

        def body(raw: RawFiles) -> Measured:
            ended = exchange_with(
                context,
                raw,
                servers={
                    name: ServerCommand(argv=argv_connect_server(str(address), port), ready="listening")
                    for name, (address, port) in asked.listening.items()
                },
                client_argv=argv_connect_client(str(asked.address), parameters, asked.port),
                timeout_s=parameters.duration_s + _SLACK_S,
            )
            return measured_connect(ended, parameters)

        return measure(context, self.metrics(parameters), body)
