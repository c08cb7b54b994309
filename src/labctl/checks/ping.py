"""The ping check: ICMP echo from client to server with iputils' ping, round-trip times from every reply, and loss.

Output that cannot be read, or a tool that failed, is `error`. Loss is only what ping itself counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Judgement, Measured, failed, measure, passed, require_ended, said
from labctl.checks.percentile import percentile
from labctl.checks.raw import RawFiles
from labctl.checks.served import address_of
from labctl.errors import MeasureFailed
from labctl.model.parameters import CheckParameters, PingParameters
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.providers.base import Completed

_WAIT_S = 1
_SLACK_S = 10.0
_NO_ROUTE = "Network is unreachable"

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
    count, interval, size = str(parameters.count), f"{parameters.interval_s:g}", str(parameters.size_byte)
    return ("ping", "-n", "-D", "-c", count, "-i", interval, "-s", size, "-W", str(_WAIT_S), *fill, destination)


def ping_timeout_s(parameters: PingParameters) -> float:
    """When a ping with these parameters has surely ended."""
    return parameters.count * parameters.interval_s + _WAIT_S + _SLACK_S


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
    return passed(f"{answered}, median round trip {percentile(report.rtts_s, 50) * 1e6:.0f} µs, ttl {ttls}")


def ping_values(report: PingReport) -> dict[str, float]:
    """The metrics of a report. Without a reply there is loss and no round-trip time."""
    values = {"loss": report.loss}
    if rtts_s := report.rtts_s:
        values |= {
            "rtt_p50": percentile(rtts_s, 50),
            "rtt_min": rtts_s[0],
            "rtt_p90": percentile(rtts_s, 90),
            "rtt_p99": percentile(rtts_s, 99),
            "rtt_max": rtts_s[-1],
        }
    return values


def measured_ping(completed: Completed, parameters: PingParameters) -> Measured:
    """From ping's end to its values. Raises MeasureFailed when ping failed, not the network.

    iputils: exit status 0 with replies, 1 without enough of them, 2 for everything else.
    """
    require_ended(completed)
    if completed.returncode not in (0, 1):
        if _NO_ROUTE in completed.error_text:
            return Measured(judgement=failed(f"the client has no route to the server: {_NO_ROUTE}"), values={})
        raise MeasureFailed(f"ping ended with status {completed.returncode}", said(completed))
    report = parse_ping(completed.text)
    return Measured(judgement=judge_ping(report, parameters), values=ping_values(report))


class PingCheck:
    """Loss and round-trip time between two pods."""

    kind = "ping"
    tools = ("ping",)

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        def latency(name: str, label: str, *, primary: bool = False) -> Metric:
            return Metric(
                name=name, label=label, unit="s", better=Better.LOWER, family=MetricFamily.LATENCY, primary=primary
            )

        return (
            latency("rtt_p50", "ping round trip, median", primary=True),
            latency("rtt_min", "ping round trip, least"),
            latency("rtt_p90", "ping round trip, 90th percentile"),
            latency("rtt_p99", "ping round trip, 99th percentile"),
            latency("rtt_max", "ping round trip, most"),
            Metric(name="loss", label="ping loss", unit="1", better=Better.LOWER, family=MetricFamily.QUALITY),
        )

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, PingParameters):
            raise TypeError(f"ping cannot run with {type(parameters).__name__}")
        client = context.open_lab.target(context.pair.client)
        destination = str(address_of(context.open_lab.lab, context.pair.server))

        def body(raw: RawFiles) -> Measured:
            argv = argv_ping(destination, parameters)
            completed = client.run(argv, timeout_s=ping_timeout_s(parameters), cpu=context.client_cpu)
            return measured_ping(raw.save_completed("ping", completed), parameters)

        return measure(context, self.metrics(parameters), body)
