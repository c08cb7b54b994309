"""The checks `ecmp` and `convergence`: how flows spread over paths of equal length, and how long one is missed.

Both look at the routers that the pair's nodes are attached to. `convergence` changes the lab while it runs, and puts it
back: it takes down a spine's link, or makes a spine deaf and dumb, while the client pings. Counting and judging are
pure.
"""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Judgement, Measured, RawFiles, WithoutFigures, failed, measure, passed
from labctl.checks.routes import entries_of
from labctl.errors import MeasureFailed
from labctl.fabrics import fabric_of
from labctl.model.lab import Lab, Pair, Placement
from labctl.model.parameters import CheckParameters, ConvergenceParameters, EcmpParameters
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.model.tools import require_output, require_success
from labctl.providers.base import OpenLab, Target

_TIMEOUT_S = 30.0
_FIRST_PORT = 20_000
_IMPROBABLE = 0.001
"""How seldom an even spread looks as uneven as this."""
_SEQUENCE = re.compile(r"icmp_seq=(\d+) ttl=")
_SETTLED_S = 60.0
_DEAF = (
    "table ip labctl_stopped {\n"
    " chain in { type filter hook input priority -400; policy drop; }\n"
    " chain through { type filter hook forward priority -400; policy drop; }\n"
    " chain out { type filter hook output priority -400; policy drop; }\n"
    "}\n"
)
"""A router that neither forwards nor speaks, its links up: only a protocol's own timer can notice."""


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
        return "the fabric has one path between these nodes"
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
        return _unfit(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, ConvergenceParameters):
            raise TypeError(f"convergence cannot run with {type(parameters).__name__}")

        def body(raw: RawFiles) -> Measured:
            return self._measure(context, raw, parameters)

        return measure(context, self.metrics(parameters), body)

    def _measure(self, context: CheckContext, raw: RawFiles, parameters: ConvergenceParameters) -> Measured:
        lab, open_lab = context.open_lab.lab, context.open_lab
        client, server = open_lab.target(context.pair.client), str(lab.pod(context.pair.server).address)
        interval_s = parameters.interval_s
        count = round((parameters.before_s + parameters.after_s) / interval_s)
        edge = _edge(lab, context.pair)
        argv = argv_paced_ping(server, interval_s, count)
        with client.start(argv) as pinging:
            router = open_lab.target(edge.router)
            before = _counters(raw, router, "before")
            self._sleep(parameters.before_s)
            after = _counters(raw, router, "after")
            used = max(edge.uplinks, key=lambda device: after[device] - before[device])
            with _event(open_lab, parameters.event, *edge.uplinks[used]):
                done = raw.save_completed("ping", pinging.wait(timeout_s=parameters.after_s + _TIMEOUT_S))
        text = done.text
        lost, longest = missing_in_a_row(text, count)
        self._settle(context, edge)
        if lost == count:
            raise MeasureFailed("no request was answered, not even before the event", done.error_text.strip()[:200])
        outage_s = longest * interval_s
        what = f"{parameters.event} at {edge.uplinks[used][0]}, which carried the packets"
        told = f"{what}: {lost} of {count} packets lost, the longest gap {outage_s:.2f} s"
        is_whole = outage_s <= parameters.max_outage_s
        more = "" if is_whole else f"; allowed are {parameters.max_outage_s:g} s"
        judgement = passed(told) if is_whole else failed(f"{told}{more}")
        return Measured(judgement=judgement, values={"outage": outage_s, "lost": float(lost)})

    def _settle(self, context: CheckContext, edge: _Edge) -> None:
        """Until the router has all its paths again: the next run begins as this one did. Raises MeasureFailed."""
        route = fabric_of(context.open_lab.lab).routes(context.open_lab.lab, context.pair)[0]
        argv = ("ip", "-j", "-4", "route", "show", "exact", str(route.destination))
        router, end_s = context.open_lab.target(edge.router), time.monotonic() + _SETTLED_S
        while True:
            text = require_output(router.run(argv, timeout_s=_TIMEOUT_S), f"ip failed on {edge.router}")
            hops = [hop for entry in entries_of(text, "ip route") for hop in entry.get("nexthops") or (entry,)]
            if len(hops) >= len(route.next_hops):
                return
            if time.monotonic() > end_s:
                raise MeasureFailed(
                    f"{edge.router} has not all its paths again {_SETTLED_S:g} s after the event",
                    f"{len(hops)} of {len(route.next_hops)}",
                )
            self._sleep(0.1)


@contextlib.contextmanager
def _event(open_lab: OpenLab, event: str, part: str, device: str) -> Iterator[None]:
    """Lasts as long as the context. Raises MeasureFailed."""
    target = open_lab.target(part)

    def do(argv: tuple[str, ...], stdin: bytes = b"") -> None:
        require_success(target.run(argv, timeout_s=_TIMEOUT_S, stdin=stdin), f"{shlex.join(argv)} failed on {part}")

    end: tuple[str, ...] = ("nft", "delete", "table", "ip", "labctl_stopped")
    if event == "link-down":
        do(("ip", "link", "set", "dev", device, "down"))
        end = ("ip", "link", "set", "dev", device, "up")
    else:
        do(("nft", "-f", "-"), _DEAF.encode())
    try:
        yield
    finally:
        do(end)
