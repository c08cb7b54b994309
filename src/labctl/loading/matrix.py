"""Loading a matrix file: strict as scenarios are, with every problem of the file and of its scenarios at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from labctl.errors import Problem, ScenarioInvalid, UsageError
from labctl.loading.layers import once, read_tree
from labctl.loading.load import Refuse, load_scenario
from labctl.loading.meaning import problem_at
from labctl.loading.project import SUFFIX, Project, project_at
from labctl.loading.structure import structure_problems
from labctl.loading.tree import Place, Tree, find, items_of, plain, text_of
from labctl.loading.wording import as_name, listed, nearest, shown
from labctl.model.document_matrix import MATRIX, MatrixDocument
from labctl.model.matrix import Matrix
from labctl.model.scenario import Scenario
from labctl.names import is_name
from labctl.units import PERCENT


def load_matrix(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    refuse: Refuse | None = None,
    start: Path | None = None,
    trust: bool = False,
) -> Matrix:
    """The matrix in that file, with its scenarios loaded (`overrides` go to each of them).

    A path in it is relative to the file. Raises ScenarioInvalid with every problem of every file, and UsageError for
    one that root does not go by without `trust`.
    """
    project = project_at(start, trust=trust)
    tree, problems = read_tree(path, project)
    found, told = matrix_problems(tree, path, project, tuple(overrides), refuse)
    if problems or told or tree is None:
        raise ScenarioInvalid([*problems, *told])
    data = MatrixDocument.model_validate_json(_json(tree))
    return Matrix(
        name=data.name or _stem(path),
        source=str(path.absolute()),
        scenarios=found,
        checks=data.checks or (),
        placements=data.placements or (),
        rounds=data.rounds,
        duration_s=data.duration_s,
        seed=data.seed,
        until=None if data.until_percent is None else data.until_percent * PERCENT,
        max_rounds=data.max_rounds,
        reference=bool(data.reference),
        fail_if=data.fail_if or (),
    )


def matrix_problems(
    tree: Tree | None, path: Path, project: Project, overrides: tuple[str, ...] = (), refuse: Refuse | None = None
) -> tuple[tuple[Scenario, ...], tuple[Problem, ...]]:
    """The scenarios of a matrix, and everything that is wrong with it and with them."""
    if tree is None:
        return (), ()
    problems = list(structure_problems(tree, MATRIX))
    scenarios: list[Scenario] = []
    for index, item in items_of(find(tree, "scenarios")):
        reference = text_of(item)
        if reference is None or not (reference.endswith(SUFFIX) or is_name(reference)):
            continue  # the structure has told it
        try:
            file = project.scenario(_file(reference, path))
        except UsageError as unknown:
            names = project.names()
            message = unknown.what
            at = ("scenarios", index)
            problems.append(problem_at(item.place, at, message, listed(names), nearest(reference, names)))
            continue
        try:
            scenarios.append(
                load_scenario(file, overrides=overrides, refuse=refuse, start=project.start, trust=project.trust)
            )
        except ScenarioInvalid as invalid:
            problems.extend(invalid.problems)
    problems.extend(_meaning(tree, scenarios, path))
    return tuple(scenarios), once(problems)


def _meaning(tree: Tree, scenarios: Sequence[Scenario], path: Path) -> Iterator[Problem]:
    seen: set[str] = set()
    first = _checks(scenarios[0]) if scenarios else []
    common = [name for name in first if all(name in _checks(each) for each in scenarios)]
    for index, item in items_of(find(tree, "checks")):
        name = text_of(item)
        if name in seen:
            yield problem_at(item.place, ("checks", index), f"{shown(name)} stands here twice")
        elif name is not None and scenarios and name not in common:
            message = f"not every scenario has a check {shown(name)}"
            yield problem_at(item.place, ("checks", index), message, listed(common), nearest(name, common))
        seen.add(name or "")
    most = find(tree, "maxRounds")
    if most is not None and find(tree, "untilPercent") is None:
        yield problem_at(most.place, ("maxRounds",), "has no meaning without untilPercent")
    if find(tree, "name") is None and not is_name(stem := _stem(path)):
        message = f"the file's name {shown(stem)} is not a matrix's name; rename the file, or give it a name:"
        allowed = "lower-case letters, digits and hyphens, at most 40 characters"
        yield problem_at(Place(tree.place.file, 0, 0), ("name",), message, allowed, as_name(stem))


def _checks(scenario: Scenario) -> list[str]:
    return [spec.name for spec in scenario.checks]


def _file(reference: str, matrix: Path) -> str:
    """A path is relative to the file that has it; a name is a scenario's."""
    return os.path.normpath(Path.cwd() / matrix.parent / reference) if reference.endswith(SUFFIX) else reference


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _json(tree: Tree) -> str:
    return json.dumps(plain(tree))
