"""Writing to stdout and stderr: one JSON document, tables, sentences. A reader who goes away (`labctl list | true`)
changes no verdict."""

from __future__ import annotations

import io
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, TextIO

import click

from labctl.cli.streams import line_width, reader_gone
from labctl.errors import LabError
from labctl.text import json_bytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDTH_WITHOUT_TERMINAL = 100


def emit_json(document: object) -> None:
    """Exactly one JSON document on stdout, in UTF-8."""
    emit(json_bytes(document))


def emit(text: str | bytes, *, nl: bool = True, color: bool | None = None) -> None:
    """Text as it is: what a person may paste or a program may read is never wrapped. Bytes are for programs, and are
    written as they are in any locale.

    `color` says that escape codes in it were already decided upon; without it they are left out where there is no
    terminal.
    """
    try:
        click.echo(text, file=sys.stdout, nl=nl, color=color)
    except BrokenPipeError:
        reader_gone()
    except OSError as refused:
        raise _unwritable(refused) from refused


def tell(text: str) -> None:
    """A line on stderr: an error, a note, what goes on. That nobody reads it changes nothing."""
    try:
        click.echo(text, file=sys.stderr)
    except OSError:
        reader_gone(sys.stderr)


def say(text: str) -> None:
    """A sentence for people, wrapped between words where there is a terminal to wrap for."""
    emit(wrapped(text, sys.stdout))


def wrapped(text: str, stream: TextIO) -> str:
    """The text as it is said on that stream: in lines of its width, as it is where it has none."""
    width = line_width(stream)
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False) if width else text


def show(*parts: RenderableType) -> None:
    """Tables and other renderables. Commands in them are whole, however long, and no line ends with spaces."""
    from rich.console import Group

    for part in parts:
        drawn = io.StringIO()
        console(drawn).print(Group(part), crop=False)  # in a Group a Text keeps what it says about wrapping
        emit("".join(line.rstrip(" ") + "\n" for line in drawn.getvalue().splitlines()), nl=False, color=True)


def console(drawn: TextIO | None = None) -> Console:
    """A terminal for tables: as wide as the window, 100 columns where there is none.

    What it draws goes into `drawn`, in the colours that stdout has.

    Behind a pipe (`labctl report last | less`) the window is still there, and nothing is wider than it.
    """
    from rich.console import Console

    width = shutil.get_terminal_size((min(WIDTH_WITHOUT_TERMINAL, _window_columns()), 24)).columns
    return Console(
        file=drawn,
        force_terminal=True if sys.stdout.isatty() else None,  # None leaves it to FORCE_COLOR
        width=width,
        highlight=False,
        soft_wrap=False,
        markup=False,
        emoji=False,
    )


def _window_columns() -> int:
    """The width of the window that stderr goes to; without one, as wide as anything."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or WIDTH_WITHOUT_TERMINAL
    except (OSError, ValueError):  # no terminal, or no file at all as under a test's capture
        return WIDTH_WITHOUT_TERMINAL


def _unwritable(refused: OSError) -> LabError:
    """A full disk behind `labctl plan bpf > FILE`. What is still buffered would fail again when the process ends."""
    reader_gone()
    return LabError(
        what="stdout cannot be written",
        cause=refused.strerror or str(refused),
        remedy="df -h .  # or send it elsewhere: labctl … > FILE",
    )
