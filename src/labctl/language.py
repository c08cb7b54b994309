"""The language that people are spoken to in: English sentences, as the code has them, into another language's.

Sentences are data before they are words on a screen: runs, journals and records keep them in English, whoever measured,
so that a run reads the same everywhere and a stored one can be shown in any language. They are translated at the door,
when they are shown. A catalogue (`locales/LANGUAGE/PACKAGE.toml`) has for each sentence of a package's code, with
`{0}`, `{1}`, … in the place of what is filled in, the same sentence in that language. Which sentences there are is read
from the code itself (tests/unit/sentences.py), so none is forgotten. docs/adr/0012 says why this is not gettext.

What has no translation stays as it is: names, commands, what tools printed. JSON is never translated.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

_FILLED_IN = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"[A-Za-z]{2,}")
_PUNCTUATION = {"; ": "；", ". ": "。", ": ": "：", ", ": "，"}
_DEEPEST = 6
"""Sentences in sentences: an error's line, its cause, a finding in it, its reason."""
_MOST_TRIED = 3
"""Of the sentences that a text may be: `error: {0}` and `{0} is down` both fit `error: node1 is down`."""
_LONGEST = 20_000
"""Characters. What is longer is a tool's output and no sentence."""


class Language(StrEnum):
    """The values of `--lang`."""

    ENGLISH = "en"
    CHINESE = "zh"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sentence:
    """One entry of a catalogue. `pieces` are the parts of the original between what is filled in."""

    pattern: re.Pattern[str]
    pieces: tuple[str, ...]
    translation: str

    @property
    def weight(self) -> int:
        """How much of a text that fits is the sentence's own."""
        return sum(map(len, self.pieces))

    def filled(self, facts: Mapping[str, str]) -> str:
        """The translation with what the text is filled with; `facts` are by the groups of the pattern."""
        return _FILLED_IN.sub(lambda place: facts.get(f"p{place[1]}", place[0]), self.translation)


class Translator:
    """Translates whole texts: sentences, sentences within sentences, and several in a row."""

    def __init__(self, catalogue: Mapping[str, str]) -> None:
        self._exact = {text: said for text, said in catalogue.items() if not _FILLED_IN.search(text)}
        filled = (_sentence(text, said) for text, said in catalogue.items() if _FILLED_IN.search(text))
        self._filled = sorted(filled, key=lambda one: one.weight, reverse=True)

    def translated(self, text: str) -> str:
        """The text in this language, as far as the catalogue has it. Spaces around it stay."""
        bare = text.strip()
        if not bare or len(bare) > _LONGEST or not any(sign.isalpha() for sign in bare):
            return text
        said = self._said(bare, 0)
        return text if said == bare else text.replace(bare, said, 1)

    def _said(self, text: str, depth: int) -> str:
        if (exact := self._exact.get(text)) is not None:
            return exact
        if depth > _DEEPEST:
            return text
        if found := [self._filled_with(text, sentence, depth) for sentence in self._candidates(text)]:
            return min(found, key=_words_left)
        return self._in_parts(text, depth)

    def _filled_with(self, text: str, sentence: _Sentence, depth: int) -> str:
        facts = sentence.pattern.fullmatch(text)
        assert facts is not None
        return sentence.filled({name: self._said_around(fact, depth + 1) for name, fact in facts.groupdict().items()})

    def _said_around(self, fact: str, depth: int) -> str:
        bare = fact.strip()
        return fact.replace(bare, self._said(bare, depth), 1) if bare else fact

    def _candidates(self, text: str) -> Iterator[_Sentence]:
        """The sentences that the text may be, those first that explain most of it."""
        fitting = (one for one in self._filled if all(piece in text for piece in one.pieces))
        return itertools.islice((one for one in fitting if one.pattern.fullmatch(text)), _MOST_TRIED)

    def _in_parts(self, text: str, depth: int) -> str:
        """Sentences in a row: line by line, else at the marks between them. A part that nothing is known of stays."""
        if "\n" in text:
            return "\n".join(self._said_around(line, depth + 1) for line in text.split("\n"))
        for mark, theirs in _PUNCTUATION.items():
            if mark not in text:
                continue
            parts = text.split(mark)
            said = [self._said(part, depth + 1) for part in parts]
            if said != parts:
                return "".join(
                    part if number == len(said) - 1 else part + (theirs if part != parts[number] else mark)
                    for number, part in enumerate(said)
                )
        return text


class _Untranslated(Translator):
    """English, which needs none of it."""

    def __init__(self) -> None:
        super().__init__({})

    def translated(self, text: str) -> str:
        return text


def _words_left(text: str) -> int:
    """How many words of a translation are still English."""
    return len(_WORD.findall(text))


def _sentence(text: str, said: str) -> _Sentence:
    pieces = _FILLED_IN.split(text)
    texts, names = pieces[::2], pieces[1::2]
    pattern, seen = re.escape(texts[0]), set[str]()
    for name, after in zip(names, texts[1:], strict=True):
        pattern += f"(?P=p{name})" if name in seen else f"(?P<p{name}>.*?)"
        pattern += re.escape(after)
        seen.add(name)
    return _Sentence(
        pattern=re.compile(pattern, re.DOTALL), pieces=tuple(piece for piece in texts if piece), translation=said
    )


@functools.cache
def translator(language: Language) -> Translator:
    """The one for that language. A catalogue is read when the first text is asked for in its language."""
    if language is Language.ENGLISH:
        return _Untranslated()
    return Translator({text: said for text, said in catalogue(language) if said})


def catalogue(language: Language) -> Iterator[tuple[str, str]]:
    """Every sentence of the language's catalogue with what it becomes, which is empty for what stays as it is."""
    import tomllib

    for file in sorted(resources.files("labctl").joinpath("locales", language).iterdir(), key=lambda file: file.name):
        yield from tomllib.loads(file.read_text(encoding="utf-8")).items()
