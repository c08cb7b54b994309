"""From a run on disk to what it says: the comparisons of its sides, out of manifest and journal alone.

`result.json` is not read: it is what these give, and a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labctl.compare.assemble import assemble
from labctl.engine.asked import Asked, asked_from
from labctl.engine.check_run import CHECKED, PROVEN
from labctl.engine.recorded import Measured, measured_from
from labctl.errors import LabError, UsageError
from labctl.model.comparison import Comparison, Environment
from labctl.model.lab import Lab
from labctl.model.proof import ModeInForce
from labctl.model.result import CheckResult
from labctl.planning.record import lab_from_json
from labctl.store.decoding import typed
from labctl.store.reading import StoredRun

COMPARE = "compare"
MATRIX = "matrix"
CHECK = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredComparison:
    """A run of `compare` or `matrix`, read back."""

    run: StoredRun
    asked: Asked
    measured: Measured
    environment: Environment

    def comparisons(self) -> tuple[Comparison, ...]:
        """Each side against the first."""
        return comparisons(self.asked, self.measured, self.environment, self.run.manifest.id)


def comparisons(asked: Asked, measured: Measured, environment: Environment, origin: str = "") -> tuple[Comparison, ...]:
    """Each side against the first, out of everything that was asked and seen; `origin` is the run's id."""
    done = len(measured.whole_blocks())
    plan = asked.schedule()
    if measured.stopped_after is not None:
        plan = plan.first(measured.stopped_after)
    first, *others = asked.sides
    return tuple(
        assemble(
            a=first,
            b=other,
            checks=asked.checks,
            runs=measured.records,
            modes=measured.modes,
            signatures=measured.signatures,
            environment=environment,
            schedule=plan,
            parameters=asked.parameters,
            noise=measured.noise,
            confidence=asked.confidence(done),
            limits=asked.limits(),
            stopping=asked.stopping(done),
            origin=origin,
        )
        for other in others
    )


def read_comparison(run: StoredRun) -> StoredComparison:
    """The comparison that the run is. Raises UsageError when it is none, LabError when it was changed or damaged."""
    manifest = run.manifest
    if manifest.run_kind not in (COMPARE, MATRIX):
        raise UsageError(
            what=f"run {manifest.id} is not a comparison",
            cause=f"it is a run of labctl {manifest.run_kind}",
            remedy="labctl runs  # shows which runs are comparisons",
        )
    run.require_intact()
    where = str(run.path / "run.json")
    asked = asked_from(manifest.settings, where)
    order = manifest.settings.get("order")
    if asked.schedule().text() != order:
        raise UsageError(
            what=f"run {manifest.id} cannot be read by this labctl",
            cause="the order that follows from its seed is not the one that it was measured in",
            remedy=f"use the labctl that wrote it ({manifest.labctl_version}), or read {run.path / 'result.json'}",
        )
    return StoredComparison(
        run=run,
        asked=asked,
        measured=measured_from(run.entries(), str(run.path / "journal.jsonl")),
        environment=typed(Environment, manifest.environment, where=where),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChecks:
    """A run of `check`, read back. `mode` is None when it was cut short before there was a proof."""

    run: StoredRun
    lab: Lab
    mode: ModeInForce | None
    results: tuple[CheckResult, ...]


def read_checks(run: StoredRun) -> StoredChecks:
    """What a run of `labctl check` found. Raises LabError when it was changed or damaged."""
    run.require_intact()
    where = str(run.path / "journal.jsonl")
    mode: ModeInForce | None = None
    results = []
    for entry in run.entries():
        if entry.kind == PROVEN:
            mode = typed(ModeInForce, entry.content.get("mode"), where=where)
        elif entry.kind == CHECKED:
            results.append(typed(CheckResult, entry.content.get("result"), where=where))
    (lab,) = stored_labs(run).values()
    return StoredChecks(run=run, lab=lab, mode=mode, results=tuple(results))


def stored_labs(run: StoredRun) -> Mapping[str, Lab]:
    """The resolved labs of a run by side. Raises UsageError."""
    labs: dict[str, Lab] = {}
    for key, record in run.manifest.labs.items():
        if not isinstance(record, dict):
            raise UsageError(what=f"{run.path / 'run.json'} is damaged", cause=f"lab {key} is not an object")
        try:
            labs[key] = lab_from_json(record)
        except LabError as failed:
            raise UsageError(
                what=f"lab {key} of run {run.manifest.id} cannot be read",
                cause=failed.cause,
                remedy=f"use the labctl that wrote it ({run.manifest.labctl_version}), or measure again",
            ) from failed
    return labs
