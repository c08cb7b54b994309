"""Shows a trace, of now or out of a run: what `trace` and `report` have in common."""

from __future__ import annotations

from pathlib import Path

import click

from labctl.cli.output import console, emit_json
from labctl.errors import LabError
from labctl.model.path import Trace


def show_trace(traced: Trace, *, is_json: bool, html: Path | None) -> None:
    if html is not None:
        from labctl.report.trace_html import trace_page

        _write(html, trace_page(traced))
    if is_json:
        from labctl.report.trace_json import trace_document

        emit_json(trace_document(traced))
    else:
        from labctl.report.trace_text import trace_view

        screen = console()
        screen.print(trace_view(traced, width=screen.width))
        if html is not None:
            click.echo(f"picture: {html}")


def exit_code(traced: Trace) -> int:
    """1 when a packet was lost or took another way than the mode that was asked for should show, else 0."""
    return 0 if traced.is_well else 1


def _write(path: Path, text: str) -> None:
    from labctl.system.files import write_atomically

    try:
        write_atomically(path, text.encode())
    except OSError as failed:
        raise LabError(
            what=f"the picture cannot be written to {path}", cause=str(failed), remedy=f"ls -ld {path.parent}"
        ) from failed
