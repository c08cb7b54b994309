"""The check `impairment`: what was asked of the links that a pair's packets go by, beside what was measured.

Shares are counted where they are made, at the end that receives, while known requests go through, and what the client
misses is held against them; a rate is read from the sending device's counters while iperf3 fills the link; a delay is
the echoes' round trip. Intervals are of 95 %. It fails where what was asked is outside the interval of 99.9 %. Links
that no packet of the pair went by are left out. Judging is pure.
"""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from labctl.checks.base import CheckContext
from labctl.checks.iperf import argv_iperf_client, argv_iperf_server
from labctl.checks.outcome import Judgement, Measured, RawFiles, WithoutFigures, finding, judge_findings, measure
from labctl.checks.ping import argv_ping, ping_timeout_s
from labctl.model.impairment import ImpairCounts, ImpairedWay
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import ImpairmentParameters, IperfParameters, PingParameters
from labctl.model.result import CheckResult, Finding, Verdict
from labctl.path.sent import PingReport, parse_ping
from labctl.providers.base import Completed, Target
from labctl.units import BITS_PER_BYTE, PERCENT, readable

_95, _999 = 1.959964, 3.290527
"""Quantiles of the normal distribution, for intervals of 95 % and 99.9 %."""
_SAMPLE_S = 0.1
_RAMP = 4
"""Samples of a rate that are of TCP's start, and not counted."""
_LISTEN_S = 15.0
_SLOWER, _LAST_REPLY_S = 1.5, 3.0
"""How much longer than it should ping may take to send, and how long the last reply is waited for."""
_SLACK_S = 20.0
_LEAST_SPREAD = 0.8
"""Of the standard deviation that was asked, what a few hundred round trips have at least."""


class Interval(NamedTuple):
    """`low` and `high` hold what is estimated."""

    estimate: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def share_interval(count: int, total: int, quantile: float = _95) -> Interval:
    """Of a share of which `count` of `total` were seen (Wilson 1927). `total` is not 0."""
    share, spread = count / total, quantile**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = quantile / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    # Rounding must not put the share itself outside.
    return Interval(share, min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share))


def mean_interval(samples: Sequence[float], quantile: float = _95) -> Interval:
    """Of the mean of at least two samples."""
    mean = statistics.fmean(samples)
    half = quantile * statistics.stdev(samples) / math.sqrt(len(samples))
    return Interval(mean, mean - half, mean + half)


_SHARES = (("loss", "lost"), ("duplicate", "duplicated"), ("corrupt", "corrupted"), ("reorder", "reordered"))
_SHARE_WORDS = {
    "loss": "loss",
    "duplicate": "duplicates",
    "corrupt": "corrupted packets",
    "reorder": "reordered packets",
}


def judge_shares(way: ImpairedWay, done: ImpairCounts) -> Iterator[Finding]:
    """Each share that was asked of one direction; `done` is what happened meanwhile. A packet that was lost is not
    corrupted or reordered besides. Pure."""
    for asked_name, done_name in _SHARES:
        asked = getattr(way.asked, asked_name)
        is_after_loss = asked_name in ("corrupt", "reorder")
        total = done.seen - done.lost if is_after_loss else done.seen
        if not asked or not total:
            continue
        count = getattr(done, done_name)
        found, wide = share_interval(count, total), share_interval(count, total, _999)
        what = _SHARE_WORDS[asked_name]
        yield finding(
            f"{asked_name} {way.sender}→{way.receiver}",
            holds=wide.holds(asked),
            sentence=f"link {way.link}, {way.sender} → {way.receiver}: asked {_percent(asked)} {what}, found "
            f"{_percent(found.estimate)} [{_number(found.low)}, {_number(found.high)}] of {total} packets",
            lesson="The more packets, the narrower the interval: four times as many halve it.",
        )


def judge_missed(report: PingReport, done: Sequence[ImpairCounts]) -> Finding:
    """What the client misses, against what the links lost: other packets pass there too, and of a request that came
    twice one copy may be lost. A spoilt request is dropped by the server's kernel; a spoilt reply is taken by ping
    where its headers are whole. Pure."""
    lost, spoilt = sum(one.lost for one in done), sum(one.corrupted for one in done)
    missed = report.transmitted - report.received
    slack = 5 + lost // 5 + sum(one.duplicated for one in done)
    return finding(
        "end-to-end",
        holds=lost - slack <= missed <= lost + spoilt + slack,
        sentence=f"of {report.transmitted} echoes the client misses {missed}; the links lost {lost} packets and spoilt "
        f"{spoilt}",
        lesson="A packet that is lost on either way is a reply that does not come; a spoilt one may be taken for one.",
    )


def judge_delay(ways: Sequence[ImpairedWay], report: PingReport, margin_s: float) -> Finding:
    """The round trip against the sum of the delays on both ways. Pure."""
    asked_s, jitter_s = (sum(getattr(way.asked, name) for way in ways) for name in ("delay_s", "jitter_s"))
    rtts_s = report.rtts_s
    found = mean_interval(rtts_s) if len(rtts_s) > 1 else Interval(0, 0, 0)
    return finding(
        "delay",
        holds=asked_s - jitter_s <= found.estimate <= asked_s + jitter_s + margin_s,
        sentence=f"asked {readable(asked_s, 's')} of delay there and back, found a round trip of "
        f"{readable(found.estimate, 's')} [{readable(found.low, 's')}, {readable(found.high, 's')}]",
        lesson="The round trip has the delays of both ways, and what the way takes by itself.",
    )


def judge_jitter(ways: Sequence[ImpairedWay], report: PingReport, margin_s: float) -> Finding:
    """How much the round trips vary, against the delays that are drawn evenly from what was asked: each has a standard
    deviation of the jitter by the root of 3. What the way itself varies comes on top. Pure."""
    asked_s = math.sqrt(sum(way.asked.jitter_s**2 for way in ways) / 3)
    found_s = statistics.stdev(report.rtts_s) if len(report.rtts_s) > 1 else 0.0
    return finding(
        "jitter",
        holds=asked_s * _LEAST_SPREAD <= found_s <= asked_s + margin_s,
        sentence=f"asked a jitter that is a standard deviation of {readable(asked_s, 's')} there and back, found "
        f"{readable(found_s, 's')}",
        lesson="Delays between the least and the most are as likely as each other; both ways' add up as squares.",
    )


def judge_rate(way: ImpairedWay, rates_bit_per_s: Sequence[float], margin: float) -> Finding:
    """The rate at which the device sent while there was always more to send. It is never more than asked; what is less,
    by a sender that a busy machine or loss kept waiting, must still be compatible with it. Pure."""
    asked, found = way.asked.rate_bit_per_s, mean_interval(rates_bit_per_s)
    off, wide = found.estimate / asked - 1, mean_interval(rates_bit_per_s, _999)
    return finding(
        f"rate {way.sender}→{way.receiver}",
        holds=abs(off) <= margin or (off < 0 and wide.holds(asked)),
        sentence=f"link {way.link}, {way.sender} → {way.receiver}: asked {readable(asked, 'bit/s')}, found "
        f"{readable(found.estimate, 'bit/s')} [{readable(found.low, 'bit/s')}, {readable(found.high, 'bit/s')}]",
        lesson="Frames are counted, headers too: what a program receives is 3 to 6 % less.",
    )


def _percent(share: float) -> str:
    return f"{_number(share)} %"


def _number(share: float) -> str:
    return f"{share / PERCENT:.3g}"


class ImpairmentCheck(WithoutFigures):
    """What was set on the links of the pair's way."""

    kind = "impairment"
    tools = ("ping", "iperf3")

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return "" if lab.is_between_pods(pair) else "what is measured is the way between two pods"

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        assert isinstance(parameters, ImpairmentParameters)

        def body(raw: RawFiles) -> Measured:
            if not context.open_lab.impaired_ways():
                nothing = "nothing is set on any link of the lab"
                return Measured(judgement=Judgement(verdict=Verdict.SKIP, reason=nothing), values={})
            findings = tuple(self._look(context, raw, parameters))
            if not findings:
                past = "the packets of this pair go by none of the links that are impaired"
                return Measured(judgement=Judgement(verdict=Verdict.SKIP, reason=past), values={})
            return Measured(judgement=judge_findings(findings), values={}, findings=findings)

        return measure(context, self.metrics(parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles, parameters: ImpairmentParameters) -> Iterator[Finding]:
        open_lab, lab = context.open_lab, context.open_lab.lab
        address = str(lab.pod(context.pair.server).address)
        pings = PingParameters(count=parameters.count, interval_s=parameters.interval_s)
        before = open_lab.impaired_ways()
        late_s = sum(way.asked.delay_s + way.asked.jitter_s for way in before)
        client = open_lab.target(context.pair.client)
        done = _pinged(client, argv_ping(address, pings), ping_timeout_s(pings) + late_s, pings, late_s=late_s)
        report = parse_ping(raw.save_completed("ping", done).text)
        after = open_lab.impaired_ways()
        passed = [
            (way, _grown(was.counts, way.counts))
            for was, way in zip(before, after, strict=True)
            if way.sent_packets - was.sent_packets >= max(report.transmitted // 4, 1)
        ]
        for way, grown in passed:
            yield from judge_shares(way, grown)
        counted = [grown for way, grown in passed if way.asked.by_program]
        if counted:
            yield judge_missed(report, counted)
        if delayed := [way for way, _ in passed if way.asked.delay_s]:
            yield judge_delay(delayed, report, parameters.delay_margin_s)
            if any(way.asked.jitter_s for way in delayed):
                yield judge_jitter(delayed, report, parameters.delay_margin_s)
        if any(way.asked.rate_bit_per_s for way, _ in passed):
            yield from self._rates(context, raw, parameters, address)

    def _rates(
        self, context: CheckContext, raw: RawFiles, parameters: ImpairmentParameters, address: str
    ) -> Iterator[Finding]:
        """Each way in turn, with iperf3 sending there."""
        open_lab = context.open_lab
        iperf = argv_iperf_client(address, IperfParameters(duration_s=parameters.duration_s))
        for name, argv in (("there", iperf), ("back", (*iperf, "-R"))):
            with open_lab.target(context.pair.server).start(argv_iperf_server()) as server:
                server.wait_for_output("Server listening", timeout_s=_LISTEN_S)
                with open_lab.target(context.pair.client).start(argv) as client:
                    samples = [(time.monotonic(), open_lab.impaired_ways())]
                    while client.is_alive() and samples[-1][0] - samples[0][0] < parameters.duration_s:
                        time.sleep(_SAMPLE_S)
                        samples.append((time.monotonic(), open_lab.impaired_ways()))
                    raw.save_completed(f"iperf-{name}", client.wait(timeout_s=_SLACK_S))
            yield from _rates_of(samples, parameters.rate_margin)


def _pinged(
    client: Target, argv: Sequence[str], timeout_s: float, pings: PingParameters, *, late_s: float
) -> Completed:
    """ping, asked for its summary once it must have sent everything: a reply whose time stamp was spoilt on the way has
    it wait for as long as that seems to have been under way."""
    with client.start(argv) as running:
        end_s = time.monotonic() + pings.count * pings.interval_s * _SLOWER + _LAST_REPLY_S + late_s
        while running.is_alive() and time.monotonic() < end_s:
            time.sleep(_SAMPLE_S)
        return running.stop(sig=signal.SIGINT, timeout_s=timeout_s)


def _rates_of(samples: Sequence[tuple[float, tuple[ImpairedWay, ...]]], margin: float) -> Iterator[Finding]:
    """Of the ways that were filled: a way back carries acknowledgements alone."""
    for number, way in enumerate(samples[-1][1]):
        sent = [(at_s, ways[number].sent_bytes) for at_s, ways in samples]
        rates = [
            (sent[i + 1][1] - sent[i][1]) * BITS_PER_BYTE / (sent[i + 1][0] - sent[i][0])
            for i in range(_RAMP, len(sent) - 1)
        ]
        if way.asked.rate_bit_per_s and len(rates) > 1 and statistics.fmean(rates) > way.asked.rate_bit_per_s / 2:
            yield judge_rate(way, rates, margin)


def _grown(before: ImpairCounts, after: ImpairCounts) -> ImpairCounts:
    return ImpairCounts(
        seen=after.seen - before.seen,
        lost=after.lost - before.lost,
        duplicated=after.duplicated - before.duplicated,
        corrupted=after.corrupted - before.corrupted,
        reordered=after.reordered - before.reordered,
    )
