"""The masquerade check: with which address a host outside sees a pod, who rewrote it, and whether answers come back.

One marked packet of each protocol goes from the pod to the host while the pod's end, its node's uplink and the host's
end are captured. Who rewrote the address is told by conntrack: where netfilter did, the entry's answers go to the
node's address; where eBPF did, conntrack has the pod's own address both ways, or no entry. Judges are pure.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence

from labctl.checks.base import CheckContext
from labctl.checks.captures import capturing, require_trustworthy
from labctl.checks.netfilter import ConntrackLine, argv_connections, read_connections
from labctl.checks.outcome import Measured, RawFiles, WithoutFigures, finding, judge_findings, measure, unknown
from labctl.errors import MeasureFailed
from labctl.model.evidence import NodeDatapath
from labctl.model.flow import flows_of
from labctl.model.lab import EndpointKind, Lab, Masquerade, Pair
from labctl.model.parameters import MasqueradeParameters
from labctl.model.result import CheckResult, Finding
from labctl.model.signature import Role
from labctl.model.trace import PacketKey, ProbeProtocol, Way
from labctl.networks import network_of
from labctl.path.probe_packets import FIRST_PORT, LAST_PORT, ProbePackets
from labctl.path.sighting import Sighting, sightings
from labctl.providers.base import Target
from labctl.values import dataclass

_TIMEOUT_S = 20.0
_SETTLE_S = 0.1
_TOKEN_BYTE = 16
_TAPS = (Role.CLIENT_ETH0, Role.CLIENT_UPLINK, Role.SERVER_ETH0)
_NUMBERS = {ProbeProtocol.ICMP: "id", ProbeProtocol.TCP: "port", ProbeProtocol.UDP: "port"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MasqueradeLook:
    """One protocol: the packet as it left the pod and as the host outside saw it, whether its answer came back to the
    pod, and conntrack's entries of the pair on the pod's node. A packet that was not seen is None."""

    protocol: ProbeProtocol
    sent: PacketKey | None
    seen: PacketKey | None
    is_answered: bool
    entries: tuple[ConntrackLine, ...]


class MasqueradeCheck(WithoutFigures):
    """The source that the outside sees, by whom, and the way back. `sleep` is for tests."""

    kind = "masquerade"
    tools = ("ping", "bash", "tcpdump", "conntrack")

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    def unfit(self, lab: Lab, pair: Pair) -> str:
        if (lab.client(pair).kind, lab.server(pair).kind) == (EndpointKind.POD, EndpointKind.OUTSIDE):
            return ""
        return "this check is about what a host outside sees of a pod"

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, MasqueradeParameters):
            raise TypeError(f"masquerade cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            looks = tuple(self._look(context, raw, protocol) for protocol in ProbeProtocol)
            findings = tuple(self._findings(context, looks))
            return Measured(judgement=judge_findings(findings), values={}, findings=findings)

        return measure(context, self.metrics(parameters), body)

    def _findings(self, context: CheckContext, looks: Sequence[MasqueradeLook]) -> Iterator[Finding]:
        open_lab, pair = context.open_lab, context.pair
        lab, node = open_lab.lab, open_lab.target(_node_of(open_lab.lab, pair))
        for look in looks:
            yield judge_source(lab, pair, look)
            yield judge_answer(lab, pair, look)
            # A RST that answers a SYN ends the entry at once: of TCP conntrack has nothing to tell here.
            if look.protocol is not ProbeProtocol.TCP:
                yield judge_rewriter(lab, pair, look, node.command(_argv_entries(lab, pair, look.protocol)))
        try:
            state = open_lab.datapath_state()
        except MeasureFailed as failed:
            yield unknown("room", sentence=f"{failed.what}: {failed.cause}", lesson=_ROOM)
            return
        yield from (found for one in state.nodes if one.node == node.name for found in judge_room(lab, one))

    def _look(self, context: CheckContext, raw: RawFiles, protocol: ProbeProtocol) -> MasqueradeLook:
        """Raises MeasureFailed when the captures or the sender cannot be trusted."""
        open_lab, pair = context.open_lab, context.pair
        lab, pod = open_lab.lab, open_lab.target(pair.client)
        marked = ProbePackets(
            protocol=protocol,
            flows=flows_of(lab, pair),
            count=1,
            token=secrets.token_bytes(_TOKEN_BYTE),
            port=FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT),
        )
        taps = [tap for tap in open_lab.taps(pair) if tap.role in _TAPS]
        with capturing(taps, marked.expression()) as live:
            sent = pod.run(marked.argv(), timeout_s=marked.timeout_s)
            self._sleep(_SETTLE_S + marked.late_s(sent))
            captures = live.stop()
        marked.require_sent(raw.save_completed(f"sender-{protocol}", sent))
        for capture in captures:
            raw.save_completed(f"{capture.tap.role}-{protocol}", capture.completed, output="pcap")
        require_trustworthy(captures)
        matcher = marked.matcher()
        seen = [
            one
            for capture in captures
            for one in sightings(capture.records(), matcher, tap=capture.tap.name, role=capture.tap.role)
        ]
        if not any(one.role is Role.CLIENT_ETH0 and one.way is Way.REQUEST for one in seen):
            raise MeasureFailed(
                "the capture sees nothing", f"the marked packet was not even seen at {pair.client}'s eth0"
            )
        node = open_lab.target(_node_of(lab, pair))
        return MasqueradeLook(
            protocol=protocol,
            sent=_key(seen, Role.CLIENT_ETH0),
            seen=_key(seen, Role.SERVER_ETH0),
            is_answered=any(one.role is Role.CLIENT_ETH0 and one.way is Way.REPLY for one in seen),
            entries=self._entries(raw, lab, pair, node, protocol),
        )

    def _entries(
        self, raw: RawFiles, lab: Lab, pair: Pair, node: Target, protocol: ProbeProtocol
    ) -> tuple[ConntrackLine, ...]:
        done = node.run(_argv_entries(lab, pair, protocol), timeout_s=_TIMEOUT_S)
        return read_connections(raw.save_completed(f"conntrack-{protocol}", done), node.name)


def _argv_entries(lab: Lab, pair: Pair, protocol: ProbeProtocol) -> tuple[str, ...]:
    return argv_connections(str(lab.client(pair).address), str(lab.server(pair).address), str(protocol))


def _node_of(lab: Lab, pair: Pair) -> str:
    return lab.pod(pair.client).node


def _key(seen: Sequence[Sighting], role: Role) -> PacketKey | None:
    return next((one.key for one in seen if one.role is role and one.way is Way.REQUEST), None)


def is_kept(lab: Lab, pair: Pair) -> bool:
    """Whether the scenario itself says that packets to this host keep the pods' addresses."""
    kept = lab.datapath.ipv4_native_routing_cidr
    return kept is not None and lab.server(pair).address in kept


_SOURCE = (
    "A pod's address means nothing outside the cluster: whoever answers needs an address that it has a way back to, "
    "and the node's is one."
)
_KEPT = (
    "What ipv4NativeRoutingCIDR contains is reached with the pods' own addresses. Whoever is in it needs a route to "
    "them: without one, answers go to its default gateway, and no node ever sees them."
)


def judge_source(lab: Lab, pair: Pair, look: MasqueradeLook) -> Finding:
    """The address that the host outside sees, and what became of the port or ICMP id."""
    name, pod, node = f"source-{look.protocol}", lab.pod(pair.client), lab.node(_node_of(lab, pair))
    if look.seen is None:
        sentence = f"{look.protocol}: {pair.server} saw nothing of {pair.client}"
        return finding(name, holds=False, sentence=sentence, lesson=_SOURCE)
    whose = "the pod's own address" if look.seen.src == str(pod.address) else f"the address of {node.name}"
    if look.seen.src not in (str(pod.address), str(node.address.ip)):
        whose = "an address that is neither the pod's nor its node's"
    sentence = f"{look.protocol}: {pair.server} saw {pair.client} as {look.seen.src}, {whose}{_number(look)}"
    if look.seen.src == str(pod.address) and is_kept(lab, pair):
        kept = lab.datapath.ipv4_native_routing_cidr
        sentence += f": ipv4NativeRoutingCIDR {kept} contains {lab.server(pair).address}"
        # As it was asked for; whether it works is said of the answer.
        return finding(name, holds=True, sentence=sentence, lesson=_KEPT)
    return finding(name, holds=look.seen.src == str(node.address.ip), sentence=sentence, lesson=_SOURCE)


def _number(look: MasqueradeLook) -> str:
    if look.sent is None or look.seen is None:
        return ""
    what = _NUMBERS[look.protocol]
    if look.sent.first == look.seen.first:
        return f", {what} {look.seen.first} kept"
    return f", {what} {look.sent.first} replaced by {look.seen.first}"


def judge_answer(lab: Lab, pair: Pair, look: MasqueradeLook) -> Finding:
    sentence = f"{look.protocol}: the answer came back to {pair.client}"
    if not look.is_answered:
        sentence = f"{look.protocol}: no answer came back to {pair.client}"
        if look.seen is not None and look.seen.src == str(lab.client(pair).address):
            sentence += f": {pair.server} answers to {look.seen.src}, for which it has no route but its default one"
    return finding(f"answer-{look.protocol}", holds=look.is_answered, sentence=sentence, lesson=_ANSWER)


_ANSWER = "The answer comes to the node, which has to know whose it is: by the port or ICMP id that it gave out."
_BY_NETFILTER = (
    "netfilter's MASQUERADE is a part of connection tracking: the entry in conntrack says where answers come to and "
    "whose they are."
)
_BY_EBPF = (
    "eBPF rewrites at the uplink, after netfilter has seen the packet and before it sees the answer: conntrack knows "
    "the pod's own address alone, or nothing. The mapping is in the programs' own map (cilium bpf nat list)."
)


def judge_rewriter(lab: Lab, pair: Pair, look: MasqueradeLook, command: Sequence[str]) -> Finding:
    """Who rewrote the address, against who was to."""
    name, asked = f"by-{look.protocol}", lab.in_force.masquerade
    lesson = _BY_NETFILTER if asked is Masquerade.IPTABLES else _BY_EBPF
    pod = str(lab.client(pair).address)
    if look.seen is None or look.seen.src == pod:
        said = f"{look.protocol}: nobody rewrote the source"
        return finding(name, holds=is_kept(lab, pair), sentence=said, lesson=lesson, command=command)
    own = [entry for entry in look.entries if look.sent is not None and entry.first == str(look.sent.first)]
    rewritten = [entry for entry in own if entry.answered_at not in ("", pod)]
    by = Masquerade.IPTABLES if rewritten else Masquerade.BPF
    if rewritten:
        shown = f"conntrack expects answers at {rewritten[0].answered_at}"
    elif own:
        shown = f"conntrack expects answers at {pod}, the pod's own address"
    else:
        shown = "conntrack has no entry of it"
    who = "netfilter" if by is Masquerade.IPTABLES else "eBPF"
    sentence = f"{look.protocol}: {who} rewrote the source: {shown}"
    return finding(name, holds=by is asked, sentence=sentence, lesson=lesson, command=command)


_ROOM = (
    "One destination can be reached from each port once: 32,768 connections of a node at the same time. Beyond that "
    "packets are dropped and counted, until connections end and their time is up."
)


def judge_room(lab: Lab, node: NodeDatapath) -> Iterator[Finding]:
    """Whether the node's programs ever had no port or no room left; nothing where they do not say."""
    refused = network_of(lab).masquerade_refusals(node)
    if refused is None:
        return
    said = "; ".join(refused) if refused else "no connection was refused for want of a port"
    yield finding("room", holds=not refused, sentence=f"{node.node}: {said}", lesson=_ROOM)
