"""How every check ends: a judgement becomes a result, and a tool that failed becomes `error`, never loss.

Checks that look at many things take no figures, and fail with what does not hold. What the tools printed is kept before
anything parses it, and brought back to be parsed again: each finished process becomes three files, `NAME.json` (argv,
exit status, times), `NAME.stdout` and `NAME.stderr`; a capture's standard output is `NAME.pcap`, so that Wireshark
opens it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import field

from labctl.checks.base import CheckContext, RawSink
from labctl.errors import MeasureFailed, Starved, ToolMissing
from labctl.json_text import parse_json
from labctl.model.lab import Lab
from labctl.model.parameters import CheckParameters
from labctl.model.result import CheckResult, Finding, Metric, Sample, Verdict, WayPart
from labctl.model.signature import Signature
from labctl.model.tools import require_ended as require_ended
from labctl.model.tools import said as said
from labctl.providers.base import Completed
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict with its reason, in one sentence for a person."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run measured: values by metric name, the judgement on them, and the signature if one was taken.
    `is_starved`: nothing, since a tool did not get going. `parts`: where the time of a round trip went, in seconds;
    `unparted`: why that is not known."""

    judgement: Judgement
    values: Mapping[str, float]
    parts: Mapping[WayPart, float] = field(default_factory=dict)
    unparted: str = ""
    signature: Signature | None = None
    findings: tuple[Finding, ...] = ()
    is_starved: bool = False


def passed(reason: str) -> Judgement:
    return Judgement(verdict=Verdict.PASS, reason=reason)


def failed(reason: str) -> Judgement:
    return Judgement(verdict=Verdict.FAIL, reason=reason)


def measure(context: CheckContext, metrics: Sequence[Metric], body: Callable[[RawFiles], Measured]) -> CheckResult:
    """Runs `body` and makes its outcome a result. Only declared metrics become samples, in the declared order.

    A MeasureFailed of the body is a result with verdict `error`, with the raw files that it got to save; a program
    that is not there is a `skip`.
    """
    raw = RawFiles(context.raw)
    try:
        measured = body(raw)
    except MeasureFailed as error:
        measured = _unmeasured(error)
    return _result(context, metrics, raw, measured)


def measure_in_slices(
    context: CheckContext, metrics: Sequence[Metric], body: Callable[[RawFiles], Generator[None, None, Measured]]
) -> Generator[None, None, CheckResult]:
    """As `measure`, for a body that yields between its slices."""
    raw = RawFiles(context.raw)
    try:
        measured = yield from body(raw)
    except MeasureFailed as error:
        measured = _unmeasured(error)
    return _result(context, metrics, raw, measured)


def _unmeasured(error: MeasureFailed) -> Measured:
    if isinstance(error, ToolMissing):
        return Measured(judgement=Judgement(verdict=Verdict.SKIP, reason=error.what), values={})
    reason = f"{error.what}: {error.cause}" if error.cause else error.what
    judgement = Judgement(verdict=Verdict.ERROR, reason=reason)
    return Measured(judgement=judgement, values={}, is_starved=isinstance(error, Starved))


def _result(context: CheckContext, metrics: Sequence[Metric], raw: RawFiles, measured: Measured) -> CheckResult:
    samples = tuple(
        Sample(metric=metric.name, value=measured.values[metric.name], unit=metric.unit)
        for metric in metrics
        if metric.name in measured.values
    )
    return CheckResult(
        check=context.spec.name,
        kind=context.spec.kind,
        client=context.pair.client,
        server=context.pair.destination,
        placement=context.pair.placement,
        verdict=measured.judgement.verdict,
        reason=measured.judgement.reason,
        samples=samples,
        raw=raw.paths,
        signature=measured.signature,
        findings=measured.findings,
        is_starved=measured.is_starved,
        parts=tuple(Sample(metric=part, value=value, unit="s") for part, value in measured.parts.items()),
        unparted=measured.unparted,
    )


def not_judged(lab: Lab, what: str) -> Judgement | None:
    """The skip of a check that knows Cilium alone, on a lab whose pods another CNI connects; None on any other lab.
    `what` is what cannot be judged there (`how its pods should be addressed`)."""
    if not lab.cni:
        return None
    return Judgement(verdict=Verdict.SKIP, reason=f"what connects the pods is {lab.cni}, and {what} is not known")


class WithoutFigures:
    """The half of `Check` that checks have in common which look and measure nothing: no metrics, no hurry."""

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        return ()

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None


def finding(name: str, *, holds: bool, sentence: str, lesson: str, command: Sequence[str] = ()) -> Finding:
    """A thing that was seen, and whether it is as it should be."""
    return Finding(
        name=name,
        verdict=Verdict.PASS if holds else Verdict.FAIL,
        sentence=sentence,
        lesson=lesson,
        command=shlex.join(command),
    )


def unknown(name: str, *, sentence: str, lesson: str, command: Sequence[str] = ()) -> Finding:
    """A thing that could not be looked at."""
    return Finding(name=name, verdict=Verdict.ERROR, sentence=sentence, lesson=lesson, command=shlex.join(command))


def judge_findings(findings: Sequence[Finding]) -> Judgement:
    """Fails with what does not hold, else is an error with what could not be seen."""
    wrong = [one for one in findings if one.verdict is Verdict.FAIL]
    unseen = [one for one in findings if one.verdict is Verdict.ERROR]
    if wrong:
        return failed(_counted(wrong, "does not hold", len(findings)))
    if unseen:
        return Judgement(verdict=Verdict.ERROR, reason=_counted(unseen, "could not be seen", len(findings)))
    return passed(
        "the finding is as expected" if len(findings) == 1 else f"all {len(findings)} findings are as expected"
    )


def _counted(chosen: Sequence[Finding], what: str, total: int) -> str:
    more = "" if len(chosen) == 1 else f" (and {len(chosen) - 1} more of {total})"
    return f"{chosen[0].name} {what}: {chosen[0].sentence}{more}"


class RawFiles:
    """Saves into one check's raw sink and remembers the paths, in the order of saving."""

    def __init__(self, sink: RawSink) -> None:
        self._sink = sink
        self._paths: list[str] = []

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._paths)

    def save(self, name: str, data: bytes) -> None:
        self._paths.append(self._sink.save(name, data))

    def save_completed(self, name: str, completed: Completed, *, output: str = "stdout") -> Completed:
        """Saves everything about a process that has ended; gives it back, so that saving comes before parsing."""
        self.save(f"{name}.json", completed_record(completed))
        self.save(f"{name}.{output}", completed.stdout)
        self.save(f"{name}.stderr", completed.stderr)
        return completed


def completed_record(completed: Completed) -> bytes:
    """Everything about the process but its output, as JSON."""
    record = {
        "argv": completed.argv,
        "returncode": completed.returncode,
        "duration_s": completed.duration_s,
        "cpu_s": completed.cpu_s,
        "timed_out": completed.timed_out,
    }
    return json.dumps(record, indent=1).encode() + b"\n"


def load_completed(name: str, load: Callable[[str], bytes], *, output: str = "stdout") -> Completed:
    """The process that `save_completed` stored under `name`; `load` gives the content of one file."""
    record = parse_json(load(f"{name}.json"))
    return Completed(
        argv=tuple(record["argv"]),
        returncode=record["returncode"],
        stdout=load(f"{name}.{output}"),
        stderr=load(f"{name}.stderr"),
        duration_s=record["duration_s"],
        cpu_s=record["cpu_s"],
        timed_out=record["timed_out"],
    )
