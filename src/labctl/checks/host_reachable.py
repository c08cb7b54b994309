"""The host-reachable check: Services as a node itself reaches them, at their cluster address and at its own ports.

Tried from the client's node (the one that is asked, where the client is outside), with nothing there but bash: the
cluster address, 127.0.0.1 and the node's own address at the node port; and 127.0.0.1 in a pod, which is the pod's own
and no node's. Every backend listens meanwhile and answers with the address that it sees. What should be reached was
recorded on Cilium 1.16.0-rc.0 (with kube-proxy replaced), and is documented for kube-proxy: in nftables mode it serves
node ports on the node's addresses alone, never on 127.0.0.1. Argv, parsers and judges are pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Measured, RawFiles, WithoutFigures, finding, judge_findings, measure
from labctl.errors import MeasureFailed
from labctl.model.lab import Endpoint, EndpointKind, KubeProxy, Lab, Pair, Service, ServiceProtocol
from labctl.model.parameters import HostReachableParameters
from labctl.model.result import CheckResult, Completed, Finding
from labctl.providers.base import Running
from labctl.values import dataclass

LOCALHOST = IPv4Address("127.0.0.1")
ANSWERED = "seen "
_NO_SOCKETS = "No such file or directory"
"""What a bash without network redirections makes of /dev/tcp."""
_READY = "listening"
_READY_S = 20.0
_SLACK_S = 20.0

SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=64)
print("listening", flush=True)
while True:
    connection, peer = server.accept()
    try:
        connection.sendall(("seen " + peer[0] + "\\n").encode())
    except OSError:
        pass
    connection.close()
"""
_CLIENT = 'exec 3<>"/dev/tcp/$0/$1" && read -r -t "$2" line <&3 && printf "%s\\n" "$line"'
"""bash's own sockets: a node of a cluster has bash, and need not have any other client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One place that is tried: from where, at which address and port, and whether something should answer there."""

    name: str
    target: str
    address: IPv4Address
    port: int
    should_answer: bool
    lesson: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How a connection ended: the address that the backend saw, or what the client said."""

    seen_from: str = ""
    error: str = ""


def argv_server(address: IPv4Address, port: int) -> tuple[str, ...]:
    return ("python3", "-c", SERVER, str(address), str(port))


def argv_client(attempt: Attempt, timeout_s: float) -> tuple[str, ...]:
    seconds = f"{timeout_s:g}"
    return ("timeout", seconds, "bash", "-c", _CLIENT, str(attempt.address), str(attempt.port), seconds)


def parse_client(done: Completed) -> Reached:
    """Raises MeasureFailed when bash could not even try."""
    line = done.text.strip()
    if line.startswith(ANSWERED):
        return Reached(seen_from=line.removeprefix(ANSWERED))
    words = [line.rpartition(": ")[2].strip() for line in done.error_text.splitlines() if ": " in line]
    if done.returncode in (124, 137):
        return Reached(error="no answer in time")
    if done.returncode in (126, 127) or _NO_SOCKETS in words:
        raise MeasureFailed("bash cannot connect", done.error_text.strip()[-200:] or f"status {done.returncode}")
    return Reached(error=words[-1] if words else "it closed without an answer")


def attempts_of(lab: Lab, service: Service, node: str, pod: str) -> Iterator[Attempt]:
    """Everything that is tried of one Service, from that node and in that pod."""
    name, has_replacement = service.name, lab.in_force.kube_proxy_replacement
    yield Attempt(
        name=f"{name}: cluster address",
        target=node,
        address=service.address,
        port=service.port,
        should_answer=True,
        lesson="a node reaches Services as its pods do",
    )
    if service.node_port is None:
        return
    on_localhost = has_replacement or lab.datapath.kube_proxy is KubeProxy.IPTABLES
    yield Attempt(
        name=f"{name}: {LOCALHOST}",
        target=node,
        address=LOCALHOST,
        port=service.node_port,
        should_answer=on_localhost,
        lesson=_localhost_lesson(lab),
    )
    yield Attempt(
        name=f"{name}: own address",
        target=node,
        address=lab.node(node).address.ip,
        port=service.node_port,
        should_answer=True,
        lesson="a node port answers the node itself, too",
    )
    if pod:
        yield Attempt(
            name=f"{name}: {LOCALHOST} in a pod",
            target=pod,
            address=LOCALHOST,
            port=service.node_port,
            should_answer=False,
            lesson="127.0.0.1 in a pod is the pod's own loopback device: no node port is there",
        )


def _localhost_lesson(lab: Lab) -> str:
    if lab.in_force.kube_proxy_replacement:
        return "the socket of the node's process is translated before a packet exists, on whichever address"
    if lab.datapath.kube_proxy is KubeProxy.NFTABLES:
        return "kube-proxy in nftables mode serves node ports on the node's addresses alone"
    return "kube-proxy in iptables mode sets route_localnet, so that 127.0.0.1 leads to pods"


def judge_attempt(attempt: Attempt, reached: Reached, allowed: frozenset[str], command: Sequence[str]) -> Finding:
    """Passes when it was reached or not as it should be, and the backend saw one of the `allowed` addresses."""
    place = f"{attempt.address}:{attempt.port} from {attempt.target}"
    if reached.seen_from:
        sentence = f"{place}: answered, and the backend saw {reached.seen_from}"
        holds = attempt.should_answer and reached.seen_from in allowed
    else:
        sentence = f"{place}: {reached.error}"
        holds = not attempt.should_answer
    return finding(attempt.name, holds=holds, sentence=sentence, lesson=attempt.lesson, command=command)


def node_of(lab: Lab, pair: Pair) -> str:
    """The node that is tried from: the client's, or the one that is asked."""
    return lab.client(pair).node or pair.via or lab.nodes[0].name


def services_of(lab: Lab, pair: Pair) -> tuple[Service, ...]:
    """The TCP Services with backends that the pair is about."""
    is_asked = lab.server(pair).kind is EndpointKind.SERVICE
    about = [one for one in lab.services if one.name == pair.server or (not is_asked and pair.server in one.backends)]
    return tuple(one for one in about if one.protocol is ServiceProtocol.TCP and one.backends)


class HostReachableCheck(WithoutFigures):
    """Services from the node of the pair's client."""

    kind = "host-reachable"
    tools = ("bash", "python3")

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return "" if services_of(lab, pair) else "no TCP Service with backends leads to the server of this pair"

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, HostReachableParameters):
            raise TypeError(f"host-reachable cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            findings: list[Finding] = []
            for service in services_of(context.open_lab.lab, context.pair):
                findings += self._look(context, raw, service, parameters.timeout_s)
            return Measured(judgement=judge_findings(findings), values={}, findings=tuple(findings))

        return measure(context, self.metrics(parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles, service: Service, timeout_s: float) -> Iterator[Finding]:
        lab, node = context.open_lab.lab, node_of(context.open_lab.lab, context.pair)
        client = lab.client(context.pair)
        allowed = _addresses(lab, lab.endpoint(node))
        pod = client.name if client.kind is EndpointKind.POD else ""
        with ExitStack() as listening:
            for name in service.backends:
                argv = argv_server(lab.pod(name).address, service.target_port)
                running: Running = listening.enter_context(context.open_lab.target(name).start(argv))
                running.wait_for_output(_READY, timeout_s=_READY_S)
            for number, attempt in enumerate(attempts_of(lab, service, node, pod)):
                target, argv = context.open_lab.target(attempt.target), argv_client(attempt, timeout_s)
                done = target.run(argv, timeout_s=timeout_s + _SLACK_S)
                raw.save_completed(f"{service.name}-{number}", done)
                yield judge_attempt(attempt, parse_client(done), allowed, target.command(argv))


def _addresses(lab: Lab, node: Endpoint) -> frozenset[str]:
    """The addresses that a backend may see a node under: its own, its router's, or that of its loopback device, where
    the backend is the node's own and nothing rewrites it."""
    here = lab.node(node.name)
    return frozenset((str(here.address.ip), str(here.router)))
