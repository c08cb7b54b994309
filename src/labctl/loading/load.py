"""Loading a scenario by name or path, and validating files: every problem at once, or a `Scenario`.

What the scenario's provider cannot build is a problem too. Loading knows no provider: `refuse` asks it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from labctl.errors import Problem, ScenarioInvalid, UsageError
from labctl.loading.build import scenario_of
from labctl.loading.code_keys import code_problems
from labctl.loading.layers import Layered, layered, once, read_tree, site_layer
from labctl.loading.meaning import meaning_problems, problem_at, site_problems
from labctl.loading.project import Project, project_at
from labctl.loading.structure import structure_problems
from labctl.loading.tree import Place, find, merge, place_of, text_of
from labctl.loading.wording import as_name, shown
from labctl.model.document import SITE
from labctl.model.document_matrix import MATRIX
from labctl.model.scenario import Scenario
from labctl.names import is_name

Refuse = Callable[[Scenario], None]
"""Raises UsageError for a scenario that its provider cannot build, with the key at fault."""


def load_scenario(
    name_or_path: str | Path,
    *,
    overrides: Sequence[str] = (),
    refuse: Refuse | None = None,
    start: Path | None = None,
    lab_name: str | None = None,
    trust: bool = False,
) -> Scenario:
    """The scenario of that name or file, with `key.path=value` overrides applied.

    `start` is where names and lab.yaml are looked for (by default the current directory). With `lab_name`, which the
    lab will have, the file may be called anything: the scenario's name is then what can be made of the file's.

    Raises UsageError for an unknown name and, without `trust`, for a file that root does not go by, ScenarioInvalid
    with every problem of every file that it consists of.
    """
    project = project_at(start, trust=trust)
    path = name_or_path if isinstance(name_or_path, Path) else project.scenario(name_or_path)
    scenario = layered(path, project, tuple(overrides))
    problems = _all_problems(scenario, path, project, may_be_nameless=lab_name is not None)
    problems = problems or _refused(scenario, path, refuse, lab_name)
    if problems:
        raise ScenarioInvalid(problems)
    return _scenario(scenario, path, lab_name)


def validate_files(
    paths: Iterable[str | Path],
    *,
    overrides: Sequence[str] = (),
    refuse: Refuse | None = None,
    start: Path | None = None,
    trust: bool = False,
) -> tuple[Problem, ...]:
    """Every problem of scenarios (names or files) and lab.yaml files, each with the files that it builds on.

    The overrides go to scenarios, and to those of matrix files.

    In the order of the paths, and for each by file, line and column. Raises UsageError as `load_scenario`.
    """
    project = project_at(start, trust=trust)
    problems: list[Problem] = []
    for path in paths:
        file = project.start / path
        if is_name(str(path)) and not os.path.lexists(file):
            file = project.scenario(str(path))
        found = _file_problems(file, project, tuple(overrides), refuse)
        problems.extend(sorted(found, key=lambda problem: (problem.file, problem.line, problem.column, problem.path)))
    return once(problems)


def scenario_names(start: Path | None = None) -> tuple[str, ...]:
    """The names of the scenarios that can be loaded, sorted."""
    return project_at(start).names()


def _file_problems(
    path: Path, project: Project, overrides: tuple[str, ...], refuse: Refuse | None
) -> tuple[Problem, ...]:
    tree, problems = read_tree(path, project)
    if tree is not None and text_of(find(tree, "kind")) == SITE:
        told = (*problems, *structure_problems(tree, SITE))
        around = Project(start=project.start, root=None)
        return (*told, *site_problems(merge(site_layer(around)[0], tree)))
    if tree is not None and text_of(find(tree, "kind")) == MATRIX:
        from labctl.loading.matrix import matrix_problems  # which loads its scenarios with this module

        return (*problems, *matrix_problems(tree, path, project, overrides, refuse)[1])
    scenario = layered(path, project, overrides, first=(tree, problems))
    return _all_problems(scenario, path, project) or _refused(scenario, path, refuse)


def _all_problems(
    scenario: Layered, path: Path, project: Project, *, may_be_nameless: bool = False
) -> tuple[Problem, ...]:
    problems = list(scenario.problems)
    if scenario.is_whole:
        problems.extend(meaning_problems(scenario.tree, scenario.ranks))
        problems.extend(() if may_be_nameless else _name_problems(scenario, path, project))
    if not problems:
        problems.extend(code_problems(scenario.tree, scenario.folders))
    return once(problems)


def _scenario(scenario: Layered, path: Path, lab_name: str | None = None) -> Scenario:
    """`lab_name` names a scenario whose file is called what no scenario can be."""
    name = _name(scenario, path)
    if not is_name(name) and lab_name is not None:
        name = as_name(name) or lab_name
    return scenario_of(scenario.tree, name=name, source=str(path.absolute()), ranks=scenario.ranks)


def _refused(scenario: Layered, path: Path, refuse: Refuse | None, lab_name: str | None = None) -> tuple[Problem, ...]:
    """Why the provider cannot build a scenario without any other problem, at the key that is at fault."""
    if refuse is None:
        return ()
    try:
        refuse(_scenario(scenario, path, lab_name))
    except UsageError as refused:
        at = tuple(refused.key.split(".")) if refused.key else ()
        message = ": ".join(" ".join(text.split()) for text in (refused.what, refused.cause) if text)
        return (problem_at(place_of(scenario.tree, at), at, message, refused.remedy),)
    return ()


def _name(scenario: Layered, path: Path) -> str:
    return text_of(find(scenario.tree, "name")) or path.name.partition(".")[0]


def _name_problems(scenario: Layered, path: Path, project: Project) -> tuple[Problem, ...]:
    """A scenario without `name` is called after its file, whose name must then be one."""
    if find(scenario.tree, "name") is not None or is_name(stem := _name(scenario, path)):
        return ()
    place = Place(project.shown(path), 0, 0)
    message = f"the file's name {shown(stem)} is not a scenario's name; rename the file, or give it a name:"
    allowed = "lower-case letters, digits and hyphens, at most 40 characters"
    return (problem_at(place, ("name",), message, allowed, as_name(stem)),)
