"""One `labctl trace` as a run on disk: the captures as they came, and what was found in them; and back from there."""

from __future__ import annotations

from labctl.engine.check_run import Journal
from labctl.engine.trace import trace
from labctl.errors import UsageError
from labctl.model.lab import Pair
from labctl.model.path import Protocol, Trace
from labctl.providers.base import OpenLab
from labctl.store.decoding import typed
from labctl.store.encoding import plain
from labctl.store.reading import StoredRun

TRACE = "trace"
"""The kind of run, and of the one entry in its journal."""


def trace_into(run: Journal, open_lab: OpenLab, pair: Pair, *, protocol: Protocol, count: int, statement: str) -> Trace:
    """Raises MeasureFailed, with everything that was captured up to then in the run."""
    sink = run.sink(f"{pair.client}-{pair.server}")
    traced = trace(open_lab, pair, protocol=protocol, count=count, statement=statement, sink=sink)
    run.record(TRACE, {"trace": plain(traced)})
    return traced


def read_trace(run: StoredRun) -> Trace:
    """What a run of `labctl trace` found. Raises LabError when it was changed or damaged, UsageError when it was cut
    short before there was anything."""
    run.require_intact()
    for entry in run.entries(TRACE):
        return typed(Trace, entry.content.get("trace"), where=str(run.path / "journal.jsonl"))
    manifest = run.manifest
    raise UsageError(
        what=f"run {manifest.id} has nothing to report",
        cause=f"it ended before the packet's way was known: {manifest.reason or manifest.state}",
        remedy=f"ls {run.path / 'raw'}  # what was captured up to then",
    )
