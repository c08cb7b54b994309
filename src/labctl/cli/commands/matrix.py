"""`labctl matrix FILE`: measures what a file says, and goes on where it stopped when it is called again."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import all_overrides, provider_option, runs_dir_option, set_option, trust_option
from labctl.cli.output import tell
from labctl.cli.reports import ReportOutput, report_options
from labctl.errors import LabError, UsageError

if TYPE_CHECKING:
    from labctl.engine.comparison.request import Asked, Question
    from labctl.model.lab import Matrix
    from labctl.store.reading import StoredRun


@click.command("matrix")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--new", "is_new", is_flag=True, help="Measure from the first block, also when there is a run to go on with."
)
@provider_option
@set_option
@trust_option
@runs_dir_option
@report_options
def command(
    file: Path,
    is_new: bool,
    provider: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    runs_dir: Path,
    fail_if: tuple[str, ...],
    output: ReportOutput,
) -> int:
    """Measure the scenarios × checks × placements of FILE in the same interleaved blocks; each against the first.

    Stopped in the middle (Ctrl-C, kill -9, a power cut), the same command goes on: no whole block is measured twice.
    """
    from labctl import app
    from labctl.cli.run_comparison import measure_new, measure_rest, present
    from labctl.engine.comparison.stored import MATRIX
    from labctl.loading.load import load_matrix

    matrix = load_matrix(file, overrides=all_overrides(provider, overrides), refuse=app.refuse, trust=trust)
    question = _question(matrix, fail_if)
    unfinished = None if is_new else _unfinished(runs_dir, matrix, question.asked)
    if unfinished is not None:
        tell(f"going on with run {unfinished.manifest.id} (--new measures from the first block)")
        answer = measure_rest(unfinished, trust=trust)
    else:
        answer = measure_new(question, kind=MATRIX, name=matrix.name, runs_dir=runs_dir)
    return present(answer, output, question.asked.fail_if)


def _question(matrix: Matrix, fail_if: tuple[str, ...]) -> Question:
    from labctl import app
    from labctl.engine.comparison.request import Options, ask
    from labctl.planning.resolve import resolve

    labs = [resolve(scenario) for scenario in matrix.scenarios]
    parameters = labs[0].compare
    if matrix.checks:
        parameters = replace(parameters, checks=matrix.checks)
    if matrix.rounds is not None:
        parameters = replace(parameters, rounds=matrix.rounds)
    if matrix.duration_s is not None:
        parameters = replace(parameters, duration_s=matrix.duration_s)
    options = Options(
        seed=secrets.randbelow(1_000_000) if matrix.seed is None else matrix.seed,
        token=secrets.token_hex(2),
        placements=matrix.placements,
        reference=matrix.reference,
        until=matrix.until,
        most_rounds=matrix.max_rounds,
        fail_if=(*matrix.fail_if, *fail_if),
    )
    providers = {name: app.provider(name) for name in {lab.provider for lab in labs}}
    return ask(labs, providers, app.checks(), parameters, options)


def _unfinished(runs_dir: Path, matrix: Matrix, asked: Asked) -> StoredRun | None:
    """The newest run of this matrix that was cut short and was asked the same. Raises UsageError while one runs."""
    from labctl.engine.comparison.request import without_token
    from labctl.engine.comparison.stored import MATRIX, read_comparison
    from labctl.store.manifest import RunState
    from labctl.store.reading import StoredRun, list_runs

    for run in reversed(list_runs(runs_dir)):
        if not isinstance(run, StoredRun) or (run.manifest.run_kind, run.manifest.name) != (MATRIX, matrix.name):
            continue
        if run.manifest.state is RunState.RUNNING:
            raise UsageError(
                what=f"matrix {matrix.name} is being measured by another labctl",
                cause=f"it writes run {run.manifest.id}",
                remedy="wait until it has ended (labctl runs shows it), or give the file another name",
            )
        if run.manifest.state is RunState.COMPLETE:
            return None
        try:
            before = read_comparison(run).asked
        except LabError as damaged:
            tell(f"note: run {run.manifest.id} cannot be gone on with: {damaged.what}")
            continue
        is_same_seed = matrix.seed is None or matrix.seed == before.seed
        if is_same_seed and without_token(before) == without_token(asked):
            return run
        tell(f"note: run {run.manifest.id} was cut short and was asked something else; it stays as it is")
    return None
