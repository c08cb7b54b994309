"""Warnings: what a reader should hold against the figures of a comparison, found in its own records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from labctl.compare.order import Schedule
from labctl.compare.statistics import CONFIDENCE, fewest_pairs, is_autocorrelated
from labctl.compare.verdict import FEWEST_PAIRS, is_judged
from labctl.model.comparison import (
    Caution,
    CautionKind,
    CheckMetrics,
    Environment,
    MetricRow,
    Noise,
    RunRecord,
    SideSignature,
)
from labctl.model.evidence import ModeInForce

CPU_PRESSURE_LIMIT = 0.20
STEAL_LIMIT = 0.02
NEIGHBOURS_LIMIT = 0.05
FREQUENCY_LIMIT = 0.10


def cut_short(records: Sequence[RunRecord], schedule: Schedule, keys: tuple[str, str]) -> list[Caution]:
    """`schedule` is what was to be measured; a comparison that stopped because it had enough is not cut short."""
    done = {(run.block, run.side, run.check, run.client, run.server) for run in records}
    whole = sum(
        all(
            (run.block, run.side, run.item.check, run.item.client, run.item.server) in done
            for run in block
            if run.side in keys
        )
        for block in schedule.blocks
    )
    if whole == schedule.rounds:
        return []
    return [Caution(kind=CautionKind.CUT_SHORT, facts={"done": whole, "planned": schedule.rounds})]


def too_few_rounds(rows: Sequence[MetricRow], confidence: float = CONFIDENCE) -> list[Caution]:
    """With too few pairs no difference word is possible, whatever is measured: say so, and how many it takes."""
    judged = [row for row in rows if row.change is not None and row.change.p_adjusted is not None]
    if not judged:
        return []
    most = max(row.change.n for row in judged if row.change is not None)
    needed = fewest_pairs(1, 1 - confidence)
    if most >= needed:
        return []
    facts: dict[str, str | int | float] = {"pairs": most, "rows": len(judged), "needed": needed}
    return [Caution(kind=CautionKind.TOO_FEW_ROUNDS, facts=facts)]


def rounds_needed(checks: Sequence[CheckMetrics], runs: Iterable[str]) -> int:
    """How many blocks it takes until any row can get a difference word, known before anything is measured.

    `runs` names the check of each run that a side makes in a block, references left out. 0 when nothing is judged.
    """
    judged = {each.check: sum(is_judged(metric) for metric in each.metrics) for each in checks}
    rows = sum(judged.get(name, 0) for name in runs)
    return FEWEST_PAIRS if rows else 0


def noisy(noise: Sequence[Noise]) -> list[Caution]:
    """What the blocks' noise is held against: neighbours, steal, and a CPU frequency that moved.

    PSI `some` counts our own processes' waits too, which on a small machine are many in every block. So pressure
    warns where other processes used a noticeable share, or where it is not known how much they used.
    """
    pressed = [reading for reading in noise if reading.cpu_pressure_share is None or _is_pressed(reading)]
    return [
        *_over(CautionKind.NEIGHBOURS, NEIGHBOURS_LIMIT, [reading.neighbours_share for reading in pressed], len(noise)),
        *_over(
            CautionKind.CPU_PRESSURE,
            CPU_PRESSURE_LIMIT,
            [reading.cpu_pressure_share for reading in noise if reading.neighbours_share is None],
            len(noise),
        ),
        *_over(CautionKind.STEAL, STEAL_LIMIT, [reading.steal_share for reading in noise], len(noise)),
        *_moving_frequency(noise),
    ]


def _is_pressed(reading: Noise) -> bool:
    return (reading.cpu_pressure_share or 0.0) > CPU_PRESSURE_LIMIT


def _over(kind: CautionKind, limit: float, shares: Sequence[float | None], blocks: int) -> list[Caution]:
    over = [share for share in shares if share is not None and share > limit]
    if not over:
        return []
    facts: dict[str, str | int | float] = {"blocks": len(over), "of": blocks, "most": max(over), "limit": limit}
    return [Caution(kind=kind, facts=facts)]


def _moving_frequency(noise: Sequence[Noise]) -> list[Caution]:
    found = [reading.frequency_hz for reading in noise if reading.frequency_hz]
    if not found or max(found) <= min(found) * (1 + FREQUENCY_LIMIT):
        return []
    facts: dict[str, str | int | float] = {"lowest_hz": min(found), "highest_hz": max(found)}
    return [Caution(kind=CautionKind.FREQUENCY, facts=facts)]


def resembling(rows: Sequence[MetricRow]) -> list[Caution]:
    return [
        Caution(
            kind=CautionKind.AUTOCORRELATED,
            facts={
                "placement": str(row.placement),
                "metric": row.metric.name,
                "label": row.metric.label,
                "correlation": row.autocorrelation or 0.0,
            },
        )
        for row in rows
        if is_judged(row.metric) and is_autocorrelated(row.differences)
    ]


def disagreeing(rows: Sequence[MetricRow]) -> list[Caution]:
    """Where another tool measured what a judged row has, on the same pair under the same name, and the two intervals
    have nothing in common."""
    return [
        Caution(
            kind=CautionKind.TOOL_DISAGREES,
            facts={
                "placement": str(row.placement),
                "metric": row.metric.name,
                "label": row.metric.label,
                "check": row.check,
                "other": other.check,
                "low": row.change.low,
                "high": row.change.high,
                "other_low": other.change.low,
                "other_high": other.change.high,
            },
        )
        for row in rows
        for other in rows
        if is_judged(row.metric)
        and not other.metric.primary
        and (row.client, row.server, row.metric.name) == (other.client, other.server, other.metric.name)
        and row.change is not None
        and other.change is not None
        and (row.change.high < other.change.low or other.change.high < row.change.low)
    ]


def unexpected(signatures: Sequence[SideSignature]) -> list[Caution]:
    return [
        Caution(
            kind=CautionKind.UNEXPECTED_SIGNATURE,
            facts={"side": seen.side, "placement": str(seen.signature.placement), "mismatch": seen.mismatch},
        )
        for seen in signatures
        if seen.is_expected is False
    ]


def retried(records: Sequence[RunRecord], keys: tuple[str, str]) -> list[Caution]:
    """How many runs of each side are second attempts: more on one side would say that it is not held up by chance."""
    again = [run for run in records if run.retried]
    if not again:
        return []
    counts = [sum(run.side == key for run in again) for key in keys]
    facts: dict[str, str | int | float] = {
        "count": len(again),
        "of": len(records),
        "a": counts[0],
        "b": counts[1],
        "checks": ", ".join(dict.fromkeys(run.check for run in again)),
        "reason": again[0].retried,
    }
    return [Caution(kind=CautionKind.RETRIED, facts=facts)]


def stood_in(records: Sequence[RunRecord]) -> list[Caution]:
    """Of each check in whose place other tools measured: in how many runs, and why."""
    found: dict[str, list[RunRecord]] = {}
    for run in records:
        found.setdefault(run.check, []).append(run)
    return [
        Caution(
            kind=CautionKind.STOOD_IN,
            facts={"check": check, "count": len(by), "of": len(runs), "reason": by[0].stood_in},
        )
        for check, runs in found.items()
        if (by := [run for run in runs if run.stood_in])
    ]


def fell_back(modes: Sequence[tuple[str, ModeInForce]]) -> list[Caution]:
    """A side that is not in the mode which its scenario asks for, because the scenario allows that."""
    key = "hostRouting"
    return [
        Caution(
            kind=CautionKind.FELL_BACK,
            facts={
                "side": side,
                "asked": str(mode.asked.get(key)),
                "found": str(mode.found.get(key)),
                "reason": mode.fallback.reason,
            },
        )
        for side, mode in modes
        if mode.fallback is not None
    ]


def differing(first: Environment, second: Environment) -> list[str]:
    """The names of what is not the same on both machines (or hours)."""
    named = [
        name
        for name in ("kernel", "cpu_model", "cpus", "memory_byte", "pinning")
        if getattr(first, name) != getattr(second, name)
    ]
    for mine, theirs in (
        (first.versions, second.versions),
        (first.sysctls, second.sysctls),
        (first.settings, second.settings),
    ):
        named.extend(sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key)))
    return named
