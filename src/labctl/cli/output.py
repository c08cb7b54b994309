"""Writing to stdout: one JSON document, or text. A reader who goes away (`labctl list | true`) changes no verdict."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDTH_WITHOUT_TERMINAL = 100


def emit_json(document: object) -> None:
    """Exactly one JSON document on stdout."""
    emit(json.dumps(document, indent=1, ensure_ascii=False))


def emit(text: str, *, nl: bool = True) -> None:
    """Text as it is: what a person may paste or a program may read is never wrapped."""
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        reader_gone()


def say(text: str) -> None:
    """A sentence for people, wrapped between words where there is a terminal to wrap for."""
    emit(wrapped(text, sys.stdout))


def wrapped(text: str, stream: TextIO) -> str:
    """The text as it is said on that stream: in lines of the terminal's width, as it is where there is no terminal."""
    width = shutil.get_terminal_size().columns if stream.isatty() else 0
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False) if width else text


def show(*parts: RenderableType) -> None:
    """Tables and other renderables."""
    screen = console()
    try:
        for part in parts:
            screen.print(part)
    except (BrokenPipeError, SystemExit):  # rich exits on a broken pipe, with the code that means that a check failed
        reader_gone()


def console() -> Console:
    """A terminal for tables: as wide as the window, 100 columns where there is none.

    Behind a pipe (`labctl report last | less`) the window is still there, and nothing is wider than it.
    """
    from rich.console import Console

    width = shutil.get_terminal_size((min(WIDTH_WITHOUT_TERMINAL, _window_columns()), 24)).columns
    return Console(width=width, highlight=False, soft_wrap=False, markup=False, emoji=False)


def _window_columns() -> int:
    """The width of the window that stderr goes to; without one, as wide as anything."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or WIDTH_WITHOUT_TERMINAL
    except (OSError, ValueError):  # no terminal, or no file at all as under a test's capture
        return WIDTH_WITHOUT_TERMINAL


def reader_gone() -> None:
    """From here on what is written to stdout goes nowhere; the command goes on to the exit code that it has earned."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
