"""Reads facts from an open lab, by the traces, proofs and tools that labctl has for it anyway.

One trace and one proof serve all facts of one `Readings`: what they say belongs together. A tool that fails, or a
capture that cannot be trusted, makes a fact unmeasured; it is never a value.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from labctl.checks import kube_proxy
from labctl.checks.addressing_findings import (
    ICMP_OVER_IPV4_BYTE,
    Fate,
    argv_largest,
    argv_neighbours,
    parse_neighbour,
    parse_sized_ping,
)
from labctl.checks.base import Check
from labctl.checks.ping import argv_ping, ping_timeout_s
from labctl.checks.sessions import ARGV, parse_bgp, parse_ospf
from labctl.checks.wire import argv_next_hop, parse_next_hop
from labctl.compare.verdict import FEWEST_PAIRS
from labctl.engine.events import Event
from labctl.engine.prove import pairs_of_pods, prove
from labctl.engine.trace import Differing, pair_between, protocol_for, trace
from labctl.errors import LabError, MeasureFailed, StepFailed, UsageError
from labctl.fabrics.frr import speaks
from labctl.facts import node_facts, tunnel_facts
from labctl.facts.trace_facts import Unmeasured, fact_of, summary
from labctl.model.evidence import ModeInForce, Standing
from labctl.model.fabric import Routing
from labctl.model.fact import FACTS, NONE, FactQuestion, FactSource, FactType, Parameter, Reading, Value, slug
from labctl.model.fallback import Condition
from labctl.model.lab import EndpointKind, Lab, Pair, Placement
from labctl.model.parameters import PingParameters
from labctl.model.signature import Role
from labctl.model.tools import require_output
from labctl.model.trace import ProbeProtocol, Trace, Way
from labctl.providers.base import OpenLab
from labctl.store.runs import MemorySinks

_DEVICE = "eth0"
_TIMEOUT_S = 20.0
_ONCE = PingParameters(count=1, interval_s=0.01)
_SMALLEST_BYTE = 16
"""Of a ping that tells its round-trip time."""
_MODE = "mode."
_PROVEN, _FALLBACK, _LOGGED = "mode.proven", "mode.fallback", "mode.logged"
_RULES = "service.rules"
_LISTING_S = 120.0


class Readings:
    """One look at a lab: each fact that is asked for, from observations that are made once."""

    def __init__(self, open_lab: OpenLab, checks: Mapping[str, Check], differing: Callable[[Pair], Differing]) -> None:
        self._open_lab, self._checks, self._differing = open_lab, checks, differing
        self._traces: dict[tuple[str, str, ProbeProtocol], Trace | LabError] = {}
        self._mode: ModeInForce | LabError | None = None

    @property
    def open_lab(self) -> OpenLab:
        return self._open_lab

    def read(self, question: FactQuestion) -> Reading:
        """Raises UsageError for an end that the lab does not have."""
        lab, kind = self._open_lab.lab, question.kind
        pair = pair_between(lab, question.client, question.server)
        reading = Reading(question=question, value=None, command=command_for(lab, question))
        try:
            match kind.source:
                case FactSource.TRACE:
                    traced = self._trace(pair, question.protocol or protocol_for(lab, pair))
                    reading = replace(reading, saw=summary(traced))
                    value = fact_of(traced, self._open_lab.lab, question)
                case FactSource.PROOF:
                    value = _of_mode(self._proof(), question.fact)
                case FactSource.LAB:
                    value = _OF_LAB[question.fact](lab, question)
                case FactSource.TOOL if question.fact == _RULES:
                    value = _service_rules(self._open_lab, pair, self._trace(pair, protocol_for(lab, pair)))
                case FactSource.TOOL:
                    value = _TOOLS[question.fact](self._open_lab, pair, question)
        except Unmeasured as why:
            return replace(reading, unmeasured=str(why))
        except UsageError:
            raise
        except (MeasureFailed, StepFailed) as failed:
            return replace(reading, unmeasured="; ".join(filter(None, (failed.what, failed.cause))))
        return replace(reading, value=value)

    def _trace(self, pair: Pair, protocol: ProbeProtocol) -> Trace:
        key = (pair.client, pair.destination, protocol)
        if key not in self._traces:
            try:
                differing = self._differing(pair)
                self._traces[key] = trace(self._open_lab, pair, protocol=protocol, differing=differing)
            except (MeasureFailed, StepFailed) as failed:
                self._traces[key] = failed
        found = self._traces[key]
        if isinstance(found, LabError):
            raise found
        return found

    def _proof(self) -> ModeInForce:
        if self._mode is None:
            try:
                self._mode = prove(self._checks, self._open_lab, MemorySinks(), _unheard).mode
            except (MeasureFailed, StepFailed) as failed:
                self._mode = failed
        if isinstance(self._mode, LabError):
            raise self._mode
        return self._mode


def _unheard(event: Event) -> None:
    del event


def usual_pair(lab: Lab) -> tuple[str, str]:
    """The client and the server that facts are about where nobody names them: those of the lab's first pair between
    pods of different nodes, or of any first pair. Raises UsageError where the lab has no two pods."""
    pairs = (*lab.pairs, *pairs_of_pods(lab))
    crossing = [one for one in pairs if one.placement is Placement.CROSS_NODE and lab.is_between_pods(one)]
    for pair in (*crossing, *pairs):
        return pair.client, pair.destination
    raise UsageError(what=f"lab {lab.name} has no two ends to send packets between", remedy=f"labctl status {lab.name}")


def questions(
    lab: Lab, names: Sequence[str], client: str, server: str, *,
    role: Role | None = None, way: Way | None = None, node: str = "", protocol: ProbeProtocol | None = None,
) -> tuple[FactQuestion, ...]:  # fmt: skip
    """Every question that these names ask: what a fact takes and nobody said is asked for each role of the way, each
    way, or each node. Raises UsageError for a name that is no fact's."""
    roles = (role,) if role is not None else tuple(Role)
    ways = (way,) if way is not None else tuple(Way)
    nodes = (node,) if node else tuple(one.name for one in lab.nodes)
    found = []
    for name in names or FACTS:
        require_fact(name)
        takes = FACTS[name].takes
        found += [
            FactQuestion(
                fact=name, client=client, server=server, role=at, way=half, node=on, protocol=protocol
            )
            for at in (roles if FACTS[name].needs_role else (role,) if Parameter.ROLE in takes else (None,))
            for half in (ways if Parameter.WAY in takes else (Way.REQUEST,))
            for on in (nodes if Parameter.NODE in takes else ("",))
        ]  # fmt: skip
    return tuple(found)


def require_fact(name: str) -> None:
    if name in FACTS:
        return
    import difflib

    near = difflib.get_close_matches(name, FACTS, n=1)
    raise UsageError(
        what=f"there is no fact {name}",
        cause=f"facts are: {', '.join(FACTS)}",
        remedy=f"did you mean '{near[0]}'?" if near else "docs/lessons.md",
    )


def command_for(lab: Lab, question: FactQuestion) -> str:
    """The command that shows the fact by hand."""
    try:
        address = str(lab.endpoint(question.server.partition("@")[0]).address)
    except KeyError:
        address = question.server
    protocol = next((one for one in (Routing.BGP, Routing.OSPF) if speaks(lab, one)), Routing.BGP)
    node = question.node or _node_of(lab, question.client)
    return question.kind.command.format(
        lab=lab.name, client=question.client, server=question.server, node=node, address=address, sessions=protocol,
        timers=node_facts.ARGV_TIMERS[protocol][-1].removeprefix("show ").removesuffix(" json"),
        scenario=lab.scenario, rounds=lab.compare.rounds,
        node_address=next((one.address.ip for one in lab.nodes if one.name == node), ""),
    )  # fmt: skip


def _node_of(lab: Lab, client: str) -> str:
    """Where the client is; itself, if it is a node."""
    try:
        return lab.endpoint(client).node or client
    except KeyError:
        return client


def _of_mode(mode: ModeInForce, fact: str) -> Value:
    if fact == _PROVEN:
        if mode.standing is Standing.NOT_SHOWN:
            raise Unmeasured(mode.reason or "no witness shows the mode")
        return mode.proven
    if fact in (_FALLBACK, _LOGGED):
        return of_fallback(mode, fact)
    found = mode.found.get(fact.removeprefix(_MODE))
    if found is None or (FACTS[fact].type is FactType.KEYWORD and str(found) not in FACTS[fact].choices):
        raise Unmeasured(mode.reason or "no witness shows it")
    return found if isinstance(found, bool) else str(found)


def of_fallback(mode: ModeInForce, fact: str) -> Value:
    """`mode.fallback` and `mode.logged`. Raises Unmeasured, too, for a reason of a cluster's agents that is none of
    the known conditions."""
    if mode.standing is Standing.NOT_SHOWN:
        raise Unmeasured(mode.reason or "no witness shows the mode")
    if mode.fallback is not None:
        if fact == _LOGGED:
            return bool(mode.fallback.line)
        if mode.fallback.reason not in set(Condition):
            raise Unmeasured(mode.fallback.reason)
        return slug(Condition(mode.fallback.reason))
    if not mode.proven:
        raise Unmeasured("the mode is not the one that was asked for, and nothing says why")
    if fact == _LOGGED:
        raise Unmeasured("nothing fell back")
    return NONE


def _service_rules(open_lab: OpenLab, pair: Pair, traced: Trace) -> Value:
    """Looked for while the Service answers: rules that are missing where nobody answers show nothing."""
    lab = open_lab.lab
    if lab.server(pair).kind is not EndpointKind.SERVICE:
        raise Unmeasured(f"{pair.server} is no Service")
    if not traced.replied:
        raise Unmeasured(f"nobody answered for {pair.server}")
    service, node = lab.service(pair.server), lab.client(pair).node or lab.nodes[0].name
    argv = kube_proxy.argv_rules()
    text = require_output(open_lab.target(node).run(argv, timeout_s=_LISTING_S), f"rules of {node} cannot be listed")
    by_list = kube_proxy.parse_lists(text, kube_proxy.marks_of(service, lab.name))
    if failed := [why for rules in by_list.values() for why in rules.failed]:
        raise Unmeasured("; ".join(failed))
    if not by_list:
        raise Unmeasured(f"no program that lists rules is on {node}")
    return tuple(name for name, rules in by_list.items() if rules.lines)


def _gateway_mac(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    client, server = open_lab.target(pair.client), str(open_lab.lab.server(pair).address)

    def ask(argv: tuple[str, ...]) -> str:
        return require_output(client.run(argv, timeout_s=_TIMEOUT_S), f"{shlex.join(argv)} failed in {pair.client}")

    hop = parse_next_hop(ask(argv_next_hop(server)), server)
    client.run(argv_ping(server, _ONCE), timeout_s=ping_timeout_s(_ONCE))
    mac = parse_neighbour(ask(argv_neighbours(_DEVICE)), hop)
    if mac is None:
        raise Unmeasured(f"nobody answered for {hop}")
    owners = [str(one.role) for one in open_lab.devices(pair) if one.mac.lower() == mac]
    return owners[0] if owners else mac


def _largest_ping(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    """By halves, from a small one to what the devices take. That a small one is answered shows that a silent one is too
    large."""
    lab, client = open_lab.lab, open_lab.target(pair.client)
    if lab.server(pair).kind is EndpointKind.SERVICE:
        raise Unmeasured("a Service answers no ping")
    server = str(lab.server(pair).address)

    def passes(payload_byte: int) -> bool:
        done = client.run(argv_largest(server, payload_byte), timeout_s=_TIMEOUT_S)
        return parse_sized_ping(done).fate is Fate.ANSWERED

    if not passes(_SMALLEST_BYTE):
        raise Unmeasured("not even the smallest ping is answered")
    usual, most = lab.network.route_mtu - ICMP_OVER_IPV4_BYTE, lab.network.mtu - ICMP_OVER_IPV4_BYTE
    if passes(usual) and not passes(usual + 1):
        return usual
    low, high = _SMALLEST_BYTE, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def _ping_answer(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    lab, client = open_lab.lab, open_lab.target(pair.client)
    if lab.server(pair).kind is EndpointKind.SERVICE:
        raise Unmeasured("a Service answers no ping")
    done = client.run(argv_largest(str(lab.server(pair).address), _SMALLEST_BYTE), timeout_s=_TIMEOUT_S)
    sent = parse_sized_ping(done)
    if sent.fate is Fate.ANSWERED:
        return "reply"
    return "silence" if sent.fate is Fate.UNANSWERED and not sent.words else "error"


def _sessions_up(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    up, is_spoken = 0, False
    for protocol, parse in ((Routing.BGP, parse_bgp), (Routing.OSPF, parse_ospf)):
        for part in speaks(open_lab.lab, protocol):
            if question.node not in ("", part):
                continue
            is_spoken = True
            argv = ARGV[protocol]
            done = open_lab.target(part).run(argv, timeout_s=_TIMEOUT_S)
            up += sum(one.is_up for one in parse(require_output(done, f"vtysh failed on {part}")))
    if not is_spoken:
        raise Unmeasured("nothing there speaks BGP or OSPF")
    return up


_OF_LAB: Mapping[str, Callable[[Lab, FactQuestion], Value]] = {
    "pod-prefix": lambda lab, question: str(lab.node(question.node or lab.nodes[0].name).pod_cidr),
    "can-decide": lambda lab, question: lab.compare.rounds >= FEWEST_PAIRS,
}
_TOOLS: Mapping[str, Callable[[OpenLab, Pair, FactQuestion], Value]] = {
    "gateway-mac": _gateway_mac,
    "largest-ping": _largest_ping,
    "sessions-up": _sessions_up,
    "next-hops": node_facts.next_hops,
    "links-up": node_facts.links_up,
    "patience": node_facts.patience,
    "ping-answer": _ping_answer,
    "reaches-node": node_facts.reaches_node,
    "arp-seen": node_facts.arp_seen,
    "mac-behind": tunnel_facts.mac_behind,
    "flooded-to": tunnel_facts.flooded_to,
    "evpn-type-2": tunnel_facts.evpn_type_2,
    "evpn-type-3": tunnel_facts.evpn_type_3,
}
