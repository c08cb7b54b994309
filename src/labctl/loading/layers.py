"""The files that a scenario is made of: the site's, its parents' and its own; read, checked one by one, and merged."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from labctl.errors import Problem, UsageError
from labctl.loading.compose import compose
from labctl.loading.defaults import BUILT_IN, built_in
from labctl.loading.files import Unreadable, read_text
from labctl.loading.meaning import problem_at
from labctl.loading.overrides import SET, override
from labctl.loading.project import SUFFIX, Project
from labctl.loading.structure import structure_problems
from labctl.loading.tree import Block, Place, Tree, find, merge, text_of, without
from labctl.loading.wording import listed, nearest, shown
from labctl.model.document import SCENARIO, SITE, ScenarioDocument
from labctl.names import is_name

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
            return None  # the structure has told it
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
            self.problems.append(problem_at(extends.place, ("extends",), f"goes round in a circle: {way}"))
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

    Raises UsageError for a file that root does not go by (`files.read_text`)."""
    name = project.shown(path)
    try:
        text = read_text(path, name, is_trusted=project.is_trusted)
    except Unreadable as unreadable:
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
        folders=_not_as_its_code([*([project.site] if project.site else []), *chain.paths], project),
        problems=once(problems),
        is_whole=chain.is_whole and site_is_whole,
    )


def _not_as_its_code(paths: list[Path], project: Project) -> dict[str, Path | None]:
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
