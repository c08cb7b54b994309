"""What is said of a text that is not YAML comes from marks and kinds of errors, whichever parser, in whatever words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from labctl.loading import yaml_files
from labctl.loading.tree import Place

LOADERS = [loader for loader in (getattr(yaml, "CSafeLoader", None), yaml.SafeLoader) if loader is not None]
INVALID = Path(__file__).resolve().parents[2] / "corpus/invalid"
START = Place("f.yaml", 1, 1)

SAID = {
    "a: b: c": "a ':' cannot stand here; check the indentation, or put the text in quotes",
    "a: {b: c: d}": "a bracket is not closed, or a ',' is missing",
    "a\nb: 1": "a ':' cannot stand here; check the indentation, or put the text in quotes",
    "k: 1\na\nb: 1": "a ':' is missing after a key, or a quote is not closed",
    "a: [1, 2\nb: 3": "a bracket is not closed, or a ',' is missing",
    "a: {b: 1]": "a bracket is not closed, or a ',' is missing",
    "a: [[1, 2]": "a bracket is not closed, or a ',' is missing",
    "a: 'b\nc: 1\n": "a quote is not closed",
    'a: "b\nc: 1\n': "a quote is not closed",
    'a: "ü \\y"': "this escape sequence does not exist",
    'a: "\\xg0"': "this escape sequence does not exist",
    "a:\n\tb: 1": "a tab cannot indent; use spaces",
    "a: @b": "a word cannot begin with this character; put the text in quotes",
    "a: `b`": "a word cannot begin with this character; put the text in quotes",
    "a: - b": "a '-' cannot stand here; check the indentation",
    "a: 1\n  b: 2": "a ':' cannot stand here; check the indentation, or put the text in quotes",
    "  a: 1\n b: 2": "there is more text after the end of the document; check the indentation",
    "a:\n  - 1\n - 2": "the indentation does not fit",
    "a: 1\n]": "a ']' cannot stand here",
    "a: x\nb: [1], 2": "a ',' cannot stand here",
    "\ufeffa: b: c": "a ':' cannot stand here; check the indentation, or put the text in quotes",
    "'a' 'b'": "there is more text after the end of the document; check the indentation",
}


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(yaml_files, "_LOADER", request.param)
    return request.param


def _said(text: str) -> str:
    (problem,) = yaml_files.compose(text, START)[1]
    return problem.message


def _in_other_words(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """From here on the parser says `words` of everything that is wrong."""
    parse = yaml.parse

    def reworded(text: str, Loader: Any) -> Iterator[Any]:  # noqa: N803
        try:
            yield from parse(text, Loader=Loader)
        except yaml.MarkedYAMLError as error:
            raise type(error)(error.context and words, error.context_mark, words, error.problem_mark) from None

    monkeypatch.setattr(yaml, "parse", reworded)


@pytest.mark.parametrize("text", SAID)
def test_a_text_that_is_not_yaml_is_described_alike_by_every_parser(text: str, loader: object) -> None:
    assert _said(text) == f"is not YAML: {SAID[text]}"


@pytest.mark.parametrize("text", SAID)
def test_the_words_of_the_parser_do_not_matter(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _in_other_words(monkeypatch, "les mots d'un autre")
    assert _said(text) == f"is not YAML: {SAID[text]}"


def test_what_nobody_knows_is_said_in_the_words_of_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    _in_other_words(monkeypatch, "a rule of YAML 1.3")
    assert _said("a: !<unclosed b") == "is not YAML: a rule of YAML 1.3 a rule of YAML 1.3"


@pytest.mark.parametrize("opening", ["[", "[{", "&a [", "!!seq [", "- [", "{a: [", "# ü\n[", "\ufeff["])
@pytest.mark.parametrize("words", ["", "the parser has a limit of its own"])
def test_our_limit_of_nesting_comes_before_that_of_the_parser(
    opening: str, words: str, loader: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words:
        _in_other_words(monkeypatch, words)
    levels = 100 if loader is yaml.SafeLoader else 1100  # it has no limit, and needs seconds for a thousand
    problems = yaml_files.compose(opening + "[" * levels, START)[1]
    assert problems[-1].message == "values are nested more than 32 levels deep"


def test_a_text_nested_less_than_our_limit_is_told_to_be_unclosed(loader: object) -> None:
    assert _said("a: " + "[" * 20) == "is not YAML: a bracket is not closed, or a ',' is missing"


def test_the_invalid_files_are_described_alike_by_every_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, set[tuple[str, ...]]] = {}
    for loader in LOADERS:
        monkeypatch.setattr(yaml_files, "_LOADER", loader)
        for file in sorted(INVALID.glob("*.yaml")):
            problems = yaml_files.compose(file.read_text(encoding="utf-8", errors="replace"), START)[1]
            said.setdefault(file.name, set()).add(tuple(map(str, problems)))
    assert len(said) > 20
    assert {name: words for name, words in said.items() if len(words) > 1} == {}
