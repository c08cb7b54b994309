"""Stored runs against each other: which of their sides belong together, and what else differs between them."""

from __future__ import annotations

from dataclasses import replace

from labctl.compare.assemble import assemble_unpaired
from labctl.engine.asked import Asked
from labctl.engine.stored import StoredComparison, stored_labs
from labctl.errors import UsageError
from labctl.model.comparison import Caution, CautionKind, Comparison, Side
from labctl.planning.difference import differences


def chosen_sides(a: StoredComparison, side_a: str, b: StoredComparison, side_b: str) -> tuple[tuple[str, str], ...]:
    """The keys of the sides to compare: the scenarios (or keys) that were named, or all scenarios that both have.

    Raises UsageError when there are none.
    """
    if side_a or side_b:
        return ((_side(a, side_a or side_b).key, _side(b, side_b or side_a).key),)
    theirs = {side.scenario: side.key for side in reversed(b.asked.sides)}
    mine = {side.scenario: side.key for side in reversed(a.asked.sides)}
    common = [(mine[name], theirs[name]) for name in dict.fromkeys(s.scenario for s in a.asked.sides) if name in theirs]
    if not common:
        raise UsageError(
            what="the two runs have no scenario in common",
            cause=f"{a.run.manifest.id} has {_names(a)}; {b.run.manifest.id} has {_names(b)}",
            remedy="name the sides to compare: labctl compare RUN_A@SCENARIO RUN_B@SCENARIO",
        )
    return tuple(common)


def require_common(baseline: StoredComparison, asked: Asked) -> None:
    """Raises UsageError when a stored run has none of the scenarios that are about to be measured, LabError when its
    labs cannot be read: both before anything is measured."""
    stored_labs(baseline.run)
    wanted = [side.scenario for side in asked.sides]
    if not {side.scenario for side in baseline.asked.sides} & set(wanted):
        raise UsageError(
            what=f"run {baseline.run.manifest.id} is no baseline for {' and '.join(wanted)}",
            cause=f"it has {_names(baseline)}",
            remedy="take a run of the same scenarios: labctl runs",
        )


def unpaired(a: StoredComparison, key_a: str, b: StoredComparison, key_b: str) -> Comparison:
    """One side of each run against the other, with what differs between the runs as warnings."""
    compared = assemble_unpaired(_holding(a, key_a), key_a, _holding(b, key_b), key_b)
    lab_a, lab_b = stored_labs(a.run)[key_a], stored_labs(b.run)[key_b]
    if lab_a.digest == lab_b.digest:
        return compared
    told = "; ".join(differences(lab_a, lab_b)) or "their digests"
    return replace(
        compared, cautions=(*compared.cautions, Caution(kind=CautionKind.DIFFERENT_LAB, facts={"what": told}))
    )


def _holding(stored: StoredComparison, key: str) -> Comparison:
    """A comparison of the run in which that side is."""
    return next(each for each in stored.comparisons() if key in (each.a.key, each.b.key))


def _side(stored: StoredComparison, wanted: str) -> Side:
    for side in stored.asked.sides:
        if wanted in (side.scenario, side.key):
            return side
    raise UsageError(
        what=f"run {stored.run.manifest.id} has no side {wanted}",
        cause=f"it has {_names(stored)}",
        remedy="name one of those: RUN@SCENARIO",
    )


def _names(stored: StoredComparison) -> str:
    return ", ".join(side.scenario for side in stored.asked.sides)
