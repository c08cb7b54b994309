"""A trace that was kept as a run says the same when it is shown again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from labctl.codec import plain
from labctl.engine.trace import TRACE, read_trace
from labctl.errors import LabError, UsageError
from labctl.model.comparison import Environment
from labctl.model.trace import Mover, Trace, Unshown
from labctl.report.json import trace_document
from labctl.report.trace_html import trace_page
from labctl.report.trace_text import trace_view
from labctl.store.journal import JOURNAL_FILE
from labctl.store.reading import StoredRun, find_run
from labctl.store.runs import create_run

from .trace_example import BPF, CELLS, CROSS, LEGACY, NATIVE, VXLAN, example_trace, lost_trace

HERE = Environment(kernel="6.1.0", cpu_model="Test CPU", cpus=2)


def kept(runs_dir: Path, traced: Trace | None) -> StoredRun:
    """The run of that trace, as it is found again; without a trace, of one that came to nothing."""
    with create_run(runs_dir, kind=TRACE, name="t", labs={}, environment=HERE, argv=["labctl", "trace"]) as run:
        if traced is not None:
            run.record(TRACE, {"trace": plain(traced)})
    return find_run(runs_dir, "last")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(map(str, cell)))
def test_a_kept_trace_is_the_trace(tmp_path: Path, cell: tuple[object, object, object]) -> None:
    traced = example_trace(*cell, packets=2)  # type: ignore[arg-type]
    again = read_trace(kept(tmp_path, traced))
    assert again == traced
    assert trace_document(again) == trace_document(traced)


def test_a_kept_trace_of_a_lost_packet_still_says_where_it_was_lost(tmp_path: Path) -> None:
    again = read_trace(kept(tmp_path, lost_trace()))
    assert again == lost_trace()
    assert not again.is_well


def untold(kernel: str, since: str) -> Trace:
    return replace(
        example_trace(LEGACY, NATIVE, CROSS),
        unshown=(Unshown(mover=Mover.CONNTRACK, kernel=kernel, since=since),),
    )


@pytest.mark.parametrize(("kernel", "since"), [("6.1.0-50-amd64", "6.16"), ("5.10.0-46-amd64", "6.16"), ("8.0", "9.1")])
def test_every_view_says_which_steps_the_kernel_cannot_show_and_since_when_others_can(
    tmp_path: Path, kernel: str, since: str
) -> None:
    traced = read_trace(kept(tmp_path, untold(kernel, since)))
    sentence = (
        f"this kernel ({kernel}) does not report conntrack steps in nft traces, so the path shows none: "
        f"Linux {since} and later do"
    )
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(trace_view(traced, width=80))
    assert f"not shown: {sentence}" in " ".join(captured.get().split())
    assert f"Not shown: {sentence}" in trace_page(traced)
    assert trace_document(traced)["unshown"] == [
        {"mover": "conntrack", "kernel": kernel, "since": since, "sentence": sentence}
    ]


def test_no_view_says_so_of_a_kernel_that_shows_everything() -> None:
    traced = example_trace(LEGACY, NATIVE, CROSS)
    assert trace_document(traced)["unshown"] == []
    assert "ot shown: " not in trace_page(traced)


def test_a_trace_that_came_to_nothing_is_said_to_have(tmp_path: Path) -> None:
    run = kept(tmp_path, None)
    with pytest.raises(UsageError) as refused:
        read_trace(run)
    assert refused.value.lines() == (
        f"error: run {run.manifest.id} has nothing to report",
        "  why: it ended before the packet's path was known: complete",
        f"  try: ls {run.path / 'raw'}  # what was captured up to then",
    )


def test_a_trace_that_was_changed_is_not_shown(tmp_path: Path) -> None:
    run = kept(tmp_path, example_trace(BPF, VXLAN, CROSS))
    journal = run.path / JOURNAL_FILE
    journal.write_text(journal.read_text().replace('"ttl":64', '"ttl":63'))
    with pytest.raises(LabError):
        read_trace(run)
