"""Writing to stdout: one JSON document, or text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console


def emit_json(document: object) -> None:
    """Exactly one JSON document on stdout."""
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def console() -> Console:
    """A terminal for tables: as wide as the window, 100 columns where there is none."""
    import shutil

    from rich.console import Console

    return Console(width=shutil.get_terminal_size((100, 24)).columns, highlight=False, soft_wrap=False)
