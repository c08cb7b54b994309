"""The iperf check: iperf3 from client to server over TCP or UDP, read from its JSON (iperf3 3.12 and newer).

iperf3 3.12 exits with 0 even when it failed, so only its `error` key shows it. It counts whole seconds: durations are
rounded up. CPU is iperf3's own processes, client and server, user and system (see docs/checks.md for what that holds).

Datagrams that reached a pod and that its program did not read in time are counted by the pod's own kernel, and told
apart from loss: on a busy machine a receiver is kept waiting, its socket's buffer fills up, and the kernel throws away
what the network delivered. A program that counts sequence numbers calls that loss.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Judgement, Measured, RawFiles, failed, measure, passed
from labctl.checks.ping import whole_seconds
from labctl.checks.server import ServerCommand, address_of, exchange, unfit_as_server
from labctl.errors import MeasureFailed, Starved
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import CheckParameters, IperfParameters
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.model.tools import TOOLS, UNREACHED, identify, numbers, remedy_for, why
from labctl.providers.base import Completed, Target
from labctl.values import dataclass

PORT = 5201
_CONNECT_TIMEOUT_S = 3
_SLACK_S = 20.0
_SHORTEST_SHARE = 0.9
_DECODER = json.JSONDecoder()
_IS_ERROR = re.compile(r"\berror\b|unable to", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class IperfReport:
    """What one run of iperf3 transferred, by what the receiver counted.

    `retransmits` is None where the sender's system does not count them (and for UDP); `loss` (a share), `datagrams`
    (that were sent) and `jitter_s` are None for TCP. `cpu_s` is the CPU time of client and server together. `remarks`
    are warnings that it printed beside its figures.
    """

    duration_s: float
    received_byte: int
    throughput_bit_per_s: float
    cpu_s: float
    retransmits: int | None = None
    loss: float | None = None
    datagrams: int | None = None
    jitter_s: float | None = None
    remarks: tuple[str, ...] = ()

    @property
    def cpu_s_per_byte(self) -> float:
        return self.cpu_s / self.received_byte


class Unreached(MeasureFailed):
    """The client could not reach the server's address: the network failed it, not the tool."""


def argv_iperf_server() -> tuple[str, ...]:
    """Output is flushed line by line, so that “Server listening” is seen when it is true."""
    return ("iperf3", "-s", "-p", str(PORT), "--forceflush")


def argv_iperf_client(address: str, parameters: IperfParameters) -> tuple[str, ...]:
    duration, streams = str(whole_seconds(parameters.duration_s)), str(parameters.streams)
    timeout = str(_CONNECT_TIMEOUT_S * 1000)
    udp = ("-u", "-b", str(parameters.rate_bit_per_s // parameters.streams)) if parameters.protocol == "udp" else ()
    return (
        "iperf3",
        "-c",
        address,
        "-p",
        str(PORT),
        "--connect-timeout",
        timeout,
        "-J",
        "-t",
        duration,
        "-P",
        streams,
        *udp,
    )


def parse_iperf(text: str) -> IperfReport:
    """Reads the JSON of an iperf3 client.

    Raises MeasureFailed with iperf3's own words when it reports an error, and when a figure is missing, as in versions
    that are too old; Starved when nothing was transferred; Unreached when the error says that the server's address
    could not be reached.
    """
    document, remarks = read_iperf(text)
    if message := document.get("error"):
        kind = Unreached if any(words in str(message) for words in UNREACHED) else MeasureFailed
        raise kind("iperf3 failed", str(message))
    if (complaint := next((line for line in remarks if _IS_ERROR.search(line)), None)) is not None:
        raise MeasureFailed("iperf3 failed", f"besides its JSON it printed: {complaint[:300]}")
    try:
        return replace(_report(document), remarks=remarks)
    except Starved:
        raise
    except MeasureFailed as error:
        tool, version = TOOLS["iperf3"], _version(document)
        if version and numbers(version) < tool.oldest:
            why = f"{error.cause}; {tool.lacking}"
            raise MeasureFailed(f"iperf3 {version} is too old: {tool.needed} is needed", why) from error
        raise


def read_iperf(text: str) -> tuple[Mapping[str, object], tuple[str, ...]]:
    """The JSON object that iperf3 printed, and the lines that it printed beside it.

    Some versions (3.16, 3.17) print the object twice, some warn before it or complain after it. An object that holds
    an error is given before any other. Raises MeasureFailed with iperf3's words when there is none, or two that differ.
    """
    found: list[dict[str, object]] = []
    beside: list[str] = []
    position = 0
    while (begin := text.find("{", position)) >= 0:
        try:
            value, end = _DECODER.raw_decode(text, begin)
        except ValueError as error:
            words = next((line for line in reversed(text[:begin].splitlines()) if line.strip()), text[begin:][-200:])
            said = f"it is not JSON: {error}; it printed: {words.strip()[:200]}"
            raise MeasureFailed("iperf3's output cannot be read", said) from error
        beside.append(text[position:begin])
        found.append(value)
        position = end
    beside.append(text[position:])
    lines = tuple(line.strip() for part in beside for line in part.splitlines() if line.strip())
    if not found:
        raise MeasureFailed(
            "iperf3's output cannot be read", f"it is not JSON; it printed: {lines[-1][:200] if lines else 'nothing'}"
        )
    failed = next((one for one in found if one.get("error")), None)
    if failed is None and any(one.get("end") != found[0].get("end") for one in found):
        raise MeasureFailed("iperf3's output cannot be read", f"it printed {len(found)} results, and they differ")
    return failed or found[0], lines


def _version(document: Mapping[str, object]) -> str:
    start = document.get("start")
    said = str(start.get("version", "")) if isinstance(start, dict) else ""
    return identify(TOOLS["iperf3"], said).version


def _report(document: Mapping[str, object]) -> IperfReport:
    protocol = _part(_part(document, "start"), "test_start").get("protocol")
    end = _part(document, "end")
    sent, received = _part(end, "sum_sent"), _part(end, "sum_received")
    duration_s = _figure(sent, "seconds")
    if _figure(sent, "bytes") <= 0 or duration_s <= 0:
        raise Starved("iperf3 transferred nothing", "the sender counted 0 bytes")
    cpu = _part(end, "cpu_utilization_percent")
    cpu_s = (_figure(cpu, "host_total") + _figure(cpu, "remote_total")) / 100 * duration_s
    received_byte = int(_figure(received, "bytes"))
    throughput = _figure(received, "bits_per_second")
    if protocol == "UDP":
        total = _part(end, "sum")
        packets = _figure(total, "packets")
        if packets <= 0:
            raise Starved("iperf3 transferred nothing", "the receiver counted 0 packets")
        return IperfReport(
            duration_s=duration_s,
            received_byte=received_byte,
            throughput_bit_per_s=throughput,
            cpu_s=cpu_s,
            loss=min(1.0, max(0.0, _figure(total, "lost_packets") / packets)),
            datagrams=int(packets),
            jitter_s=_figure(total, "jitter_ms") / 1000,
        )
    if received_byte <= 0:
        raise Starved("iperf3 transferred nothing", "the receiver counted 0 bytes")
    return IperfReport(
        duration_s=duration_s,
        received_byte=received_byte,
        throughput_bit_per_s=throughput,
        cpu_s=cpu_s,
        retransmits=int(_figure(sent, "retransmits")) if "retransmits" in sent else None,
    )


def judge_iperf(report: IperfReport, parameters: IperfParameters, *, unread: int | None = None) -> Judgement:
    """Fails on too little throughput or (UDP) too much loss. Raises MeasureFailed when the run was cut short, and when
    what is called loss reached the server's pod: `unread` datagrams, which its program did not read in time."""
    asked_s = whole_seconds(parameters.duration_s)
    if report.duration_s < _SHORTEST_SHARE * asked_s:
        raise MeasureFailed("iperf3 ended early", f"it ran for {report.duration_s:.2f} s of {asked_s} s")
    rate = f"{report.throughput_bit_per_s / 1e9:.2f} Gbit/s"
    _require_read(report, parameters, unread)
    if report.throughput_bit_per_s < parameters.min_throughput_bit_per_s:
        return failed(f"{rate}, at least {parameters.min_throughput_bit_per_s / 1e9:.2f} Gbit/s was expected")
    if report.loss is not None and report.loss > parameters.max_loss:
        return failed(f"{rate} with {report.loss:.2%} loss, allowed is {parameters.max_loss:.2%}")
    also = f"; iperf3 also printed: {report.remarks[0][:200]}" if report.remarks else ""
    if report.loss is not None:
        return passed(f"{rate} with {report.loss:.2%} loss in {report.duration_s:.1f} s{also}")
    return passed(f"{rate} in {report.duration_s:.1f} s, {report.cpu_s_per_byte * 1e9:.2f} CPU-s/GB{also}")


def _require_read(report: IperfReport, parameters: IperfParameters, unread: int | None) -> None:
    if not unread or report.loss is None or not report.datagrams or report.loss <= parameters.max_loss:
        return
    lost = max(0.0, report.loss - unread / report.datagrams)
    if lost <= parameters.max_loss:
        raise Starved(
            "the iperf3 server did not read what the network delivered",
            f"{unread} of {report.datagrams} datagrams reached its pod and found its socket's buffer full, "
            f"as on a busy machine; {lost:.2%} were lost on the way",
        )


def iperf_values(report: IperfReport) -> dict[str, float]:
    """The metrics of a report; what iperf3 did not report is left out."""
    if report.loss is not None and report.jitter_s is not None:
        return {"throughput": report.throughput_bit_per_s, "loss": report.loss, "jitter": report.jitter_s}
    values = {"cpu_per_byte": report.cpu_s_per_byte, "throughput": report.throughput_bit_per_s}
    if report.retransmits is not None:
        values["retransmits"] = float(report.retransmits)
    return values


def measured_iperf(client: Completed, parameters: IperfParameters, *, unread: int | None = None) -> Measured:
    """From the client's end to its values. The server is known to have lived through it."""
    if not client.stdout.strip():
        raise MeasureFailed(
            f"iperf3 ended with status {client.returncode} and no output", why(client), remedy_for(client)
        )
    try:
        report = parse_iperf(client.text)
    except Unreached as error:
        return Measured(judgement=failed(f"the server listens but was not reached: {error.cause}"), values={})
    except Starved:
        raise
    except MeasureFailed as error:
        if not client.error_text.strip():
            raise
        raise MeasureFailed(error.what, f"{error.cause}; {why(client)}", error.remedy) from error
    return Measured(judgement=judge_iperf(report, parameters, unread=unread), values=iperf_values(report))


class IperfCheck:
    """Throughput between two pods, and what it costs."""

    kind = "iperf"
    tools = ("iperf3",)

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        throughput = Metric(
            name="throughput", label="throughput", unit="bit/s", better=Better.HIGHER, family=MetricFamily.THROUGHPUT
        )
        lower, quality = Better.LOWER, MetricFamily.QUALITY
        if isinstance(parameters, IperfParameters) and parameters.protocol == "udp":
            return (
                throughput,
                Metric(name="loss", label="UDP loss", unit="1", better=lower, family=quality),
                Metric(name="jitter", label="UDP jitter", unit="s", better=lower, family=quality),
            )
        return (
            Metric(
                name="cpu_per_byte",
                label="own CPU per byte",
                unit="cpu-s/byte",
                better=lower,
                family=MetricFamily.CPU,
                primary=True,
            ),
            throughput,
            Metric(name="retransmits", label="TCP retransmits", unit="count", better=lower, family=quality),
        )

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_as_server(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, IperfParameters):
            raise TypeError(f"iperf cannot run with {type(parameters).__name__}")
        address = str(address_of(context.open_lab.lab, context.pair.server))

        def body(raw: RawFiles) -> Measured:
            server = context.open_lab.target(context.pair.server)
            with (
                counting_unread(server, raw)
                if parameters.protocol == "udp"
                else nullcontext(UnreadDatagrams()) as unread
            ):
                ended = exchange(
                    context,
                    raw,
                    service=ServerCommand(argv=argv_iperf_server(), ready="Server listening"),
                    client_argv=argv_iperf_client(address, parameters),
                    timeout_s=whole_seconds(parameters.duration_s) + _CONNECT_TIMEOUT_S + _SLACK_S,
                )
            return measured_iperf(ended.client, parameters, unread=unread.datagrams)

        return measure(context, self.metrics(parameters), body)


def _part(parent: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise MeasureFailed("iperf3's output cannot be read", f"“{key}” is missing")
    return value


def _figure(parent: Mapping[str, object], key: str) -> float:
    value = parent.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MeasureFailed("iperf3's output cannot be read", f"“{key}” is {value!r}, a number was expected")
    return float(value)


_TIMEOUT_S = 10.0


@dataclass(slots=True, kw_only=True)
class UnreadDatagrams:
    """`datagrams` is known when the run is over, and stays None where the counter cannot be read."""

    datagrams: int | None = None


def argv_udp_counters() -> tuple[str, ...]:
    return ("cat", "/proc/net/snmp")


def parse_udp_counters(text: str) -> int:
    """`RcvbufErrors` of the two lines `Udp:`, names and numbers (Linux, net/ipv4/proc.c). Raises MeasureFailed."""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("Udp:")]
    try:
        names, numbers = lines
        return int(dict(zip(names, numbers, strict=True))["RcvbufErrors"])
    except (ValueError, KeyError):
        raise MeasureFailed("/proc/net/snmp cannot be read", "it has no Udp RcvbufErrors") from None


@contextmanager
def counting_unread(target: Target, raw: RawFiles) -> Iterator[UnreadDatagrams]:
    """Counts in the target what is thrown away unread within it."""
    unread = UnreadDatagrams()
    before = _counter(target, raw, "unread-before")
    yield unread
    after = _counter(target, raw, "unread-after")
    if before is not None and after is not None:
        unread.datagrams = after - before


def _counter(target: Target, raw: RawFiles, name: str) -> int | None:
    """None where it cannot be read: the check then judges by what its program counted, as it would without."""
    try:
        completed = target.run(argv_udp_counters(), timeout_s=_TIMEOUT_S)
        raw.save_completed(name, completed)
        return parse_udp_counters(completed.text)
    except MeasureFailed:
        return None
