"""`labctl report RUN`: what a stored run says, computed again from its journal, in any form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import runs_dir_option
from labctl.cli.output import emit_json, show, tell
from labctl.cli.reports import ReportOutput, present, report_options, write_text
from labctl.errors import UsageError

if TYPE_CHECKING:
    from labctl.engine.comparison.stored import StoredComparison
    from labctl.store.reading import StoredRun


@click.command("report")
@click.argument("run", metavar="RUN")
@runs_dir_option
@click.option("--slices", is_flag=True, help="Show what the load program's raw slices hold, read again.")
@report_options
def command(
    run: str,
    runs_dir: Path,
    slices: bool,
    fail_if: tuple[str, ...],
    output: ReportOutput,
) -> int:
    """Show a stored run again: a path, a name from `labctl runs`, the beginning of one, or `last`.

    Everything is computed from the run's journal and manifest; the result is the same as when it was measured.
    """
    from labctl.engine.comparison.stored import CHECK, read_comparison
    from labctl.engine.trace import TRACE
    from labctl.store.reading import find_run

    stored = find_run(runs_dir, run)
    _say_state(stored)
    if slices:
        return _report_slices(read_comparison(stored), output, fail_if)
    if stored.manifest.run_kind == CHECK:
        if fail_if or output.html or output.markdown or output.csv:
            raise UsageError(
                what="a run of labctl check has no such report",
                cause="it has verdicts and no comparison",
                remedy=f"labctl report {run} [--json] [--junit FILE]",
            )
        return _report_checks(stored, output)
    if stored.manifest.run_kind == TRACE:
        if fail_if or output.markdown or output.csv or output.junit:
            raise UsageError(
                what="a run of labctl trace has no such report",
                cause="it has the path of a packet, and no figures",
                remedy=f"labctl report {run} [--json] [--html FILE]",
            )
        return _report_trace(stored, output)
    comparison = read_comparison(stored)
    if not comparison.measured.records:
        raise UsageError(
            what=f"run {stored.manifest.id} has nothing to report",
            cause=f"it ended before the first check: {stored.manifest.reason or stored.manifest.state}",
            remedy=f"labctl compare --resume {stored.path}",
        )
    return present(comparison.comparisons(), fail_if or comparison.asked.fail_if, output)


def _report_slices(comparison: StoredComparison, output: ReportOutput, fail_if: tuple[str, ...]) -> int:
    """1 when a file gives other figures than the run has of it, 4 when one cannot be read."""
    from labctl import app
    from labctl.report.load_slices import slices_document, slices_tables

    if fail_if or output.html or output.markdown or output.csv or output.junit:
        raise UsageError(
            what="slices have no such report",
            cause="they are shown on the terminal, and with --json",
            remedy=f"labctl report {comparison.run.manifest.id} --slices [--json]",
        )
    runs = app.slices_again(comparison)
    if not runs:
        raise UsageError(
            what=f"run {comparison.run.manifest.id} has no slices",
            cause="the check load did not measure in it",
            remedy="labctl compare A B",
        )
    if output.is_json:
        emit_json(slices_document(comparison.run.manifest.id, runs))
    else:
        for table in slices_tables(runs):
            show(table)
    return 4 if any(one.unread for one in runs) else 1 if any(one.differs for one in runs) else 0


def _say_state(stored: StoredRun) -> None:
    """A run that did not end by itself says so before its figures."""
    from labctl.store.journal import RunState

    manifest = stored.manifest
    if manifest.state is not RunState.COMPLETE:
        because = f": {manifest.reason}" if manifest.reason else ""
        tell(f"note: run {manifest.id} is {manifest.state}{because}; this is what it has")
    elif stored.seal() is None:
        tell(f"note: run {manifest.id} has no SHA256SUMS; changes to it cannot be detected")


def _report_trace(stored: StoredRun, output: ReportOutput) -> int:
    from labctl.cli.reports import show_trace, trace_exit_code
    from labctl.engine.trace import read_trace

    traced = read_trace(stored)
    show_trace(traced, is_json=output.is_json, html=output.html)
    return trace_exit_code(traced)


def _report_checks(stored: StoredRun, output: ReportOutput) -> int:
    from labctl.cli.commands.check import exit_code as check_exit_code
    from labctl.cli.commands.check import show_results
    from labctl.engine.comparison.stored import read_checks
    from labctl.report.json import check_document
    from labctl.report.junit import check_junit

    checks = read_checks(stored)
    if output.junit is not None:
        write_text(output.junit, check_junit(checks.lab.name, checks.results, checks.mode))
    if output.is_json:
        emit_json(check_document(checks.lab, checks.results, () if checks.mode is None else (checks.mode,)))
    else:
        show_results(checks.mode, checks.results)
    return 4 if checks.mode is None else check_exit_code(checks.mode, checks.results)
