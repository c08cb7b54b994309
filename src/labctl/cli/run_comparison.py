"""Measures what was asked, into a run on disk, and shows it: what `compare` and `matrix` have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli.options import require_host
from labctl.cli.output import emit, tell
from labctl.cli.progress import Progress
from labctl.cli.reports import ReportOutput, exit_code, judge, show_comparisons
from labctl.errors import Interrupted, UsageError
from labctl.model.comparison import Comparison, Environment

if TYPE_CHECKING:
    from labctl.engine.comparison.request import Asked, Question
    from labctl.engine.comparison.stored import MeasuredBlocks
    from labctl.model.lab import Lab
    from labctl.store.reading import StoredRun
    from labctl.store.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRun:
    """What came of it, and where its run is. `stopped` is set when a person stopped it: the comparisons are then what
    there was up to there."""

    path: Path
    comparisons: tuple[Comparison, ...]
    stopped: Interrupted | None = None


def environment_now() -> Environment:
    """This machine, as runs record it."""
    from labctl.engine.comparison.sides import pinning
    from labctl.store.environment import fingerprint
    from labctl.system.process import output_of

    return replace(fingerprint(output_of), pinning=pinning())


def measure_new(question: Question, *, kind: str, name: str, runs_dir: Path, keep: bool = False) -> ComparisonRun:
    """A new run, measured from the first block."""
    from labctl.planning.record import lab_to_json
    from labctl.store.runs import create_run

    environment = environment_now()
    opened = create_run(
        runs_dir,
        kind=kind,
        name=name,
        labs={side.key: lab_to_json(side.lab) for side in question.sides},
        settings=question.asked.settings(),
        environment=environment,
    )
    return _measure(question, opened, environment, None, keep=keep)


def measure_rest(stored: StoredRun, *, keep: bool = False, trust: bool = False) -> ComparisonRun:
    """The rest of a run that was cut short: what is whole stays, the block that was cut is measured anew.

    Raises UsageError when it is complete, when this machine is no longer as it was, or when somebody else could have
    written the run (unless `trust`).
    """
    from labctl import app
    from labctl.compare.warnings import differing
    from labctl.engine.comparison.request import again
    from labctl.engine.comparison.stored import read_comparison, stored_labs
    from labctl.store.runs import resume_run

    before = read_comparison(stored)
    labs = stored_labs(stored)
    providers = {name: app.provider(name) for name in {lab.provider for lab in labs.values()}}
    _require_own_machines(labs.values(), trust=trust)
    question = again(before.asked, labs, providers)
    _require_no_code(labs.values(), trust=trust)
    now = environment_now()
    if changed := differing(before.environment, now):
        raise UsageError(
            what=f"run {stored.manifest.id} cannot go on",
            cause=f"this machine is not as it was; different: {', '.join(changed)}",
            remedy="measure anew: the blocks of one comparison belong on one machine",
        )
    measured = before.measured
    measured.go_on()
    return _measure(question, resume_run(stored.path, trust=trust), before.environment, measured, keep=keep)


def _require_own_machines(labs: Iterable[Lab], *, trust: bool) -> None:
    """A stored run may not say to which machines labctl connects, nor which password goes there: lab.yaml does."""
    from labctl.loading.load import site_section

    named = [lab.settings["hosts"] for lab in labs if "hosts" in lab.settings]
    if named and any(hosts != site_section("hosts", trust=trust) for hosts in named):
        raise UsageError(
            what="the run was measured on other machines than lab.yaml lists",
            cause="which machines are connected to, and with which keys and passwords, is not a stored run's to say",
            remedy="list the machines of the run under hosts: in lab.yaml, then the same command again",
        )


def _require_no_code(labs: Iterable[Lab], *, trust: bool) -> None:
    """A stored run may not name what runs as root on the container engine's host, any more than a scenario may."""
    from labctl.loading.code_keys import code_problems
    from labctl.loading.tree import Place, planted

    place = Place("run", 0, 0)
    for lab in () if trust else labs:
        stored = planted({**lab.settings, "provider": lab.provider}, place)
        if found := code_problems(stored, {place.file: None}):
            raise UsageError(
                what=f"lab {lab.name} of the run names code for the nodes of kind: {found[0].path}",
                cause="that runs as root on the container engine's host, which is not a stored run's to say",
                remedy="look at its manifest.json, then the same command with --trust",
            )


def _measure(
    question: Question,
    opened: AbstractContextManager[Run],
    environment: Environment,
    already: MeasuredBlocks | None,
    *,
    keep: bool,
) -> ComparisonRun:
    from labctl import app
    from labctl.engine.comparison.measure import Measurement, narrow_enough, noise_meter
    from labctl.engine.comparison.stored import MeasuredBlocks, comparisons
    from labctl.report.json import matrix_document
    from labctl.system.signals import interruptible

    for provider in {side.provider.name: side.provider for side in question.sides}.values():
        require_host(provider)
    knows_own = all(app.runs_tools_here(side.provider.name) for side in question.sides)
    asked = question.asked
    measured = already or MeasuredBlocks()
    stopped: Interrupted | None = None
    _say_too_few(asked)
    with Progress() as progress:
        try:
            with opened as run, interruptible():
                with Measurement(
                    question.sides,
                    question.specs,
                    app.checks(),
                    run,
                    progress,
                    keep=keep,
                    measured=measured,
                    is_resumed=already is not None,
                ) as measurement:
                    measurement.run(
                        asked.schedule(), noise_meter(knows_own=knows_own), narrow_enough(asked, environment)
                    )
                found = comparisons(asked, measured, environment, run.id)
                run.save_result(matrix_document(found, judge(found, asked.fail_if)))
        except Interrupted as stop:
            stopped = stop
            found = comparisons(asked, measured, environment, run.id) if measured.records else ()
    if keep and stopped is None:
        tell(f"kept: labctl down {' '.join(dict.fromkeys(side.lab.name for side in question.sides))}")
    return ComparisonRun(path=run.path, comparisons=found, stopped=stopped)


def _say_too_few(asked: Asked) -> None:
    """A comparison that cannot find a difference says so before it takes anybody's time."""
    from labctl.compare.warnings import rounds_needed

    between_nodes = set(asked.limits().values())
    runs = [item.check for item in asked.work if (item.client, item.server) not in between_nodes]
    needed = rounds_needed(asked.checks, runs)
    if asked.rounds < needed:
        tell(
            f"note: with --rounds {asked.rounds} no difference can be told, whatever is measured; "
            f"that takes --rounds {needed}"
        )


def present(
    answer: ComparisonRun, output: ReportOutput, fail_if: Sequence[str], more: Sequence[Comparison] = ()
) -> int:
    """Shows what came of it and gives the exit code. What was stopped is shown as far as it got, and stays stopped."""
    shown = (*answer.comparisons, *more)
    judgements = (
        *judge(answer.comparisons, fail_if if answer.comparisons else ()),
        *(() for _ in more),
    )
    if shown:
        show_comparisons(shown, judgements, output)
    said = "raw files" if answer.stopped is None else "what there is"
    (tell if output.is_json else emit)(f"{said}: {answer.path}")
    if answer.stopped is not None:
        raise Interrupted(
            what=answer.stopped.what,
            cause="the labs are gone, the blocks that were whole are kept",
            remedy=f"go on with: labctl compare --resume {answer.path}",
        )
    return exit_code(answer.comparisons, judgements)
