"""Runs checks on the pairs of an open lab, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from labctl.checks.base import Abreast, Check, CheckContext, ForSomePairs, InSlices, RawSink, to_the_end
from labctl.engine.events import CheckDone, CheckStarted, Observer
from labctl.model.lab import CheckSpec, Pair
from labctl.model.result import CheckResult, Verdict
from labctl.providers.base import OpenLab
from labctl.system.cpus import cpus_for_pair
from labctl.values import dataclass

AGAIN = "-again"
"""What is added to the name of the place for the raw files of a second attempt."""
Sinks = Callable[[str], RawSink]
"""Gives the place for the raw files of one check run, by a name for that run."""


def run_check(
    check: Check, open_lab: OpenLab, pair: Pair, spec: CheckSpec, raw: RawSink, observer: Observer
) -> CheckResult:
    """One run of one check on one pair, with client and server pinned to different CPUs."""
    return to_the_end(run_check_in_slices(check, open_lab, pair, spec, raw, observer))


def run_check_in_slices(
    check: Check, open_lab: OpenLab, pair: Pair, spec: CheckSpec, raw: RawSink, observer: Observer
) -> Generator[None, None, CheckResult]:
    """As `run_check`; yields where another run may take its turn, which only checks in slices do."""
    context = _begun(open_lab, pair, spec, raw, observer)
    if reason := _unfit(check, context):
        result = _skipped(spec, pair, reason)
    else:
        result = (yield from check.run_in_slices(context)) if isinstance(check, InSlices) else check.run(context)
    observer(CheckDone(lab=open_lab.lab.name, result=result))
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A run of a check that is measured beside others of it."""

    open_lab: OpenLab
    pair: Pair
    raw: RawSink


def run_abreast(
    check: Abreast, runs: Sequence[Beside], spec: CheckSpec, seed: str, observer: Observer
) -> tuple[CheckResult, ...]:
    """One run each, measured at once by the check itself."""
    contexts = [_begun(run.open_lab, run.pair, spec, run.raw, observer) for run in runs]
    unfit = [_unfit(check, context) for context in contexts]
    fit = [context for context, reason in zip(contexts, unfit, strict=True) if not reason]
    measured = iter(check.run_abreast(fit, seed) if fit else ())
    results = tuple(
        _skipped(spec, run.pair, reason) if reason else next(measured) for run, reason in zip(runs, unfit, strict=True)
    )
    for run, result in zip(runs, results, strict=True):
        observer(CheckDone(lab=run.open_lab.lab.name, result=result))
    return results


def _begun(open_lab: OpenLab, pair: Pair, spec: CheckSpec, raw: RawSink, observer: Observer) -> CheckContext:
    client_cpu, server_cpu = cpus_for_pair()
    observer(
        CheckStarted(
            lab=open_lab.lab.name,
            check=spec.name,
            client=pair.client,
            server=pair.destination,
            placement=str(pair.placement),
        )
    )
    return CheckContext(open_lab=open_lab, pair=pair, spec=spec, raw=raw, client_cpu=client_cpu, server_cpu=server_cpu)


def _unfit(check: object, context: CheckContext) -> str:
    return check.unfit(context.open_lab.lab, context.pair) if isinstance(check, ForSomePairs) else ""


def _skipped(spec: CheckSpec, pair: Pair, reason: str) -> CheckResult:
    return CheckResult(
        check=spec.name,
        kind=spec.kind,
        client=pair.client,
        server=pair.destination,
        placement=pair.placement,
        verdict=Verdict.SKIP,
        reason=reason,
    )


def second_attempt(first: CheckResult, second: CheckResult) -> CheckResult:
    """The result of a check that was tried twice, because its tool did not start measuring at first: the second
    attempt's, with the first one's reason and raw files. There is no third."""
    told = replace(second, raw=(*first.raw, *second.raw), retried=first.reason, is_starved=False)
    if second.verdict is Verdict.ERROR:
        return replace(told, reason=f"{second.reason} (the second attempt; the first: {first.reason})")
    return told


def run_checks(
    checks: Mapping[str, Check],
    open_lab: OpenLab,
    specs: Sequence[CheckSpec],
    pairs: Iterable[Pair],
    sinks: Sinks,
    observer: Observer,
) -> Iterator[CheckResult]:
    """Every check on every pair, in the scenario's order; one that got no CPU once more."""
    for pair in pairs:
        for spec in specs:
            name = f"{spec.name}-{pair.client}-{pair.destination}"
            result = run_check(checks[spec.kind], open_lab, pair, spec, sinks(name), observer)
            if result.is_starved:
                sink = sinks(f"{name}{AGAIN}")
                result = second_attempt(result, run_check(checks[spec.kind], open_lab, pair, spec, sink, observer))
            yield result
