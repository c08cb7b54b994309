"""The paced check: sockperf requests at a fixed rate over TCP, each measured from when it should have been sent.

sockperf's `under-load` sends on a schedule, and when it was held up it sends what it missed in one burst and measures
each from when it really went out: the wait before is left out (coordinated omission). Its full log has every request,
so the schedule is found again here: request k is due at t₀ + k/rate, with the latest t₀ at which none was early.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

from labctl.checks.base import CheckContext
from labctl.checks.latency import APART_S, MEASURED_NOTHING, PORT, argv_sockperf_server, unreached, with_words
from labctl.checks.outcome import Judgement, Measured, RawFiles, failed, measure, passed, require_ended
from labctl.checks.ping import percentile, whole_seconds
from labctl.checks.server import Exchange, ServerCommand, address_of, exchange, unfit_as_server
from labctl.errors import MeasureFailed, Starved
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import CheckParameters, PacedParameters
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.values import dataclass

_SLACK_S = 20.0
_FEWEST_SHARE = 0.9
_VALID = re.compile(r"\[Valid Duration\] RunTime=(\d+(?:\.\d+)?) sec; SentMessages=(\d+); ReceivedMessages=(\d+)")
_LINE = re.compile(r"^(\d{1,12}), (\d+\.\d+), (\d+\.\d+), ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedReport:
    """Every request of the part that sockperf takes its statistics from: when it was sent and answered, in seconds."""

    sent_s: Sequence[float]
    answered_s: Sequence[float]
    valid_s: float

    def response_times_s(self, rate_per_s: int) -> tuple[float, ...]:
        """From when each request was due to its answer, ascending."""
        period_s = 1 / rate_per_s
        start_s = min(sent - k * period_s for k, sent in enumerate(self.sent_s))
        return tuple(sorted(at - (start_s + k * period_s) for k, at in enumerate(self.answered_s)))

    def service_times_s(self) -> tuple[float, ...]:
        """From when each request was really sent, ascending: what sockperf itself reports."""
        return tuple(sorted(at - sent for sent, at in zip(self.sent_s, self.answered_s, strict=True)))


def argv_paced_client(address: str, parameters: PacedParameters) -> tuple[str, ...]:
    """The full log goes to standard error, which is no file in the pod."""
    duration, size = str(whole_seconds(parameters.duration_s)), str(parameters.message_byte)
    paced = ("--mps", str(parameters.rate_per_s), "--reply-every", "1", "--full-log", "/dev/stderr")
    place = ("-i", address, "-p", str(PORT))
    return ("sockperf", "under-load", "--tcp", "--full-rtt", *place, "-t", duration, "-m", size, *paced)


def parse_paced(text: str, log: str) -> PacedReport:
    """Reads what sockperf printed (`text`) and its full log (3.7 to 3.10).

    Raises MeasureFailed when the log is not whole: without every request the schedule cannot be found again. Raises
    Starved when sockperf ran and no request was answered in its time.
    """
    valid = _VALID.search(text)
    if valid is None and any(words in text + log for words in MEASURED_NOTHING):
        raise Starved("sockperf measured nothing", "other processes kept the CPUs busy, or packets were lost")
    if valid is None:
        raise MeasureFailed("sockperf's output cannot be read", "its statistics are missing")
    sent_s, answered_s = array("d"), array("d")  # 16 bytes a request: the log may have a million
    lines = 0
    for found in _LINE.finditer(log):
        lines += 1
        if int(found[1]) == len(sent_s):
            sent_s.append(float(found[2]))
            answered_s.append(float(found[3]))
    sent_count, received_count = int(valid[2]), int(valid[3])
    if not lines:
        raise Starved("sockperf transferred nothing", "its log has no request")
    if not lines == len(sent_s) == received_count == sent_count:
        raise MeasureFailed(
            "sockperf's log is incomplete",
            f"it has {lines} requests; {sent_count} were sent and {received_count} answered",
        )
    return PacedReport(sent_s=sent_s, answered_s=answered_s, valid_s=float(valid[1]))


def judge_paced(report: PacedReport, parameters: PacedParameters) -> Judgement:
    """Fails when the path could not carry the rate: what was answered is then less than what was due."""
    reached = len(report.sent_s) / report.valid_s
    if reached < _FEWEST_SHARE * parameters.rate_per_s:
        return failed(f"{reached:,.0f} requests/s were answered, {parameters.rate_per_s:,} were due")
    response, service = report.response_times_s(parameters.rate_per_s), report.service_times_s()
    return passed(
        f"at {parameters.rate_per_s:,} requests/s: median response time {percentile(response, 50) * 1e6:.1f} µs, p99 "
        f"{_microseconds(response)} from the intended send time ({_microseconds(service)} from the real one)"
    )


def _microseconds(times_s: Sequence[float]) -> str:
    return f"{percentile(times_s, 99) * 1e6:,.1f} µs"


def paced_values(report: PacedReport, parameters: PacedParameters) -> dict[str, float]:
    times_s = report.response_times_s(parameters.rate_per_s)
    return {f"response_p{percent}": percentile(times_s, percent) for percent in (50, 90, 99)}


def measured_paced(ended: Exchange, parameters: PacedParameters) -> Measured:
    """From the end of the client to the values."""
    require_ended(ended.client)
    text = ended.client.text
    if words := unreached(f"{text}\n{ended.client.error_text}"):
        return Measured(judgement=failed(f"the server listens but was not reached: {words}"), values={})
    try:
        report = parse_paced(text, ended.client.error_text)
    except MeasureFailed as error:
        raise with_words(error, ended.client) from error
    return Measured(judgement=judge_paced(report, parameters), values=paced_values(report, parameters))


class PacedCheck:
    """Response times at a fixed rate between two pods, queueing included."""

    kind = "paced"
    tools = ("sockperf",)

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        return tuple(
            Metric(
                name=f"response_p{percent}",
                label=f"response time at a fixed rate, {words}",
                unit="s",
                better=Better.LOWER,
                family=MetricFamily.LATENCY,
            )
            for percent, words in ((50, "median"), (90, "90th percentile"), (99, "99th percentile"))
        )

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        """As with the latency check: sockperf sleeps for 2 s at first."""
        return whole_seconds(_own(parameters).duration_s) + APART_S

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_as_server(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = _own(context.spec.parameters)
        address = str(address_of(context.open_lab.lab, context.pair.server))

        def body(raw: RawFiles) -> Measured:
            ended = exchange(
                context,
                raw,
                service=ServerCommand(argv=argv_sockperf_server(address), ready="to block on socket"),
                client_argv=argv_paced_client(address, parameters),
                timeout_s=whole_seconds(parameters.duration_s) + _SLACK_S,
            )
            return measured_paced(ended, parameters)

        return measure(context, self.metrics(parameters), body)


def _own(parameters: CheckParameters) -> PacedParameters:
    if not isinstance(parameters, PacedParameters):
        raise TypeError(f"paced cannot run with {type(parameters).__name__}")
    return parameters
