"""Whatever crosses into root goes through a door, and docs/security.md tells the truth about its tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
SECURITY = (TREE / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/.-]+\.py)(?:::(\w+))?`", SECURITY)))


def test_the_page_names_tests() -> None:
    assert len(NAMED) >= 5


@pytest.mark.parametrize(("file", "function"), NAMED, ids=lambda part: part or "file")
def test_every_test_that_the_page_names_exists(file: str, function: str) -> None:
    tree = ast.parse((TREE / file).read_text(encoding="utf-8"))
    assert not function or function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
