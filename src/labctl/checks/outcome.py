"""The common end of every check: a judgement becomes a result, and a tool that failed becomes `error`, never loss."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from labctl.checks.base import CheckContext
from labctl.checks.raw import RawFiles
from labctl.errors import MeasureFailed, Starved, ToolMissing
from labctl.model.result import CheckResult, Finding, Metric, Sample, Verdict
from labctl.model.signature import Signature
from labctl.model.tools import require_ended as require_ended
from labctl.model.tools import said as said


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict with its reason, in one sentence for a person."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run measured: values by metric name, the judgement on them, and the signature if one was taken.
    `is_starved`: nothing, since a tool did not get going."""

    judgement: Judgement
    values: Mapping[str, float]
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
        server=context.pair.server,
        placement=context.pair.placement,
        verdict=measured.judgement.verdict,
        reason=measured.judgement.reason,
        samples=samples,
        raw=raw.paths,
        signature=measured.signature,
        findings=measured.findings,
        is_starved=measured.is_starved,
    )
