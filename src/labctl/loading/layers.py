"""The files that a scenario is made of: the site's, its parents' and its own; read, checked one by one, and merged.

Below them are the defaults that hold where neither lab.yaml nor a scenario says anything. The shipped lab.yaml writes
the same values out, with comments; a test holds the two equal. They are here as well so that a scenario file means the
same without any project around it (an installed package, a file sent by mail).

Above them is `--set key.path=value`: one option is a change of the merged tree, each value with its place in the
option. A path is keys with dots; an item of a list is its index (`pods[0].node`) or, for items with a name, that name
(`checks.ping.count`). A dot inside a key is written `\\.`. The value is YAML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

from labctl.errors import Problem, UsageError
from labctl.loading.messages import listed, nearest, problem_at, shown
from labctl.loading.project import SUFFIX, Project
from labctl.loading.shape import structure_problems
from labctl.loading.tree import (
    Block,
    Entry,
    KeyPath,
    Listing,
    Place,
    Tree,
    check_name,
    child,
    find,
    items_of,
    merge,
    planted,
    text_of,
    without,
)
from labctl.loading.yaml_files import UnreadableFile, compose, printable, read_text
from labctl.model.parameters import CompareParameters
from labctl.model.section import SCENARIO, SITE
from labctl.names import is_name
from labctl.values import dataclass

LONGEST_CHAIN = 16
_NOT_INHERITED = ("name", "extends")
_NOT_SET = ("apiVersion", "kind", "name", "extends")


Read = tuple[Tree | None, tuple[Problem, ...]]
"""What reading one file gives: its tree, None when there is none, and what is wrong with its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layered:
    """A scenario as one tree. `ranks` orders its files; `is_whole` is false when one of them could not be read.
    `folders` has those of the files that are not trusted as labctl's code is."""

    tree: Tree
    ranks: dict[str, int]
    folders: dict[str, Path | None]
    problems: tuple[Problem, ...]
    is_whole: bool


@dataclass(slots=True)
class _Chain:
    """The files from the scenario up to its oldest parent."""

    project: Project
    trees: list[Tree] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    real: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    is_whole: bool = False

    def follow(self, path: Path | None, first: Read | None = None) -> None:
        while path is not None:
            name = self.project.shown(path)
            self.shown.append(name)
            self.real.append(os.path.realpath(path))
            self.paths.append(path)
            tree, problems = first or read_tree(path, self.project)
            first = None
            self.problems.extend(problems)
            if tree is None:
                return
            self.problems.extend(structure_problems(tree, SCENARIO))
            if not isinstance(tree, Block):
                return
            self.trees.append(tree)
            if text_of(find(tree, "kind")) == SITE:
                return
            extends = find(tree, "extends")
            if extends is None:
                self.is_whole = True
                return
            path = self.parent(extends, path.parent)

    def parent(self, extends: Tree, directory: Path) -> Path | None:
        """The file that `extends` names, or None when that is wrong (which is then among the problems)."""
        reference = text_of(extends)
        if reference is None or not (reference.endswith(SUFFIX) or is_name(reference)):
            return None  # the structure check has reported it
        path = self.found(reference, directory)
        if path is None:
            near = self.project.names()
            message = f"there is no scenario {shown(reference)}"
            self.problems.append(
                problem_at(extends.place, ("extends",), message, listed(near), nearest(reference, near))
            )
            return None
        real = os.path.realpath(path)
        if real in self.real:
            way = " → ".join([*self.shown[self.real.index(real) :], self.project.shown(path)])
            self.problems.append(problem_at(extends.place, ("extends",), f"forms a cycle: {way}"))
            return None
        if len(self.real) >= LONGEST_CHAIN:
            message = f"there are more than {LONGEST_CHAIN} scenarios in a row that extend one another"
            self.problems.append(problem_at(extends.place, ("extends",), message))
            return None
        return path

    def found(self, reference: str, directory: Path) -> Path | None:
        """A path is relative to the file that has it; a name is a neighbour of that file, or any scenario."""
        if reference.endswith(SUFFIX):
            path = Path(os.path.normpath(directory / reference))
            return path if os.path.lexists(path) else None
        neighbour = directory / (reference + SUFFIX)
        if os.path.lexists(neighbour):
            return neighbour
        try:
            return self.project.scenario(reference)
        except UsageError:
            return None


def read_tree(path: Path, project: Project) -> Read:
    """The tree of one file, None when there is none, and what is wrong with its text.

    Raises UsageError for a file that root does not trust (`files.read_text`)."""
    name = project.shown(path)
    try:
        text = read_text(path, name, is_trusted=project.is_trusted)
    except UnreadableFile as unreadable:
        return None, (unreadable.problem,)
    return compose(text, Place(name, 1, 1))


def site_layer(project: Project) -> tuple[Tree, tuple[Problem, ...], bool]:
    """The built-in defaults with lab.yaml laid over them, its problems, and whether it could be read."""
    base = built_in()
    if project.site is None:
        return base, (), True
    tree, problems = read_tree(project.site, project)
    if tree is None:
        return base, problems, False
    problems = (*problems, *structure_problems(tree, SITE))
    if not isinstance(tree, Block):
        return base, problems, False
    from labctl.model.document import ScenarioDocument

    shared = {part.alias or name for name, part in ScenarioDocument.model_fields.items()} - {"apiVersion", "kind"}
    return merge(base, without(tree, *(set(tree.entries) - shared))), problems, True


def layered(path: Path, project: Project, options: tuple[str, ...] = (), *, first: Read | None = None) -> Layered:
    """Everything that the scenario in `path` consists of, merged: site ← parents ← file ← options.

    `first` is the file itself, where it was read already.
    """
    base, site_problems, site_is_whole = site_layer(project)
    chain = _Chain(project)
    chain.follow(path, first)
    tree = base
    for number, layer in reversed(list(enumerate(chain.trees))):
        tree = merge(tree, layer if number == 0 else without(layer, *_NOT_INHERITED))
    problems = [*site_problems, *chain.problems]
    if options:
        tree, told = override(tree, options)
        problems.extend(told)
        problems.extend(_set_problems(tree))
        if chain.trees:
            problems.extend(structure_problems(tree, SCENARIO))
    names = [BUILT_IN, *([project.shown(project.site)] if project.site else []), *reversed(chain.shown), SET]
    return Layered(
        tree=tree,
        ranks={name: rank for rank, name in enumerate(names)},
        folders=not_as_its_code([*([project.site] if project.site else []), *chain.paths], project),
        problems=once(problems),
        is_whole=chain.is_whole and site_is_whole,
    )


def not_as_its_code(paths: list[Path], project: Project) -> dict[str, Path | None]:
    """The folder of each file that is not trusted as labctl's code is, by what places call the file."""
    folders = {path: Path(os.path.realpath(path.parent)) for path in paths}
    return {
        project.shown(path): folder for path, folder in folders.items() if not project.is_trusted(folder, path.name)
    }


def _set_problems(tree: Tree) -> list[Problem]:
    """Keys that say what a file is cannot be changed from outside."""
    return [
        problem_at(found.place, (key,), "cannot be set on the command line")
        for key in _NOT_SET
        if (found := find(tree, key)) is not None and found.place.file == SET
    ]


def once(problems: list[Problem]) -> tuple[Problem, ...]:
    """The first problem of each place and path."""
    first: dict[tuple[str, int, int, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.file, problem.line, problem.column, problem.path), problem)
    return tuple(first.values())


BUILT_IN = "built-in default"


def built_in() -> Tree:
    return planted(
        {
            "provider": "netns",
            "nodes": 3,
            "network": {
                "underlayCIDR": "172.30.0.0/24",
                "podCIDR": "10.244.0.0/16",
                "serviceCIDR": "10.96.0.0/16",
                "mtu": 1500,
            },
            "datapath": {"encapsulation": "vxlan", "masquerade": "bpf", "kubeProxyReplacement": True},
            "checks": [
                {"check": "ping"},
                {"check": "latency"},
                {"check": "iperf"},
                {"check": "iperf", "name": "iperf-many", "streams": 4},
                {"check": "iperf", "name": "iperf-udp", "protocol": "udp"},
                {"check": "tcpdump"},
            ],
            "compare": {"checks": [*CompareParameters().checks]},
        },
        Place(BUILT_IN, 0, 0),
    )


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


def _parsed(option: str, number: int) -> tuple[KeyPath, Tree | None, tuple[Problem, ...]]:
    place = Place(SET, number, 1)
    if len(option) > _LONGEST:
        raise _Refused(problem_at(place, (), "is longer than 64 KiB"))
    key, equals, text = option.partition("=")
    if not equals or not key.strip():
        raise _Refused(problem_at(place, (), f"{shown(option)} has no '='", "key.path=value"))
    try:
        printable(option, SET)
    except UnreadableFile as unreadable:
        raise _Refused(problem_at(place, (), unreadable.problem.message)) from None
    path = _path(key.strip(), place)
    if not text.strip():
        message = "has no value"
        raise _Refused(problem_at(Place(SET, number, len(option) + 1), path, message, "key.path=value"))
    value, problems = compose(text, Place(SET, number, len(key) + 2), is_one_line=True)
    return path, value, problems


def _path(key: str, place: Place) -> KeyPath:
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


def _placed(tree: Tree | None, path: KeyPath, value: Tree, place: Place, above: KeyPath) -> Tree:
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


def _index(listing: Listing, step: str | int, place: Place, above: KeyPath) -> int:
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
