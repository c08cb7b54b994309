"""Values of a file together with the place that each one came from, and how two such trees are merged.

It knows nothing about YAML or about what keys mean. Trees are values: merging and replacing make new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from labctl.values import dataclass

KeyPath = tuple[str | int, ...]
"""Where a value is in a tree: keys and list indexes from the root."""

Plain = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file, counted from 1. For `--set`, `line` counts the options and `column` the characters."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value, and the text that stood in the file for it."""

    value: Plain
    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class Listing:
    items: tuple[Tree, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    key_place: Place
    value: Tree


@dataclass(frozen=True, slots=True)
class Block:
    """A mapping, in the order of the file."""

    entries: Mapping[str, Entry]
    place: Place


Tree = Scalar | Listing | Block


def plain(tree: Tree) -> Any:
    """The values without places: what `json` can write.

    A float without a fraction becomes an int, as 1.0 and 1 are the same number to JSON Schema.
    """
    if isinstance(tree, Block):
        return {key: plain(entry.value) for key, entry in tree.entries.items()}
    if isinstance(tree, Listing):
        return [plain(item) for item in tree.items]
    value = tree.value
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def planted(data: object, place: Place) -> Tree:
    """A tree of plain data that all comes from one place."""
    if isinstance(data, Mapping):
        return Block({str(key): Entry(place, planted(value, place)) for key, value in data.items()}, place)
    if isinstance(data, Sequence) and not isinstance(data, str):
        return Listing(tuple(planted(item, place) for item in data), place)
    if data is None or isinstance(data, (bool, int, float, str)):
        return Scalar(data, str(data), place)
    raise TypeError(f"no place for a {type(data).__name__}")


def child(tree: Tree | None, step: str | int) -> Tree | None:
    """The value one step down, or None where there is none."""
    if isinstance(tree, Block) and isinstance(step, str):
        entry = tree.entries.get(step)
        return entry.value if entry else None
    if isinstance(tree, Listing) and isinstance(step, int) and 0 <= step < len(tree.items):
        return tree.items[step]
    return None


def find(tree: Tree | None, *path: str | int) -> Tree | None:
    for step in path:
        tree = child(tree, step)
    return tree


def items_of(tree: Tree | None) -> Iterator[tuple[int, Tree]]:
    """The items of a list with their indexes; nothing when it is not a list."""
    if isinstance(tree, Listing):
        yield from enumerate(tree.items)


def text_of(tree: Tree | None) -> str | None:
    """The text, or None when it is not one."""
    return tree.value if isinstance(tree, Scalar) and isinstance(tree.value, str) else None


def place_of(tree: Tree, path: KeyPath) -> Place:
    """The place of the value at `path`, or of the nearest value above it that exists."""
    for step in path:
        below = child(tree, step)
        if below is None:
            break
        tree = below
    return tree.place


def merge(base: Tree, over: Tree) -> Tree:
    """`over` laid on `base`: mappings merge key by key, everything else (lists too) is replaced as a whole."""
    if not isinstance(base, Block) or not isinstance(over, Block):
        return over
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        below = entries.get(key)
        entries[key] = replace(entry, value=merge(below.value, entry.value)) if below else entry
    return Block(entries, over.place)


def without(tree: Tree, *keys: str) -> Tree:
    """The mapping less those keys."""
    if not isinstance(tree, Block):
        return tree
    return Block({key: entry for key, entry in tree.entries.items() if key not in keys}, tree.place)


def check_name(check: Tree) -> str | None:
    """The name of an entry under `checks`: its own, or its kind."""
    return text_of(find(check, "name") or find(check, "check"))
