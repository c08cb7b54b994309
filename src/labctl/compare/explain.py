"""Where the difference of a row comes from: what was measured of the parts of a packet's way, held against the row.

In each block every part's difference is B's less A's, and the rest is what the row's own numbers differ by less all of
them. So the rest has an interval like any of them, and nothing is said to be explained that was not measured. Every
estimate is the Hodges-Lehmann estimate over the blocks with Wilcoxon's interval, as the row's; estimates of parts need
not add up to the last digit, and `explained`, the estimate of their sum, is what to hold against the difference. This
stands alone because no verdict depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from labctl.compare.statistics import CONFIDENCE, paired_estimate
from labctl.model.comparison import Difference, ExplainedPart, Explanation, MetricRow, RunRecord
from labctl.model.result import MetricFamily, WayPart

Parts = Mapping[WayPart, float]


def explain(
    rows: Sequence[MetricRow], records: Sequence[RunRecord], keys: tuple[str, str], confidence: float = CONFIDENCE
) -> tuple[Explanation, ...]:
    """Of each primary latency whose runs say where the time went, or why that is not known."""
    found = []
    for row in rows:
        runs = [run for run in records if (run.check, run.client, run.server) == (row.check, row.client, row.server)]
        is_explained = row.metric.primary and row.metric.family is MetricFamily.LATENCY
        if is_explained and any(run.parts or run.unparted for run in runs):
            found.append(_explanation(row, runs, keys, confidence))
    return tuple(found)


def _explanation(row: MetricRow, runs: Sequence[RunRecord], keys: tuple[str, str], confidence: float) -> Explanation:
    parts_a, parts_b = (_parts_by_block(runs, key) for key in keys)
    values_a = dict(zip(row.a.blocks, row.a.samples, strict=True))
    values_b = dict(zip(row.b.blocks, row.b.samples, strict=True))
    blocks = [block for block in row.blocks if block in parts_a and block in parts_b]
    names = [
        part
        for part in WayPart
        if blocks and all(part in parts[block] for parts in (parts_a, parts_b) for block in blocks)
    ]
    reason = next((run.unparted for run in runs if run.unparted), "")
    if not names:
        reason = reason or "no block has both sides' parts"

    def difference(of_block: Mapping[int, float]) -> Difference:
        estimate = paired_estimate(list(of_block.values()), confidence)
        return Difference(
            estimate=estimate.estimate,
            low=estimate.low,
            high=estimate.high,
            confidence=estimate.confidence,
            n=estimate.n,
        )

    apart = {part: {block: parts_b[block][part] - parts_a[block][part] for block in blocks} for part in names}
    whole = {block: values_b[block] - values_a[block] for block in blocks}
    explained = {block: sum(of_block[block] for of_block in apart.values()) for block in blocks}
    rest = {block: whole[block] - explained[block] for block in blocks}
    return Explanation(
        check=row.check,
        placement=row.placement,
        client=row.client,
        server=row.server,
        metric=row.metric.name,
        unit=row.metric.unit,
        difference=difference(whole) if names else None,
        parts=tuple(
            ExplainedPart(
                part=part,
                a=median(parts_a[block][part] for block in blocks),
                b=median(parts_b[block][part] for block in blocks),
                difference=difference(apart[part]),
            )
            for part in names
        ),
        explained=difference(explained) if names else None,
        rest=difference(rest) if names else None,
        reason="" if names else reason,
    )


def _parts_by_block(runs: Sequence[RunRecord], side: str) -> dict[int, Parts]:
    return {
        run.block: {WayPart(sample.metric): sample.value for sample in run.parts}
        for run in runs
        if run.side == side and run.parts
    }
