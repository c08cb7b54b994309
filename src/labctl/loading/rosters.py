"""Loads a roster: the class's name and who takes part, with every problem of the file at its place.

It stands alone because only `labctl class start` reads one: everything after that goes by what it wrote down.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from labctl.errors import Problem, RosterInvalid
from labctl.loading.layers import once, read_tree
from labctl.loading.messages import problem_at, shown
from labctl.loading.project import project_at
from labctl.loading.shape import structure_problems
from labctl.loading.tree import Tree, place_of, plain
from labctl.model.lesson import ClassDocument
from labctl.model.section import CLASS


def load_roster(path: Path, *, trust: bool = False) -> ClassDocument:
    """Raises RosterInvalid with every problem, UsageError for a file that root does not trust."""
    tree, found = read_tree(path, project_at(path.parent, trust=trust))
    problems = [*found, *(structure_problems(tree, CLASS) if tree is not None else ())]
    if tree is None or problems:
        raise RosterInvalid(once(problems))
    roster = ClassDocument.model_validate_json(json.dumps(plain(tree)))
    if problems := list(_twice(tree, roster)):
        raise RosterInvalid(problems)
    return roster


def _twice(tree: Tree, roster: ClassDocument) -> list[Problem]:
    """Two rows of the board that nobody could tell apart."""
    counted = Counter(roster.students.values())
    return [
        problem_at(
            place_of(tree, ("students", student)),
            ("students", student),
            f"{shown(name)} is another student's name too",
            "a name that the board can tell from the others",
        )
        for student, name in roster.students.items() if counted[name] > 1
    ]  # fmt: skip
