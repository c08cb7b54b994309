"""From the records of a comparison's runs to the comparison; the same records always give the same result.

Rows are made by `rows`, warnings by `warnings`; this module brings them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from labctl.compare.explain import explain
from labctl.compare.order import Schedule
from labctl.compare.rows import Cell, cells, judged, paired_draft, unpaired_draft, unproven
from labctl.compare.statistics import CONFIDENCE
from labctl.compare.verdict import half_width
from labctl.compare.warnings import (
    cut_short,
    differing,
    disagreeing,
    fell_back,
    noisy,
    resembling,
    retried,
    stood_in,
    too_few_rounds,
    unexpected,
)
from labctl.model.comparison import (
    Caution,
    CautionKind,
    CheckMetrics,
    Comparison,
    Environment,
    MetricRow,
    Noise,
    RunRecord,
    Side,
    SideSignature,
    Stopping,
)
from labctl.model.evidence import ModeInForce
from labctl.model.parameters import CompareParameters
from labctl.model.result import Metric


def assemble(
    *,
    a: Side,
    b: Side,
    checks: Sequence[CheckMetrics],
    runs: Iterable[RunRecord],
    modes: Mapping[str, ModeInForce],
    signatures: Sequence[SideSignature],
    environment: Environment,
    schedule: Schedule,
    parameters: CompareParameters,
    noise: Sequence[Noise] = (),
    confidence: float = CONFIDENCE,
    limits: Mapping[tuple[str, str], tuple[str, str]] = MappingProxyType({}),
    stopping: Stopping | None = None,
    origin: str = "",
) -> Comparison:
    """The comparison of sides `a` and `b` out of everything that was run.

    Records of other sides are left out, so that of three sides any two can be compared. `modes` and the signatures
    are keyed by side, as the records are. `limits` gives for a pair (client, server) the two nodes between which the
    physical limit was measured; those runs make no rows of their own. `origin` is the run on disk.
    """
    keys = (a.key, b.key)
    records = _in_order(record for record in runs if record.side in keys)
    refusal = unproven((a, b), modes)
    between_nodes = set(limits.values())
    drafts = [
        paired_draft(cell, metric, records, keys, refusal, parameters, confidence, limits)
        for cell, metrics in cells(checks, records)
        if (cell.client, cell.server) not in between_nodes
        for metric in metrics
        if metric.primary or _was_measured(metric, cell, records)
    ]
    rows = judged(drafts, confidence)
    seen = tuple(signature for signature in signatures if signature.side in keys)
    return Comparison(
        a=a,
        b=b,
        environment=environment,
        order=schedule.text(),
        seed=schedule.seed,
        rounds=schedule.rounds,
        modes=tuple((key, modes[key]) for key in keys if key in modes),
        rows=rows,
        signatures=seen,
        cautions=(
            *cut_short(records, schedule, keys),
            *too_few_rounds(rows, confidence),
            *noisy(noise),
            *resembling(rows),
            *disagreeing(rows),
            *unexpected(seen),
            *retried(records, keys),
            *stood_in(records),
            *fell_back([(key, modes[key]) for key in keys if key in modes]),
        ),
        runs=records,
        noise=tuple(noise),
        stopping=None if stopping is None else replace(stopping, half_width=half_width(rows)),
        origins=dict.fromkeys(keys, origin) if origin else {},
        explanations=explain(rows, records, keys, confidence),
    )


def assemble_unpaired(first: Comparison, side_a: str, second: Comparison, side_b: str) -> Comparison:
    """Side `side_a` of one stored comparison against side `side_b` of another.

    The two were not interleaved, so a difference may be the machine's and not the datapath's; a caution says so.
    Only rows that both have (same check, pair and metric) are compared.
    """
    a, b = _side(first, side_a), _side(second, side_b)
    theirs = {_row_key(row): row for row in second.rows}
    drafts = [
        unpaired_draft(row, theirs[_row_key(row)], a.key == first.a.key, b.key == second.a.key)
        for row in first.rows
        if _row_key(row) in theirs
    ]
    differences = differing(first.environment, second.environment)
    cautions = [Caution(kind=CautionKind.UNPAIRED)]
    if differences:
        cautions.append(Caution(kind=CautionKind.DIFFERENT_ENVIRONMENT, facts={"what": ", ".join(differences)}))
    runs = (
        *(replace(run, side="a") for run in first.runs if run.side == a.key),
        *(replace(run, side="b") for run in second.runs if run.side == b.key),
    )
    cautions += retried(runs, ("a", "b"))
    return Comparison(
        a=replace(a, key="a"),
        b=replace(b, key="b"),
        environment=second.environment,
        order="not interleaved: two stored runs",
        seed=second.seed,
        rounds=min(first.rounds, second.rounds),
        modes=tuple(
            (key, mode) for key, mode in (("a", first.mode(a.key)), ("b", second.mode(b.key))) if mode is not None
        ),
        rows=judged(drafts),
        signatures=(
            *(replace(seen, side="a") for seen in first.signatures if seen.side == a.key),
            *(replace(seen, side="b") for seen in second.signatures if seen.side == b.key),
        ),
        cautions=tuple(cautions),
        runs=runs,
        is_paired=False,
        origins={
            key: each.origins[side.key]
            for key, each, side in (("a", first, a), ("b", second, b))
            if side.key in each.origins
        },
    )


def _was_measured(metric: Metric, cell: Cell, records: Sequence[RunRecord]) -> bool:
    """Whether any run has a number of it: a secondary metric that this machine cannot measure at all has no row."""
    return any(
        sample.metric == metric.name
        for run in records
        if (run.check, run.client, run.server) == (cell.check, cell.client, cell.server)
        for sample in run.samples
    )


def _in_order(records: Iterable[RunRecord]) -> tuple[RunRecord, ...]:
    return tuple(sorted(records, key=lambda run: (run.block, run.position, run.side)))


def _side(comparison: Comparison, key: str) -> Side:
    for side in (comparison.a, comparison.b):
        if side.key == key:
            return side
    raise ValueError(f"the comparison has no side {key!r}, only {comparison.a.key!r} and {comparison.b.key!r}")


def _row_key(row: MetricRow) -> tuple[str, str, str, str, str]:
    return row.check, row.placement, row.client, row.server, row.metric.name
