"""The language of output: English sentences, as the code has them, translated into another language.

Sentences are data before they are words on a screen: runs, journals and records keep them in English, whatever language
was asked for, so that a run reads the same everywhere and a stored one can be shown in any language. They are
translated at the door, when they are shown. A catalogue (`locales/LANGUAGE/PACKAGE.toml`) has for each sentence of a
package's code, with `{0}`, `{1}`, … in the place of what is filled in, the same sentence in that language. Which
sentences there are is read from the code itself (tests/unit/sentences.py), so none is forgotten. docs/adr/0012 says why
this is not gettext.

What has no translation stays as it is: names, commands, what tools printed. JSON is never translated.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib import resources

from labctl.values import dataclass

_FILLED_IN = re.compile(r"\{(\w+)\}")
_AS_IT_IS = re.compile(r"'\{(\w+)\}'|\[default: \{(\w+)\}\]")
"""What is quoted in a sentence is a name or a value, whatever word it is."""
_WORD = re.compile(r"[A-Za-z]{2,}")
_BETWEEN_CHINESE = re.compile("(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])")
_NAMED = re.compile(r"([\w.-]+: )(.*)", re.DOTALL)
"""A sentence about something with a name, which is no word of it."""
_PUNCTUATION = {
    "# ": "# ", "  ": "  ", "] ": "] ", " · ": " · ", "; ": "；", ". ": "。", ": ": "：", ", ": "，", " → ": " → ",
}  # fmt: skip
"""Between parts, with what stands there in the translation: a remark behind a command, columns, `[1/4] `, sentences."""
_LED = re.compile(r"(?:error|note|why|try): \S")
"""A line of a message with what it is: no sentence begins with that."""
_BRACKETS = re.compile(r"(.*?\S) \(([^()]+(?:\([^()]*\)[^()]*)*)\)", re.DOTALL)
"""A text that ends with a remark in brackets."""
_PLACE = re.compile(r"((?:[^:\n]+?\.ya?ml|--set)(?::\d+:\d+)?: (?:(?:[\w.\[\]-]|'[^']*')+: )?)(\S.*)", re.DOTALL)
"""A place in a file and the key there, before what is wrong with it."""
_DEEPEST = 6
"""Sentences in sentences: an error's line, its cause, a finding in it, its reason."""
_MOST_PARTS = 8
"""Of a text that may be cut at any of the marks in it; one with more is cut at all of them."""
_INDEXED = 3
"""Sentences are found by so many of the signs that they begin with."""
_MOST_TRIED = 5
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
    quoted: frozenset[str]
    begins: str
    ends: str

    @property
    def weight(self) -> int:
        """How much of a text that fits is the sentence's own."""
        return sum(map(len, self.pieces))

    def may_be(self, text: str) -> bool:
        """Whether the text has its pieces, which is quicker to see than whether it fits."""
        return text.endswith(self.ends) and text.startswith(self.begins) and all(piece in text for piece in self.pieces)

    def filled(self, facts: Mapping[str, str]) -> str:
        """The translation with what the text is filled with; `facts` are by the groups of the pattern."""
        return _FILLED_IN.sub(lambda place: facts.get(f"p{place[1]}", place[0]), self.translation)


class Translator:
    """Translates whole texts: sentences, sentences within sentences, and several in a row."""

    def __init__(self, catalogue: Mapping[str, str]) -> None:
        bare = dict(_alone(text, said) for text, said in catalogue.items())
        self._exact = {text: said for text, said in bare.items() if not _FILLED_IN.search(text)}
        filled = (_sentence(text, said) for text, said in bare.items() if _FILLED_IN.search(text))
        self._known: dict[str, str] = {}
        self._filled: dict[str, list[_Sentence]] = {}
        for one in filled:
            self._filled.setdefault(one.begins[:_INDEXED], []).append(one)

    def translated(self, text: str) -> str:
        """The text in this language, as far as the catalogue has it. Spaces around it stay."""
        bare = text.strip()
        if not bare or len(bare) > _LONGEST or not any(sign.isalpha() for sign in bare):
            return text
        self._known.clear()
        said = self._said(bare, 0)
        return text if said == bare else text.replace(bare, _BETWEEN_CHINESE.sub("", said), 1)

    def _said(self, text: str, depth: int) -> str:
        if (exact := self._exact.get(text)) is not None:
            return exact
        if depth > _DEEPEST or " " not in text:
            return text
        if (known := self._known.get(text)) is None:
            known = self._known[text] = self._found(text, depth)
        return known

    def _found(self, text: str, depth: int) -> str:
        placed = _PLACE.fullmatch(text)
        if placed is not None and (message := self._said(placed[2], depth + 1)) != placed[2]:
            return placed[1] + message
        is_led = _LED.match(text) is not None
        fitting = tuple(one for one in self._candidates(text) if one.begins or not is_led)
        found = [self._filled_with(text, sentence, depth) for sentence in fitting]
        # A remark at the end is not taken for a part of a sentence that begins with a fact.
        ends = text.endswith((")", "'?")) and not any(one.pieces[-1].endswith(text[-1]) for one in fitting)
        found.insert(0 if ends else len(found), (False, self._in_parts(text, depth)))
        if (named := _NAMED.fullmatch(text)) is not None and (rest := self._said(named[2], depth + 1)) != named[2]:
            found.insert(0, (False, named[1] + rest))
        return min(found, key=lambda one: (_words_left(one[1]), one[0]))[1]

    def _filled_with(self, text: str, sentence: _Sentence, depth: int) -> tuple[bool, str]:
        """The text as that sentence, and whether what would stand in its middle looks like several parts."""
        filled = sentence.pattern.fullmatch(text)
        assert filled is not None
        facts = filled.groupdict()
        middle = (fact for name, fact in facts.items() if not sentence.translation.endswith(f"{{{name[1:]}}}"))
        runs_over = any(mark in fact for fact in middle for mark in _PUNCTUATION)
        return runs_over, sentence.filled(
            {
                name: fact if name in sentence.quoted else self._said_around(fact, depth + 1)
                for name, fact in facts.items()
            }
        )

    def _said_around(self, fact: str, depth: int) -> str:
        bare = fact.strip()
        return fact.replace(bare, self._said(bare, depth), 1) if bare else fact

    def _candidates(self, text: str) -> Iterator[_Sentence]:
        """The sentences that the text may be, those first that explain most of it."""
        starts = {text[:length] for length in range(_INDEXED + 1)}
        some = (one for start in starts for one in self._filled.get(start, ()) if one.may_be(text))
        fitting = sorted(some, key=lambda one: one.weight, reverse=True)
        return itertools.islice((one for one in fitting if one.pattern.fullmatch(text)), _MOST_TRIED)

    def _in_parts(self, text: str, depth: int) -> str:
        """Sentences in a row: line by line, else at the marks between them. A part that nothing is known of stays."""
        if "\n" in text:
            return "\n".join(self._said_around(line, depth + 1) for line in text.split("\n"))
        ways = [said for said in (self._with_remark(text, depth), self._cut(text, depth)) if said != text]
        return min(ways, key=_words_left) if ways else self._as_sentence(text, depth)

    def _with_remark(self, text: str, depth: int) -> str:
        if (around := _BRACKETS.fullmatch(text)) is None:
            return text
        before, within = self._said(around[1], depth + 1), self._said(f"({around[2]})", depth + 1)
        if within == f"({around[2]})":
            within = f"({self._said(around[2], depth + 1)})"
        return before + (within if within.startswith("（") else f" {within}")

    def _cut(self, text: str, depth: int) -> str:
        """Cut at the first kind of mark that leaves a part which is translated."""
        for mark in _PUNCTUATION:
            if mark not in text:
                continue
            parts = text.split(mark)
            if len(parts) <= _MOST_PARTS:
                cuts = ((mark.join(parts[:at]), mark.join(parts[at:])) for at in range(1, len(parts)))
                said = min((self._in_two(*cut, mark, depth) for cut in cuts), key=_words_left)
            else:
                said_so = [self._part(part, mark, depth) for part in parts]
                marks = (mark if one == part else _PUNCTUATION[mark] for one, part in zip(said_so, parts, strict=True))
                said = "".join(map("".join, zip(said_so, (*itertools.islice(marks, len(parts) - 1), ""), strict=True)))
            if said != text:
                return said
        return text

    def _in_two(self, head: str, tail: str, mark: str, depth: int) -> str:
        """Two parts with the mark between them: the translation's where the first part is translated."""
        said = self._part(head, mark, depth)
        return said + (_PUNCTUATION[mark] if said != head or not head else mark) + self._part(tail, mark, depth)

    def _part(self, part: str, mark: str, depth: int) -> str:
        """A part in the language; single words between commas are a list of names, keys or values."""
        return part if mark == ", " and " " not in part else self._said(part, depth + 1)

    def _as_sentence(self, text: str, depth: int) -> str:
        """A sentence that the code writes without its capital and its full stop."""
        if " " not in text:
            return text
        bare = text.removesuffix(".")
        bare = bare[:1].lower() + bare[1:]
        if bare == text or (said := self._said(bare, depth + 1)) == bare:
            return text
        return said + "。" * text.endswith(".")


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
        pattern=re.compile(pattern, re.DOTALL),
        pieces=tuple(piece for piece in texts if piece),
        translation=said,
        begins=texts[0],
        ends=texts[-1],
        quoted=frozenset(f"p{one or other}" for one, other in _AS_IT_IS.findall(text)),
    )


@functools.cache
def translator(language: Language) -> Translator:
    """The one for that language. A catalogue is read when the first text is asked for in its language."""
    if language is Language.ENGLISH:
        return _Untranslated()
    return Translator({text: said for text, said in catalogue(language) if said})


def _alone(text: str, said: str) -> tuple[str, str]:
    """A fragment that the code joins to a sentence (`; did you mean '{0}'?`) is met without the mark before it."""
    return text.lstrip(" ,;:").rstrip(), said.lstrip(" ，；：").rstrip()


def catalogue(language: Language) -> Iterator[tuple[str, str]]:
    """Every sentence of the language's catalogue with what it becomes, which is empty for what stays as it is."""
    import tomllib

    for file in sorted(resources.files("labctl").joinpath("locales", language).iterdir(), key=lambda file: file.name):
        yield from tomllib.loads(file.read_text(encoding="utf-8")).items()
