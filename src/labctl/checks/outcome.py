"""The common end of every check: a judgement becomes a result, and a tool that failed becomes `error`, never loss."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from labctl.checks.base import CheckContext
from labctl.checks.raw import RawFiles
from labctl.errors import MeasureFailed, ToolMissing
from labctl.model.result import CheckResult, Finding, Metric, Sample, Verdict
from labctl.model.signature import Signature
from labctl.providers.base import Completed


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict with its reason, in one sentence for a person."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run measured: values by metric name, the judgement on them, and the signature if one was taken."""

    judgement: Judgement
    values: Mapping[str, float]
    signature: Signature | None = None
    findings: tuple[Finding, ...] = ()


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
    return Measured(judgement=Judgement(verdict=Verdict.ERROR, reason=reason), values={})


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
    )


def require_ended(completed: Completed) -> None:
    """Raises MeasureFailed when the process was killed at its deadline or by a signal."""
    program = completed.argv[0] if completed.argv else "the tool"
    if completed.timed_out:
        raise MeasureFailed(
            f"{program} did not end in time", f"killed after {completed.duration_s:.1f} s; {said(completed)}"
        )
    if completed.returncode < 0:
        raise MeasureFailed(f"{program} was killed by signal {-completed.returncode}", said(completed))


def said(completed: Completed) -> str:
    """What a process complained about: the last line that looks like a complaint, or else its last line."""
    texts = (completed.error_text, completed.text)
    lines = [[line.strip() for line in text.splitlines() if line.strip()] for text in texts]
    complaints = [line for text in lines for line in text if _COMPLAINT.search(line)]
    found = complaints or next((text for text in lines if text), [])
    return f"it last said: {found[-1][:300]}" if found else "it said nothing"


_COMPLAINT = re.compile(r"\berror\b|unable to|cannot|can['`]t", re.IGNORECASE)
