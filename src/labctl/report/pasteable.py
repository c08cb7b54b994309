"""A command on a line of its own, never wrapped: a terminal breaks it for the eye, and a person copies it whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


def command_line(command: str, *, indent: int = 0, prompt: str = "$ ", style: str = "") -> Text:
    """To be printed as it is, not inside a table or a padding: those cut what is wider than the screen."""
    from rich.text import Text

    return Text(f"{' ' * indent}{prompt}{command}", style=style, no_wrap=True, overflow="ignore")
