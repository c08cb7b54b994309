"""The service check: a client connects to Services that the server is a backend of, while every backend is captured.

Needs nothing in the pods but iperf3 and tcpdump. Nothing listens on the backends' port while the connections are made:
which pod was chosen is seen from the packet that arrives there, and its refusal is the answer. A Service of one backend
is then used for a real exchange, too.

Judging what a look at one Service says is pure: who answered, where the address was translated, and by what. With
kube-proxy replaced the client's own socket is translated before a packet exists (seen on Cilium 1.16.0-rc.0 with
Kubernetes 1.20.2, in both modes and both encapsulations); with kube-proxy the node's netfilter does it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labctl.checks.base import CheckContext
from labctl.checks.captures import TapCapture, argv_tcpdump, capturing, packets_left_behind, require_trustworthy
from labctl.checks.iperf import read_iperf
from labctl.checks.outcome import (
    Judgement,
    Measured,
    RawFiles,
    WithoutFigures,
    finding,
    judge_findings,
    measure,
    unknown,
)
from labctl.checks.server import ServerCommand, exchange, unfit_unless_pods
from labctl.errors import MeasureFailed
from labctl.model.lab import Lab, Pair, Service, ServiceProtocol
from labctl.model.parameters import ServiceParameters
from labctl.model.result import CheckResult, Finding, Verdict
from labctl.model.signature import Role
from labctl.model.tools import require_success
from labctl.path.frame import Ipv4, Tcp, decode, ip_text
from labctl.providers.base import Tap

_CONNECT_MS = 3000
_PER_CONNECTION_S = 4.0
_SLACK_S = 30.0
_SETTLE_S = 1.0
_SYN = 0x02
_BYTES = "64K"
_REFUSED = "Connection refused"
_TRIED = "iperf3: error - "
"""How iperf3 reports how a connection ended; what it cannot do at all, such as an option, it words otherwise."""
_LOOP = (
    'n=0; while [ "$n" -lt "$1" ]; do '
    f'iperf3 -c "$2" -p "$3" -n 1 --connect-timeout {_CONNECT_MS} 2>&1 | tail -n 1; n=$((n+1)); done'
)
_RULES = (
    "for list in iptables-legacy-save iptables-nft-save; do "
    'if command -v "$list" >/dev/null 2>&1; then if said=$("$list" 2>&1); '
    'then echo "#listed-by $list"; else echo "#failed $list"; fi; printf "%s\\n" "$said"; fi; done; true'
)
_FAILED = re.compile(r"^#failed (\S+)\n(.*)", re.MULTILINE)
_ACCEPTED = re.compile(r"Accepted connection from ([0-9.]+)")


def argv_connections(service: Service, count: int) -> tuple[str, ...]:
    """`count` connections, one after the other; the last line of each says how it ended."""
    return ("sh", "-c", _LOOP, "sh", str(count), str(service.address), str(service.port))


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


def syn_filter(client: str, service: Service) -> str:
    """The pcap expression for the first packets of the client's connections, translated or not."""
    return (
        f"tcp[tcpflags] & tcp-syn != 0 and src host {client} and "
        f"((dst host {service.address} and dst port {service.port}) or dst port {service.target_port})"
    )


def connections_to(capture: TapCapture, destination: str) -> int:
    """How many connections to that address the capture has; a first packet that was repeated counts once."""
    ports: set[int] = set()
    for record in capture.records():
        frame = decode(record.frame)
        if frame is None or not isinstance(frame.network, Ipv4) or not isinstance(frame.transport, Tcp):
            continue
        if frame.transport.flags & _SYN and ip_text(frame.network.dst) == destination:
            ports.add(frame.transport.src_port)
    return len(ports)


def parse_rules(text: str, address: str) -> Rules:
    """The lines with that address, out of every list of rules that the node could print, and what could not be."""
    whole = re.compile(rf"(?<![0-9.]){re.escape(address)}(?![0-9.]*[0-9])")
    listed = tuple(line.split()[1] for line in text.splitlines() if line.startswith("#listed-by "))
    failed = tuple(_FAILED.findall(text))
    lines = tuple(line for line in text.splitlines() if whole.search(line))
    return Rules(listed_by=listed, lines=lines, failed=tuple(": ".join(one) for one in failed))


def argv_exchange(service: Service) -> tuple[str, ...]:
    return ("iperf3", "-J", "-c", str(service.address), "-p", str(service.port), "-n", _BYTES)


def parse_exchange(client: str, server: str) -> Transfer:
    """Raises MeasureFailed with iperf3's own words."""
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
    return Transfer(peer=peer, seen_from=accepted[1])


class ServiceCheck(WithoutFigures):
    """Services in front of the pair's server. `sleep` is for tests."""

    kind = "service"
    tools = ("iperf3", "tcpdump")

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_unless_pods(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, ServiceParameters):
            raise TypeError(f"service cannot run with {type(parameters).__name__}")
        lab, server = context.open_lab.lab, context.pair.server
        services = [one for one in lab.services if server in one.backends and one.protocol is ServiceProtocol.TCP]

        def body(raw: RawFiles) -> Measured:
            if not services:
                reason = f"no TCP Service of the scenario has {server} among its backends"
                return Measured(judgement=Judgement(verdict=Verdict.SKIP, reason=reason), values={})
            # Run on its own, so that a pod without it is not taken for a network that lets nothing through.
            version = context.open_lab.target(context.pair.client).run(("iperf3", "--version"), timeout_s=_SLACK_S)
            require_success(version)
            findings: list[Finding] = []
            for service in services:
                look = self._look(context, raw, service, parameters.connections)
                findings += judge_service(look, replaces_kube_proxy=lab.datapath.kube_proxy_replacement)
            return Measured(judgement=judge_findings(findings), values={}, findings=tuple(findings))

        return measure(context, self.metrics(parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles, service: Service, count: int) -> ServiceLook:
        open_lab, client = context.open_lab, context.pair.client
        lab, target = open_lab.lab, open_lab.target(client)
        address = str(lab.pod(client).address)
        others = [name for name in service.backends if name != client]
        taps = [_tap(context, Role.CLIENT_ETH0, client), *(_tap(context, Role.SERVER_ETH0, name) for name in others)]
        expression = syn_filter(address, service)
        with capturing(taps, expression) as live:
            argv = argv_connections(service, count)
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
        by_pod = {capture.tap.target.name: capture for capture in captures}
        node = open_lab.target(lab.pod(client).node)
        argv_rules = ("sh", "-c", _RULES)
        listed = raw.save_completed(f"rules-{service.name}", node.run(argv_rules, timeout_s=_SLACK_S))
        require_success(listed, f"the rules of {node.name} cannot be listed")
        return ServiceLook(
            service=service,
            client=client,
            client_address=address,
            itself=client if client in service.backends else "",
            attempts=parse_connections(done.text, count),
            to_service_on_wire=connections_to(by_pod[client], str(service.address)),
            at_backends={name: connections_to(by_pod[name], str(lab.pod(name).address)) for name in others},
            rules=parse_rules(listed.text, str(service.address)),
            transfer=self._transfer(context, raw, service) if service.backends == (context.pair.server,) else None,
            capture_command=target.command(argv_tcpdump("eth0", expression)),
            rules_command=node.command(argv_rules),
        )

    def _transfer(self, context: CheckContext, raw: RawFiles, service: Service) -> Transfer:
        listening = ("iperf3", "-s", "-p", str(service.target_port), "--forceflush")
        server = ServerCommand(argv=listening, ready="Server listening")
        ended = exchange(context, raw, service=server, client_argv=argv_exchange(service), timeout_s=_SLACK_S)
        return parse_exchange(ended.client.text, ended.server.text)


def _tap(context: CheckContext, role: Role, pod: str) -> Tap:
    return Tap(name=f"{pod}:eth0", role=role, target=context.open_lab.target(pod), interface="eth0")


SURE_PER_BACKEND = 10
"""Of so many connections per backend, a random choice leaves one out less than once in ten thousand times (of two
backends once in a million)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How the connections ended in the client's words. `refused` were answered by a pod on which nothing listens."""

    made: int
    refused: int
    others: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the client's node has in netfilter: the commands that listed it, the lines with the Service's address, and
    the commands that are there and failed, each with its words."""

    listed_by: tuple[str, ...]
    lines: tuple[str, ...]
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One real exchange: what the client's socket says of its peer, and whom the backend saw."""

    peer: str
    seen_from: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLook:
    """Everything that was seen of one Service. `at_backends` counts the connections that arrived at each; `itself` is
    the client where it is a backend too, whose own connections no capture shows. `transfer` is None where the Service
    has several backends."""

    service: Service
    client: str
    client_address: str
    itself: str
    attempts: Attempts
    to_service_on_wire: int
    at_backends: Mapping[str, int]
    rules: Rules
    transfer: Transfer | None
    capture_command: Sequence[str] = ()
    rules_command: Sequence[str] = ()


def judge_service(look: ServiceLook, *, replaces_kube_proxy: bool) -> tuple[Finding, ...]:
    """Every finding of one Service, named `SERVICE: what`."""
    return (
        *_answered(look),
        _translated(look, replaces_kube_proxy),
        *_backends(look),
        _netfilter(look, replaces_kube_proxy),
        *_transfer(look, replaces_kube_proxy),
    )


def _name(look: ServiceLook, what: str) -> str:
    return f"{look.service.name}: {what}"


def _place(look: ServiceLook) -> str:
    return f"{look.service.address}:{look.service.port}"


def _answered(look: ServiceLook) -> Iterator[Finding]:
    tried = look.attempts
    others = ", ".join(f"{count} × {words}" for words, count in tried.others.items())
    sentence = f"{tried.refused} of {tried.made} connections to {_place(look)} were answered by a pod"
    yield finding(
        _name(look, "answered"),
        holds=tried.refused == tried.made,
        sentence=sentence + (f"; the others: {others}" if others else ""),
        lesson="nothing listens on the pods' port, so a pod's own 'connection refused' is the answer; 'operation not "
        "permitted' would mean that the Service has no endpoints: the socket is refused before a packet exists",
    )


def _translated(look: ServiceLook, replaces_kube_proxy: bool) -> Finding:
    on_wire = look.to_service_on_wire
    where = f"{on_wire} packets to {_place(look)} left {look.client}'s eth0"
    if replaces_kube_proxy:
        return finding(
            _name(look, "translated in the socket"),
            holds=on_wire == 0,
            sentence=where,
            lesson="an eBPF program at connect() puts the backend's address into the socket, so the Service's address "
            "is never on the wire",
            command=look.capture_command,
        )
    return finding(
        _name(look, "translated on the node"),
        holds=on_wire > 0,
        sentence=where,
        lesson="without kube-proxy replacement the pod sends to the Service's address, and the node's netfilter "
        "rewrites it",
        command=look.capture_command,
    )


def _backends(look: ServiceLook) -> Iterator[Finding]:
    counts = dict(look.at_backends)
    seen, made = sum(counts.values()), look.attempts.made
    shares = ", ".join(f"{name} {count}" for name, count in counts.items())
    if look.itself:
        shares += f", {look.itself} itself the other {max(0, made - seen)} (they stay on its loopback device)"
    yield finding(
        _name(look, "backends"),
        holds=seen == made or bool(look.itself and seen <= made),
        sentence=f"of {made} connections arrived: {shares}",
        lesson="each connection is balanced on its own; a random choice makes the shares differ from time to time",
    )
    if len(look.service.backends) > 1 and made >= SURE_PER_BACKEND * len(look.service.backends):
        left_out = [name for name, count in counts.items() if count == 0]
        yield finding(
            _name(look, "every backend"),
            holds=not left_out,
            sentence=f"{', '.join(left_out)} got no connection" if left_out else "each backend got connections",
            lesson="a backend that never answers is not ready, or not among the Service's endpoints",
        )


def _netfilter(look: ServiceLook, replaces_kube_proxy: bool) -> Finding:
    name, lesson = _name(look, "netfilter"), "with kube-proxy replaced no iptables rule has the Service's address"
    if look.rules.failed and not look.rules.lines:
        # A list that cannot be read is not a list without the address.
        return unknown(
            name, sentence=f"the node's rules could not be listed: {'; '.join(look.rules.failed)}", lesson=lesson,
            command=look.rules_command,
        )  # fmt: skip
    if not look.rules.listed_by:
        return unknown(
            name, sentence="the node has no program that lists netfilter's rules", lesson=lesson,
            command=look.rules_command,
        )  # fmt: skip
    listed = " and ".join(look.rules.listed_by)
    return finding(
        name,
        holds=(not look.rules.lines) is replaces_kube_proxy,
        sentence=f"{len(look.rules.lines)} lines of {listed} mention {look.service.address}",
        lesson=lesson if replaces_kube_proxy else "kube-proxy's rules for the Service are in the node's netfilter",
        command=look.rules_command,
    )


def _transfer(look: ServiceLook, replaces_kube_proxy: bool) -> Iterator[Finding]:
    if look.transfer is None:
        return
    yield finding(
        _name(look, "peer's name"),
        holds=look.transfer.peer == str(look.service.address),
        sentence=f"the client's socket reports its peer as {look.transfer.peer}",
        lesson="another eBPF program answers getpeername(): the client does not see the translation"
        if replaces_kube_proxy
        else "the client's socket does not show the translation, which happens on the node",
    )
    yield finding(
        _name(look, "client's address"),
        holds=look.transfer.seen_from == look.client_address,
        sentence=f"the backend saw the connection come from {look.transfer.seen_from}",
        lesson="inside the cluster the client's own address arrives; nothing masquerades",
    )
