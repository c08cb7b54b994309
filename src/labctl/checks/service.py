"""The service check: a client connects to Services while every backend is captured.

Between two pods: each Service that the server is a backend of. Where a Service is the server of the pair: that one,
asked at its cluster address or at its port of a node; the client is then a pod, a node or a host outside.

Needs nothing there but iperf3 and tcpdump. Nothing listens on the backends' port while the connections are made: which
pod was chosen is seen from the packet that arrives there, and its refusal is the answer. Where one backend alone may be
chosen it then listens, for one real exchange. What a look means is judged in `service_findings`.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from labctl.checks.base import CheckContext
from labctl.checks.captures import TapCapture, argv_tcpdump, capturing, packets_left_behind, require_trustworthy
from labctl.checks.iperf import read_iperf
from labctl.checks.kube_proxy import argv_rules, marks_of, parse_rules
from labctl.checks.outcome import Judgement, Measured, RawFiles, WithoutFigures, judge_findings, measure
from labctl.checks.server import Asked, ServerCommand, asked_of, exchange_with, unfit_over_tcp, unfit_unless_pods
from labctl.checks.service_findings import (
    Attempts,
    ServiceLook,
    Transfer,
    chosen_from,
    judge_service,
    sources_at,
    translation_of,
)
from labctl.errors import MeasureFailed
from labctl.model.lab import EndpointKind, Lab, Pair, Placement, Service, ServiceProtocol
from labctl.model.parameters import ServiceParameters
from labctl.model.result import CheckResult, Finding, Verdict
from labctl.model.signature import Role
from labctl.model.tools import require_success
from labctl.path.frame import Ipv4, Tcp, decode, ip_text
from labctl.providers.base import Tap

_CONNECT_MS = 3000
_PER_CONNECTION_S = 4.0
_SLACK_S = 30.0
_RULES_S = 120.0
"""For those of 10,000 Services."""
_SETTLE_S = 1.0
_SYN = 0x02
_BYTES = "64K"
_UNANSWERED = 3
"""Connections, where nobody may answer: each may take its whole timeout."""
_REFUSED = "Connection refused"
_TRIED = "iperf3: error - "
"""How iperf3 reports how a connection ended; what it cannot do at all, such as an option, it words otherwise."""
_LOOP = (
    'n=0; while [ "$n" -lt "$1" ]; do '
    f'iperf3 -c "$2" -p "$3" -n 1 --connect-timeout {_CONNECT_MS} 2>&1 | tail -n 1; n=$((n+1)); done'
)
_ACCEPTED = re.compile(r"Accepted connection from ([0-9.]+)")


def argv_connections(asked: Asked, count: int) -> tuple[str, ...]:
    """`count` connections, one after the other; the last line of each says how it ended."""
    return ("sh", "-c", _LOOP, "sh", str(count), str(asked.address), str(asked.port))


def parse_connections(text: str, made: int) -> Attempts:
    """Raises MeasureFailed when it is not one line a connection, and when iperf3 did not try to make one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != made:
        raise MeasureFailed("iperf3's output cannot be read", f"{len(lines)} lines for {made} connections")
    if (failed := next((line for line in lines if _TRIED not in line), None)) is not None:
        raise MeasureFailed("iperf3 made no connection", f"it said: {failed[:200]}")
    refused = sum(_REFUSED in line for line in lines)
    others = Counter(line.rpartition(": ")[2] for line in lines if _REFUSED not in line)
    return Attempts(made=made, refused=refused, others=dict(others))


def syn_filter(asked: Asked, service: Service) -> str:
    """The pcap expression for the first packets of connections to the Service, translated or not."""
    return (
        f"tcp[tcpflags] & tcp-syn != 0 and "
        f"((dst host {asked.address} and dst port {asked.port}) or dst port {service.target_port})"
    )


def arrivals(capture: TapCapture, destination: str, port: int) -> dict[str, int]:
    """How many connections to that address and port the capture has, by the address that they come from; a first
    packet that was repeated counts once."""
    seen: set[tuple[str, int]] = set()
    for record in capture.records():
        frame = decode(record.frame)
        if frame is None or not isinstance(frame.network, Ipv4) or not isinstance(frame.transport, Tcp):
            continue
        is_there = ip_text(frame.network.dst) == destination and frame.transport.dst_port == port
        if frame.transport.flags & _SYN and is_there:
            seen.add((ip_text(frame.network.src), frame.transport.src_port))
    return dict(Counter(source for source, _ in seen))


def argv_exchange(asked: Asked) -> tuple[str, ...]:
    return ("iperf3", "-J", "-c", str(asked.address), "-p", str(asked.port), "-n", _BYTES)


def parse_exchange(client: str, backend: str, server: str) -> Transfer:
    """`server` is what the backend of that name printed. Raises MeasureFailed with iperf3's own words."""
    document, _ = read_iperf(client)
    error = document.get("error")
    try:
        start: Any = document["start"]
        peer = str(start["connected"][0]["remote_host"])
    except (KeyError, IndexError, TypeError) as failed:
        raise MeasureFailed("iperf3's output cannot be read", client.strip()[-200:]) from failed
    accepted = _ACCEPTED.search(server)
    if error or accepted is None:
        raise MeasureFailed("the exchange through the Service failed", str(error or "the server accepted nothing"))
    return Transfer(peer=peer, seen_from=accepted[1], server=backend)


class ServiceCheck(WithoutFigures):
    """Services in front of the pair's server, or the one that is the server. `sleep` is for tests."""

    kind = "service"
    tools = ("iperf3", "tcpdump")

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    def unfit(self, lab: Lab, pair: Pair) -> str:
        if lab.server(pair).kind is not EndpointKind.SERVICE:
            return unfit_unless_pods(lab, pair)
        return unfit_over_tcp(lab, pair) if lab.backends(pair) else ""

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, ServiceParameters):
            raise TypeError(f"service cannot run with {type(parameters).__name__}")
        lab, server = context.open_lab.lab, context.pair.server
        pairs = _pairs(lab, context.pair)

        def body(raw: RawFiles) -> Measured:
            if not pairs:
                reason = f"no TCP Service of the scenario has {server} among its backends"
                return Measured(judgement=Judgement(verdict=Verdict.SKIP, reason=reason), values={})
            # Run on its own, so that a pod without it is not taken for a network that lets nothing through.
            version = context.open_lab.target(context.pair.client).run(("iperf3", "--version"), timeout_s=_SLACK_S)
            require_success(version)
            findings: list[Finding] = []
            for pair in pairs:
                findings += judge_service(self._look(context, raw, pair, parameters.connections))
            return Measured(judgement=judge_findings(findings), values={}, findings=tuple(findings))

        return measure(context, self.metrics(parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles, pair: Pair, count: int) -> ServiceLook:
        open_lab, lab = context.open_lab, context.open_lab.lab
        client, target = lab.client(pair), open_lab.target(pair.client)
        service, asked = lab.service(pair.server), asked_of(lab, pair, 0)
        chosen = chosen_from(lab, service, pair.via)
        others = [name for name in service.backends if name != client.name]
        taps = [_client_tap(context, pair), *(_tap(context, Role.SERVER_ETH0, name) for name in others)]
        expression = syn_filter(asked, service)
        count = count if chosen else min(count, _UNANSWERED)
        with capturing(taps, expression) as live:
            argv = argv_connections(asked, count)
            done = target.run(argv, timeout_s=count * _PER_CONNECTION_S + _SLACK_S)
            self._sleep(_SETTLE_S)
            captures = live.stop()
        raw.save_completed(f"connections-{service.name}", done)
        for capture in captures:
            raw.save_completed(f"{service.name}-{capture.tap.target.name}", capture.completed, output="pcap")
        require_success(done)
        require_trustworthy(captures)
        if left := packets_left_behind(captures):
            raise MeasureFailed("the capture is not complete", f"{left} packets are missing")
        by_name = {capture.tap.target.name: capture for capture in captures}
        node = open_lab.target(client.node or pair.via or lab.nodes[0].name)
        listing = argv_rules()
        listed = raw.save_completed(f"rules-{service.name}", node.run(listing, timeout_s=_RULES_S))
        require_success(listed, f"the rules of {node.name} cannot be listed")
        # iperf3 makes two connections, and expects both at one server.
        is_sure = len(chosen) == 1 and client.name not in service.backends
        return ServiceLook(
            service=service,
            client=client,
            asked=asked,
            translation=translation_of(lab, client),
            chosen=chosen,
            attempts=parse_connections(done.text, count),
            to_service_on_wire=sum(arrivals(by_name[client.name], str(asked.address), asked.port).values()),
            arrivals={
                name: arrivals(by_name[name], str(lab.pod(name).address), service.target_port) for name in others
            },
            sources={name: sources_at(lab, pair, client, service, name) for name in service.backends},
            rules=parse_rules(listed.text, marks_of(service, lab.name)),
            transfer=self._transfer(context, raw, asked, chosen[0]) if is_sure else None,
            capture_command=target.command(argv_tcpdump(taps[0].interface, expression)),
            rules_command=node.command(listing),
        )

    def _transfer(self, context: CheckContext, raw: RawFiles, asked: Asked, backend: str) -> Transfer:
        port = asked.listening[backend][1]
        listening = ServerCommand(argv=("iperf3", "-s", "-p", str(port), "--forceflush"), ready="Server listening")
        ended = exchange_with(
            context, raw, servers={backend: listening}, client_argv=argv_exchange(asked), timeout_s=_SLACK_S
        )
        return parse_exchange(ended.client.text, backend, ended.server.text)


def _pairs(lab: Lab, pair: Pair) -> tuple[Pair, ...]:
    """The Services to look at, each as the server of a pair of the same client."""
    if lab.server(pair).kind is EndpointKind.SERVICE:
        return (pair,)
    return tuple(
        Pair(client=pair.client, server=service.name, placement=Placement.MIXED)
        for service in lab.services
        if pair.server in service.backends and service.protocol is ServiceProtocol.TCP
    )


def _tap(context: CheckContext, role: Role, pod: str) -> Tap:
    return Tap(name=f"{pod}:eth0", role=role, target=context.open_lab.target(pod), interface="eth0")


def _client_tap(context: CheckContext, pair: Pair) -> Tap:
    """Where what the client sends leaves it: a pod's eth0, a node's uplink."""
    client = context.open_lab.lab.client(pair)
    if client.kind is not EndpointKind.NODE:
        return _tap(context, Role.CLIENT_ETH0, client.name)
    uplinks = (tap for tap in context.open_lab.taps(pair) if tap.role is Role.CLIENT_UPLINK)
    return next(uplinks, _tap(context, Role.CLIENT_UPLINK, client.name))
