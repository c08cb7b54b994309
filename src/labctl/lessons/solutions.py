"""The author's way through one task in one variant: what is answered, what is run, what the student's scenario says.

It is what `labctl lesson solve` shows and what the author's test carries out: commands that a student has, and nothing
that the grading trusts. Pure. It stands alone because nothing that grades a student may depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from labctl.errors import UsageError
from labctl.lessons.variation import Variant, filled, fits
from labctl.model.fact import value_words
from labctl.model.lesson import SolutionDocument, Task, TaskKind
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """`answer` is empty where none is wanted; `scenario` is what the student's file says more, None without one."""

    answer: str = ""
    reason: str = ""
    run: tuple[str, ...] = ()
    scenario: Mapping[str, object] | None = None

    def commands(self, folder: str, task: Task) -> tuple[str, ...]:
        """As they are shown to a person, the file's content among them."""
        if self.scenario is None:
            return self.run
        path = Path(folder) / str(task.file)
        lines = [f"{section}: {json.dumps(keys)}" for section, keys in self.scenario.items()]
        return (f"# {path}:", *lines, *self.run)


def way_of(solution: SolutionDocument, task: Task, variant: Variant, said: Mapping[str, str]) -> Way:
    """Raises UsageError where the solution has no case for the variant."""
    solved = solution.tasks[task.id]
    case = next((one for one in solved.cases if fits(one.when, variant, task)), None)
    answer = case.answer if case is not None and case.answer is not None else solved.answer
    run = case.run if case is not None and case.run else solved.run
    wants_answer = task.ask is not None or task.locate is not None
    if wants_answer and answer is None:
        raise UsageError(
            what=f"the solution of {solution.lesson} has no answer to {task.id} for this variant",
            cause=variant.words(),
            remedy=f"tasks.{task.id}.cases in solutions/{solution.lesson}.yaml",
        )
    is_prediction = task.kind is TaskKind.PREDICT
    return Way(
        answer="" if answer is None else filled(value_words(answer), said),
        reason=filled(solved.reason or "the author's own prediction", said) if is_prediction else "",
        run=tuple(filled(command, said) for command in run),
        scenario=case.scenario if case is not None and case.scenario is not None else solved.scenario,
    )
