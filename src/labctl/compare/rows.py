"""The rows of a comparison: pairing, refusals, changes and words; knows one check on one pair at a time.

A row that cannot be trusted is refused with its reason, and its figures are kept. No sample is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from labctl.compare.statistics import (
    CONFIDENCE,
    Estimate,
    autocorrelation,
    centre,
    detectable_log_ratio,
    exchange,
    fewest_pairs,
    holm,
    log_ratios,
    paired_estimate,
    relative,
    unpaired_estimate,
)
from labctl.compare.verdict import FEWEST_PAIRS, is_judged, judge, margin
from labctl.model.comparison import (
    Change,
    ChangeVerdict,
    CheckMetrics,
    Correction,
    Limit,
    MetricRow,
    Refusal,
    RefusalKind,
    RunRecord,
    Side,
    SideSamples,
)
from labctl.model.evidence import ModeInForce
from labctl.model.lab import Placement
from labctl.model.parameters import CompareParameters
from labctl.model.result import Metric, Verdict
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What the rows of one check on one pair have in common."""

    check: str
    kind: str
    client: str
    server: str
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A row before the correction, which needs all of them."""

    row: MetricRow
    estimate: Estimate | None


def cells(checks: Sequence[CheckMetrics], records: Sequence[RunRecord]) -> list[tuple[Cell, tuple[Metric, ...]]]:
    """Every check on every pair that was run, pairs by placement and name: an order that no seed changes."""
    pairs = sorted({(run.placement, run.client, run.server, run.check) for run in records})
    return [
        (
            Cell(check=check.check, kind=check.kind, client=client, server=server, placement=placement),
            check.metrics,
        )
        for check in checks
        for placement, client, server, name in pairs
        if name == check.check
    ]


def paired_draft(
    cell: Cell,
    metric: Metric,
    records: Sequence[RunRecord],
    keys: tuple[str, str],
    lab_refusal: Refusal | None,
    parameters: CompareParameters,
    confidence: float = CONFIDENCE,
    limits: Mapping[tuple[str, str], tuple[str, str]] = MappingProxyType({}),
) -> Draft:
    runs = _runs_between(records, cell.check, cell.client, cell.server)
    values_a, values_b = (_values(runs, key, metric) for key in keys)
    both = tuple(block for block in values_a if block in values_b)
    a = tuple(values_a[block] for block in both)
    b = tuple(values_b[block] for block in both)
    refusal = lab_refusal or _bad_run(runs) or _bad_values(a, b)
    can_divide = bool(both) and _bad_values(a, b) is None
    differences = log_ratios(a, b) if can_divide else ()
    estimate = paired_estimate(differences, confidence) if differences else None
    if refusal is None and len(both) < FEWEST_PAIRS:
        refusal = Refusal(kind=RefusalKind.TOO_FEW_PAIRS, facts={"pairs": len(both), "needed": FEWEST_PAIRS})
    row = MetricRow(
        check=cell.check,
        kind=cell.kind,
        client=cell.client,
        server=cell.server,
        placement=cell.placement,
        metric=metric,
        a=_samples(values_a),
        b=_samples(values_b),
        blocks=both if differences else (),
        differences=differences,
        change=None if estimate is None else _change(estimate, detectable_log_ratio(differences, confidence)),
        margin=margin(metric, parameters),
        verdict=None,
        refusal=refusal,
        autocorrelation=autocorrelation(differences),
        limit=_limit(cell, metric, records, keys, confidence, limits.get((cell.client, cell.server))),
    )
    return Draft(row=row, estimate=estimate)


def _limit(
    cell: Cell,
    metric: Metric,
    records: Sequence[RunRecord],
    keys: tuple[str, str],
    confidence: float,
    nodes: tuple[str, str] | None,
) -> Limit | None:
    """Each side against what was measured between the nodes in the same blocks; None without a reference."""
    if nodes is None:
        return None
    reference = _runs_between(records, cell.check, *nodes)
    if not reference:
        return None
    of_pods = _runs_between(records, cell.check, cell.client, cell.server)
    a, b = (_against(of_pods, reference, key, metric, confidence) for key in keys)
    return Limit(client=nodes[0], server=nodes[1], a=a, b=b)


def _against(
    runs: Sequence[RunRecord], reference: Sequence[RunRecord], side: str, metric: Metric, confidence: float
) -> Change | None:
    values, limits = _values(runs, side, metric), _values(reference, side, metric)
    both = [block for block in values if block in limits]
    mine, theirs = [values[block] for block in both], [limits[block] for block in both]
    if _bad_values(mine, theirs) is not None:
        return None
    differences = log_ratios(theirs, mine)
    return _change(paired_estimate(differences, confidence), detectable_log_ratio(differences, confidence))


def _runs_between(records: Sequence[RunRecord], check: str, client: str, server: str) -> list[RunRecord]:
    return [run for run in records if (run.check, run.client, run.server) == (check, client, server)]


def unpaired_draft(mine: MetricRow, other: MetricRow, is_mine_a: bool, is_other_a: bool) -> Draft:
    a = mine.a if is_mine_a else mine.b
    b = other.a if is_other_a else other.b
    refusal = next(
        (
            row.refusal
            for row in (mine, other)
            if row.refusal is not None and row.refusal.kind in (RefusalKind.NOT_PROVEN, RefusalKind.RUN_FAILED)
        ),
        None,
    ) or _bad_values(a.samples, b.samples)
    estimate = None
    if _bad_values(a.samples, b.samples) is None:
        estimate = unpaired_estimate([math.log(x) for x in a.samples], [math.log(x) for x in b.samples])
    pairs = min(len(a.samples), len(b.samples))
    if refusal is None and pairs < FEWEST_PAIRS:
        refusal = Refusal(kind=RefusalKind.TOO_FEW_PAIRS, facts={"pairs": pairs, "needed": FEWEST_PAIRS})
    row = replace(
        mine,
        a=a,
        b=b,
        blocks=(),
        differences=(),
        change=None if estimate is None else _change(estimate, None),
        refusal=refusal,
        verdict=None,
        autocorrelation=None,
        limit=None,
    )
    return Draft(row=row, estimate=estimate)


def _values(runs: Sequence[RunRecord], side: str, metric: Metric) -> dict[int, float]:
    """The metric's number by block, for the runs of that side that yielded one."""
    return {
        run.block: sample.value
        for run in runs
        if run.side == side
        for sample in run.samples
        if sample.metric == metric.name
    }


def _samples(values: Mapping[int, float]) -> SideSamples:
    numbers = [value for value in values.values() if math.isfinite(value)]
    return SideSamples(samples=tuple(values.values()), blocks=tuple(values), median=centre(numbers))


def unproven(sides: Sequence[Side], modes: Mapping[str, ModeInForce]) -> Refusal | None:
    for side in sides:
        mode = modes.get(side.key)
        if mode is None or not mode.proven:
            reason = "nothing was observed" if mode is None else mode.reason
            return Refusal(kind=RefusalKind.NOT_PROVEN, facts={"side": side.scenario, "reason": reason})
    return None


def _bad_run(runs: Sequence[RunRecord]) -> Refusal | None:
    """A run that did not end well says something about its side, so leaving it out would flatter that side."""
    bad = [run for run in runs if run.verdict is not Verdict.PASS]
    if not bad:
        return None
    first = bad[0]
    facts: dict[str, str | int | float] = {
        "count": len(bad),
        "runs": len(runs),
        "side": first.side,
        "block": first.block,
        "verdict": str(first.verdict),
        "reason": first.reason,
    }
    return Refusal(kind=RefusalKind.RUN_FAILED, facts=facts)


def _bad_values(a: Sequence[float], b: Sequence[float]) -> Refusal | None:
    if not a or not b:
        return Refusal(kind=RefusalKind.NO_SAMPLES)
    if not all(math.isfinite(value) for value in (*a, *b)):
        return Refusal(kind=RefusalKind.NOT_A_NUMBER)
    if not all(value > 0 for value in (*a, *b)):
        return Refusal(kind=RefusalKind.NO_RATIO)
    return None


def _change(estimate: Estimate, detectable: float | None) -> Change:
    return Change(
        estimate=relative(estimate.estimate),
        low=relative(estimate.low),
        high=relative(estimate.high),
        confidence=estimate.confidence,
        n=estimate.n,
        detectable=None if detectable is None else relative(detectable),
        p_value=estimate.p_value,
    )


def judged(drafts: Sequence[Draft], confidence: float = CONFIDENCE) -> tuple[MetricRow, ...]:
    """The rows with their words, corrected over every primary row that is not refused."""
    family = [draft for draft in drafts if is_judged(draft.row.metric) and draft.row.refusal is None]
    correction = correction_of([draft.row for draft in family], confidence)
    if correction is Correction.EXCHANGE:
        adjusted = exchange([dict(zip(one.row.blocks, one.row.differences, strict=True)) for one in family])
    else:
        adjusted = holm([draft.row.change.p_value for draft in family if draft.row.change is not None])
    found = {id(draft): value for draft, value in zip(family, adjusted, strict=True)}
    return tuple(_with_verdict(draft, found.get(id(draft)), confidence, correction) for draft in drafts)


def correction_of(family: Sequence[MetricRow], confidence: float = CONFIDENCE) -> Correction:
    """Holm's, but where so few pairs leave it no room for any difference. It follows from the number of pairs and rows
    alone, which are known before anything is measured; two stored runs have no blocks to exchange."""
    pairs = [len(row.blocks) for row in family]
    is_paired = bool(pairs) and min(pairs) > 0
    has_few = is_paired and max(pairs) < fewest_pairs(len(pairs), 1 - confidence)
    return Correction.EXCHANGE if has_few else Correction.HOLM


def _with_verdict(draft: Draft, p_adjusted: float | None, confidence: float, correction: Correction) -> MetricRow:
    row = draft.row
    if not is_judged(row.metric):
        return row
    if p_adjusted is None or draft.estimate is None or row.change is None or row.margin is None:
        return replace(row, verdict=ChangeVerdict.REFUSED)
    verdict = judge(row.metric, draft.estimate, p_adjusted, row.margin, confidence)
    return replace(row, verdict=verdict, change=replace(row.change, p_adjusted=p_adjusted, correction=correction))
