"""Shows a trace, of now or out of a run: what `trace` and `report` have in common."""

from __future__ import annotations

from pathlib import Path

from labctl.cli.output import console, emit, emit_json, show
from labctl.cli.reports import write_text
from labctl.model.path import Trace


def show_trace(traced: Trace, *, is_json: bool, html: Path | None) -> None:
    if html is not None:
        from labctl.report.trace_html import trace_page

        write_text(html, trace_page(traced))
    if is_json:
        from labctl.report.trace_json import trace_document

        emit_json(trace_document(traced))
    else:
        from labctl.report.trace_text import trace_view

        show(trace_view(traced, width=console().width))
        if html is not None:
            emit(f"picture: {html}")


def exit_code(traced: Trace) -> int:
    """1 when a packet was lost or took another way than the mode that was asked for should show, else 0."""
    return 0 if traced.is_well else 1
