"""Every labctl command that the documents show can be pasted: it exists, and takes what it is given there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from labctl.cli.group import labctl

TREE = Path(__file__).resolve().parents[2]
DOCUMENTS = [TREE / "README.md", TREE / "CONTRIBUTING.md", *sorted((TREE / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?:\$ )?(?:sudo )?(?:\./)?labctl (?P<rest>[^#|>]*)")


def commands() -> list[tuple[str, str]]:
    """(document, arguments) of each line of a code block that runs labctl."""
    found = []
    for path in DOCUMENTS:
        blocks = re.findall(r"^```[a-z]*\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for line in "".join(blocks).splitlines():
            match = COMMAND.match(line)
            if match and "…" not in line and not line.endswith("\\"):
                found.append((path.name, match["rest"].strip()))
    return found


@pytest.mark.parametrize(("document", "arguments"), commands(), ids=lambda value: value)
def test_a_command_of_the_documents_is_understood(document: str, arguments: str) -> None:
    name, *rest = shlex.split(arguments.partition(" && ")[0])
    context = click.Context(labctl)
    command = labctl.get_command(context, name)
    assert command is not None, f"{document}: there is no command {name}"
    command.make_context(name, rest, parent=context)  # raises click.UsageError; runs nothing


def test_the_readme_shows_how_to_build_look_check_and_remove() -> None:
    shown = {arguments.split()[0] for document, arguments in commands() if document == "README.md"}
    assert {"up", "status", "exec", "check", "down"} <= shown
