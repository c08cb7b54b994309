"""`labctl matrix FILE`: measures what a file says, and resumes where it stopped when it is called again."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import all_overrides, provider_option, runs_dir_option, set_option, trust_option
from labctl.cli.output import tell
from labctl.cli.progress import Progress
from labctl.cli.reports import ReportOutput, present_run, report_options

if TYPE_CHECKING:
    from labctl.engine.comparison.request import Question
    from labctl.model.lab import Matrix


@click.command("matrix")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--new", "is_new", is_flag=True, help="Start from the first block, even if there is a run to resume.")
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

    After an interruption (Ctrl-C, kill -9, a power cut) the same command resumes: no complete block is measured twice.
    """
    from labctl import app
    from labctl.engine.comparison.compare import compare, new_run, rest_of_run
    from labctl.engine.comparison.stored import MATRIX, unfinished_matrix
    from labctl.loading.load import load_matrix
    from labctl.report.json import matrix_document

    matrix = load_matrix(file, overrides=all_overrides(provider, overrides), refuse=app.refuse, trust=trust)
    question = _question(matrix, fail_if)
    fail_if = question.asked.fail_if
    with Progress() as progress:
        any_seed = matrix.seed is None
        stored = (
            None if is_new else unfinished_matrix(runs_dir, matrix.name, question.asked, progress, any_seed=any_seed)
        )
        if stored is None:
            into = new_run(question, kind=MATRIX, name=matrix.name, runs_dir=runs_dir)
        else:
            tell(f"resuming run {stored.run.manifest.id} (--new starts from the first block)")
            question = app.ask_again(stored, trust=trust)
            into = rest_of_run(stored, trust=trust)
        answer = compare(question, into, matrix_document, progress)
    return present_run(answer, fail_if, output)


def _question(matrix: Matrix, fail_if: tuple[str, ...]) -> Question:
    from labctl import app
    from labctl.engine.comparison.request import Options, with_given
    from labctl.planning.resolve import resolve

    labs = [resolve(scenario) for scenario in matrix.scenarios]
    options = Options(
        seed=secrets.randbelow(1_000_000) if matrix.seed is None else matrix.seed,
        token=secrets.token_hex(2),
        placements=matrix.placements,
        reference=matrix.reference,
        until=matrix.until,
        most_rounds=matrix.max_rounds,
        fail_if=(*matrix.fail_if, *fail_if),
    )
    parameters = with_given(
        labs[0].compare, rounds=matrix.rounds, duration_s=matrix.duration_s, checks=matrix.checks or None
    )
    return app.ask(labs, parameters, options)
