"""The netfilter check: which hooks of the nodes a known number of packets passes, and what conntrack made of them.

Rules that only count stand on the pair's nodes while the packets go through, and are taken away again whatever happens.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from labctl.checks.base import CheckContext
from labctl.checks.netfilter_findings import (
    HOOKS,
    Connection,
    Counting,
    Counts,
    NodeLook,
    Way,
    argv_change,
    argv_connections,
    argv_counters,
    delete_rules,
    insert_rules,
    judge_node,
    parse_counters,
    read_connections,
)
from labctl.checks.outcome import Measured, RawFiles, WithoutFigures, failed, judge_findings, measure, said
from labctl.checks.ping import argv_ping, ping_timeout_s
from labctl.errors import MeasureFailed
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import NetfilterParameters, PingParameters
from labctl.model.result import CheckResult, Finding
from labctl.model.tools import require_success
from labctl.path.sent import require_sent
from labctl.providers.base import Target

_TIMEOUT_S = 20.0
_INTERVAL_S = 0.01
_MARK_BYTE = 4


class NetfilterCheck(WithoutFigures):
    """Packets per hook and conntrack entries of one pair, on both of its nodes.

    `mark` is for tests: what the comments of the counting rules begin with.
    """

    kind = "netfilter"
    tools = ("ping", "iptables-restore", "iptables-save", "conntrack")

    def __init__(self, *, mark: Callable[[], str] = lambda: f"labctl-{secrets.token_hex(_MARK_BYTE)}") -> None:
        self._mark = mark

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, NetfilterParameters):
            raise TypeError(f"netfilter cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            lab, pair = context.open_lab.lab, context.pair
            nodes = dict.fromkeys((lab.pod(pair.client).node, lab.pod(pair.server).node))
            watch = _Watch(context, raw, counting_of(lab, pair, self._mark()), tuple(nodes))
            received, looks = watch.send(parameters.count)
            if received == 0:
                return Measured(
                    judgement=failed(f"none of {parameters.count} requests was answered, so no hook tells anything"),
                    values={},
                )
            packets = {Way.REQUEST: parameters.count, Way.REPLY: received}
            findings: tuple[Finding, ...] = tuple(
                found for look in looks for found in judge_node(lab.datapath, pair.placement, look, packets)
            )
            return Measured(judgement=judge_findings(findings), values={}, findings=findings)

        return measure(context, self.metrics(parameters), body)


def counting_of(lab: Lab, pair: Pair, mark: str) -> Counting:
    client, server = lab.pod(pair.client), lab.pod(pair.server)
    return Counting(
        mark=mark,
        client=str(client.address),
        server=str(server.address),
        client_node=str(lab.node(client.node).address.ip),
        server_node=str(lab.node(server.node).address.ip),
    )


class _Watch:
    """One look at the nodes of a pair while packets go through."""

    def __init__(self, context: CheckContext, raw: RawFiles, counting: Counting, nodes: tuple[str, ...]) -> None:
        self._raw, self._counting, self._nodes = raw, counting, nodes
        self._lab, self._pair = context.open_lab.lab, context.pair
        self._targets = {node: context.open_lab.target(node) for node in nodes}
        self._client = context.open_lab.target(context.pair.client)

    def send(self, count: int) -> tuple[int, tuple[NodeLook, ...]]:
        """Sends, and gives how many were answered and what each node showed. Raises MeasureFailed."""
        # One ping first: a packet that waits for ARP passes its hooks later than it is looked for.
        self._ping("warm-up", 1)
        with ExitStack() as standing:
            for node in self._nodes:
                standing.enter_context(self._counting_on(node))
            before = {node: self._entries(node, "before") for node in self._nodes}
            received = self._ping("ping", count)
            looks = tuple(self._look(node, before[node]) for node in self._nodes)
        return received, looks

    def _ping(self, name: str, count: int) -> int:
        parameters = PingParameters(count=count, interval_s=_INTERVAL_S)
        argv = argv_ping(self._counting.server, parameters)
        completed = self._raw.save_completed(name, self._client.run(argv, timeout_s=ping_timeout_s(parameters)))
        report = require_sent(completed, count)
        return 0 if report is None else report.received

    @contextmanager
    def _counting_on(self, node: str) -> Iterator[None]:
        target = self._targets[node]
        self._change(target, f"insert-{node}", insert_rules(self._counting))
        try:
            yield
        finally:
            self._change(target, f"delete-{node}", delete_rules(self._counting))

    def _change(self, target: Target, name: str, rules: bytes) -> None:
        done = self._raw.save_completed(name, target.run(argv_change(), timeout_s=_TIMEOUT_S, stdin=rules))
        require_success(done, f"the counting rules on {target.name} could not be changed")

    def _counts(self, node: str) -> Counts:
        target = self._targets[node]
        done = self._raw.save_completed(f"counters-{node}", target.run(argv_counters(), timeout_s=_TIMEOUT_S))
        what = f"the netfilter counters of {node} cannot be read"
        counts = parse_counters(require_success(done, what).text, self._counting)
        if not any(counts.values()):
            raise MeasureFailed(what, "the counting rules are not there")
        if missing := sorted({hook for each in counts.values() for hook in HOOKS if hook not in each}):
            # A rule that is not listed has no count, which is not a count of zero.
            raise MeasureFailed(what, f"counting rules are missing in {', '.join(missing)}; {said(done)}")
        return counts

    def _flows(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """What to ask conntrack for: the pods' entries and the envelopes', both ways."""
        counting = self._counting
        return {
            "pair": (
                argv_connections(counting.client, counting.server, "icmp"),
                argv_connections(counting.server, counting.client, "icmp"),
            ),
            "envelopes": (
                argv_connections(counting.client_node, counting.server_node, "udp"),
                argv_connections(counting.server_node, counting.client_node, "udp"),
            ),
        }

    def _entries(self, node: str, when: str) -> dict[str, tuple[Connection, ...]]:
        found: dict[str, tuple[Connection, ...]] = {}
        for what, asked in self._flows().items():
            listed: list[Connection] = []
            for number, argv in enumerate(asked, start=1):
                name = f"conntrack-{what}-{number}-{when}-{node}"
                done = self._raw.save_completed(name, self._targets[node].run(argv, timeout_s=_TIMEOUT_S))
                listed += read_connections(done, node)
            found[what] = tuple(listed)
        return found

    def _look(self, node: str, before: dict[str, tuple[Connection, ...]]) -> NodeLook:
        after = self._entries(node, "after")
        flows, target = self._flows(), self._targets[node]
        return NodeLook(
            node=node,
            is_client=self._lab.pod(self._pair.client).node == node,
            is_server=self._lab.pod(self._pair.server).node == node,
            counts=self._counts(node),
            # An entry of an earlier ping may still be there; each ping has an id of its own.
            pair=tuple(entry for entry in after["pair"] if entry not in before["pair"]),
            envelopes=after["envelopes"],
            counters_command=target.command(("iptables", "-t", "mangle", "-nvxL")),
            pair_command=target.command(flows["pair"][0]),
            envelopes_command=target.command(flows["envelopes"][0]),
        )
