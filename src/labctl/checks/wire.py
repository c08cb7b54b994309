"""The checks `arp` and `mtu`: who answers when the client asks for its next hop, and the largest packet that passes.

`addressing` asks the same of Cilium, where every answer is known; these hold what is seen against what the lab's
network says of its taps and its MTU.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from labctl.checks.addressing_findings import (
    ICMP_OVER_IPV4_BYTE,
    argv_forget_neighbour,
    argv_largest,
    argv_neighbours,
    judge_mtu,
    parse_neighbour,
)
from labctl.checks.base import CheckContext
from labctl.checks.outcome import Measured, RawFiles, WithoutFigures, finding, judge_findings, measure
from labctl.checks.ping import argv_ping, ping_timeout_s
from labctl.checks.routes import entries_of
from labctl.errors import MeasureFailed
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import PingParameters
from labctl.model.result import CheckResult, Finding
from labctl.model.signature import Role
from labctl.model.tools import require_output
from labctl.networks import expected_of, network_of

_DEVICE = "eth0"
_TIMEOUT_S = 10.0
_ONCE = PingParameters(count=1, interval_s=0.01)


def argv_next_hop(server: str) -> tuple[str, ...]:
    return ("ip", "-j", "-4", "route", "get", server)


def parse_next_hop(text: str, server: str) -> str:
    """The address that the pod asks for by ARP: its gateway, or the server itself on its own wire. Raises
    MeasureFailed."""
    entries = entries_of(text, "ip route get")
    if not entries:
        raise MeasureFailed("the pod has no route to the server", server)
    return str(entries[0].get("gateway", server))


class ArpCheck(WithoutFigures):
    """Whose MAC the client gets for its next hop, after it has forgotten it."""

    kind = "arp"
    tools = ("ip", "ping")

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return "" if lab.is_between_pods(pair) else "one end is no pod: what answers it is not known"

    def run(self, context: CheckContext) -> CheckResult:
        def body(raw: RawFiles) -> Measured:
            findings = (self._look(context, raw),)
            return Measured(judgement=judge_findings(findings), values={}, findings=findings)

        return measure(context, self.metrics(context.spec.parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles) -> Finding:
        open_lab, pair = context.open_lab, context.pair
        client, server = open_lab.target(pair.client), str(open_lab.lab.pod(pair.server).address)

        def ask(name: str, argv: tuple[str, ...]) -> str:
            done = raw.save_completed(name, client.run(argv, timeout_s=_TIMEOUT_S))
            return require_output(done, f"{shlex.join(argv)} failed in {pair.client}")

        hop = parse_next_hop(ask("next-hop", argv_next_hop(server)), server)
        raw.save_completed("forget", client.run(argv_forget_neighbour(hop, _DEVICE), timeout_s=_TIMEOUT_S))
        raw.save_completed("ping", client.run(argv_ping(server, _ONCE), timeout_s=ping_timeout_s(_ONCE)))
        mac = parse_neighbour(ask("neighbour", argv_neighbours(_DEVICE)), hop)
        wanted = _answering_role(open_lab.lab, pair)
        owners = [str(one.role) for one in open_lab.devices(pair) if one.mac.lower() == (mac or "").lower()]
        return finding(
            "next-hop",
            holds=wanted in owners,
            sentence=_who(hop, mac, owners, wanted),
            lesson="Who answers decides which device of the node gets every frame of the pod.",
            command=client.command(argv_neighbours(_DEVICE)),
        )


def _answering_role(lab: Lab, pair: Pair) -> str:
    """The device that the client's frames are addressed to, by the network's own account."""
    expected = expected_of(lab, pair, packets=1)
    taps = expected.signature.taps if expected is not None else ()
    sent = next((sight.request for sight in taps if sight.role is Role.CLIENT_ETH0), None)
    return "" if sent is None else sent.dst_mac


def _who(hop: str, mac: str | None, owners: list[str], wanted: str) -> str:
    if mac is None:
        return f"nobody answered for {hop}; expected was {wanted}"
    whose = f"which is {owners[0]}'s" if owners else "which no device of the way has"
    more = "" if wanted in owners else f"; expected was {wanted}"
    return f"{hop} is at {mac}, {whose}{more}"


class MtuCheck(WithoutFigures):
    """The largest ping that passes without fragments, against what the network allows."""

    kind = "mtu"
    tools = ("ping",)

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return "" if lab.is_between_pods(pair) else "one end is no pod: its MTU is its own"

    def run(self, context: CheckContext) -> CheckResult:
        def body(raw: RawFiles) -> Measured:
            findings = tuple(self._look(context, raw))
            return Measured(judgement=judge_findings(findings), values={}, findings=findings)

        return measure(context, self.metrics(context.spec.parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles) -> Iterator[Finding]:
        lab, client = context.open_lab.lab, context.open_lab.target(context.pair.client)
        server, mtu_byte = str(lab.pod(context.pair.server).address), network_of(lab).mtu(lab)
        sizes = (mtu_byte - ICMP_OVER_IPV4_BYTE, mtu_byte - ICMP_OVER_IPV4_BYTE + 1)
        tries = tuple(argv_largest(server, size) for size in sizes)
        largest, next_byte = (
            raw.save_completed(f"ping-{size}", client.run(argv, timeout_s=_TIMEOUT_S))
            for size, argv in zip(sizes, tries, strict=True)
        )
        commands = (client.command(tries[0]), client.command(tries[1]))
        yield from judge_mtu(lab, mtu_byte, largest, next_byte, commands)
