"""Writes what is generated from the models: the schemas under docs/schema/, and the corpus's expected messages.

Run it after a change of a message or of a section (`python tests/corpus/refresh.py`), then read the diff: every line of
it is something that a person will see.
"""

from __future__ import annotations

import json
from pathlib import Path

from labctl.errors import ScenarioInvalid
from labctl.loading import validate_files
from labctl.loading.schema import schema
from labctl.model.section import CLASS, LESSON, MATRIX, SCENARIO, SITE, SOLUTION

CORPUS = Path(__file__).resolve().parent
SCHEMAS = {
    SCENARIO: "scenario.json",
    SITE: "site.json",
    MATRIX: "matrix.json",
    LESSON: "lesson.json",
    CLASS: "class.json",
    SOLUTION: "solution.json",
}
SCHEMA_DIRECTORY = CORPUS.parents[1] / "docs" / "schema"


def schema_text(kind: str) -> str:
    return json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"


def messages(file: Path) -> str:
    """What `labctl validate` says about one file of the corpus, a line each."""
    problems = ScenarioInvalid(validate_files([file.relative_to(CORPUS)], start=CORPUS)).problems
    return "".join(f"{problem}\n" for problem in problems)


def refresh() -> None:
    for kind, name in SCHEMAS.items():
        (SCHEMA_DIRECTORY / name).write_text(schema_text(kind), encoding="utf-8")
    for file in sorted((CORPUS / "invalid").glob("*.yaml")):
        file.with_suffix(".txt").write_text(messages(file), encoding="utf-8")


if __name__ == "__main__":
    refresh()
