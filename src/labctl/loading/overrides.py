"""`--set key.path=value`: one option → a change of the merged tree, each value with its place in the option.

A path is keys with dots; an item of a list is its index (`pods[0].node`) or, for items with a name, that name
(`checks.ping.count`). A dot inside a key is written `\\.`. The value is YAML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from labctl.errors import Problem
from labctl.loading.compose import compose
from labctl.loading.files import Unreadable, printable
from labctl.loading.meaning import check_name, problem_at
from labctl.loading.tree import Block, Entry, Listing, Path, Place, Tree, child, find, items_of, merge, text_of
from labctl.loading.wording import listed, nearest, shown

SET = "--set"
_LONGEST = 64 * 1024
_DEEPEST = 16
_STEP = re.compile(r"((?:[^.\[\]=\\]|\\.)*)((?:\[[0-9]{1,9}\])*)(\.|$)")


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def override(tree: Tree, options: Sequence[str]) -> tuple[Tree, tuple[Problem, ...]]:
    """The tree with every option applied in order, and the problems of those that could not be."""
    problems: list[Problem] = []
    for number, option in enumerate(options, start=1):
        try:
            path, value, found = _parsed(option, number)
            problems.extend(found)
            if value is not None:
                tree = _placed(tree, path, value, Place(SET, number, 1), ())
        except _Refused as refused:
            problems.append(refused.problem)
    return tree, tuple(problems)


def _parsed(option: str, number: int) -> tuple[Path, Tree | None, tuple[Problem, ...]]:
    place = Place(SET, number, 1)
    if len(option) > _LONGEST:
        raise _Refused(problem_at(place, (), "is longer than 64 KiB"))
    key, equals, text = option.partition("=")
    if not equals or not key.strip():
        raise _Refused(problem_at(place, (), f"{shown(option)} has no '='", "key.path=value"))
    try:
        printable(option, SET)
    except Unreadable as unreadable:
        raise _Refused(problem_at(place, (), unreadable.problem.message)) from None
    path = _path(key.strip(), place)
    if not text.strip():
        message = "has no value"
        raise _Refused(problem_at(Place(SET, number, len(option) + 1), path, message, "key.path=value"))
    value, problems = compose(text, Place(SET, number, len(key) + 2), is_one_line=True)
    return path, value, problems


def _path(key: str, place: Place) -> Path:
    steps: list[str | int] = []
    at = 0
    while True:
        match = _STEP.match(key, at)
        if not match or not (match[1] or (match[2] and at)) or len(steps) > _DEEPEST:
            raise _Refused(problem_at(place, (), f"{shown(key)} is not a key path", "such as checks.ping.count"))
        if match[1]:
            steps.append(re.sub(r"\\(.)", r"\1", match[1]))
        steps.extend(int(index) for index in re.findall(r"[0-9]+", match[2]))
        at = match.end()
        if not match[3]:
            return tuple(steps)


def _placed(tree: Tree | None, path: Path, value: Tree, place: Place, above: Path) -> Tree:
    """`tree` with `value` at `path`, merged as files are. Mappings on the way are made where there are none."""
    if not path:
        return merge(tree, value) if tree is not None else value
    step, *rest = path
    if isinstance(tree, Listing):
        index = _index(tree, step, place, above)
        changed = _placed(tree.items[index], tuple(rest), value, place, (*above, index))
        return Listing((*tree.items[:index], changed, *tree.items[index + 1 :]), tree.place)
    if isinstance(step, int):
        raise _Refused(problem_at(place, (*above, step), "there is no list here"))
    entries = dict(tree.entries) if isinstance(tree, Block) else {}
    below = child(tree, step)
    entries[step] = Entry(place, _placed(below, tuple(rest), value, place, (*above, step)))
    return Block(entries, tree.place if isinstance(tree, Block) else place)


def _index(listing: Listing, step: str | int, place: Place, above: Path) -> int:
    if isinstance(step, str) and step.isascii() and step.isdigit() and len(step) < 10:
        step = int(step)
    if isinstance(step, int):
        if step < len(listing.items):
            return step
        message = f"there is no item {step}: the list has {len(listing.items)} items, counted from 0"
        raise _Refused(problem_at(place, (*above, step), message))
    called = {
        name: index
        for index, item in reversed(list(items_of(listing)))
        if (name := check_name(item) if above == ("checks",) else text_of(find(item, "name")))
    }
    if step not in called:
        message = f"no item is called {shown(step)}"
        choices = list(reversed(called))
        raise _Refused(problem_at(place, above, message, listed(choices), nearest(step, choices)))
    return called[step]
