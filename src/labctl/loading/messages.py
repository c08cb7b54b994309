"""How values, keys and key paths are written in error messages: short, quoted, safe for a terminal; and "did you mean".

What the messages say is where the problems are found.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from labctl import names
from labctl.errors import Problem
from labctl.loading.tree import Block, KeyPath, Listing, Place, Scalar, Tree
from labctl.text import escaped

_LONGEST = 40
_LONGEST_LIST = 20
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_/-]{1,60}")


def shown(text: str) -> str:
    """The text in single quotes, cut to a readable length, with everything unprintable escaped."""
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return "'" + "".join(sign if sign.isprintable() else escaped(sign) for sign in cut) + "'"


def said(tree: Tree) -> str:
    """What a value is, in words: `the text 'three'`, `the number 1.10`, `a list`."""
    if isinstance(tree, Block):
        return "a mapping of keys"
    if isinstance(tree, Listing):
        return "a list"
    if tree.value is None:
        return "nothing"
    if isinstance(tree.value, bool):
        return tree.text
    if isinstance(tree.value, str):
        return f"the text {shown(tree.value)}"
    return f"the number {tree.text[:_LONGEST]}"


def brief(tree: Tree) -> str:
    """A value as short as it can be said."""
    if isinstance(tree, Scalar) and isinstance(tree.value, str):
        return shown(tree.value)
    if isinstance(tree, Scalar) and tree.value is not None:
        return tree.text[:_LONGEST]
    return said(tree)


def path_text(path: KeyPath) -> str:
    """A key path as `--set` takes it: `pods[1].node`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            key = step if _PLAIN_KEY.fullmatch(step) else shown(step)
            text += f".{key}" if text else key
    return text


def listed(choices: Iterable[str]) -> str:
    """Choices in the order given; a long list is cut and says how much is left out."""
    every = list(choices)
    if len(every) <= _LONGEST_LIST:
        return ", ".join(every)
    return f"{', '.join(every[:_LONGEST_LIST])}, … ({len(every) - _LONGEST_LIST} more)"


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choice that `word` was probably meant to be, or an empty text.

    Long words are left alone: the comparison takes time that grows with the square of the length.
    """
    if len(word) > 64:
        return ""
    by_folded = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else ""


def as_name(text: str) -> str:
    """A valid name that resembles `text`, or an empty text when there is none."""
    candidate = re.sub(r"[^a-z0-9]+", "-", text[:200].casefold()).strip("-")[:40].strip("-")
    return candidate if names.is_name(candidate) else ""


def problem_at(place: Place, path: KeyPath, message: str, allowed: str = "", suggestion: str = "") -> Problem:
    """A problem of the value at that path, which stands at that place."""
    return Problem(
        file=place.file,
        line=place.line,
        column=place.column,
        path=path_text(path),
        message=message,
        allowed=allowed,
        suggestion=suggestion,
    )
