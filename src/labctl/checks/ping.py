"""The ping check: ICMP echo from client to server with iputils' ping, round-trip times from every reply, and loss.

Output that cannot be read, or a tool that failed, is `error`. Loss is only what ping itself counted. A run may be cut
into slices, each a process of its own; what all of them saw makes one set of samples.

Two things that every timed check needs stand here as well. Percentiles of samples have one definition throughout,
linear interpolation between the closest ranks: definition 7 of Hyndman and Fan (1996), the default of NumPy and R. For
values that a tool rounded coarsely there is the percentile of grouped data, as in textbooks and in
`statistics.median_grouped`. Durations are whole seconds, as iperf3 and sockperf take them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from labctl.checks.base import CheckContext, to_the_end
from labctl.checks.outcome import Judgement, Measured, RawFiles, failed, measure_in_slices, passed
from labctl.checks.server import address_of, unfit_as_server
from labctl.errors import MeasureFailed
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import CheckParameters, PingParameters
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.path.sent import PingReport as PingReport
from labctl.path.sent import clock_step, has_no_way, read_ping
from labctl.path.sent import parse_ping as parse_ping
from labctl.providers.base import Completed

_WAIT_S = 1
_SLACK_S = 10.0
_UNANSWERED_S = 0.01
"""Without replies, back to back means a hundred requests a second."""
_TRIMMED = 8
_DEAR_START_S = 0.1
_DEAR_SLICES = 4
"""Where starting a process takes that long (kubectl exec), a run has no more slices than these."""


def argv_ping(destination: str, parameters: PingParameters, *, pattern: bytes = b"") -> tuple[str, ...]:
    """iputils' ping with a time stamp on every line. `pattern` (up to 16 bytes) fills the payload, to be known by."""
    fill = ("-p", pattern.hex()) if pattern else ()
    pace = ("-i", f"{parameters.interval_s:g}") if parameters.interval_s else ("-A", "-i", "0")
    count, size = str(parameters.count), str(parameters.size_byte)
    return ("ping", "-n", "-D", "-c", count, *pace, "-s", size, "-W", str(_WAIT_S), *fill, destination)


def ping_timeout_s(parameters: PingParameters) -> float:
    """When a ping with these parameters has surely ended."""
    return parameters.count * (parameters.interval_s or _UNANSWERED_S) + _WAIT_S + _SLACK_S


def slice_counts(count: int, slices: int) -> tuple[int, ...]:
    """How many requests each slice sends: as equal as can be, none empty."""
    slices = min(slices, count)
    return tuple(count // slices + (number < count % slices) for number in range(slices))


def judge_ping(report: PingReport, parameters: PingParameters) -> Judgement:
    """Fails on more loss than `max_loss`, and on payload that came back altered. Raises MeasureFailed when fewer
    requests than asked for were sent."""
    if report.transmitted < parameters.count:
        raise MeasureFailed(
            "ping ended early", f"it sent {report.transmitted} of {parameters.count} requests, so loss is not known"
        )
    answered = f"{report.received} of {report.transmitted} requests were answered"
    also = "".join(f"; {words}" for words in _besides(report))
    if report.loss > parameters.max_loss:
        why = f"; {report.troubles[0]}" if report.troubles else ""
        return failed(f"{answered}: {report.loss:.1%} loss, allowed is {parameters.max_loss:.1%}{why}{also}")
    if report.altered:
        return failed(f"{answered}, and not with what was sent: {report.altered[0]}{also}")
    if not report.received:
        return passed(f"{answered}, which the scenario allows{also}")
    ttls = ", ".join(str(ttl) for ttl in report.ttls)
    median_us = rtt_percentile_s(report.rtts_s, 50) * 1e6
    return passed(f"{answered}, median round trip {median_us:.0f} µs, ttl {ttls}{also}")


def _besides(report: PingReport) -> Iterator[str]:
    """What else ping reported; it changes no verdict."""
    if report.duplicates:
        plural = "" if report.duplicates == 1 else "s"
        yield f"{report.duplicates} duplicate{plural}: a request was answered more than once"
    if report.corrupted:
        yield f"{report.corrupted} replies had a bad checksum"
    if report.warnings:
        more = f" (and {len(report.warnings) - 1} more)" if report.warnings[1:] else ""
        yield f"ping warned: {report.warnings[0][:200]}{more}"


def rtt_percentile_s(rtts_s: Sequence[float], percent: float) -> float:
    """A percentile of ping's round-trip times, ascending, not empty. ping prints three digits, and at most whole µs,
    which near 10 µs is a tenth of the figure: the percentile is that of grouped data."""
    middle = rtts_s[len(rtts_s) // 2]
    width = next((width for limit, width in ((0.001, 1e-6), (0.01, 1e-5), (0.1, 1e-4)) if middle < limit), 1e-3)
    return grouped_percentile(rtts_s, percent, width)


def ping_values(slices: Sequence[PingReport]) -> dict[str, float]:
    """The metrics of a run. Without a reply there is loss and no round-trip time.

    The median is that of each slice, averaged over the slices without the eighth of them at either end. A machine
    whose CPUs change their pace every few milliseconds gives round trips with two humps: the median of all of them
    jumps from one to the other, the average moves as the share of each does.
    """
    whole = joined(slices)
    values = {"loss": whole.loss}
    if rtts_s := whole.rtts_s:
        medians_s = sorted(rtt_percentile_s(report.rtts_s, 50) for report in slices if report.rtts_s)
        cut = len(medians_s) // _TRIMMED
        values |= {
            "rtt_p50": fmean(medians_s[cut : len(medians_s) - cut]),
            "rtt_min": rtts_s[0],
            "rtt_p90": rtt_percentile_s(rtts_s, 90),
            "rtt_p99": rtt_percentile_s(rtts_s, 99),
            "rtt_max": rtts_s[-1],
        }
    return values


def joined(reports: Sequence[PingReport]) -> PingReport:
    """The slices of a run as one report; sequence numbers start again in each."""
    return PingReport(
        replies=tuple(reply for report in reports for reply in report.replies),
        transmitted=sum(report.transmitted for report in reports),
        received=sum(report.received for report in reports),
        troubles=tuple(trouble for report in reports for trouble in report.troubles),
        duplicates=sum(report.duplicates for report in reports),
        corrupted=sum(report.corrupted for report in reports),
        altered=tuple(line for report in reports for line in report.altered),
        warnings=tuple(dict.fromkeys(warning for report in reports for warning in report.warnings)),
    )


def measured_ping(slices: Sequence[Completed], parameters: PingParameters) -> Measured:
    """From the end of every slice's ping to the values. Raises MeasureFailed when ping failed, not the network, and
    when the clock that it measures by was set meanwhile."""
    if no_way := next(filter(None, map(has_no_way, slices)), ""):
        return Measured(judgement=failed(f"the client has no route to the server: {no_way}"), values={})
    for completed in slices:
        if step := clock_step(completed):
            raise MeasureFailed(
                "the clock was set while ping ran, so its times are not valid",
                step,
                "timedatectl timesync-status; chronyc tracking  # measure again when nothing steps the clock",
            )
    reports = [read_ping(completed) for completed in slices]
    return Measured(judgement=judge_ping(joined(reports), parameters), values=ping_values(reports))


def _is_dear(completed: Completed, part: PingParameters) -> bool:
    """Whether it took long until ping was there at all."""
    pinging_s = max(part.count * part.interval_s, sum(read_ping(completed).rtts_s))
    return completed.duration_s - pinging_s > _DEAR_START_S


class PingCheck:
    """Loss and round-trip time between two pods."""

    kind = "ping"
    tools = ("ping",)

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        is_closed = isinstance(parameters, PingParameters) and not parameters.interval_s
        what = "ping round trip (closed loop)" if is_closed else "ping round trip"

        def latency(name: str, figure: str, *, primary: bool = False) -> Metric:
            return Metric(
                name=name,
                label=f"{what}, {figure}",
                unit="s",
                better=Better.LOWER,
                family=MetricFamily.LATENCY,
                primary=primary,
            )

        return (
            latency("rtt_p50", "median", primary=True),
            latency("rtt_min", "least"),
            latency("rtt_p90", "90th percentile"),
            latency("rtt_p99", "99th percentile"),
            latency("rtt_max", "most"),
            Metric(name="loss", label="ping loss", unit="1", better=Better.LOWER, family=MetricFamily.QUALITY),
        )

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_as_server(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        return to_the_end(self.run_in_slices(context))

    def run_in_slices(self, context: CheckContext) -> Generator[None, None, CheckResult]:
        parameters = context.spec.parameters
        if not isinstance(parameters, PingParameters):
            raise TypeError(f"ping cannot run with {type(parameters).__name__}")
        client = context.open_lab.target(context.pair.client)
        destination = str(address_of(context.open_lab.lab, context.pair.server))

        def body(raw: RawFiles) -> Generator[None, None, Measured]:
            done: list[Completed] = []
            left = list(slice_counts(parameters.count, parameters.slices))
            while left:
                part = replace(parameters, count=left.pop(0), slices=1)
                argv, timeout_s = argv_ping(destination, part), ping_timeout_s(part)
                completed = client.run(argv, timeout_s=timeout_s, cpu=context.client_cpu)
                done.append(raw.save_completed(slice_name(len(done)), completed))
                if has_no_way(completed):
                    break
                if len(done) == 1 and left and _is_dear(completed, part):
                    left = list(slice_counts(sum(left), _DEAR_SLICES - 1))
                if left:
                    yield
            return measured_ping(done, parameters)

        return measure_in_slices(context, self.metrics(parameters), body)


def slice_name(number: int) -> str:
    """The name under which the raw output of a slice is kept; they count from 0."""
    return f"ping-{number + 1}" if number else "ping"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the samples lie. `ordered` is ascending and not empty."""
    if not ordered:
        raise ValueError("no samples")
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def grouped_percentile(ordered: Sequence[float], percent: float, width: float) -> float:
    """The same for values rounded to multiples of `width`: each stands for an interval of that width around it.

    The samples of one interval are taken as spread evenly over it, so that the result moves by less than the rounding.
    `ordered` is ascending and not empty. The result stays between the least and the largest sample.
    """
    if not ordered:
        raise ValueError("no samples")
    if width <= 0:
        raise ValueError("a width above zero is needed")
    value = ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]
    below, upto = bisect_left(ordered, value), bisect_right(ordered, value)
    inside = (len(ordered) * percent / 100 - below) / (upto - below)
    return min(max(value + width * (inside - 0.5), ordered[0]), ordered[-1])


def whole_seconds(duration_s: float) -> int:
    """The duration in whole seconds, rounded up, at least 1: no shorter than what was asked for."""
    return max(1, math.ceil(duration_s))
