"""How comparisons and traces leave the command line: on the terminal or as JSON, into files, and as an exit code.

It is the same for what was measured now and for what a stored run says.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labctl.cli.options import as_json as json_option
from labctl.cli.output import console, emit, emit_json, show, spoken, tell, translated
from labctl.errors import LabError, MeasureFailed
from labctl.model.comparison import Comparison
from labctl.model.result import Verdict
from labctl.text import utf8
from labctl.values import dataclass

if TYPE_CHECKING:
    from labctl.compare.thresholds import ThresholdJudgement
    from labctl.engine.comparison.compare import ComparisonRun
    from labctl.model.trace import Trace
    from labctl.report.words import Words

_FILE = click.Path(path_type=Path, dir_okay=False)
CROSSED = 1

fail_if_option = click.option(
    "--fail-if",
    metavar="EXPR",
    multiple=True,
    help="Exit with 1 when a change exceeds this: 'cross-node rtt_p50 > +5%'; repeatable.",
)
html_option = click.option("--html", type=_FILE, metavar="FILE", help="Write the report as one HTML file.")
markdown_option = click.option("--markdown", type=_FILE, metavar="FILE", help="Write it as Markdown.")
csv_option = click.option("--csv", type=_FILE, metavar="FILE", help="Write every sample as CSV.")
junit_option = click.option("--junit", type=_FILE, metavar="FILE", help="Write JUnit XML for CI.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOutput:
    """Where a report goes."""

    is_json: bool
    html: Path | None = None
    markdown: Path | None = None
    csv: Path | None = None
    junit: Path | None = None

    @property
    def words(self) -> Words:
        """Those for files."""
        from labctl.report.sentences import words_for

        return words_for(spoken(in_files=True))

    @property
    def terminal_words(self) -> Words:
        """Those for stdout."""
        from labctl.report.sentences import words_for

        return words_for(spoken())

    def require_places(self) -> None:
        """Raises LabError for a file that cannot be written, before anything is measured."""
        for path in (self.html, self.markdown, self.csv, self.junit):
            if path is not None:
                require_place(path)


def report_options(function: Callable[..., int]) -> Callable[..., int]:
    """--fail-if, which the command takes as it is; and --html, --markdown, --csv, --junit and --json, which it
    takes as one `output`. Raises LabError for a file that cannot be written before the command does anything."""

    @functools.wraps(function)
    def command(
        *args: Any,
        html: Path | None,
        markdown: Path | None,
        csv: Path | None,
        junit: Path | None,
        as_json: bool,
        **options: Any,
    ) -> int:
        output = ReportOutput(is_json=as_json, html=html, markdown=markdown, csv=csv, junit=junit)
        output.require_places()
        return function(*args, output=output, **options)

    for option in (json_option, junit_option, csv_option, markdown_option, html_option, fail_if_option):
        command = option(command)
    return command


def require_place(path: Path) -> None:
    """Raises LabError for a file that cannot be written, before it is known what to write."""
    parent = path.parent
    if os.access(parent, os.W_OK | os.X_OK) and not path.is_dir():
        return
    cause, remedy = f"{parent} is not writable", f"ls -ld {parent}; or name a file elsewhere"
    if path.is_dir():
        cause, remedy = f"{path} is a directory", f"name a file in it: {path / 'report'}"
    elif not parent.is_dir():
        cause = f"{parent} is not a directory"
        remedy = "name a file elsewhere" if parent.exists() else f"mkdir -p {parent}"
    raise LabError(what=f"cannot write {path}", cause=cause, remedy=remedy)


def present(comparisons: Sequence[Comparison], fail_if: Sequence[str], output: ReportOutput) -> int:
    """Shows what was stored and gives the exit code. Raises UsageError for a threshold that names nothing."""
    from labctl.compare.thresholds import judge

    judgements = judge(comparisons, fail_if)
    show_comparisons(comparisons, judgements, output)
    return exit_code(comparisons, judgements)


def present_run(answer: ComparisonRun, fail_if: Sequence[str], output: ReportOutput) -> int:
    """Shows the result of measuring and gives the exit code. A measurement that was stopped is shown as far as it
    got, and stays stopped."""
    from labctl.compare.thresholds import judge

    if answer.left:
        tell(f"kept: labctl down {' '.join(one.lab for one in answer.left)}")
    judgements = judge(answer.comparisons, fail_if) if answer.comparisons else ()
    if answer.comparisons:
        others = answer.against_baseline
        left = [one.record() for one in answer.left]
        show_comparisons((*answer.comparisons, *others), (*judgements, *(() for _ in others)), output, left)
    said = "raw files" if answer.stopped is None else "raw files so far"
    (tell if output.is_json else emit)(f"{said}: {answer.path}")
    if answer.stopped is not None:
        raise type(answer.stopped)(
            what=answer.stopped.what,
            cause="the labs are removed, the complete blocks are kept"
            if not answer.left
            else f"the complete blocks are kept; still up: {', '.join(one.lab for one in answer.left)}",
            remedy=f"resume with: labctl compare --resume {answer.path}",
        )
    return exit_code(answer.comparisons, judgements)


def show_comparisons(
    comparisons: Sequence[Comparison],
    judgements: Sequence[Sequence[ThresholdJudgement]],
    output: ReportOutput,
    left: Sequence[Mapping[str, object]] | None = None,
) -> None:
    """Writes the files that were asked for, then stdout: one JSON document, or the tables. `left`: of a comparison that
    was made now, the labs that are still up."""
    from labctl.report.json import matrix_document

    _write_files(comparisons, judgements, output)
    if output.is_json:
        document = matrix_document(comparisons, judgements)
        emit_json(document if left is None else {**document, "left": left})
        return
    from labctl.report.matrix import matrix_view
    from labctl.report.terminal import comparison_view

    width = console().width
    words = output.terminal_words
    for number, (comparison, judged) in enumerate(zip(comparisons, judgements, strict=True)):
        if number:
            show("", "─" * width, "")
        show(comparison_view(comparison, width=width, words=words, judgements=judged))
    if len(comparisons) > 1:
        show("", "─" * width, "", matrix_view(comparisons, words))


def exit_code(comparisons: Sequence[Comparison], judgements: Sequence[Sequence[ThresholdJudgement]] = ()) -> int:
    """4 when a run could not be measured, 1 when the network failed one or a threshold was crossed, 4 when a threshold
    cannot be judged, else 0."""
    from labctl.compare.thresholds import ThresholdState

    verdicts = {run.verdict for comparison in comparisons for run in comparison.runs}
    outcomes = {judgement.outcome for judged in judgements for judgement in judged}
    if Verdict.ERROR in verdicts:
        return MeasureFailed.exit_code
    if Verdict.FAIL in verdicts or ThresholdState.CROSSED in outcomes:
        return CROSSED
    return MeasureFailed.exit_code if ThresholdState.UNKNOWN in outcomes else 0


def _write_files(
    comparisons: Sequence[Comparison], judgements: Sequence[Sequence[ThresholdJudgement]], output: ReportOutput
) -> None:
    if output.html is not None:
        _write_pages(output.html, comparisons, judgements, output.words)
    if output.markdown is not None:
        from labctl.report.markdown import comparison_markdown
        from labctl.report.matrix import matrix_markdown

        texts = [
            comparison_markdown(comparison, output.words, judged)
            for comparison, judged in zip(comparisons, judgements, strict=True)
        ]
        if len(comparisons) > 1:
            texts.insert(0, matrix_markdown(comparisons, output.words))
        write_text(output.markdown, "\n".join(texts))
    if output.csv is not None:
        from labctl.report.csv import comparisons_csv

        write_text(output.csv, comparisons_csv(comparisons))
    if output.junit is not None:
        from labctl.report.junit import comparisons_junit

        write_text(output.junit, comparisons_junit(comparisons, judgements))


def _write_pages(
    path: Path, comparisons: Sequence[Comparison], judgements: Sequence[Sequence[ThresholdJudgement]], words: Words
) -> None:
    """One page for one comparison. For several, a page each beside it (`report-b.html`, …), and the table of all."""
    from labctl.report.html import comparison_page
    from labctl.report.matrix import matrix_page

    if len(comparisons) == 1:
        write_text(path, comparison_page(comparisons[0], words, judgements[0]))
        return
    links = []
    for number, (comparison, judged) in enumerate(zip(comparisons, judgements, strict=True), start=1):
        beside = path.with_name(f"{path.stem}-{number}-{comparison.b.scenario}{path.suffix}")
        write_text(beside, comparison_page(comparison, words, judged))
        links.append(beside.name)
    write_text(path, matrix_page(comparisons, links, words))


def write_text(path: Path, text: str) -> None:
    """Raises LabError when the disk refuses."""
    from labctl.store.runs import told
    from labctl.system.files import write_atomically

    with told(path.parent, elsewhere="name another file"):
        write_atomically(path, utf8(text))


def show_trace(traced: Trace, *, is_json: bool, html: Path | None) -> None:
    if html is not None:
        from labctl.report.trace_html import trace_page

        write_text(html, trace_page(traced, spoken(in_files=True)))
    if is_json:
        from labctl.report.json import trace_document

        emit_json(trace_document(traced))
    else:
        from labctl.report.trace_text import trace_view

        show(trace_view(traced, width=console().width, said=translated))
        if html is not None:
            emit(f"picture: {html}")


def trace_exit_code(traced: Trace) -> int:
    """1 when a packet was lost or took a different path than the mode that was asked for, else 0."""
    return 0 if traced.is_well else 1
