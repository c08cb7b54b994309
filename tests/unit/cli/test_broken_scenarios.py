"""Broken scenario files on the command line: exit 2, every place on stderr, nothing on stdout, nothing built."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from labctl.cli import group

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
FILES = sorted((CORPUS / "invalid").glob("*.yaml"))
SCENARIOS = [path for path in FILES if b"kind: Site" not in path.read_bytes()]
PLACE = re.compile(r"^invalid/[^:]+:\d+:\d+: .+")


def kind(path: Path) -> str:
    return path.stem


def said(path: Path) -> list[str]:
    """What the file's problems are, place by place."""
    return path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(autouse=True)
def in_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)


@pytest.mark.parametrize("path", SCENARIOS, ids=kind)
def test_a_broken_scenario_is_not_built_and_every_place_is_named(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert group.run(["up", f"invalid/{path.name}"]) == 2
    captured = capsys.readouterr()
    problems = said(path)
    assert captured.out == ""
    assert captured.err.splitlines() == [
        *problems,
        f"error: the scenario is invalid: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}",
        "  try: correct the places above, then run: labctl validate FILE",
    ]


@pytest.mark.parametrize("path", FILES, ids=kind)
def test_validate_names_every_place_of_a_broken_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["validate", f"invalid/{path.name}"]) == 2
    captured = capsys.readouterr()
    *problems, count = captured.err.splitlines()
    assert captured.out == ""
    assert problems == said(path)
    assert count.startswith(f"{len(problems)} problem")
    assert count.endswith("; docs/scenario.md explains every key")


def test_validate_gives_the_places_as_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["validate", "--json", "invalid/check-out-of-range.yaml", "valid/smallest.yaml"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is False
    assert [(p["line"], p["column"], p["path"]) for p in document["problems"]] == [
        (12, 12, "checks[0].count"),
        (13, 16, "checks[0].intervalS"),
        (14, 23, "checks[0].expect.maxLoss"),
    ]


def test_at_least_twenty_kinds_have_a_line_and_a_column() -> None:
    assert len([path for path in SCENARIOS if PLACE.match(said(path)[0])]) >= 20
