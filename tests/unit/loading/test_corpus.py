"""Every file of tests/corpus: the valid ones load, the invalid ones say exactly what their `.txt` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import ScenarioInvalid, UsageError
from labctl.loading import load_scenario, scenario_names, validate_files

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
VALID = sorted((CORPUS / "valid").glob("*.yaml"))
INVALID = sorted((CORPUS / "invalid").glob("*.yaml"))


def _ids(file: Path) -> str:
    return file.stem


@pytest.mark.parametrize("file", VALID, ids=_ids)
def test_a_valid_file_has_no_problem(file: Path) -> None:
    found = validate_files([file.relative_to(CORPUS)], start=CORPUS)
    assert [str(problem) for problem in found if not problem.is_warning] == []


@pytest.mark.parametrize("file", INVALID, ids=_ids)
def test_an_invalid_file_says_exactly_what_is_wrong(file: Path) -> None:
    problems = ScenarioInvalid(validate_files([file.relative_to(CORPUS)], start=CORPUS)).problems
    assert "".join(f"{problem}\n" for problem in problems) == file.with_suffix(".txt").read_text(encoding="utf-8")
    assert problems


@pytest.mark.parametrize("file", INVALID, ids=_ids)
def test_an_invalid_file_is_refused_with_exit_code_2_and_a_remedy(file: Path) -> None:
    with pytest.raises(ScenarioInvalid) as caught:
        load_scenario(str(file.relative_to(CORPUS)), start=CORPUS)
    assert caught.value.exit_code == 2
    assert caught.value.lines()[-1].startswith("  try: ")


def test_the_corpus_has_at_least_thirty_kinds_of_broken_files() -> None:
    assert len({file.with_suffix(".txt").read_text(encoding="utf-8") for file in INVALID}) >= 30


def test_every_expected_message_belongs_to_a_file() -> None:
    assert {file.stem for file in (CORPUS / "invalid").glob("*.txt")} == {file.stem for file in INVALID}


def test_an_unknown_name_is_a_usage_error_with_a_suggestion_and_the_list() -> None:
    checkout = CORPUS.parents[1]
    with pytest.raises(UsageError) as caught:
        load_scenario("legasy", start=checkout)
    *said, hint = caught.value.lines()
    assert said == ["error: there is no scenario 'legasy'", "  why: looked in scenarios/"]
    assert hint.startswith(f"  try: did you mean 'legacy'? there are: {', '.join(scenario_names(checkout)[:8])}, ")


@pytest.mark.parametrize(
    "name", ["../legacy", "legacy;reboot", "$(reboot)", "a b", "", "scenarios/legacy", "Ä", "a\x00"]
)
def test_what_is_no_name_and_no_path_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_scenario(name, start=CORPUS)
    assert "neither a scenario's name nor a path ending in .yaml" in caught.value.what
