"""The load check: labctl's own load program between two pods, in slices of 2 ms that alternate over all sides.

What it measures: a request and its answer, one at a time, over TCP and over UDP; the same with a connection for each;
what one stream and several take; requests at a fixed pace, whose latency counts from when they were due. Requests run
with client and server on two CPUs; streams with both on one, where their own CPU time shows the datapath's cost and
nothing of what two CPUs have to say to each other. docs/method.md has what was found about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from labctl.checks.base import CheckContext, OnThisHost
from labctl.checks.field_tools import by_tools_of_the_field
from labctl.checks.outcome import Measured, RawFiles, failed, measure, passed
from labctl.checks.server import address_of, unfit_as_server
from labctl.errors import MeasureFailed
from labctl.load.carried import ByStream, CannotCarry
from labctl.load.measure import Plan, Result, Session, Task, measure_load
from labctl.load.places import NODE, POD, TapOnWay, parts_of, places_file
from labctl.load.slices import (
    Conditions,
    Figure,
    Kind,
    Slice,
    byte_per_s,
    cpu_per_byte_s,
    cpu_per_operation_s,
    cycles_per_operation,
    instructions_per_operation,
    joined,
    last_attempts,
    median_s,
    per_s,
    time_s,
    value_of,
)
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import CheckParameters, LoadParameters
from labctl.model.result import Better, CheckResult, Metric, MetricFamily
from labctl.providers.base import Tap, Target, TargetKind
from labctl.units import BITS_PER_BYTE
from labctl.values import dataclass

FILE = "load.slices"
PLACES_FILE = "load.places"
_TAPPED = Task(kind=Kind.TCP, share=0.1)
_UNFOLLOWED = "the taps saw too few whole round trips"
_PACED_S = 0.02
_MOST_SESSIONS = 32
"""At once: so many pairs of sides that their connections are few beside what a namespace may have."""
_UNREACHED = ("cannot connect", "no answer", "did not answer", "could not be sent", "did not end", "did not say")


def tasks_of(parameters: LoadParameters) -> tuple[Task, ...]:
    """What a run consists of. The primary rows get most of the time."""
    return (
        Task(kind=Kind.TCP, share=0.4),
        Task(kind=Kind.STREAM, share=0.25, argument=1, on_one_cpu=True),
        Task(kind=Kind.CONNECT, share=0.1),
        Task(kind=Kind.STREAM, share=0.1, argument=parameters.streams, on_one_cpu=True),
        Task(kind=Kind.UDP, share=0.1),
        Task(kind=Kind.PACED, share=0.05, argument=parameters.rate_per_s, length_s=_PACED_S),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A metric, and from which slices it comes: one number of each slice (`figure`), or a percentile of all round trips
    that were measured, also in slices that were measured again (`percent`)."""

    metric: Metric
    kind: Kind
    argument: int = 0
    figure: Figure | None = None
    percent: float = 0.0
    scale: float = 1.0


def _metric(name: str, label: str, unit: str, family: MetricFamily, *, primary: bool = False) -> Metric:
    better = Better.HIGHER if family is MetricFamily.THROUGHPUT else Better.LOWER
    return Metric(name=name, label=label, unit=unit, better=better, family=family, primary=primary)


def rows_of(parameters: LoadParameters) -> tuple[Row, ...]:
    """Every metric with its slices, in the order in which it is declared."""
    latency, rate, cpu = MetricFamily.LATENCY, MetricFamily.THROUGHPUT, MetricFamily.CPU
    many = parameters.streams
    return (
        Row(
            metric=_metric("latency_p50", "TCP round trip (closed loop), median", "s", latency, primary=True),
            kind=Kind.TCP,
            figure=median_s,
        ),
        Row(
            metric=_metric("latency_p99", "TCP round trip (closed loop), 99th percentile", "s", latency),
            kind=Kind.TCP,
            percent=99,
        ),
        Row(
            metric=_metric("transactions_per_s", "TCP transactions per second", "count/s", rate, primary=True),
            kind=Kind.TCP,
            figure=per_s,
        ),
        Row(
            metric=_metric("cpu_per_transaction", "own CPU per TCP transaction", "cpu-s", cpu, primary=True),
            kind=Kind.TCP,
            figure=cpu_per_operation_s,
        ),
        Row(
            metric=_metric("cycles_per_transaction", "CPU cycles per TCP transaction", "count", cpu),
            kind=Kind.TCP,
            figure=cycles_per_operation,
        ),
        Row(
            metric=_metric("instructions_per_transaction", "instructions per TCP transaction", "count", cpu),
            kind=Kind.TCP,
            figure=instructions_per_operation,
        ),
        Row(
            metric=_metric("cpu_per_byte", "own CPU per byte of one stream", "cpu-s/byte", cpu, primary=True),
            kind=Kind.STREAM,
            argument=1,
            figure=cpu_per_byte_s,
        ),
        Row(
            metric=_metric("throughput", "throughput of one stream, both ends on one CPU", "bit/s", rate),
            kind=Kind.STREAM,
            argument=1,
            figure=byte_per_s,
            scale=BITS_PER_BYTE,
        ),
        Row(
            metric=_metric("many_cpu_per_byte", f"own CPU per byte of {many} streams", "cpu-s/byte", cpu),
            kind=Kind.STREAM,
            argument=many,
            figure=cpu_per_byte_s,
        ),
        Row(
            metric=_metric("connections_per_s", "connections with a request each, per second", "count/s", rate),
            kind=Kind.CONNECT,
            figure=per_s,
        ),
        Row(
            metric=_metric("cpu_per_connection", "own CPU per connection", "cpu-s", cpu),
            kind=Kind.CONNECT,
            figure=cpu_per_operation_s,
        ),
        Row(
            metric=_metric("udp_p50", "UDP round trip (closed loop), median", "s", latency),
            kind=Kind.UDP,
            figure=median_s,
        ),
        Row(
            metric=_metric("udp_cpu_per_transaction", "own CPU per UDP transaction", "cpu-s", cpu),
            kind=Kind.UDP,
            figure=cpu_per_operation_s,
        ),
        Row(
            metric=_metric("paced_p50", "latency at a fixed rate, median", "s", latency),
            kind=Kind.PACED,
            argument=parameters.rate_per_s,
            percent=50,
        ),
        Row(
            metric=_metric("paced_p99", "latency at a fixed rate, 99th percentile", "s", latency),
            kind=Kind.PACED,
            argument=parameters.rate_per_s,
            percent=99,
        ),
    )


def load_values(slices: Mapping[int, Sequence[Slice]], parameters: LoadParameters) -> dict[int, dict[str, float]]:
    """The metrics of each run, from the slices of all that were measured against each other. The same files give the
    same values again."""
    values: dict[int, dict[str, float]] = {session: {} for session in slices}
    for row in rows_of(parameters):
        chosen = {
            session: [each for each in found if each.kind is row.kind and each.argument == row.argument]
            for session, found in slices.items()
        }
        for session, value in _row_values(chosen, row):
            values[session][row.metric.name] = value * row.scale
    return values


def _row_values(slices: Mapping[int, Sequence[Slice]], row: Row) -> Iterator[tuple[int, float]]:
    if row.figure is None:
        for session, found in slices.items():
            if times_ns := joined(found):
                yield session, time_s(times_ns, row.percent)
        return
    # Sides without any slice of this kind were given up: the others are compared among themselves.
    left = [each for found in slices.values() for each in found]
    yield from value_of(left, row.figure).by_session.items()


def said_of(values: Mapping[str, float], slices: Sequence[Slice], conditions: Conditions) -> str:
    """What a run found, and what has to be known of how: a sentence without its full stop."""
    parts = [
        f"median round trip {values['latency_p50'] * 1e6:.1f} µs, {values['transactions_per_s']:,.0f} transactions/s "
        "(closed loop)"
        if "latency_p50" in values
        else "no round trip",
        f"{len(last_attempts(slices))} slices",
    ]
    if again := len(slices) - len(last_attempts(slices)):
        parts.append(f"{again} more were disturbed and measured again")
    own_ns = sum(each.client_cpu_ns + each.server_cpu_ns for each in slices)
    if own_ns and (packets_ns := sum(each.packets_cpu_ns for each in slices)):
        parts.append(f"ksoftirqd, which is not counted, took {packets_ns / own_ns:.1%} of the own CPU")
    if conditions.spun:
        parts.append(f"CPUs {', '.join(map(str, conditions.spun))} were kept awake")
    if conditions.channel_s is not None:
        slice_ms, way_ms = conditions.slice_s * 1e3, conditions.channel_s * 1e3
        parts.append(f"slices of at least {slice_ms:.1f} ms: a command takes {way_ms:.1f} ms to these pods and back")
    if conditions.uncounted:
        parts.append(f"no hardware counters: {conditions.uncounted}")
    if max(conditions.nice) > -20:
        parts.append(f"priority {conditions.nice[0]} and {conditions.nice[1]}: -20 is not allowed here")
    parts.append(f"{conditions.congestion}, buffers of {conditions.send_buffer_byte >> 10} KiB")
    return "; ".join(parts)


class LoadCheck:
    """Requests, connections and streams between two pods, by labctl's own program."""

    kind = "load"
    tools = ()

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        return tuple(row.metric for row in rows_of(_load(parameters)))

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_as_server(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        return self._run_batch((context,), context.pair.name, tapped=None)[0]

    def run_abreast(self, contexts: Sequence[CheckContext], seed: str) -> tuple[CheckResult, ...]:
        """As `run`, and where the time of a round trip goes on each side. Where the program cannot be carried to pods
        elsewhere, the field's own tools measure."""
        results: dict[int, CheckResult] = {}
        for batch in _batches(contexts):
            found = self._run_batch([contexts[number] for number in batch], seed, tapped=_TAPPED)
            results.update(zip(batch, found, strict=True))
        return tuple(results[number] for number in range(len(contexts)))

    def _run_batch(
        self, contexts: Sequence[CheckContext], seed: str, *, tapped: Task | None
    ) -> tuple[CheckResult, ...]:
        parameters = _load(contexts[0].spec.parameters)
        plan = Plan(
            tasks=tasks_of(parameters),
            tapped=tapped,
            duration_s=parameters.duration_s,
            message_byte=parameters.message_byte,
            spin=parameters.spin,
            client_cpu=contexts[0].client_cpu,
            server_cpu=contexts[0].server_cpu,
            seed=seed,
        )
        stopped: MeasureFailed | None = None
        result: Result | None = None
        try:
            result = measure_load([_session(context) for context in contexts], plan)
        except MeasureFailed as error:
            stopped = error
        if isinstance(stopped, CannotCarry) and tapped is not None:
            said = stopped.what
            return tuple(by_tools_of_the_field(context, self.metrics(parameters), said) for context in contexts)
        slices = [loaded.slices for loaded in result.loaded] if result is not None else []
        values = _values(contexts, result, slices, parameters) if result is not None else {}

        def ended(raw: RawFiles, number: int) -> Measured:
            if result is None:
                raise stopped or RuntimeError
            raw.save(FILE, result.file(number))
            loaded = result.loaded[number]
            if loaded.rounds:
                raw.save(PLACES_FILE, places_file(loaded.rounds, has_netfilter=result.parts_netfilter))
            if not loaded.refused:
                parts = parts_of(loaded.rounds, has_netfilter=result.parts_netfilter)
                return Measured(
                    judgement=passed(said_of(values[number], slices[number], result.conditions)),
                    values=values[number],
                    parts=parts,
                    unparted=result.untapped or ("" if parts or tapped is None else _UNFOLLOWED),
                )
            if any(words in loaded.refused for words in _UNREACHED):
                return Measured(judgement=failed(f"the server was not reached: {loaded.refused}"), values={})
            raise MeasureFailed("the load program failed", loaded.refused)

        return tuple(
            measure(context, self.metrics(parameters), lambda raw, number=number: ended(raw, number))  # type: ignore[misc]
            for number, context in enumerate(contexts)
        )


def _values(
    contexts: Sequence[CheckContext],
    result: Result,
    slices: Sequence[tuple[Slice, ...]],
    parameters: LoadParameters,
) -> dict[int, dict[str, float]]:
    """By session: those of one pair are measured against each other."""
    values: dict[int, dict[str, float]] = {}
    for name in dict.fromkeys(context.pair.name for context in contexts):
        of_pair = {
            number: slices[number]
            for number, context in enumerate(contexts)
            if context.pair.name == name and not result.loaded[number].refused
        }
        values |= load_values(of_pair, parameters)
    return values


def _batches(contexts: Sequence[CheckContext]) -> Iterator[list[int]]:
    """The numbers of the contexts, those of one pair together, not too many at once."""
    pairs: dict[str, list[int]] = {}
    for number, context in enumerate(contexts):
        pairs.setdefault(context.pair.name, []).append(number)
    batch: list[int] = []
    for numbers in pairs.values():
        if batch and len(batch) + len(numbers) > _MOST_SESSIONS:
            yield batch
            batch = []
        batch += numbers
    if batch:
        yield batch


def _session(context: CheckContext) -> Session:
    """Raises CannotCarry where a pod is neither a namespace of this host nor takes a program."""
    client, server = (_place(context.open_lab.target(name)) for name in (context.pair.client, context.pair.server))
    address = str(address_of(context.open_lab.lab, context.pair.server))
    taps = tuple(_taps(context.open_lab.taps(context.pair))) if isinstance(client, Path) else ()
    return Session(group=context.pair.name, client=client, server=server, address=address, taps=taps)


def _place(target: Target) -> Path | ByStream:
    if isinstance(target, OnThisHost):
        return target.network_namespace
    if isinstance(target, ByStream):
        return target
    raise CannotCarry(f"{target.name} is no namespace of this host, and takes no program through a stream")


def _taps(taps: Iterable[Tap]) -> Iterator[TapOnWay]:
    kinds = {TargetKind.POD: POD, TargetKind.NODE: NODE}
    for tap in taps:
        if isinstance(tap.target, OnThisHost):
            yield TapOnWay(
                name=tap.name,
                part=tap.target.name,
                kind=kinds.get(tap.target.kind, ""),
                interface=tap.interface,
                namespace=tap.target.network_namespace,
            )


def _load(parameters: CheckParameters) -> LoadParameters:
    if not isinstance(parameters, LoadParameters):
        raise TypeError(f"load cannot run with {type(parameters).__name__}")
    return parameters
