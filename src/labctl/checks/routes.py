"""The checks `routes` and `fdb`: where the nodes and routers of a pair send to, as `ip` and `bridge` show it.

What they must have is the network's and the fabric's to say (`model.ways`); judging is pure. It sees only the seam.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Measured, RawFiles, WithoutFigures, finding, judge_findings, measure
from labctl.checks.ping import argv_ping, ping_timeout_s
from labctl.errors import MeasureFailed
from labctl.fabrics import fabric_of
from labctl.json_text import parse_json
from labctl.model.lab import Lab, Pair, Placement
from labctl.model.parameters import PingParameters
from labctl.model.result import CheckResult, Finding
from labctl.model.tools import require_output
from labctl.model.ways import ExpectedRoute, ExpectedTunnel, Told
from labctl.networks import network_of

_TIMEOUT_S = 10.0
_FEW = PingParameters(count=2, interval_s=0.01)
"""What is sent before an entry is looked for that is learned from traffic."""


def argv_route(route: ExpectedRoute) -> tuple[str, ...]:
    return ("ip", "-j", "-4", "route", "show", "exact", str(route.destination))


def argv_tunnels(device: str) -> tuple[str, ...]:
    return ("bridge", "-j", "fdb", "show", "dev", device)


def entries_of(text: str, program: str) -> list[dict[str, Any]]:
    """Raises MeasureFailed when it is no list of objects, as both programs print with `-j`."""
    try:
        entries = parse_json(text or "[]")
    except ValueError as failed:
        raise MeasureFailed(f"the output of {program} cannot be read", text.strip()[:200]) from failed
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MeasureFailed(f"the output of {program} cannot be read", "it is no list of objects")
    return entries


def judge_route(route: ExpectedRoute, entries: Sequence[Mapping[str, Any]], command: Sequence[str]) -> Finding:
    """Every next hop that is expected, and no other one. Pure."""
    hops = [hop for entry in entries for hop in (entry.get("nexthops") or (entry,))]
    found = {address for hop in hops if (address := _address(hop.get("gateway"))) is not None}
    devices = sorted({str(hop["dev"]) for hop in hops if "dev" in hop})
    by = sorted({str(entry.get("protocol", "boot")) for entry in entries})
    on_device = not route.device or devices == [route.device]
    wanted = ", ".join(map(str, sorted(route.next_hops)))
    if not entries:
        sentence = f"{route.part} has no route to {route.destination}; expected is one by {wanted}"
    else:
        hop_words = ", ".join(map(str, sorted(found))) or "no gateway"
        sentence = f"{route.part} reaches {route.destination} by {hop_words} on {', '.join(devices)} ({', '.join(by)})"
        if found != route.next_hops or not on_device:
            sentence += f"; expected is {wanted}{f' on {route.device}' if route.device else ''}"
    width = len(route.next_hops)
    lesson = (
        f"{width} next hops of equal length are used together, each for some of the flows."
        if width > 1
        else "Packets to all pods of that node have this next hop."
    )
    return finding(
        f"route {route.part} {route.destination}",
        holds=bool(entries) and found == route.next_hops and on_device,
        sentence=sentence,
        lesson=lesson,
        command=command,
    )


def _address(value: object) -> IPv4Address | None:
    try:
        return IPv4Address(str(value))
    except AddressValueError:
        return None


_TOLD_WORDS = {
    Told.SET: "set when the network was built",
    Told.LEARNED: "learned from what came from there",
    Told.BGP: "told by FRR (EVPN)",
}
_LESSONS = {
    Told.SET: "Nothing is learned and nothing flooded: every node was told where the others' MACs are.",
    Told.LEARNED: "The device looked at where frames came from; an entry goes when nothing comes for five minutes.",
    Told.BGP: "A type-2 route of BGP says behind which VTEP a MAC is, before anything was sent.",
}


def judge_tunnel(tunnel: ExpectedTunnel, entries: Sequence[Mapping[str, Any]], command: Sequence[str]) -> Finding:
    """An entry of some MAC with that VTEP, told as expected. Pure."""
    there = [entry for entry in entries if entry.get("dst") == str(tunnel.node) and not _is_flood(entry)]
    told = {_told(entry) for entry in there}
    if not there:
        sentence = f"{tunnel.part}'s {tunnel.device} knows no MAC behind {tunnel.node}"
    else:
        macs = ", ".join(sorted({str(entry.get("mac")) for entry in there}))
        how = ", ".join(sorted(_TOLD_WORDS[one] for one in told))
        sentence = f"{tunnel.part}'s {tunnel.device} sends frames for {macs} to {tunnel.node}, {how}"
    if there and tunnel.told not in told:
        sentence += f"; expected is: {_TOLD_WORDS[tunnel.told]}"
    return finding(
        f"fdb {tunnel.part} {tunnel.node}",
        holds=tunnel.told in told,
        sentence=sentence,
        lesson=_LESSONS[tunnel.told],
        command=command,
    )


def _is_flood(entry: Mapping[str, Any]) -> bool:
    return entry.get("mac") == "00:00:00:00:00:00"


def _told(entry: Mapping[str, Any]) -> Told:
    flags = entry.get("flags") or ()
    if "extern_learn" in flags:
        return Told.BGP
    return Told.SET if entry.get("state") == "permanent" else Told.LEARNED


class RoutesCheck(WithoutFigures):
    """The routes of the pair's nodes and of the routers that they are attached to."""

    kind = "routes"
    tools = ("ip",)

    def unfit(self, lab: Lab, pair: Pair) -> str:
        if not lab.is_between_pods(pair) or pair.placement is Placement.SAME_NODE:
            return "both ends are on one node, or one is no pod: no node routes between them"
        return "" if _routes(lab, pair) else "the pods are on one wire: nothing routes between them"

    def run(self, context: CheckContext) -> CheckResult:
        def body(raw: RawFiles) -> Measured:
            findings = tuple(self._look(context, raw))
            return Measured(judgement=judge_findings(findings), values={}, findings=findings)

        return measure(context, self.metrics(context.spec.parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles) -> Iterator[Finding]:
        for number, route in enumerate(_routes(context.open_lab.lab, context.pair)):
            target, argv = context.open_lab.target(route.part), argv_route(route)
            done = raw.save_completed(f"route-{number}", target.run(argv, timeout_s=_TIMEOUT_S))
            text = require_output(done, f"{shlex.join(argv)} failed on {route.part}")
            yield judge_route(route, entries_of(text, "ip route"), target.command(argv))


def _routes(lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
    return (*network_of(lab).routes(lab, pair), *fabric_of(lab).routes(lab, pair))


class FdbCheck(WithoutFigures):
    """What the vxlan devices of the pair's nodes know of each other."""

    kind = "fdb"
    tools = ("bridge", "ping")

    def unfit(self, lab: Lab, pair: Pair) -> str:
        if not lab.is_between_pods(pair) or pair.placement is Placement.SAME_NODE:
            return "both ends are on one node, or one is no pod: no tunnel is between them"
        return "" if network_of(lab).tunnels(lab, pair) else "no vxlan device of this network has a forwarding database"

    def run(self, context: CheckContext) -> CheckResult:
        def body(raw: RawFiles) -> Measured:
            findings = tuple(self._look(context, raw))
            return Measured(judgement=judge_findings(findings), values={}, findings=findings)

        return measure(context, self.metrics(context.spec.parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles) -> Iterator[Finding]:
        open_lab, pair = context.open_lab, context.pair
        server = str(open_lab.lab.pod(pair.server).address)
        client = open_lab.target(pair.client)
        raw.save_completed("traffic", client.run(argv_ping(server, _FEW), timeout_s=ping_timeout_s(_FEW)))
        for number, tunnel in enumerate(network_of(open_lab.lab).tunnels(open_lab.lab, pair)):
            target, argv = open_lab.target(tunnel.part), argv_tunnels(tunnel.device)
            done = raw.save_completed(f"fdb-{number}", target.run(argv, timeout_s=_TIMEOUT_S))
            text = require_output(done, f"{shlex.join(argv)} failed on {tunnel.part}")
            yield judge_tunnel(tunnel, entries_of(text, "bridge fdb"), target.command(argv))
