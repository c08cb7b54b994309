"""One student at one lesson: start, answer, check, hint, reset, solve and stop, each written down as it happens.

The journal is written before what it says is done where that can be repeated (a lab that is built, a fault that is put
in), and after it where it must be true: whoever is cut off goes on with `start`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType

from labctl.checks.base import Check
from labctl.engine.events import Observer
from labctl.errors import UsageError
from labctl.lessons.answers import parse_answer
from labctl.lessons.progress import Act, Attempt, Entry, Grade, Mark, Progress, TaskState, progress_of
from labctl.lessons.records import Records
from labctl.lessons.variation import Variant, filled, seed_of, variables, variant_of
from labctl.lessons.workplace import SharedWorkplace, Workplace, lab_for, require_up, shared_lab
from labctl.loading.lessons import Lesson, load_solution
from labctl.model.classroom import SharedLab
from labctl.model.fact import FACTS, value_words
from labctl.model.lab import Lab, Scenario
from labctl.model.lesson import VARIABLE, Ask, Task, TaskKind
from labctl.names import is_name
from labctl.providers.base import Provider
from labctl.text import cells
from labctl.values import dataclass

_LONGEST_LAB = 40
_DIGEST_DIGITS = 4
_SHORTEST_REASON = 8
"""Columns: a Chinese character says as much as two letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a course needs of the rest of labctl."""

    provider: Callable[[str], Provider]
    checks: Callable[[], Mapping[str, Check]]
    refuse: Callable[[Scenario], None]
    observer: Observer
    own_files: Callable[[], AbstractContextManager[None]] = nullcontext
    """By whose rights a student's own file is written."""
    shared: SharedLab | None = None
    """The trainer's lab at which this lesson looks in a class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What came of one act: its grade, the task that it was about, and the one that is unlocked now (empty: none)."""

    task: str
    grade: Grade
    unlocked: str = ""
    revealed: tuple[str, ...] = ()


class Course:
    """A student's attempt at a lesson. `variant` can be given, for the author's test; else the seed picks it."""

    def __init__(self, lesson: Lesson, records: Records, tools: Tools, *, variant: Variant | None = None) -> None:
        self.lesson, self.records, self._tools, self._variant = lesson, records, tools, variant

    # ---- where the student is

    def progress(self) -> Progress | None:
        return progress_of(self.records.entries(self.lesson.name), self.lesson.document)

    def running(self) -> Progress:
        """Raises UsageError where the lesson is not begun."""
        progress = self.progress()
        if progress is None or progress.is_stopped:
            raise UsageError(
                what=f"lesson {self.lesson.name} is not started", remedy=f"labctl lesson start {self.lesson.name}"
            )
        if progress.attempt.version != self.lesson.document.version:
            raise UsageError(
                what=f"lesson {self.lesson.name} has changed since it was started",
                cause=f"it was version {progress.attempt.version}, and is version {self.lesson.document.version} now",
                remedy=f"labctl lesson stop; labctl lesson start {self.lesson.name}",
            )
        return progress

    def said(self, progress: Progress, lab: Lab | None = None) -> dict[str, str]:
        """What `$name` stands for."""
        at = lab or self._workplace(progress.attempt).lab
        return variables(self.lesson.document, progress.attempt.values, at)

    def variant(self, attempt: Attempt) -> Variant:
        return self._variant or variant_of(self.lesson.document, attempt.seed)

    def _workplace(self, attempt: Attempt) -> Workplace:
        document = self.lesson.document
        settings = Variant(values={**document.settings, **attempt.values}, faults={}).overrides
        overrides = (*settings, f"provider={document.provider}")
        lab, shared = self.records.lab(attempt), self._tools.shared
        if shared is not None:
            provider = self._tools.provider(shared.provider)
            lab = lab or shared_lab(shared.name, provider)
            return SharedWorkplace(lab, lambda: provider, self._tools.checks, self._tools.observer, overrides)
        if lab is None:
            lab = lab_for(self.lesson.scenario, attempt.lab, overrides, self._tools.refuse)
        return Workplace(
            lab, lambda: self._tools.provider(document.provider), self._tools.checks, self._tools.observer, overrides
        )

    def workplace(self) -> Workplace:
        return self._workplace(self.running().attempt)

    def _lab_name(self) -> str:
        return lab_name(self.records.student, self.lesson.name) if (of := self._tools.shared) is None else of.name

    # ---- acts

    def start(self, *, folder: Path) -> Progress:
        """Begins an attempt, or goes on with the one that was begun: the lab is built where it is not up."""
        name, document = self.lesson.name, self.lesson.document
        with self.records.turn(name):
            progress = self.progress()
            if progress is None or progress.is_stopped:
                number = 1 if progress is None else progress.attempt.attempt + 1
                seed = seed_of(self.records.key(), name, document.version, self.records.student, number)
                variant = self._variant or variant_of(document, seed)
                attempt = Attempt(
                    lesson=name, version=document.version, student=self.records.student, attempt=number, seed=seed,
                    values=dict(variant.values), lab=self._lab_name(), folder=str(folder),
                )  # fmt: skip
                lab = self._workplace(attempt).lab  # refuses what cannot be built before anything is written down
                self._add(Entry(act=Act.STARTED, at="", started=attempt))
                self.records.keep_lab(attempt, lab)
            self.records.set_current(name)
            progress = self.running()
            workplace = self._workplace(progress.attempt)
            is_new = not workplace.is_whole()
            if is_new:
                workplace.build()
            return self._unlock(workplace, is_rebuilt=is_new)

    def answer(self, task_id: str, text: str, reason: str = "") -> Step:
        """What a student says of a task that asks. Raises UsageError for what is no answer: that is no try."""
        with self.records.turn(self.lesson.name):
            progress = self.running()
            task, state = self._task(progress, task_id)
            ask = task.locate if task.kind is TaskKind.REPAIR else task.ask
            if ask is None:
                raise UsageError(
                    what=f"task {task.id} takes no answer: the lab is what is looked at", remedy="labctl lesson check"
                )
            workplace = self._workplace(progress.attempt)
            said = self.said(progress, workplace.lab)
            value = parse_answer(FACTS[ask.fact], text)
            if task.kind is TaskKind.PREDICT:
                return self._predict(task, state, value_words(value), reason, workplace)
            grade = self.grade_answer(workplace, task, ask, said, text)
            act = Act.LOCATED if task.kind is TaskKind.REPAIR else Act.ANSWERED
            self._add(Entry(act=act, at="", task=task.id, mark=grade.mark, value=value_words(value)))
            return self._step(task, grade, workplace)

    def grade_answer(self, workplace: Workplace, task: Task, ask: Ask, said: Mapping[str, str], text: str) -> Grade:
        """Writes nothing down."""
        from labctl.lessons.grading import grade_answer

        lab = require_up(workplace.standing(), self.lesson.name)
        with workplace.readings(lab) as readings:
            return grade_answer(readings, ask, said, parse_answer(FACTS[ask.fact], text))

    def check(self, task_id: str = "") -> Step:
        """Looks at the lab, for a task that wants something done."""
        with self.records.turn(self.lesson.name):
            progress = self.running()
            task, state = self._task(progress, task_id or progress.current or list(progress.tasks)[-1])
            if task.kind in (TaskKind.PREDICT, TaskKind.OBSERVE):
                words = "task {0} is passed" if state.is_passed else "task {0} wants an answer"
                command = f"labctl lesson answer {task.id} VALUE"
                if task.kind is TaskKind.PREDICT and task.reason == "required":
                    command += " --because REASON"
                mark = Mark.PASSED if state.is_passed else Mark.FAILED
                grade = Grade(mark=mark, said=(words.format(task.id),), commands=() if state.is_passed else (command,))
                return Step(task=task.id, grade=grade)
            workplace = self._workplace(progress.attempt)
            grade = self.grade_task(workplace, progress, task, state)
            self._add(Entry(act=Act.CHECKED, at="", task=task.id, mark=grade.mark))
            return self._step(task, grade, workplace)

    def grade_task(self, workplace: Workplace, progress: Progress, task: Task, state: TaskState) -> Grade:
        """Whether what the task wants is done. Writes nothing down."""
        from labctl.lessons import own_scenario
        from labctl.lessons.grading import grade_conditions

        lab = require_up(workplace.standing(), self.lesson.name)
        if task.file is not None:
            path = Path(progress.attempt.folder) / task.file
            wanted = own_scenario.lab_of_file(path, lab, self._given(progress), task.allow or (), self._tools.refuse)
            if isinstance(wanted, Grade):
                return wanted
            if (grade := own_scenario.grade_built(lab, wanted, path)) is not None:
                return grade
        elif task.kind is TaskKind.REPAIR and task.locate is not None and not state.is_located:
            command = f"labctl lesson answer {task.id} VALUE"
            return Grade(mark=Mark.FAILED, said=("say first where the fault is",), commands=(command,))
        elif task.kind is TaskKind.REPAIR and state.places != workplace.places():
            said = (
                f"lab {lab.name} was built again, which repairs nothing",
                "labctl lesson reset puts the fault in again",
            )
            return Grade(mark=Mark.FAILED, said=said, commands=("labctl lesson reset",))
        said_of = self.said(progress, workplace.lab)
        with workplace.readings(lab) as readings:
            return grade_conditions(readings, self._tools.checks(), task.done or (), task.keep, said_of)

    def hint(self, language_hints: Callable[[str], tuple[str, ...]]) -> tuple[str, int, int]:
        """The next hint of the current task, its number, and how many there are."""
        with self.records.turn(self.lesson.name):
            progress = self.running()
            task, state = self._task(progress, progress.current or "")
            hints = language_hints(task.id)
            number = min(state.hints + 1, len(hints))
            self._add(Entry(act=Act.HINTED, at="", task=task.id, number=number))
            return filled(hints[number - 1], self.said(progress)), number, len(hints)

    def reset(self, task_id: str = "") -> Progress:
        """Back to the beginning of a task, the current one unless another is named: the lab as it was then."""
        with self.records.turn(self.lesson.name):
            progress = self.running()
            task = self.lesson.document.task(task_id or progress.current or list(progress.tasks)[-1])
            if not progress.tasks[task.id].is_unlocked:
                raise UsageError(what=f"task {task.id} is not reached yet", remedy="labctl lesson text")
            self._add(Entry(act=Act.RESET, at="", task=task.id))
            workplace = self._workplace(progress.attempt)
            workplace.restore()
            return self._unlock(workplace, is_rebuilt=True)

    def solve(self) -> tuple[str, tuple[str, ...], str]:
        """The author's way for the current task: the task, the commands, the answer. That it was shown is on record."""
        with self.records.turn(self.lesson.name):
            progress = self.running()
            task, _ = self._task(progress, progress.current or "")
            solution = load_solution(self.lesson)
            if solution is None:
                raise UsageError(
                    what=f"the author's solution of lesson {self.lesson.name} is not on this host",
                    cause="it is no part of what students get",
                    remedy="labctl lesson hint; or ask the trainer",
                )
            self._add(Entry(act=Act.SHOWN, at="", task=task.id))
            from labctl.lessons.solutions import way_of

            way = way_of(solution, task, self.variant(progress.attempt), self.said(progress))
            return task.id, way.commands(progress.attempt.folder, task), way.answer

    def stop(self) -> Progress:
        """Removes the lab. What was done stays on record."""
        with self.records.turn(self.lesson.name):
            progress = self.running()
            self._workplace(progress.attempt).remove()
            self._add(Entry(act=Act.STOPPED, at=""))
            if self.records.current() == self.lesson.name:
                self.records.set_current(None)
            return progress

    # ---- parts

    def own_file(self, task: Task, progress: Progress, more: Mapping[str, object] = MappingProxyType({})) -> str:
        """What stands in the student's scenario to begin with, or with what the author's solution says more."""
        from labctl.lessons import own_scenario

        return own_scenario.beginning(self.lesson.scenario, self._given(progress), task.allow or (), more)

    def _add(self, entry: Entry) -> None:
        self.records.add(self.lesson.name, entry)

    def _given(self, progress: Progress) -> dict[str, bool | int | str]:
        both = {**self.lesson.document.settings, **progress.attempt.values}
        return {key: value for key, value in both.items() if not key.startswith(VARIABLE)}

    def _task(self, progress: Progress, task_id: str) -> tuple[Task, TaskState]:
        """Raises UsageError for a task that there is not, that is locked, and where there is none left."""
        if not task_id:
            raise UsageError(
                what=f"every task of lesson {self.lesson.name} is passed",
                remedy="labctl lesson stop  # removes the lab",
            )
        if task_id not in progress.tasks:
            known = tuple(progress.tasks)
            raise UsageError(what=f"there is no task {task_id[:60]}", cause=f"tasks are: {', '.join(known)}")
        state = progress.tasks[task_id]
        if not state.is_unlocked:
            raise UsageError(
                what=f"task {task_id} is locked", cause=f"{progress.current} comes first", remedy="labctl lesson text"
            )
        return self.lesson.document.task(task_id), state

    def _predict(self, task: Task, state: TaskState, value: str, reason: str, workplace: Workplace) -> Step:
        if state.is_passed:
            raise UsageError(
                what=f"the prediction of {task.id} is made, and stays: {state.prediction}",
                cause="what is predicted after looking is no prediction",
                remedy="labctl lesson text",
            )
        if task.reason == "required" and cells("".join(reason.split())) < _SHORTEST_REASON:
            raise UsageError(
                what="a prediction wants a reason, in a sentence",
                cause="it is the reason that is compared with what is seen",
                remedy=f"labctl lesson answer {task.id} {value} --because 'WHY'",
            )
        written = reason.strip() or "-"
        self._add(Entry(act=Act.ANSWERED, at="", task=task.id, mark=Mark.PASSED, value=value, reason=written))
        grade = Grade(mark=Mark.PASSED, said=("the prediction is written down",))
        return self._step(task, grade, workplace)

    def _step(self, task: Task, grade: Grade, workplace: Workplace) -> Step:
        """With the next task unlocked where this one is passed, and the predictions that it settles."""
        before = self.running()
        if not before.tasks[task.id].is_passed:
            return Step(task=task.id, grade=grade)
        after = self._unlock(workplace)
        unlocked = after.current or ""
        is_new = bool(unlocked) and not before.tasks[unlocked].is_unlocked
        return Step(
            task=task.id, grade=grade, unlocked=unlocked if is_new else "", revealed=self._revealed(before, task)
        )

    def _revealed(self, progress: Progress, task: Task) -> tuple[str, ...]:
        """What was predicted of that fact, beside what was seen."""
        if task.kind is not TaskKind.OBSERVE:
            return ()
        answered = [
            entry.value
            for entry in self.records.entries(self.lesson.name)
            if entry.act is Act.ANSWERED and entry.task == task.id and entry.mark is Mark.PASSED
        ]
        said = []
        for other in self.lesson.document.tasks:
            state = progress.tasks[other.id]
            if other.kind is TaskKind.PREDICT and other.ask == task.ask and state.prediction and answered:
                is_right = state.prediction.casefold() == answered[-1].casefold()
                word = "as predicted" if is_right else "otherwise than predicted"
                said.append(f"{word}: predicted was {state.prediction}, seen is {answered[-1]}")
                said.append(f"the reason was: {state.reason}")
        return tuple(said)

    def _unlock(self, workplace: Workplace, *, is_rebuilt: bool = False) -> Progress:
        """The current task is unlocked, with what it needs: the fault in the lab, the file in the folder."""
        progress = self.running()
        if (current := progress.current) is None:
            return progress
        task, state = self.lesson.document.task(current), progress.tasks[current]
        if task.kind is TaskKind.REPAIR and (is_rebuilt or state.is_breaking or not state.places):
            self._break(workplace, task, progress, is_half=state.is_breaking)
        if task.file is not None:
            from labctl.lessons import own_scenario

            path = Path(progress.attempt.folder) / task.file
            text = self.own_file(task, progress)
            with self._tools.own_files():
                own_scenario.write_beginning(path, text)
        if not state.is_unlocked:
            self._add(Entry(act=Act.UNLOCKED, at="", task=current))
        return self.running()

    def _break(self, workplace: Workplace, task: Task, progress: Progress, *, is_half: bool) -> None:
        lab = require_up(workplace.standing(), self.lesson.name)
        if is_half or lab.digest != workplace.lab.digest:  # a fault always meets the lab that the lesson begins with
            workplace.restore()
            lab = workplace.lab
        self._add(Entry(act=Act.BREAKING, at="", task=task.id))
        workplace.break_(lab, self.variant(progress.attempt).faults[task.id])
        self._add(Entry(act=Act.BROKEN, at="", task=task.id, places=workplace.places()))


def lab_name(student: str, lesson: str) -> str:
    """The student's name is in front of it, so that no two students' labs are one. Raises UsageError where there is
    no room for it."""
    name = f"{student}-{lesson}"
    if len(name) > _LONGEST_LAB:
        digest = hashlib.sha256(lesson.encode()).hexdigest()[:_DIGEST_DIGITS]  # two lessons may begin alike
        room = max(1, _LONGEST_LAB - len(student) - len(digest) - 2)
        name = f"{student}-{lesson[:room].rstrip('-')}-{digest}"
    if not is_name(name):
        raise UsageError(
            what=f"{student} cannot be a student's name", cause=f"the lab would be called {name[:60]}",
            remedy="at most 30 lower-case letters, digits and hyphens: --student NAME",
        )  # fmt: skip
    return name


def next_command(task: Task, state: TaskState) -> str:
    """What a student types for that task."""
    answer = f"labctl lesson answer {task.id} VALUE"
    match task.kind:
        case TaskKind.PREDICT:
            return f"{answer} --because 'WHY'" if task.reason == "required" else answer
        case TaskKind.OBSERVE:
            return answer
        case TaskKind.REPAIR if task.locate is not None and not state.is_located:
            return answer
        case _:
            return "labctl lesson check"
