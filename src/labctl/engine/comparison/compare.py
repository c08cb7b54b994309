"""A comparison from its question to what it says: the order of the acts is here, and nowhere else.

Two pages to read: `compare` opens the run, measures into it, and stores what came of it; `measure_blocks` builds and
proves the sides, measures them block by block, and proves them again. What each act does is its own module's:
`request` asks, `sides` names the labs, `measure` carries out, `stored` reads back, and `labctl.compare` says what the
records mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field, replace
from pathlib import Path

from labctl.compare.order import Schedule
from labctl.compare.thresholds import ThresholdJudgement, judge
from labctl.compare.warnings import differing
from labctl.engine.build import require_host
from labctl.engine.comparison.measure import IsEnough, Measurement, ReadNoise, narrow_enough, never, noise_meter
from labctl.engine.comparison.request import Question
from labctl.engine.comparison.sides import LeftLab
from labctl.engine.comparison.stored import (
    MeasuredBlocks,
    StoredComparison,
    compare_stored,
    comparisons,
    read_comparison,
    require_common,
)
from labctl.engine.events import BlockStarted, Note, Observer
from labctl.errors import DiskFull, Interrupted, UsageError
from labctl.model.comparison import Comparison, Environment
from labctl.planning.record import lab_to_json
from labctl.store.environment import fingerprint
from labctl.store.reading import open_run
from labctl.store.runs import Run, create_run, resume_run
from labctl.system.clock import monotonic_s
from labctl.system.cpus import cpus_for_pair
from labctl.system.process import output_of
from labctl.system.signals import interruptible
from labctl.values import dataclass

Document = Callable[[Sequence[Comparison], Sequence[Sequence[ThresholdJudgement]]], Mapping[str, object]]
"""The result as it is stored: a report's, of which the engine knows nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunToFill:
    """Where a comparison is written: a new run, or one that was cut short. `opened` does nothing until it is entered;
    `measured` are the blocks that need not be measured again."""

    opened: AbstractContextManager[Run]
    environment: Environment
    measured: MeasuredBlocks = field(default_factory=MeasuredBlocks)
    is_resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRun:
    """The result, and where its run is.

    `against_baseline` are the same sides against those of a stored run. `left` are labs that are still up, with the
    mode that each is in: with `keep`, or since one could not be removed. `stopped` is set when a person stopped it: the
    comparisons are then what there was up to there.
    """

    path: Path
    comparisons: tuple[Comparison, ...]
    against_baseline: tuple[Comparison, ...] = ()
    left: tuple[LeftLab, ...] = ()
    stopped: Interrupted | None = None


def compare(
    question: Question,
    into: RunToFill,
    document: Document,
    observer: Observer,
    *,
    keep: bool = False,
    baseline: StoredComparison | None = None,
) -> ComparisonRun:
    """Answers the question: every other side against the first.

    With `keep` the labs stay up, unless it fails. Raises HostLacks, UsageError, NotInForce before any number is taken
    from a lab that is not what was asked for, and whatever kept a step from being made. Interrupted is not raised but
    in the result (`stopped`), since what was measured is kept.
    """
    asked, measured = question.asked, into.measured
    if baseline is not None:
        require_common(baseline, asked)
    for provider in {side.provider.name: side.provider for side in question.sides}.values():
        require_host(provider)
    if asked.rounds < (needed := asked.rounds_needed()):
        told = f"with --rounds {asked.rounds} no row can reach significance, whatever is measured"
        observer(Note(text=f"{told}; that takes --rounds {needed}"))
    here = all(side.provider.capabilities.runs_tools_here for side in question.sides)
    stopped: Interrupted | None = None
    left: list[LeftLab] = []
    path: Path | None = None
    try:
        with into.opened as run, interruptible():
            path = run.path
            with Measurement(
                question.sides, question.specs, question.checks, run, observer, keep=keep, measured=measured
            ) as measurement:
                left = measurement.left
                if into.is_resumed:
                    measurement.remove_remains()
                is_enough = narrow_enough(asked, into.environment)
                measure_blocks(measurement, asked.schedule(), noise_meter(knows_own=here), is_enough)
            found = comparisons(asked, measured, into.environment, run.id)
            run.save_result(document(found, judge(found, asked.fail_if)))
    except DiskFull as full:
        if path is None:
            raise
        raise _without_room(full, path, measured) from full
    except Interrupted as stop:
        stopped = stop
        found = comparisons(asked, measured, into.environment, run.id) if measured.records else ()
    return ComparisonRun(
        path=run.path,
        comparisons=found,
        against_baseline=compare_stored(baseline, read_comparison(open_run(run.path))) if baseline and found else (),
        left=tuple(left),
        stopped=stopped,
    )


def _without_room(full: DiskFull, path: Path, measured: MeasuredBlocks) -> DiskFull:
    """What was measured is kept, and the same command goes on from there."""
    whole = len(measured.whole_blocks())
    return DiskFull(
        what=f"the comparison stopped: {full.what}",
        cause=f"{full.cause}; complete blocks, which are kept: {whole}",
        remedy=f"df -h {path}  # make room\nlabctl compare --resume {path}",
    )


def measure_blocks(
    measurement: Measurement, schedule: Schedule, noise_since_last: ReadNoise, is_enough: IsEnough = never
) -> MeasuredBlocks:
    """Carries out what is left of the schedule. Raises NotInForce before any number is taken from a lab that is not
    what was asked for, and after the last one when a lab is no longer that."""
    whole = measurement.measured.whole_blocks()
    left = [(number, block) for number, block in enumerate(schedule.blocks, start=1) if number not in whole]
    begun_s = 0.0
    for done, (number, block) in enumerate(left):
        if measurement.prepare(number, block, schedule):
            noise_since_last(number)  # that of building is no block's
        begun_s = begun_s or monotonic_s()
        left_s = (monotonic_s() - begun_s) / done * (schedule.rounds - number + 1) if done else None
        measurement.observer(BlockStarted(number=number, blocks=schedule.rounds, left_s=left_s))
        measurement.run_block(block)
        measurement.end_block(noise_since_last(number))
        if is_enough(number, measurement.measured):
            measurement.stop_after(number)
            break
    measurement.prove_still()
    return measurement.measured


def new_run(question: Question, *, kind: str, name: str, runs_dir: Path) -> RunToFill:
    """A new run in `runs_dir`, of which nothing is measured yet."""
    environment = environment_now()
    opened = create_run(
        runs_dir,
        kind=kind,
        name=name,
        labs={side.key: lab_to_json(side.lab) for side in question.sides},
        settings=question.asked.settings(),
        environment=environment,
    )
    return RunToFill(opened=opened, environment=environment)


def rest_of_run(stored: StoredComparison, *, trust: bool = False) -> RunToFill:
    """A run that was cut short: complete blocks stay, the block that was cut short is measured again.

    Raises UsageError when this machine is no longer as it was. When it is entered: also when the run is complete, or
    when another user could have written it (unless `trust`).
    """
    if changed := differing(stored.environment, environment_now()):
        raise UsageError(
            what=f"run {stored.run.manifest.id} cannot be resumed",
            cause=f"this machine has changed; different: {', '.join(changed)}",
            remedy="measure again: all blocks of one comparison must come from one machine",
        )
    stored.measured.go_on()
    return RunToFill(
        opened=resume_run(stored.run.path, trust=trust),
        environment=stored.environment,
        measured=stored.measured,
        is_resumed=True,
    )


def environment_now() -> Environment:
    """This machine, as runs record it."""
    client, server = cpus_for_pair()
    pinning = (
        "nothing is pinned: there is one CPU" if client is None else f"client on CPU {client}, server on CPU {server}"
    )
    return replace(fingerprint(output_of), pinning=pinning)
