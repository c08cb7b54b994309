"""Loads a lesson: lesson.yaml, its texts in every language, and the author's solution where that is on this host.

Every problem of all its files is reported at once, with its place. That each variant's scenario can be built is for
`labctl lesson test` to find out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labctl.errors import LessonInvalid, Problem, UsageError
from labctl.language import Language
from labctl.loading.layers import once, read_tree
from labctl.loading.lesson_texts import LessonText, read_texts
from labctl.loading.messages import listed, nearest, problem_at, shown
from labctl.loading.project import LESSON_DIRECTORY, SOLUTION_DIRECTORY, SUFFIX, Project, project_at
from labctl.loading.shape import structure_problems
from labctl.loading.tree import KeyPath, Tree, find, items_of, place_of, plain, text_of
from labctl.model.fact import FACTS, NONE, FactKind, FactType, Parameter
from labctl.model.lesson import (
    MOST_VARIANTS,
    VARIABLE,
    LessonDocument,
    SolutionDocument,
    TaskKind,
    variants,
)
from labctl.model.parameters import PARAMETERS_OF
from labctl.model.section import LESSON, SOLUTION
from labctl.names import is_name
from labctl.values import dataclass

LESSON_FILE = "lesson.yaml"
_VARIABLE = re.compile(r"\$([a-z][A-Za-z0-9]*)")
_KEYS: Mapping[TaskKind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    TaskKind.PREDICT: (("ask",), ("reason", "reveal", "constant")),
    TaskKind.OBSERVE: (("ask",), ("constant",)),
    TaskKind.CONFIGURE: (("done",), ("file", "allow", "keep")),
    TaskKind.REPAIR: (("inject", "done"), ("locate", "keep")),
}
"""Of each kind of task the keys that it must have, and those that it may have."""
_ALWAYS = ("id", "kind", "points")
_PARAMETERS = {"role": Parameter.ROLE, "way": Parameter.WAY, "node": Parameter.NODE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A lesson with its texts. `scenario` is the name or the file that it builds."""

    document: LessonDocument
    texts: Mapping[Language, LessonText]
    folder: Path
    scenario: str | Path

    @property
    def name(self) -> str:
        return self.document.name

    def text(self, language: Language) -> LessonText:
        return self.texts[language]


def lesson_names(start: Path | None = None) -> tuple[str, ...]:
    """The names of the lessons that can be loaded, sorted."""
    found = set[str]()
    for directory in project_at(start).directories(LESSON_DIRECTORY):
        if directory.is_dir():
            found |= {one.name for one in directory.iterdir() if is_name(one.name) and (one / LESSON_FILE).is_file()}
    return tuple(sorted(found))


def load_lesson(
    name: str, *, faults: Collection[str] = (), start: Path | None = None, trust: bool = False
) -> Lesson:  # fmt: skip
    """Raises UsageError for a name that is no lesson's and for files that root does not trust, LessonInvalid with
    every problem of the lesson. `faults` are those that there are; none: they are not looked at."""
    project = project_at(start, trust=trust)
    folder = _folder(name, project)
    tree, problems = _read(folder / LESSON_FILE, LESSON, project)
    tasks = [text_of(find(item, "id")) or "" for _, item in items_of(find(tree, "tasks"))]
    read = read_texts(folder, tasks, project)
    document = None
    if tree is not None and not problems:
        document = LessonDocument.model_validate_json(json.dumps(plain(tree)))
        problems = [*_meaning(tree, document, name), *_faults(tree, document, faults)]
        problems += _scenario_problems(tree, document, folder, project)
    found = once([*problems, *read.problems])
    if found or document is None:
        raise LessonInvalid(found)
    own = folder / document.scenario
    scenario: str | Path = own if document.scenario.endswith(SUFFIX) else document.scenario
    return Lesson(document=document, texts=read.texts, folder=folder, scenario=scenario)


def load_solution(lesson: Lesson, *, start: Path | None = None, trust: bool = False) -> SolutionDocument | None:
    """None where this host does not have it. Raises LessonInvalid, UsageError as `load_lesson`."""
    project = project_at(start, trust=trust)
    path = next(
        (
            one
            for directory in project.directories(SOLUTION_DIRECTORY)
            if (one := directory / f"{lesson.name}{SUFFIX}").is_file()
        ),
        None,
    )
    if path is None:
        return None
    tree, problems = _read(path, SOLUTION, project)
    if tree is None or problems:
        raise LessonInvalid(once(problems))
    solution = SolutionDocument.model_validate_json(json.dumps(plain(tree)))
    if problems := list(_solution_problems(tree, solution, lesson.document)):
        raise LessonInvalid(once(problems))
    return solution


def _folder(name: str, project: Project) -> Path:
    names = [directory / name for directory in project.directories(LESSON_DIRECTORY)]
    for folder in names:
        if is_name(name) and (folder / LESSON_FILE).is_file():
            return folder
    there = lesson_names(project.start)
    meant = nearest(name, there)
    choices = f"there are: {listed(there)}" if there else f"write one: {LESSON_DIRECTORY}/NAME/{LESSON_FILE}"
    raise UsageError(
        what=f"there is no lesson {shown(name)}",
        cause=f"looked in {' and '.join(project.shown(folder.parent) + '/' for folder in names)}",
        remedy=f"did you mean '{meant}'? {choices}" if meant else choices,
    )


def _read(path: Path, kind: str, project: Project) -> tuple[Tree | None, list[Problem]]:
    tree, problems = read_tree(path, project)
    if tree is None:
        return None, list(problems)
    return tree, [*problems, *structure_problems(tree, kind)]


def _meaning(tree: Tree, lesson: LessonDocument, folder: str) -> Iterator[Problem]:
    def at(path: KeyPath, message: str, allowed: str = "", suggestion: str = "") -> Problem:
        return problem_at(place_of(tree, path), path, message, allowed, suggestion)

    if lesson.name != folder:
        yield at(("name",), f"is not the folder's name {shown(folder)}", folder)
    if (count := variants(lesson)) > MOST_VARIANTS:
        yield at(("vary",), f"{count} variants with the faults, which is more than {MOST_VARIANTS}")
    ids = [task.id for task in lesson.tasks]
    for number, task in enumerate(lesson.tasks):
        here: KeyPath = ("tasks", number)
        if task.id in ids[:number]:
            yield at((*here, "id"), f"{shown(task.id)} is the name of an earlier task")
        must, may = _KEYS[task.kind]
        written = plain(find(tree, *here) or tree)
        for key in must:
            if key not in written:
                yield at(here, f"a task of kind {task.kind} needs the key {key}")
        for key in written:
            if key not in (*_ALWAYS, *must, *may):
                yield at((*here, key), f"has no meaning in a task of kind {task.kind}", listed((*must, *may)))
        if task.kind is TaskKind.CONFIGURE and (task.file is None) != (task.allow is None):
            yield at(
                here, "needs both of the keys file and allow, or neither: then the lab that is up is changed by hand"
            )
        if task.kind is TaskKind.PREDICT and task.ask is not None:
            after = [other for other in lesson.tasks[number + 1 :] if other.kind is TaskKind.OBSERVE]
            if not any(other.ask == task.ask for other in after):
                yield at((*here, "ask"), "no later task observes what is predicted here", "the same ask: with observe")
            if task.reveal not in (None, "after-observe") and task.reveal not in [other.id for other in after]:
                yield at((*here, "reveal"), "is no later task that observes", listed(other.id for other in after))
        for key in ("ask", "locate"):
            if key in written:
                yield from _ask_problems(tree, (*here, key), lesson)
        for index, condition in enumerate(task.done or ()):
            yield from _condition_problems(tree, (*here, "done", index), condition.fact, condition.check, lesson)
        for index, check in enumerate(task.keep):
            yield from _check_problems(tree, (*here, "keep", index), check)


def _ask_problems(tree: Tree, path: KeyPath, lesson: LessonDocument) -> Iterator[Problem]:
    asked = find(tree, *path)
    name = text_of(find(asked, "fact")) or ""
    kind = FACTS.get(name)
    if kind is None:
        place = place_of(tree, (*path, "fact"))
        yield problem_at(
            place, (*path, "fact"), f"there is no fact {shown(name)}", listed(FACTS), nearest(name, FACTS)
        )  # fmt: skip
        return
    yield from _parameter_problems(tree, path, kind)
    variables = {key.removeprefix(VARIABLE) for key in lesson.vary if key.startswith(VARIABLE)}
    for key in ("client", "server", "node"):
        for variable in _VARIABLE.findall(text_of(find(asked, key)) or ""):
            if variable not in variables:
                at = (*path, key)
                message = f"there is no variable ${variable}"
                allowed = listed(f"${one}" for one in sorted(variables)) or "vary: {var.NAME: [A, B]}"
                yield problem_at(place_of(tree, at), at, message, allowed, nearest(variable, variables))


def _parameter_problems(tree: Tree, path: KeyPath, kind: FactKind) -> Iterator[Problem]:
    asked = find(tree, *path)
    said = text_of(find(asked, "of"))
    if said is not None and said != kind.source:
        yield problem_at(
            place_of(tree, (*path, "of")), (*path, "of"), f"{kind.name} is read by {kind.source}", str(kind.source)
        )  # fmt: skip
    for key, parameter in _PARAMETERS.items():
        has = find(asked, key) is not None
        if has and parameter not in kind.takes:
            at = (*path, key)
            takes = listed(str(one) for one in sorted(kind.takes)) or "client, server"
            yield problem_at(place_of(tree, at), at, f"the fact {kind.name} has no {key}", takes)
        if parameter is Parameter.ROLE and kind.needs_role and not has:
            yield problem_at(place_of(tree, path), path, f"the fact {kind.name} needs the key {key}")


def _condition_problems(
    tree: Tree, path: KeyPath, fact: str | None, check: str | None, lesson: LessonDocument
) -> Iterator[Problem]:
    here = plain(find(tree, *path) or tree)
    if (fact is None) == (check is None):
        yield problem_at(place_of(tree, path), path, "needs a fact or a check, and not both")
        return
    if check is not None:
        yield from _check_problems(tree, (*path, "check"), check)
        for key in set(here) - {"check", "client", "server"}:
            yield problem_at(place_of(tree, (*path, key)), (*path, key), "has no meaning for a check")
        return
    yield from _ask_problems(tree, path, lesson)
    if ("is" in here) == ("isNot" in here):
        yield problem_at(place_of(tree, path), path, "needs the key is, or isNot")
    kind = FACTS.get(str(fact))
    for key in ("is", "isNot"):
        if kind is not None and key in here and (wrong := unfit_value(kind, here[key])):
            at = (*path, key)
            yield problem_at(place_of(tree, at), at, wrong, listed(kind.choices) if kind.choices else str(kind.type))


def unfit_value(kind: FactKind, value: Any) -> str:
    """Why this is no value of that fact; empty where it is one."""
    if isinstance(value, str) and value.startswith("$"):
        return ""
    fits = {
        FactType.NUMBER: isinstance(value, int) and not isinstance(value, bool),
        FactType.BOOLEAN: isinstance(value, bool),
        FactType.KEYWORD: value in kind.choices,
        FactType.NAMES: isinstance(value, list) or value == NONE,
    }.get(kind.type, isinstance(value, str))
    return "" if fits else f"{shown(str(value))} is no value of {kind.name}"


def _check_problems(tree: Tree, path: KeyPath, check: str) -> Iterator[Problem]:
    if check not in PARAMETERS_OF:
        message = f"there is no check {shown(check)}"
        yield problem_at(place_of(tree, path), path, message, listed(PARAMETERS_OF), nearest(check, PARAMETERS_OF))


def _faults(tree: Tree, lesson: LessonDocument, faults: Collection[str]) -> Iterator[Problem]:
    if not faults:
        return
    for number, task in enumerate(lesson.tasks):
        for index, fault in enumerate(task.inject.one_of if task.inject is not None else ()):
            if fault not in faults:
                path: KeyPath = ("tasks", number, "inject", "oneOf", index)
                message = f"there is no fault {shown(fault)}"
                yield problem_at(place_of(tree, path), path, message, listed(sorted(faults)), nearest(fault, faults))


def _scenario_problems(tree: Tree, lesson: LessonDocument, folder: Path, project: Project) -> Iterator[Problem]:
    place = place_of(tree, ("scenario",))
    if lesson.scenario.endswith(SUFFIX):
        if "/" in lesson.scenario or not (folder / lesson.scenario).is_file():
            yield problem_at(place, ("scenario",), "is no file beside lesson.yaml")
        return
    try:
        project.scenario(lesson.scenario)
    except UsageError as unknown:
        yield problem_at(place, ("scenario",), unknown.what, unknown.remedy)


def _solution_problems(tree: Tree, solution: SolutionDocument, lesson: LessonDocument) -> Iterator[Problem]:
    if solution.lesson != lesson.name:
        yield problem_at(place_of(tree, ("lesson",)), ("lesson",), "is another lesson's name", lesson.name)
    if solution.version != lesson.version:
        message = f"solves version {solution.version}, and the lesson has version {lesson.version}"
        yield problem_at(place_of(tree, ("version",)), ("version",), message, str(lesson.version))
    ids: Sequence[str] = [task.id for task in lesson.tasks]
    for task in ids:
        if task not in solution.tasks:
            yield problem_at(place_of(tree, ("tasks",)), ("tasks", task), "is missing", listed(ids))
    for task in solution.tasks:
        if task not in ids:
            path: KeyPath = ("tasks", task)
            yield problem_at(place_of(tree, path), path, "is no task of the lesson", listed(ids), nearest(task, ids))
