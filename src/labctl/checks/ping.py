"""The ping check: ICMP echo from client to server with iputils' ping, round-trip times from every reply, and loss.

Output that cannot be read, or a tool that failed, is `error`. Loss is only what ping itself counted. A run may be cut
into slices, each a process of its own; what all of them saw makes one set of samples.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from labctl.checks.base import CheckContext, to_the_end
from labctl.checks.outcome import (
    Judgement,
    Measured,
    failed,
    measure_in_slices,
    passed,
    require_ended,
    said,
)
from labctl.checks.percentile import grouped_percentile
from labctl.checks.raw import RawFiles
from labctl.checks.served import address_of
from labctl.errors import MeasureFailed
from labctl.model.parameters import CheckParameters, PingParameters
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.providers.base import Completed

_WAIT_S = 1
_SLACK_S = 10.0
_NO_ROUTE = "Network is unreachable"
_NOT_ROOT = "minimal interval"
_UNANSWERED_S = 0.01
"""Without replies, back to back means a hundred requests a second."""
_TRIMMED = 8
_DEAR_START_S = 0.1
_DEAR_SLICES = 4
"""Where starting a process takes that long (kubectl exec), a run has no more slices than these."""

_REPLY = re.compile(
    r"\d+ bytes from (?P<source>[^:]+(?::[^ ]+)*): icmp_(?:seq|req)=(?P<sequence>\d+) ttl=(?P<ttl>\d+)"
    r"(?: time=(?P<rtt_ms>\d+(?:\.\d+)?) ms)?(?P<rest>.*)"
)
_TROUBLE = re.compile(r"From (?P<source>\S+):? icmp_(?:seq|req)=(?P<sequence>\d+) (?P<what>.+)")
_SUMMARY = re.compile(r"(?P<transmitted>\d+) packets transmitted, (?P<received>\d+) (?:packets )?received")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One reply as ping printed it. Duplicates and replies with a bad checksum are none that ping counts."""

    sequence: int
    ttl: int
    rtt_s: float
    is_counted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PingReport:
    """What ping printed: every reply, ping's own counts, and the ICMP errors that came back, in their own words."""

    replies: tuple[Reply, ...]
    transmitted: int
    received: int
    troubles: tuple[str, ...]

    @property
    def loss(self) -> float:
        """The share of the requests that were not answered, 0 to 1."""
        return 1 - self.received / self.transmitted

    @property
    def rtts_s(self) -> tuple[float, ...]:
        """The round-trip times of the replies that count, ascending."""
        return tuple(sorted(reply.rtt_s for reply in self.replies if reply.is_counted))

    @property
    def ttls(self) -> tuple[int, ...]:
        """The different TTLs of the replies that count, ascending."""
        return tuple(sorted({reply.ttl for reply in self.replies if reply.is_counted}))


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


def parse_ping(text: str) -> PingReport:
    """Reads the output of iputils' ping (s20121221 to 20240905: `icmp_req` or `icmp_seq`, with or without -D).

    Raises MeasureFailed when the closing summary is missing, as when ping was killed, or contradicts the replies.
    """
    replies: list[Reply] = []
    troubles: list[str] = []
    summary: re.Match[str] | None = None
    for line in text.splitlines():
        if (found := _REPLY.search(line)) is not None:
            if found["rtt_ms"] is None:
                raise MeasureFailed("ping printed a reply without a round-trip time", line.strip())
            is_counted = "DUP!" not in found["rest"] and "BAD CHECKSUM" not in found["rest"]
            replies.append(
                Reply(
                    sequence=int(found["sequence"]),
                    ttl=int(found["ttl"]),
                    rtt_s=float(found["rtt_ms"]) / 1000,
                    is_counted=is_counted,
                )
            )
        elif (found := _TROUBLE.search(line)) is not None:
            troubles.append(f"{found['what'].strip()} (from {found['source'].rstrip(':')})")
        elif (found := _SUMMARY.search(line)) is not None:
            summary = found
    if summary is None:
        raise MeasureFailed("ping's output cannot be read", "the summary (“… packets transmitted …”) is missing")
    report = PingReport(
        replies=tuple(replies),
        transmitted=int(summary["transmitted"]),
        received=int(summary["received"]),
        troubles=tuple(troubles),
    )
    printed = len(report.rtts_s)
    if printed != report.received or report.received > report.transmitted:
        raise MeasureFailed(
            "ping's output contradicts itself",
            f"it printed {printed} replies and counted {report.received} of {report.transmitted}",
        )
    return report


def judge_ping(report: PingReport, parameters: PingParameters) -> Judgement:
    """Fails on more loss than `max_loss`. Raises MeasureFailed when fewer requests than asked for were sent."""
    if report.transmitted < parameters.count:
        raise MeasureFailed(
            "ping ended early", f"it sent {report.transmitted} of {parameters.count} requests, so loss is not known"
        )
    answered = f"{report.received} of {report.transmitted} requests were answered"
    if report.loss > parameters.max_loss:
        why = f"; {report.troubles[0]}" if report.troubles else ""
        return failed(f"{answered}: {report.loss:.1%} loss, allowed is {parameters.max_loss:.1%}{why}")
    if not report.received:
        return passed(f"{answered}, which the scenario allows")
    ttls = ", ".join(str(ttl) for ttl in report.ttls)
    return passed(f"{answered}, median round trip {rtt_percentile_s(report.rtts_s, 50) * 1e6:.0f} µs, ttl {ttls}")


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
    """The slices of a run as one report; sequence numbers begin anew in each."""
    return PingReport(
        replies=tuple(reply for report in reports for reply in report.replies),
        transmitted=sum(report.transmitted for report in reports),
        received=sum(report.received for report in reports),
        troubles=tuple(trouble for report in reports for trouble in report.troubles),
    )


def measured_ping(slices: Sequence[Completed], parameters: PingParameters) -> Measured:
    """From the end of every slice's ping to the values. Raises MeasureFailed when ping failed, not the network."""
    if any(_has_no_route(completed) for completed in slices):
        return Measured(judgement=failed(f"the client has no route to the server: {_NO_ROUTE}"), values={})
    reports = [_report(completed) for completed in slices]
    return Measured(judgement=judge_ping(joined(reports), parameters), values=ping_values(reports))


def _has_no_route(completed: Completed) -> bool:
    return completed.returncode not in (0, 1) and _NO_ROUTE in completed.error_text


def _report(completed: Completed) -> PingReport:
    """iputils: exit status 0 with replies, 1 without enough of them, 2 for everything else."""
    require_ended(completed)
    if completed.returncode not in (0, 1):
        hint = "; only root may ping faster: set a longer intervalS" if _NOT_ROOT in completed.error_text else ""
        raise MeasureFailed(f"ping ended with status {completed.returncode}", said(completed) + hint)
    return parse_ping(completed.text)


def _is_dear(completed: Completed, part: PingParameters) -> bool:
    """Whether it took long until ping was there at all."""
    pinging_s = max(part.count * part.interval_s, sum(_report(completed).rtts_s))
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
                if _has_no_route(completed):
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
