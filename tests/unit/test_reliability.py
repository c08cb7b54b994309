"""docs/reliability.md names the test of each promise, and each of them is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
PAGE = (TREE / "docs" / "reliability.md").read_text(encoding="utf-8")
TARGETS = sorted(set(re.findall(r"`make ([a-z-]+)", PAGE)))
NAMED = sorted(set(re.findall(r"`(tests/[\w/.-]+\.py)(?:::(\w+))?`", PAGE)))


def rows() -> list[str]:
    """The rows of its tables, without their heads."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    return [line for line in lines if not line.startswith(("|---", "| promised"))]


def test_the_page_makes_promises() -> None:
    assert len(rows()) >= 15
    assert len(NAMED) >= 12


@pytest.mark.parametrize("row", rows())
def test_every_promise_names_a_test(row: str) -> None:
    assert re.search(r"`(tests/|make )", row.split("|")[2])


@pytest.mark.parametrize(("file", "function"), NAMED, ids=lambda part: part or "file")
def test_every_test_that_the_page_names_exists(file: str, function: str) -> None:
    tree = ast.parse((TREE / file).read_text(encoding="utf-8"))
    assert not function or function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_that_the_page_names_exists(target: str) -> None:
    makefile = (TREE / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(target)}:", makefile, flags=re.MULTILINE)
