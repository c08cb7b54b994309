"""The latency check: sockperf ping-pong over TCP, one request in flight: its figures are *service time* (closed loop).

Times are whole round trips (`--full-rtt`); sockperf would halve them by default. sockperf 3.7 exits with 0 for most of
its failures, counts whole seconds, and leaves its first 400 ms and last 50 ms out of the statistics.
"""

from __future__ import annotations

import re

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Judgement, Measured, RawFiles, failed, measure, passed
from labctl.checks.ping import whole_seconds
from labctl.checks.server import Exchange, ServerCommand, asked_of, exchange_with, unfit_over_tcp
from labctl.errors import MeasureFailed, Starved
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import CheckParameters, LatencyParameters
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.model.tools import UNREACHED, remedy_for, why, words_of
from labctl.providers.base import Completed
from labctl.values import dataclass

PORT = 11111
_SLACK_S = 20.0
APART_S = 0.25
"""Between the measuring parts of two overlapping runs, seconds: ten times what their starts were seen to vary by."""
_SHORTEST_SHARE = 0.9
_PERCENTILES = (50, 90, 99)
_NONE_VALID = "No valid observations found"
_NO_MESSAGES = "No messages were received"
MEASURED_NOTHING = (_NONE_VALID, _NO_MESSAGES)
"""sockperf's words when it ran, and no answer came in the part that it takes its statistics from."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TOTAL = re.compile(r"\[Total Run\] RunTime=(\d+(?:\.\d+)?) sec;.*ReceivedMessages=(\d+)")
_VALID = re.compile(r"\[Valid Duration\] RunTime=(\d+(?:\.\d+)?) sec;.*ReceivedMessages=(\d+)")
_PERCENTILE = re.compile(r"---> percentile (\d+\.\d+) =\s+(\d+(?:\.\d+)?)")
_ERROR = re.compile(r"sockperf: (?:ERROR: )?(.*(?:ERROR|rror|Invalid|forcibly closed|Can`t|No messages).*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SockperfReport:
    """What sockperf printed. `run_…` is the whole run; the rest is the part that it takes its statistics from.

    Round-trip times in seconds by percentile.
    """

    run_s: float
    run_transactions: int
    valid_s: float
    valid_transactions: int
    rtts_s: dict[int, float]

    @property
    def transactions_per_s(self) -> float:
        return self.valid_transactions / self.valid_s


def argv_sockperf_server(address: str, port: int = PORT) -> tuple[str, ...]:
    return ("sockperf", "server", "--tcp", "-i", address, "-p", str(port))


def argv_sockperf_client(address: str, parameters: LatencyParameters, port: int = PORT) -> tuple[str, ...]:
    duration, size = str(whole_seconds(parameters.duration_s)), str(parameters.message_byte)
    return ("sockperf", "ping-pong", "--tcp", "--full-rtt", "-i", address, "-p", str(port), "-t", duration, "-m", size)


def parse_sockperf(text: str) -> SockperfReport:
    """Reads what `sockperf ping-pong --full-rtt` printed (3.7 to 3.10), colours and all.

    Raises MeasureFailed with sockperf's own words when the statistics are missing, Starved when it ran and no
    transaction was completed.
    """
    text = _COLOUR.sub("", text)
    if "avg-latency" in text:
        raise MeasureFailed(
            "sockperf's output cannot be read", "it shows half round trips: --full-rtt was not in force"
        )
    total, valid = _TOTAL.search(text), _VALID.search(text)
    if total is not None and _NONE_VALID in text:
        raise Starved(
            "sockperf measured nothing",
            f"{total[2]} round trips in {total[1]} s, and none in the part that it takes its statistics from: "
            "other processes kept the CPUs busy, or packets were lost; take a longer --duration",
        )
    if total is None or valid is None:
        complaint = _ERROR.search(text)
        if complaint is not None:
            kind = Starved if _NO_MESSAGES in complaint[1] else MeasureFailed
            raise kind("sockperf failed", complaint[1].strip())
        raise MeasureFailed("sockperf's output cannot be read", "its statistics are missing")
    rtts_s = {
        int(float(name)): float(value) / 1e6 for name, value in _PERCENTILE.findall(text) if name.endswith(".000")
    }
    report = SockperfReport(
        run_s=float(total[1]),
        run_transactions=int(total[2]),
        valid_s=float(valid[1]),
        valid_transactions=int(valid[2]),
        rtts_s=rtts_s,
    )
    if report.valid_transactions <= 0 or report.valid_s <= 0:
        raise Starved("sockperf transferred nothing", "no transaction was completed")
    missing = [percent for percent in _PERCENTILES if not rtts_s.get(percent)]
    if missing:
        raise MeasureFailed("sockperf's output cannot be read", f"percentile {missing[0]} is missing")
    return report


def unreached(text: str) -> str:
    """sockperf's words for a server that could not be reached; empty when it says nothing of the kind."""
    complaint = _ERROR.search(_COLOUR.sub("", text))
    found = complaint is not None and any(words in complaint[1] for words in UNREACHED)
    return complaint[1].strip() if complaint is not None and found else ""


def with_words(error: MeasureFailed, client: Completed) -> MeasureFailed:
    """The error with what sockperf said, where that is not in it yet."""
    if isinstance(error, Starved) or words_of(client) in error.cause or error.cause in words_of(client):
        return error
    status = f"status {client.returncode}, " if client.returncode else ""
    return MeasureFailed(error.what, f"{error.cause}; {status}{why(client)}", remedy_for(client))


def judge_sockperf(report: SockperfReport, parameters: LatencyParameters) -> Judgement:
    """Passes with the median. Raises MeasureFailed when the run was cut short."""
    asked_s = whole_seconds(parameters.duration_s)
    if report.run_s < _SHORTEST_SHARE * asked_s:
        raise MeasureFailed("sockperf ended early", f"it ran for {report.run_s:.2f} s of {asked_s} s")
    median_us = report.rtts_s[50] * 1e6
    rate = f"{report.transactions_per_s:,.0f} transactions/s"
    return passed(f"median service time {median_us:.1f} µs, {rate} (closed loop)")


def sockperf_values(report: SockperfReport, *, cpu_s: float | None) -> dict[str, float]:
    """The metrics of a report. `cpu_s` is the CPU time of client and server, None where it is not known.

    Both processes worked through the whole run, warm-up included: their time is divided by all its transactions.
    """
    values = {f"latency_p{percent}": report.rtts_s[percent] for percent in _PERCENTILES}
    values["transactions_per_s"] = report.transactions_per_s
    if cpu_s is not None and report.run_transactions > 0:
        values["cpu_per_transaction"] = cpu_s / report.run_transactions
    return values


def measured_sockperf(ended: Exchange, parameters: LatencyParameters) -> Measured:
    """From the end of client and server to the values."""
    client = ended.client
    try:
        report = parse_sockperf(client.text + "\n" + client.error_text)
    except MeasureFailed as error:
        if any(words in error.cause for words in UNREACHED):
            return Measured(judgement=failed(f"the server listens but was not reached: {error.cause}"), values={})
        raise with_words(error, client) from error
    judgement = judge_sockperf(report, parameters)
    if ended.cpu_s is None:
        judgement = passed(
            f"{judgement.reason}; own CPU is not known: the provider does not report a process's CPU time"
        )
        return Measured(judgement=judgement, values=sockperf_values(report, cpu_s=None))
    return Measured(judgement=judgement, values=sockperf_values(report, cpu_s=ended.cpu_s))


class LatencyCheck:
    """Request and response over TCP between two pods, one at a time."""

    kind = "latency"
    tools = ("sockperf",)

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        def service_time(name: str, label: str, *, primary: bool = False) -> Metric:
            return Metric(
                name=name, label=label, unit="s", better=Better.LOWER, family=MetricFamily.LATENCY, primary=primary
            )

        return (
            service_time("latency_p50", "service time (closed loop), median", primary=True),
            service_time("latency_p90", "service time (closed loop), 90th percentile"),
            service_time("latency_p99", "service time (closed loop), 99th percentile"),
            Metric(
                name="transactions_per_s",
                label="transactions per second",
                unit="count/s",
                better=Better.HIGHER,
                family=MetricFamily.THROUGHPUT,
                primary=True,
            ),
            Metric(
                name="cpu_per_transaction",
                label="own CPU per transaction",
                unit="cpu-s",
                better=Better.LOWER,
                family=MetricFamily.CPU,
                primary=True,
            ),
        )

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        """sockperf sleeps for 2 s before it sends anything: the next run may sleep while this one measures."""
        if not isinstance(parameters, LatencyParameters):
            raise TypeError(f"latency cannot run with {type(parameters).__name__}")
        return whole_seconds(parameters.duration_s) + APART_S

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_over_tcp(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, LatencyParameters):
            raise TypeError(f"latency cannot run with {type(parameters).__name__}")
        asked = asked_of(context.open_lab.lab, context.pair, PORT)

        def body(raw: RawFiles) -> Measured:
            ended = exchange_with(
                context,
                raw,
                servers={
                    name: ServerCommand(argv=argv_sockperf_server(str(address), port), ready="to block on socket")
                    for name, (address, port) in asked.listening.items()
                },
                client_argv=argv_sockperf_client(str(asked.address), parameters, asked.port),
                timeout_s=whole_seconds(parameters.duration_s) + _SLACK_S,
            )
            return measured_sockperf(ended, parameters)

        return measure(context, self.metrics(parameters), body)
