"""The netfilter check: which hooks of the nodes a known number of packets passes, and what conntrack made of them.

Rules that match the pair's packets and do nothing but count stand on its nodes while the packets go through, and are
removed again whatever happens. They are in the mangle table, which has a chain for each of the five hooks, whichever
of iptables' two kinds (legacy or nft) the node has; each carries a comment that no other rule has. Argv, rules and
parsers are pure.

So are the judges. What each mode should show at the hooks and in conntrack is what was measured with eBPF datapaths of
both kinds and recorded on real Cilium: only Legacy with native routing takes pods' packets through the nodes'
netfilter; with vxlan it sees the envelope.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from types import MappingProxyType

from labctl.checks.base import CheckContext
from labctl.checks.outcome import (
    Judgement,
    Measured,
    RawFiles,
    WithoutFigures,
    failed,
    finding,
    judge_findings,
    measure,
)
from labctl.checks.ping import argv_ping, ping_timeout_s
from labctl.checks.server import unfit_unless_pods
from labctl.errors import MeasureFailed
from labctl.model.interfaces import VXLAN_PORT, cilium_tunnel_port
from labctl.model.lab import EXISTING_CLUSTER, Datapath, Encapsulation, HostRouting, Lab, Pair, Placement
from labctl.model.parameters import NetfilterParameters, PingParameters
from labctl.model.result import CheckResult, Completed, Finding, Verdict
from labctl.model.tools import require_success, said
from labctl.model.trace import Way
from labctl.path.sent import require_sent
from labctl.providers.base import Target
from labctl.values import dataclass

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

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_unless_pods(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, NetfilterParameters):
            raise TypeError(f"netfilter cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            lab, pair = context.open_lab.lab, context.pair
            if lab.provider == EXISTING_CLUSTER:
                reason = "it counts by rules of its own, and labctl writes no rule into nodes that it did not make"
                return Measured(judgement=Judgement(verdict=Verdict.SKIP, reason=reason), values={})
            nodes = dict.fromkeys((lab.pod(pair.client).node, lab.pod(pair.server).node))
            watch = _WatchedNodes(context, raw, counting_of(lab, pair, self._mark()), tuple(nodes))
            received, looks = watch.send(parameters.count)
            if received == 0:
                return Measured(
                    judgement=failed(
                        f"none of {parameters.count} requests was answered, so the hook counters show nothing"
                    ),
                    values={},
                )
            packets = {Way.REQUEST: parameters.count, Way.REPLY: received}
            findings: tuple[Finding, ...] = tuple(
                found for look in looks for found in judge_node(lab.in_force, pair.placement, look, packets)
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
        tunnel_port=cilium_tunnel_port(lab.datapath.encapsulation),
    )


class _WatchedNodes:
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

    def _entries(self, node: str, when: str) -> dict[str, tuple[ConntrackLine, ...]]:
        found: dict[str, tuple[ConntrackLine, ...]] = {}
        for what, asked in self._flows().items():
            listed: list[ConntrackLine] = []
            for number, argv in enumerate(asked, start=1):
                name = f"conntrack-{what}-{number}-{when}-{node}"
                done = self._raw.save_completed(name, self._targets[node].run(argv, timeout_s=_TIMEOUT_S))
                listed += read_connections(done, node)
            found[what] = tuple(listed)
        return found

    def _look(self, node: str, before: dict[str, tuple[ConntrackLine, ...]]) -> NodeLook:
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


HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_TABLE = "mangle"
_COUNTED = re.compile(r'^\[(?P<packets>\d+):\d+\] -A (?P<hook>[A-Z]+) .*--comment "?(?P<comment>[^" ]+)"?')
_ENTRY = re.compile(r"^(?:ipv4\s+2\s+)?(?P<protocol>[a-z]\w*)\s+\d+\s")
_SHOWN = re.compile(r"(\d+) flow entries have been shown")
_FIELD = re.compile(r"(?P<key>src|dst|sport|dport|id)=(?P<value>\S+)")


class Layer(StrEnum):
    """Which packets a rule counts: the pods' own, or the envelopes between their nodes."""

    INNER = "inner"
    OUTER = "outer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """What is counted on a node: ICMP between two pods, and UDP of the tunnel between their nodes. `mark` is in the
    comments of the rules and nowhere else."""

    mark: str
    client: str
    server: str
    client_node: str
    server_node: str
    tunnel_port: int = VXLAN_PORT

    def ways(self) -> Mapping[tuple[Layer, Way], str]:
        """The match of each kind of packet."""
        inner, outer = "-s {} -d {} -p icmp", f"-s {{}} -d {{}} -p udp --dport {self.tunnel_port}"
        ends = {(Layer.INNER, Way.REQUEST): inner.format(self.client, self.server)}
        ends[Layer.INNER, Way.REPLY] = inner.format(self.server, self.client)
        if self.client_node != self.server_node:
            ends[Layer.OUTER, Way.REQUEST] = outer.format(self.client_node, self.server_node)
            ends[Layer.OUTER, Way.REPLY] = outer.format(self.server_node, self.client_node)
        return MappingProxyType(ends)

    def rules(self) -> tuple[str, ...]:
        """Each rule as iptables writes it, after `-I` or `-D`."""
        return tuple(
            f"{hook} {match} -m comment --comment {self.comment(layer, way)}"
            for hook in HOOKS
            for (layer, way), match in self.ways().items()
        )

    def comment(self, layer: Layer, way: Way) -> str:
        return f"{self.mark}-{layer}-{way}"


def argv_change() -> tuple[str, ...]:
    """Takes `insert_rules` or `delete_rules` on standard input; what else there is stays as it is."""
    return ("iptables-restore", "--noflush", "--wait", "5")


def insert_rules(counting: Counting) -> bytes:
    return _change("-I", counting.rules())


def delete_rules(counting: Counting) -> bytes:
    return _change("-D", counting.rules())


def _change(verb: str, rules: Iterable[str]) -> bytes:
    lines = (f"*{_TABLE}", *(f"{verb} {rule}" for rule in rules), "COMMIT", "")
    return "\n".join(lines).encode()


def argv_counters() -> tuple[str, ...]:
    return ("iptables-save", "-c", "-t", _TABLE)


def argv_connections(source: str, destination: str, protocol: str) -> tuple[str, ...]:
    return ("conntrack", "-L", "-s", source, "-d", destination, "-p", protocol)


Counts = Mapping[tuple[Layer, Way], Mapping[str, int]]
"""Packets by kind of packet and hook."""


def parse_counters(text: str, counting: Counting) -> Counts:
    """The counters of `counting`'s rules from `iptables-save -c`. A rule that is not there has no count."""
    names = {counting.comment(layer, way): (layer, way) for layer, way in counting.ways()}
    found: dict[tuple[Layer, Way], dict[str, int]] = {kind: {} for kind in names.values()}
    for line in text.splitlines():
        match = _COUNTED.match(line)
        if match is not None and match["comment"] in names:
            found[names[match["comment"]]][match["hook"]] = int(match["packets"])
    return MappingProxyType({kind: MappingProxyType(counts) for kind, counts in found.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConntrackLine:
    """One entry of conntrack, by its first direction. `first` and `second` are ports, or the ICMP id twice.
    `answered_at` is where packets of the other direction go to: not `source` where netfilter masquerades."""

    protocol: str
    source: str
    destination: str
    first: str
    second: str
    is_replied: bool
    answered_at: str = ""

    @property
    def words(self) -> str:
        ports = f" id {self.first}" if self.protocol.startswith("icmp") else f" {self.first} → {self.second}"
        return f"{self.protocol} {self.source} → {self.destination}{ports}{'' if self.is_replied else ' [UNREPLIED]'}"


def parse_connections(text: str) -> tuple[ConntrackLine, ...]:
    """From `conntrack -L` (conntrack-tools 1.4; the closing line about how many were shown is on stderr)."""
    found = []
    for line in text.splitlines():
        entry = _ENTRY.match(line.strip())
        if entry is None:
            continue
        fields: dict[str, str] = {}
        destinations: list[str] = []
        for field in _FIELD.finditer(line):
            fields.setdefault(field["key"], field["value"])
            destinations += [field["value"]] if field["key"] == "dst" else []
        found.append(
            ConntrackLine(
                protocol=entry["protocol"],
                source=fields.get("src", ""),
                destination=fields.get("dst", ""),
                first=fields.get("sport", fields.get("id", "")),
                second=fields.get("dport", fields.get("id", "")),
                is_replied="[UNREPLIED]" not in line,
                answered_at=destinations[1] if len(destinations) == 2 else "",
            )
        )
    return tuple(found)


def read_connections(completed: Completed, node: str) -> tuple[ConntrackLine, ...]:
    """What `conntrack -L` listed on a node. Raises MeasureFailed when it failed, for an entry that cannot be read, and
    when it does not say itself how many it has shown: no entry must not be what a tool made of it."""
    what = f"conntrack on {node} cannot be read"
    text = require_success(completed, what).text
    found = parse_connections(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = _SHOWN.search(completed.error_text)
    if len(found) != len(lines):
        unread = next(line for line in lines if _ENTRY.match(line) is None)
        raise MeasureFailed(what, f"conntrack printed a line that is no entry: {unread[:200]}")
    if shown is None if not found else shown is not None and int(shown[1]) != len(found):
        raise MeasureFailed(what, f"conntrack printed {len(found)} entries, and of their number {said(completed)}")
    return found


_PLURAL = {Way.REQUEST: "requests", Way.REPLY: "replies"}
_FORWARDED = ("PREROUTING", "FORWARD", "POSTROUTING")
_SENT = ("OUTPUT", "POSTROUTING")
_RECEIVED = ("PREROUTING", "INPUT")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLook:
    """What one node showed. `is_client` and `is_server`: whose node it is. `pair` and `envelopes` are the conntrack
    entries that came while the packets went through; the commands show counters and entries by hand."""

    node: str
    is_client: bool
    is_server: bool
    counts: Counts
    pair: tuple[ConntrackLine, ...]
    envelopes: tuple[ConntrackLine, ...]
    counters_command: Sequence[str] = ()
    pair_command: Sequence[str] = ()
    envelopes_command: Sequence[str] = ()


def expected_hooks(datapath: Datapath, placement: Placement, look: NodeLook, layer: Layer, way: Way) -> tuple[str, ...]:
    """The hooks that every packet of that kind should pass on that node."""
    if placement is Placement.SAME_NODE:
        return ()
    is_native = datapath.encapsulation is Encapsulation.NATIVE
    if layer is Layer.INNER:
        return _FORWARDED if is_native and datapath.host_routing is HostRouting.LEGACY else ()
    if is_native:
        return ()
    sends = look.is_client if way is Way.REQUEST else look.is_server
    return _SENT if sends else _RECEIVED


def judge_node(
    datapath: Datapath, placement: Placement, look: NodeLook, packets: Mapping[Way, int]
) -> Iterator[Finding]:
    """The hooks that the pods' packets passed, those that the envelopes passed, and conntrack's entries."""
    yield _hooks(datapath, placement, look, packets, Layer.INNER)
    if datapath.encapsulation.is_tunnel and placement is Placement.CROSS_NODE:
        yield _hooks(datapath, placement, look, packets, Layer.OUTER)
    yield _pair_entry(datapath, placement, look)
    if datapath.encapsulation.is_tunnel and placement is Placement.CROSS_NODE:
        yield _envelope_entries(look)


def _hooks(
    datapath: Datapath, placement: Placement, look: NodeLook, packets: Mapping[Way, int], layer: Layer
) -> Finding:
    holds, parts = True, []
    for way in Way:
        counts = look.counts.get((layer, way), {})
        should = expected_hooks(datapath, placement, look, layer, way)
        holds &= all(counts.get(hook, 0) == (packets[way] if hook in should else 0) for hook in HOOKS)
        passed = ", ".join(f"{hook} {counts[hook]}" for hook in HOOKS if counts.get(hook)) or "no hook"
        wanted = ", ".join(f"{hook} {packets[way]}" for hook in should) or "no hook"
        parts.append(f"{packets[way]} {_PLURAL[way]} passed {passed} (expected {wanted})")
    what = "the pods' packets" if layer is Layer.INNER else "the envelopes"
    return finding(
        f"hooks-{layer}-{look.node}",
        holds=holds,
        sentence=f"{look.node}, {what}: {'; '.join(parts)}",
        lesson=_hooks_lesson(datapath, placement, layer),
        command=look.counters_command,
    )


def _hooks_lesson(datapath: Datapath, placement: Placement, layer: Layer) -> str:
    if layer is Layer.OUTER:
        return (
            "The envelope is an ordinary UDP packet of the node: OUTPUT where it is sent, INPUT where it is received, "
            "never FORWARD."
        )
    if placement is Placement.SAME_NODE:
        return (
            "Between two pods of one node the eBPF program redirects from lxc to lxc or pod: netfilter sees nothing, "
            "in both modes."
        )
    if datapath.encapsulation.is_tunnel:
        return "The pods' packets go into their envelope before the node's netfilter could see them, in both modes."
    if datapath.host_routing is HostRouting.LEGACY:
        return (
            "Legacy hands the packet to the node's stack, which forwards it: every iptables rule on the way costs "
            "every packet of every pod."
        )
    return "BPF host routing sends the packet on from the eBPF program: the node's netfilter is bypassed."


def _pair_entry(datapath: Datapath, placement: Placement, look: NodeLook) -> Finding:
    is_expected = (
        datapath.host_routing is HostRouting.LEGACY
        and datapath.encapsulation is Encapsulation.NATIVE
        and placement is Placement.CROSS_NODE
    )
    return finding(
        f"conntrack-pair-{look.node}",
        holds=bool(look.pair) is is_expected,
        sentence=f"{look.node}: {_listed(look.pair)} for the pods in conntrack "
        f"(expected {'one' if is_expected else 'none'})",
        lesson="What the stack forwards, conntrack tracks: the table can fill up, and NAT is possible."
        if is_expected
        else "What eBPF forwards leaves no trace in the kernel's conntrack; Cilium keeps a table of its own.",
        command=look.pair_command,
    )


def _envelope_entries(look: NodeLook) -> Finding:
    unreplied = [entry for entry in look.envelopes if not entry.is_replied]
    return finding(
        f"conntrack-envelopes-{look.node}",
        holds=len(look.envelopes) >= 2 and len(unreplied) == len(look.envelopes),
        sentence=f"{look.node}: conntrack has {_listed(look.envelopes)} for the envelopes",
        lesson="Both ways go TO the VXLAN port, from a hashed one: to conntrack, a reply's envelope does not answer "
        "the request's. So there is an entry each way, and neither ever becomes replied.",
        command=look.envelopes_command,
    )


def _listed(entries: Iterable[ConntrackLine]) -> str:
    words = [entry.words for entry in entries]
    shown = "; ".join(words[:4])
    if len(words) == 1:
        return f"1 entry ({shown})"
    return f"{len(words)} entries ({shown})" if words else "no entry"
