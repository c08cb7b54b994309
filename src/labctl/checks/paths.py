"""The checks `ecmp` and `convergence`: how flows spread over paths of equal length, and how long one is missed.

Both look at the routers that the pair's nodes are attached to. `convergence` changes the lab while it runs, and puts it
back: it takes down a router's link, makes a router deaf and dumb, or has a VTEP withdraw what it announced (EVPN),
while the client pings. Counting and judging are pure.
"""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Judgement, Measured, RawFiles, WithoutFigures, failed, measure, passed
from labctl.checks.routes import entries_of
from labctl.errors import MeasureFailed
from labctl.fabrics import fabric_of
from labctl.fabrics.frr import argv_announce
from labctl.model.lab import Lab, Pair, Placement
from labctl.model.parameters import CheckParameters, ConvergenceParameters, EcmpParameters
from labctl.model.pod_network import Flooding
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.model.tools import require_output, require_success
from labctl.providers.base import OpenLab, Target
from labctl.values import dataclass

_TIMEOUT_S = 30.0
_FIRST_PORT = 20_000
_IMPROBABLE = 0.001
"""How seldom an even spread looks as uneven as this."""
_SEQUENCE = re.compile(r"icmp_seq=(\d+) ttl=")
_SETTLED_S = 60.0
_WITHDRAWN_S = 1.0
_ONE_PATH = "the fabric has one path between these nodes"
_DEAF = (
    "table ip labctl_stopped {\n"
    " chain in { type filter hook input priority -400; policy drop; }\n"
    " chain through { type filter hook forward priority -400; policy drop; }\n"
    " chain out { type filter hook output priority -400; policy drop; }\n"
    "}\n"
)
"""A router that neither forwards nor speaks, its links up: only a protocol's own timer can notice."""
_HEARING = ("nft", "delete", "table", "ip", "labctl_stopped")


def spread_probability(counts: Sequence[int]) -> float:
    """How probable it is that as many flows, each path as likely as another, spread as unevenly as this, by the
    chi-square test. 1 for fewer than two paths. Pure."""
    total, paths = sum(counts), len(counts)
    if paths < 2 or not total:
        return 1.0
    fair = total / paths
    statistic = sum((count - fair) ** 2 / fair for count in counts)
    return _upper_gamma((paths - 1) / 2, statistic / 2)


def _upper_gamma(shape: float, x: float) -> float:
    """The regularised upper incomplete gamma function, for shapes of halves: by recurrence from erfc or exp."""
    if x <= 0:
        return 1.0
    at = 0.5 if shape % 1 else 1.0
    value = math.erfc(math.sqrt(x)) if at == 0.5 else math.exp(-x)
    while at < shape:
        value += math.exp(at * math.log(x) - x - math.lgamma(at + 1))
        at += 1
    return min(1.0, value)


def argv_flows(address: str, first_port: int, flows: int) -> tuple[str, ...]:
    """One datagram for each of so many destination ports, by the shell's own /dev/udp."""
    script = 'port=$2; while [ "$port" -lt "$3" ]; do echo > "/dev/udp/$1/$port"; port=$((port+1)); done'
    return ("bash", "-c", script, "bash", address, str(first_port), str(first_port + flows))


def argv_counters() -> tuple[str, ...]:
    return ("ip", "-j", "-s", "link")


def sent_by_device(text: str) -> dict[str, int]:
    """Packets that each device has sent so far. Raises MeasureFailed for other output."""
    return {
        str(entry.get("ifname")): int(entry.get("stats64", {}).get("tx", {}).get("packets", 0))
        for entry in entries_of(text, "ip -s link")
    }


def judge_spread(router: str, counts: Mapping[str, int], flows: int) -> Judgement:
    """Every path is used, and none more than chance explains. Pure."""
    listed = ", ".join(f"{device} {count}" for device, count in sorted(counts.items()))
    probability = spread_probability(tuple(counts.values()))
    told = f"{flows} flows from {router}: {listed} (p = {probability:.3g} for an even spread)"
    if len(counts) < 2:
        return failed(f"{told}: there is one path")
    if any(not count for count in counts.values()):
        return failed(f"{told}: a path is not used")
    return passed(told) if probability >= _IMPROBABLE else failed(f"{told}: that is no even spread")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happens to `part`: commands with their standard input, and those that put it back."""

    name: str
    part: str
    begin: tuple[str, ...]
    end: tuple[str, ...]
    stdin: bytes = b""


def event_at(name: str, part: str, device: str) -> Event:
    """`device` is the part's, where the packets came by."""
    match name:
        case "link-down":
            link = ("ip", "link", "set", "dev", device)
            return Event(name=name, part=part, begin=(*link, "down"), end=(*link, "up"))
        case "router-stopped":
            return Event(name=name, part=part, begin=("nft", "-f", "-"), stdin=_DEAF.encode(), end=_HEARING)
        case _:
            begin = argv_announce(is_announced=False)
            return Event(name=name, part=part, begin=begin, end=argv_announce(is_announced=True))


def is_joined(lab: Lab, one: str, other: str, *, without: str = "", cut: frozenset[str] = frozenset()) -> bool:
    """Whether wires lead from one router to the other, without that router, and without the wire between those two."""
    known, turn = {one}, [one]
    while turn:
        router = turn.pop()
        for link in lab.links:
            parts = frozenset(end.part for end in link.ends)
            if router not in parts or parts == cut:
                continue
            (far,) = parts - {router}
            if far not in known and far != without and lab.is_router(far):
                known.add(far)
                turn.append(far)
    return other in known


def survivable(lab: Lab, one: str, other: str, used: str) -> tuple[str, ...]:
    """The events at the router `used`, next on the way from one edge to the other, after which there is a way; the
    hardest first."""
    stopped = used != other and is_joined(lab, one, other, without=used)
    cut = is_joined(lab, one, other, cut=frozenset((one, used)))
    return (*(("router-stopped",) if stopped else ()), *(("link-down",) if cut else ()))


class EcmpCheck(WithoutFigures):
    """Flows that differ in their port alone, counted where the client's router sends them on."""

    kind = "ecmp"
    tools = ("bash", "ip")

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return _unfit(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, EcmpParameters):
            raise TypeError(f"ecmp cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            lab, pair = context.open_lab.lab, context.pair
            edge = _edge(lab, pair)
            router = context.open_lab.target(edge.router)
            client, server = context.open_lab.target(pair.client), str(lab.pod(pair.server).address)
            before = _counters(raw, router, "before")
            argv = argv_flows(server, _FIRST_PORT, parameters.flows)
            # A closed port is answered, by which bash may learn that the one before was refused: that is no failure.
            raw.save_completed("flows", client.run(argv, timeout_s=_TIMEOUT_S))
            after = _counters(raw, router, "after")
            counts = {device: after[device] - before[device] for device in edge.uplinks}
            return Measured(judgement=judge_spread(edge.router, counts, parameters.flows), values={})

        return measure(context, self.metrics(parameters), body)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edge:
    """The router that the client's node is attached to. `uplinks` are its devices towards other routers, each with the
    router and device at the other end."""

    router: str
    uplinks: Mapping[str, tuple[str, str]]


def _edge(lab: Lab, pair: Pair) -> _Edge:
    router = fabric_of(lab).routes(lab, pair)[0].part
    uplinks = {
        here.device: (far.part, far.device)
        for link in lab.links
        for here, far in (link.ends, link.ends[::-1])
        if here.part == router and lab.is_router(far.part)
    }
    return _Edge(router=router, uplinks=uplinks)


def _unfit(lab: Lab, pair: Pair) -> str:
    if not lab.is_between_pods(pair) or pair.placement is Placement.SAME_NODE:
        return "both ends are on one node, or one is no pod: no path leads over the fabric"
    routes = fabric_of(lab).routes(lab, pair)
    if not routes or len(routes[0].next_hops) < 2:
        return _ONE_PATH
    return ""


def _counters(raw: RawFiles, target: Target, name: str) -> dict[str, int]:
    done = raw.save_completed(name, target.run(argv_counters(), timeout_s=_TIMEOUT_S))
    return sent_by_device(require_output(done, f"ip failed on {target.name}"))


def argv_paced_ping(address: str, interval_s: float, count: int) -> tuple[str, ...]:
    return ("ping", "-n", "-i", f"{interval_s:g}", "-W", "1", "-c", str(count), address)


def missing_in_a_row(text: str, count: int) -> tuple[int, int]:
    """Of ping's output: how many requests were not answered, and how many of them in the longest gap. Pure."""
    answered = {int(found) for found in _SEQUENCE.findall(text)}
    longest = run = 0
    for number in range(1, count + 1):
        run = 0 if number in answered else run + 1
        longest = max(longest, run)
    return count - len(answered & set(range(1, count + 1))), longest


class ConvergenceCheck:
    """From an event at a spine that carries the pair's packets until they get through again. `sleep` is for tests."""

    kind = "convergence"
    tools = ("ping", "ip", "nft")

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        return (
            Metric(
                name="outage",
                label="outage",
                unit="s",
                better=Better.LOWER,
                family=MetricFamily.LATENCY,
                primary=True,
            ),
            Metric(name="lost", label="packets lost", unit="count", better=Better.LOWER, family=MetricFamily.QUALITY),
        )

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None

    def unfit(self, lab: Lab, pair: Pair) -> str:
        if _is_told_by_bgp(lab) and lab.is_between_pods(pair) and pair.placement is Placement.CROSS_NODE:
            return ""
        routes = () if pair.placement is not Placement.CROSS_NODE else fabric_of(lab).routes(lab, pair)
        if not lab.is_between_pods(pair) or len(routes) < 2:
            return _unfit(lab, pair)
        (one, other), hops = (route.part for route in routes), routes[0].next_hops
        nexts = {
            far.part
            for link in lab.links
            for here, far in (link.ends, link.ends[::-1])
            if here.part == one and far.address is not None and far.address.ip in hops
        }
        return "" if any(survivable(lab, one, other, used) for used in nexts) else _ONE_PATH

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, ConvergenceParameters):
            raise TypeError(f"convergence cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            return self._measure(context, raw, parameters)

        return measure(context, self.metrics(parameters), body)

    def _measure(self, context: CheckContext, raw: RawFiles, parameters: ConvergenceParameters) -> Measured:
        lab, open_lab, pair = context.open_lab.lab, context.open_lab, context.pair
        client, server = open_lab.target(pair.client), str(lab.pod(pair.server).address)
        interval_s = parameters.interval_s
        count = round((parameters.before_s + parameters.after_s) / interval_s)
        edge = None if _is_told_by_bgp(lab) else _edge(lab, pair)
        with client.start(argv_paced_ping(server, interval_s, count)) as pinging:
            event = self._choose(context, raw, parameters, edge)
            with _happening(open_lab, event):
                if edge is None:
                    self._sleep(_WITHDRAWN_S)
                else:
                    done = pinging.wait(timeout_s=parameters.after_s + _TIMEOUT_S)
            if edge is None:
                done = pinging.wait(timeout_s=parameters.after_s + _TIMEOUT_S)
            raw.save_completed("ping", done)
        lost, longest = missing_in_a_row(done.text, count)
        if edge is None:
            self._answered(client, server)
        else:
            self._settle(context, edge)
        if lost == count:
            raise MeasureFailed("no request was answered, not even before the event", done.error_text.strip()[:200])
        outage_s = longest * interval_s
        what = f"{event.name} at {event.part}"
        what += f" for {_WITHDRAWN_S:g} s" if edge is None else ", which carried the packets"
        told = f"{what}: {lost} of {count} packets lost, the longest gap {outage_s:.2f} s"
        is_whole = outage_s <= parameters.max_outage_s
        more = "" if is_whole else f"; allowed are {parameters.max_outage_s:g} s"
        judgement = passed(told) if is_whole else failed(f"{told}{more}")
        return Measured(judgement=judgement, values={"outage": outage_s, "lost": float(lost)})

    def _choose(
        self, context: CheckContext, raw: RawFiles, parameters: ConvergenceParameters, edge: _Edge | None
    ) -> Event:
        """After `before_s` of pings: what happens, and where. Raises MeasureFailed for what the lab cannot survive."""
        lab, pair, asked = context.open_lab.lab, context.pair, parameters.event
        if edge is None:
            self._sleep(parameters.before_s)
            _require(asked, ("vtep-withdrawn",), "the nodes are on one wire, and BGP tells VTEPs of each other")
            return event_at("vtep-withdrawn", lab.pod(pair.server).node, "")
        router = context.open_lab.target(edge.router)
        before = _counters(raw, router, "before")
        self._sleep(parameters.before_s)
        after = _counters(raw, router, "after")
        used = max(edge.uplinks, key=lambda device: after[device] - before[device])
        part, device = edge.uplinks[used]
        can = survivable(lab, edge.router, fabric_of(lab).routes(lab, pair)[1].part, part)
        _require(asked, can, f"the packets go from {edge.router} to {part}")
        return event_at(can[0] if asked == "auto" else asked, part, device)

    def _answered(self, client: Target, server: str) -> None:
        """Until the server answers again. Raises MeasureFailed."""
        end_s = time.monotonic() + _SETTLED_S
        while client.run(argv_paced_ping(server, 0.1, 1), timeout_s=_TIMEOUT_S).returncode:
            if time.monotonic() > end_s:
                raise MeasureFailed(f"{server} does not answer {_SETTLED_S:g} s after the event", "")

    def _settle(self, context: CheckContext, edge: _Edge) -> None:
        """Until the router has all its paths again: the next run begins as this one did. Raises MeasureFailed."""
        route = fabric_of(context.open_lab.lab).routes(context.open_lab.lab, context.pair)[0]
        argv = ("ip", "-j", "-4", "route", "show", "exact", str(route.destination))
        router, end_s = context.open_lab.target(edge.router), time.monotonic() + _SETTLED_S
        while True:
            text = require_output(router.run(argv, timeout_s=_TIMEOUT_S), f"ip failed on {edge.router}")
            hops = [hop for entry in entries_of(text, "ip route") for hop in entry.get("nexthops") or (entry,)]
            found = {str(hop.get("gateway")) for hop in hops}
            if found == {str(hop) for hop in route.next_hops}:
                return
            if time.monotonic() > end_s:
                raise MeasureFailed(
                    f"{edge.router} has not all its paths again {_SETTLED_S:g} s after the event",
                    f"{len(hops)} of {len(route.next_hops)}",
                )
            self._sleep(0.1)


@contextlib.contextmanager
def _happening(open_lab: OpenLab, event: Event) -> Iterator[None]:
    """Lasts as long as the context. Raises MeasureFailed."""
    target = open_lab.target(event.part)

    def do(argv: tuple[str, ...], stdin: bytes = b"") -> None:
        done = target.run(argv, timeout_s=_TIMEOUT_S, stdin=stdin)
        require_success(done, f"{shlex.join(argv)} failed on {event.part}")

    do(event.begin, event.stdin)
    try:
        yield
    finally:
        do(event.end)


def _is_told_by_bgp(lab: Lab) -> bool:
    return lab.pod_network.mode is Flooding.EVPN


def _require(asked: str, can: Sequence[str], because: str) -> None:
    if asked not in ("auto", *can) or not can:
        what = f"after {asked} no way would be left" if asked != "vtep-withdrawn" else "no VTEP is announced here"
        raise MeasureFailed(what, f"{because}; events of this lab: {', '.join(can) or 'none'}")
