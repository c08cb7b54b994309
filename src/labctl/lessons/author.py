"""The author's test of a lesson: every variant is walked through with the author's solution, and what must not pass is
tried as well.

Every task fails before its solution and on an empty or another answer, passes twice after it, and fails again after
`reset`. Every fault shows in what is asked for and is named by a trace, a difference or a check; no two faults of one
choice look alike. A fact takes two values over the variants, or the file says why not. The fault's name is in nothing
that labctl writes or says.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from pathlib import Path

from labctl.engine.mend import drifting
from labctl.errors import LabError, UsageError
from labctl.facts.readings import questions
from labctl.lessons.answers import parse_answer
from labctl.lessons.course import Course, Tools
from labctl.lessons.grading import grade_answer, grade_conditions, question_of
from labctl.lessons.leaks import leaks
from labctl.lessons.progress import Grade, Mark, TaskState
from labctl.lessons.records import Records
from labctl.lessons.solutions import Way, way_of
from labctl.lessons.variation import Variant, all_variants
from labctl.lessons.workplace import Workplace
from labctl.loading.lessons import Lesson
from labctl.model.fact import FACTS, NONE, FactKind, FactType, Value, value_words
from labctl.model.lab import Lab
from labctl.model.lesson import Ask, SolutionDocument, Task, TaskKind
from labctl.model.result import Completed
from labctl.system import files
from labctl.values import dataclass

_LOOKS = (
    "wrong-role", "arrived", "lost-at", "seen", "vni", "outer-destination", "helper", "source-mac", "destination-mac",
    "netfilter-hooks", "ping-answer", "reaches-node",
)  # fmt: skip
"""Facts by which two faults are told apart."""

Run = Callable[[Sequence[str], Path], Completed]
"""Runs a command of a student's, `labctl …`, in that folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcoming:
    """One thing that is wrong with a lesson. `variant` and `task` are empty where it is about all of it."""

    what: str
    variant: str = ""
    task: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.task, self.what, self.variant and f"[{self.variant}]")))


@dataclass(slots=True)
class _Seen:
    """What the variants showed so far."""

    values: dict[str, set[str]] = field(default_factory=dict)
    looks: dict[tuple[str, str], dict[str, frozenset[str]]] = field(default_factory=dict)
    searched: set[tuple[str, str]] = field(default_factory=set)
    """Tasks with a fault that was looked for wherever it could be read: no variant changes where that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examiner:
    """Walks one lesson. `student` is the name that its labs begin with."""

    lesson: Lesson
    solution: SolutionDocument
    tools: Tools
    run: Run
    student: str

    def examine(self, variants: Sequence[Variant], *, is_whole: bool) -> Iterator[Shortcoming]:
        """What is wrong, as it is found. With `is_whole` these are all variants, which are held against each other."""
        seen = _Seen()
        for number, variant in enumerate(variants):
            with files.temporary_folder() as folder:
                yield from _Walk(self, variant, folder, seen, is_first=number == 0).problems()
        if is_whole:
            yield from self._over_all(seen, len(variants))

    def _over_all(self, seen: _Seen, variants: int) -> Iterator[Shortcoming]:
        for task in self.lesson.document.tasks:
            values = seen.values.get(task.id, set())
            if task.kind is TaskKind.OBSERVE and variants > 1 and len(values) == 1 and task.constant is None:
                what = f"the fact has one value in all variants ({', '.join(values)}), and `constant` does not say why"
                yield Shortcoming(task=task.id, what=what)
        for (task_id, variant), looks in seen.looks.items():
            names = sorted(looks)
            for index, one in enumerate(names):
                for other in names[index + 1 :]:
                    if looks[one] == looks[other]:
                        yield Shortcoming(task=task_id, variant=variant, what=f"{one} and {other} look alike")


class _Walk:
    """One variant, from start to stop."""

    def __init__(self, examiner: Examiner, variant: Variant, folder: Path, seen: _Seen, *, is_first: bool) -> None:
        self._of, self._variant, self._folder, self._seen, self._is_first = examiner, variant, folder, seen, is_first
        records = Records(examiner.student, folder / "state")
        self._course = Course(examiner.lesson, records, examiner.tools, variant=variant)

    def problems(self) -> Iterator[Shortcoming]:
        words = self._variant.words()
        try:
            self._course.start(folder=self._folder)
            for task in self._of.lesson.document.tasks:
                yield from (replace(found, task=task.id, variant=words) for found in self._task(task))
                if self._course.running().current == task.id:
                    yield Shortcoming(task=task.id, variant=words, what="is not passed: the rest was not tried")
                    return
        except LabError as failed:
            said = "; ".join(filter(None, (failed.what, failed.cause)))
            yield Shortcoming(task=self._course.running().current or "", variant=words, what=said)
        finally:
            with contextlib.suppress(LabError):
                self._course.stop()

    def _task(self, task: Task) -> Iterator[Shortcoming]:
        workplace, said = self._place(), self._said()
        way = way_of(self._of.solution, task, self._variant, said)
        ask = task.locate if task.kind is TaskKind.REPAIR else task.ask
        if ask is not None:
            yield from self._refuses_nothing(task)
        match task.kind:
            case TaskKind.PREDICT:
                self._course.answer(task.id, way.answer, way.reason)
            case TaskKind.OBSERVE if ask is not None:
                yield from self._observe(task, ask, way, workplace)
            case TaskKind.CONFIGURE | TaskKind.REPAIR:
                yield from self._do(task, ask, way, workplace)
            case _:
                raise UsageError(what=f"task {task.id} asks for nothing")

    def _place(self) -> Workplace:
        return self._course.workplace()

    def _said(self) -> dict[str, str]:
        return self._course.said(self._course.running())

    def _refuses_nothing(self, task: Task) -> Iterator[Shortcoming]:
        try:
            self._course.answer(task.id, "", "a reason that is long enough")
        except UsageError:
            return
        yield Shortcoming(what="an empty answer is taken")

    def _observe(self, task: Task, ask: Ask, way: Way, workplace: Workplace) -> Iterator[Shortcoming]:
        if self._is_first:
            yield from self._ran(way.run, may_differ=True)
        yield from self._graded(ask, way, workplace, is_again=True)
        self._course.answer(task.id, way.answer)
        if self._is_first:
            self._course.reset(task.id)
            if self._course.running().current != task.id:
                yield Shortcoming(what="is still passed after reset")
            yield from self._ran([one for one in way.run if not _is_look(shlex.split(one))], may_differ=False)
            self._course.answer(task.id, way.answer)
        right = self._parsed(ask, way.answer, workplace.lab)
        self._seen.values.setdefault(task.id, set()).add(value_words(right))

    def _graded(self, ask: Ask, way: Way, workplace: Workplace, *, is_again: bool) -> Iterator[Shortcoming]:
        """Another answer fails and the author's passes, in one look; `is_again`: twice, in two looks."""
        lab = workplace.standing() or workplace.lab
        right, said = self._parsed(ask, way.answer, lab), self._said()
        other = _other(FACTS[ask.fact], right)
        for _ in range(2 if is_again and self._is_first else 1):
            with workplace.readings(lab) as readings:
                grade = grade_answer(readings, ask, said, right)
                yield from _unless(grade, Mark.PASSED, "the author's answer does not pass")
                if other is not None:
                    grade = grade_answer(readings, ask, said, other)
                    yield from _unless(grade, Mark.FAILED, f"the answer {value_words(other)} does not fail")

    def _parsed(self, ask: Ask, text: str, lab: Lab) -> Value:
        return parse_answer(FACTS[ask.fact], text)

    def _do(self, task: Task, ask: Ask | None, way: Way, workplace: Workplace) -> Iterator[Shortcoming]:
        for is_again in (False, True):
            before = "before its solution" if not is_again else "after reset"
            grade = self._done(task, workplace)
            yield from _unless(grade, Mark.FAILED, f"does not fail {before}")
            if task.inject is not None and not is_again:
                yield from self._fault(task, ask, workplace)
            if ask is not None:
                if not is_again:
                    yield from self._graded(ask, way, workplace, is_again=False)
                found = self._course.answer(task.id, way.answer).grade
                yield from _unless(found, Mark.PASSED, "the author does not find the place")
            yield from self._ran(self._written(task, way), may_differ=False)
            if is_again:
                yield from _unless(self._course.check(task.id).grade, Mark.PASSED, "does not pass again after reset")
                return
            for _ in range(2):
                yield from _unless(self._done(task, workplace), Mark.PASSED, "the author's solution does not pass")
            self._course.reset(task.id)

    def _done(self, task: Task, workplace: Workplace) -> Grade:
        """As `labctl lesson check` would find it, with the place of a fault taken as found."""
        progress = self._course.running()
        state: TaskState = replace(progress.tasks[task.id], is_located=True)
        return self._course.grade_task(workplace, progress, task, state)

    def _written(self, task: Task, way: Way) -> tuple[str, ...]:
        """The student's own file is written; the commands that are left to run."""
        if way.scenario is not None:
            progress = self._course.running()
            path = self._folder / str(task.file)
            files.write_atomically(path, self._course.own_file(task, progress, way.scenario).encode())
        return way.run

    def _ran(self, commands: Sequence[str], *, may_differ: bool) -> Iterator[Shortcoming]:
        """Commands that show something may say that something is wrong (1); those that change something may not."""
        for command in commands:
            argv = shlex.split(command)
            if argv[:1] != ["labctl"]:
                yield Shortcoming(what=f"the solution runs what is no command of labctl: {command}")
                continue
            done = self._of.run(argv, self._folder)
            if done.returncode not in ((0, 1) if may_differ or _is_look(argv) else (0,)):
                words = done.error_text.strip()[-300:] or done.text.strip()[-300:]
                yield Shortcoming(what=f"the solution's command ends with {done.returncode}: {command}: {words}")

    def _fault(self, task: Task, ask: Ask | None, workplace: Workplace) -> Iterator[Shortcoming]:
        fault, lab = self._variant.faults[task.id], workplace.standing() or workplace.lab
        said = self._said()
        first = task.done[0] if task.done else None
        about = ask if ask is not None else Ask(fact=str(first.fact if first and first.fact else "wrong-role"))
        question = question_of(about, lab, said)
        with workplace.readings(lab) as readings:
            read = [readings.read(one) for one in questions(lab, _LOOKS, question.client, question.server)]
            kept = grade_conditions(readings, self._of.tools.checks(), task.done or (), (), said)
        looks = frozenset(f"{one.question.words()} {value_words(one.value)}" for one in read if one.value is not None)
        self._seen.looks.setdefault((task.id, self._variant.words()), {})[fault] = looks
        is_named = any(one.question.fact == "wrong-role" and one.value not in (None, NONE) for one in read)
        is_different = bool(drifting(workplace.provider, lab).compared(lab).drift.differences)
        if not (is_named or is_different or kept.mark is Mark.FAILED):
            yield Shortcoming(what=f"no trace, difference or check names the fault {fault}")
        if (task.id, fault) in self._seen.searched:
            return
        self._seen.searched.add((task.id, fault))
        ends, folders = (question.client, question.server), (self._folder,)
        for place in leaks(fault, workplace, ends, self._of.run, folders, self._of.tools.refuse):
            yield Shortcoming(what=f"the fault {fault} can be read in {place}")


def _is_look(argv: Sequence[str]) -> bool:
    """Whether the command changes nothing."""
    return argv[1] in ("trace", "check", "diff", "status", "facts", "capture", "link" if len(argv) == 3 else "")


def _unless(grade: Grade, mark: Mark, what: str) -> Iterator[Shortcoming]:
    if grade.mark is not mark:
        yield Shortcoming(what=f"{what}: {_words(grade)}")


def _words(grade: Grade) -> str:
    return "; ".join((str(grade.mark), *grade.said))


def _other(kind: FactKind, right: Value) -> Value | None:
    """A value of the fact that is not that one."""
    if kind.type is FactType.BOOLEAN:
        return not right
    if kind.type is FactType.NUMBER and isinstance(right, int):
        return right + 1
    if kind.type is FactType.KEYWORD:
        return next((choice for choice in kind.choices if choice != right), None)
    if kind.type is FactType.ADDRESS:
        return "192.0.2.1"
    return ("another-name",) if kind.type is FactType.NAMES else "another-name"


_SAMPLED = 6
"""Lessons of a sample: what two CPUs walk through in two minutes, one variant each."""


def lessons_of_the_day(names: Sequence[str], day: int) -> tuple[str, ...]:
    """Those that the date chooses: after as many days as it takes, every lesson was among them."""
    first = day * _SAMPLED % len(names) if names else 0
    turned = (*names[first:], *names[:first])
    return tuple(turned[:_SAMPLED])


def of_the_day(lesson: Lesson, day: int) -> Variant:
    """One variant, which the date chooses."""
    every = tuple(all_variants(lesson.document))
    return every[day % len(every)]
