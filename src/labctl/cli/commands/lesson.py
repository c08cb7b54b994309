"""`labctl lesson …`: one person at one lesson, from `start` to `stop`."""

from __future__ import annotations

import contextlib
import pwd
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from labctl.cli.options import as_json
from labctl.cli.output import emit, emit_json, say, show, spoken
from labctl.cli.progress import Progress
from labctl.cli.session import current_session
from labctl.errors import MeasureFailed, UsageError

if TYPE_CHECKING:
    from labctl.lessons.course import Course, Step
    from labctl.lessons.progress import Progress as Standing
    from labctl.lessons.records import Records
    from labctl.loading.lesson_texts import LessonText
    from labctl.model.classroom import SharedLab
    from labctl.model.result import Completed

F = TypeVar("F", bound=Callable[..., Any])
_NOT_PASSED = 1
_COMMAND_S = 120.0
_LOOK_S = 0.2
_END_S = 120.0
_ONE_TEST_S = 3600.0
"""All variants of one lesson: minutes."""


def _student(ctx: click.Context, option: click.Parameter, value: str | None) -> str:
    """Who learns: the person behind sudo, unless another is named."""
    del ctx, option
    from labctl.names import is_name
    from labctl.system.files import person

    if value is None:
        try:
            value = pwd.getpwuid(person().uid).pw_name
        except KeyError:
            value = f"user{person().uid}"
    if not is_name(value):
        raise UsageError(
            what=f"{value[:60]} cannot be a student's name",
            cause="it is part of the lab's name: lower-case letters, digits and hyphens",
            remedy="labctl lesson … --student NAME",
        )
    return value


student_option = click.option(
    "--student",
    metavar="NAME",
    envvar="LABCTL_STUDENT",
    callback=_student,
    help="Who learns (default: the user that called labctl).",
)
lesson_option = click.option("--lesson", "name", metavar="LESSON", help="Default: the one that was started last.")


@click.group("lesson")
def command() -> None:
    """Lessons: predict, look, change, repair. Every answer is graded against the live lab, never against a list.

    \b
    labctl lesson list
    labctl lesson start lxc-one-way
    labctl lesson answer TASK VALUE
    labctl lesson check
    labctl lesson stop

    `labctl watch LAB` in a second terminal shows the lab as it is meanwhile. A tool that fails makes an answer
    unmeasured, which counts for nothing. Where you were is known after a crash, a logout or a reboot: labctl lesson
    start goes on from there.
    """


def _records(student: str) -> Records:
    """Those of a class are root's alone."""
    from labctl.lessons.records import Records

    session = current_session()
    return Records(student) if session is None else Records(student, session.records, is_private=True)


def _course(student: str, name: str | None, progress: Progress, *, is_start: bool = False) -> Course:
    """That a lesson's faults are ones that there are is looked at when it starts."""
    from labctl import app
    from labctl.lessons.course import Course, Tools
    from labctl.loading.lessons import load_lesson
    from labctl.system import users

    records = _records(student)
    wanted = name or records.current()
    if wanted is None:
        raise UsageError(what="no lesson is started", remedy="labctl lesson list; labctl lesson start NAME")
    own_files = contextlib.nullcontext if current_session() is None else users.as_person
    tools = Tools(
        provider=app.provider,
        checks=app.checks,
        refuse=app.refuse,
        observer=progress,
        own_files=own_files,
        shared=_shared(wanted),
    )
    return Course(load_lesson(wanted, faults=app.fault_names() if is_start else ()), records, tools)


def _shared(lesson: str) -> SharedLab | None:
    """The trainer's lab that this lesson looks at in the class of the student who asks."""
    from labctl.lessons.classrooms import Classrooms

    if (session := current_session()) is None:
        return None
    facts = Classrooms().chosen(session.class_name).lesson(lesson)
    return None if facts is None else facts.shared


@command.command("list", short_help="The lessons, and how far you are.")
@student_option
@as_json
def list_(student: str, as_json: bool) -> None:
    """The lessons, in the order of the syllabus, and how far you are in each."""
    from labctl.lessons.progress import progress_of
    from labctl.loading.lessons import lesson_names, load_lesson
    from labctl.report.grid import Column, Grid

    records = _records(student)
    session = current_session()
    names = lesson_names() if session is None else session.lessons
    lessons = sorted((load_lesson(name) for name in names), key=lambda one: one.document.number)
    rows, listed = [], []
    for lesson in lessons:
        document, title = lesson.document, lesson.text(spoken()).title
        progress = progress_of(records.entries(lesson.name), document)
        passed = 0 if progress is None else sum(state.is_passed for state in progress.tasks.values())
        state = "" if progress is None else f"{passed}/{len(document.tasks)}"
        rows.append((str(document.number), lesson.name, title, f"{document.minutes} min", state))
        listed.append(
            {
                "number": document.number,
                "name": lesson.name,
                "title": title,
                "minutes": document.minutes,
                "needs": list(document.needs),
                "provider": document.provider,
                "tasks": len(document.tasks),
                "passed": None if progress is None else passed,
                "running": progress is not None and not progress.is_stopped,
            }
        )
    if as_json:
        emit_json({"apiVersion": "labctl/v1", "kind": "LessonList", "student": student, "lessons": listed})
    else:
        columns = (
            Column(title="no"),
            Column(title="lesson"),
            Column(title="about", is_text=True),
            Column(title="takes"),
            Column(title="passed"),
        )
        show(Grid(columns, rows, heads=2))


@command.command("start", short_help="Build a lesson's lab, or go on where you were.")
@click.argument("name")
@student_option
@as_json
def start(name: str, student: str, as_json: bool) -> None:
    """Build the lab of lesson NAME and show its first task; or go on where you were."""
    from labctl.system.signals import interruptible

    with interruptible(), Progress() as progress:
        course = _course(student, name, progress, is_start=True)
        session = current_session()
        standing = course.start(folder=Path.cwd() if session is None else session.folder)
    if as_json:
        emit_json(_standing(course, standing))
        return
    text = course.lesson.text(spoken())
    _markdown(f"# {text.title}\n\n{_filled(course, standing, text.intro)}")
    say(f"your lab is {standing.attempt.lab}; beside this: labctl watch {standing.attempt.lab}")
    _show_current(course, standing)


@command.command("text", short_help="The text as far as you have come.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it as one page.")
@lesson_option
@student_option
@as_json
def text(name: str | None, student: str, html: Path | None, as_json: bool) -> None:
    """The lesson's text as far as you have come: what is locked is not shown."""
    with Progress(quiet=True) as progress:
        course = _course(student, name, progress)
    standing = course.running()
    written = course.lesson.text(spoken(in_files=html is not None))
    said = _unlocked_text(course, standing, written)
    if html is not None:
        from labctl.cli.reports import require_place, write_text
        from labctl.report.lesson_html import lesson_html

        require_place(html)
        write_text(html, lesson_html(said, title=written.title, language=str(spoken(in_files=True))))
    if as_json:
        emit_json({**_standing(course, standing), "text": said})
    elif html is None:
        _markdown(said)
        _show_next(course, standing)


@command.command("answer", short_help="Say what you expect or found.")
@click.argument("task")
@click.argument("value")
@click.option("--because", "reason", default="", metavar="REASON", help="With a prediction: why you expect that.")
@lesson_option
@student_option
@as_json
def answer(task: str, value: str, reason: str, name: str | None, student: str, as_json: bool) -> int:
    """Answer TASK with VALUE: a prediction with its reason, or what you found."""
    return _act(student, name, as_json, lambda course: course.answer(task, value, reason))


@command.command("check", short_help="Look at the lab.")
@click.argument("task", default="")
@lesson_option
@student_option
@as_json
def check(task: str, name: str | None, student: str, as_json: bool) -> int:
    """Look at the lab: is what the current task wants done?"""
    return _act(student, name, as_json, lambda course: course.check(task))


def _act(student: str, name: str | None, as_json: bool, act: Callable[[Course], Step]) -> int:
    from labctl.lessons.progress import Mark
    from labctl.system.signals import interruptible

    with interruptible(), Progress(quiet=True) as progress:
        course = _course(student, name, progress)
        step = act(course)
    standing = course.running()
    if as_json:
        emit_json(
            {
                **_standing(course, standing),
                "task": step.task,
                "mark": str(step.grade.mark),
                "said": list(step.grade.said),
                "commands": list(step.grade.commands),
                "unlocked": step.unlocked or None,
                "revealed": list(step.revealed),
            }
        )
    else:
        _show_step(course, standing, step)
    return {Mark.PASSED: 0, Mark.FAILED: _NOT_PASSED, Mark.UNMEASURED: MeasureFailed.exit_code}[step.grade.mark]


def _show_step(course: Course, standing: Standing, step: Step) -> None:
    say(f"{step.task}: {step.grade.mark}")
    for line in step.grade.said:
        say(f"  {line}")
    for line in step.grade.commands:
        emit(f"  {line}", as_it_is=True)
    for line in step.revealed:
        say(f"  {line}")
    after = course.lesson.text(spoken()).tasks[step.task].after
    if standing.tasks[step.task].is_passed and step.grade.is_passed and after:  # not when a fault is only located
        _markdown(_filled(course, standing, after))
    if step.unlocked:
        _show_current(course, standing)
    elif step.grade.is_passed and standing.current is None:
        _show_next(course, standing)


@command.command("hint", short_help="The next hint.")
@lesson_option
@student_option
@as_json
def hint(name: str | None, student: str, as_json: bool) -> None:
    """The next hint of the current task."""
    with Progress(quiet=True) as progress:
        course = _course(student, name, progress)
    written = course.lesson.text(spoken())
    said, number, count = course.hint(lambda task: written.tasks[task].hints)
    if as_json:
        emit_json({**_standing(course, course.running()), "hint": said, "number": number, "hints": count})
        return
    say(f"hint {number} of {count}")
    _markdown(said)


@command.command("reset", short_help="The lab as it was when the task began.")
@click.argument("task", default="")
@lesson_option
@student_option
@as_json
def reset(task: str, name: str | None, student: str, as_json: bool) -> None:
    """Bring the lab back to how it was when the current task, or TASK, began. Tries and hints stay on record."""
    from labctl.system.signals import interruptible

    with interruptible(), Progress(quiet=True) as progress:
        course = _course(student, name, progress)
        standing = course.reset(task)
    if as_json:
        emit_json(_standing(course, standing))
    else:
        say(f"lab {standing.attempt.lab} is as it was when task {standing.current} began")


@command.command("solve", short_help="Show the author's way.")
@lesson_option
@student_option
@as_json
def solve(name: str | None, student: str, as_json: bool) -> None:
    """Show the author's way through the current task. That it was shown is on record, and the task counts no points."""
    with Progress(quiet=True) as progress:
        course = _course(student, name, progress)
    task, commands, answer = course.solve()
    if as_json:
        emit_json(
            {**_standing(course, course.running()), "task": task, "commands": list(commands), "answer": answer or None}
        )
        return
    say(f"the author's way through {task}:")
    for line in commands:
        emit(f"  {line}", as_it_is=True)
    if answer:
        emit(f"  labctl lesson answer {task} '{answer}'", as_it_is=True)


@command.command("stop", short_help="Remove the lab.")
@lesson_option
@student_option
@as_json
def stop(name: str | None, student: str, as_json: bool) -> None:
    """Remove the lesson's lab. What you did stays on record."""
    from labctl.system.signals import interruptible

    with interruptible(), Progress() as progress:
        course = _course(student, name, progress)
        standing = course.stop()
    if as_json:
        emit_json({**_standing(course, standing), "running": False})
        return
    passed = sum(state.is_passed for state in standing.tasks.values())
    won, most = standing.points(course.lesson.document)
    say(f"lesson {course.lesson.name} is stopped: {passed} of {len(standing.tasks)} tasks, {won} of {most} points")


@command.command("test", short_help="The author's test.")
@click.argument("name", default="")
@click.option("--all", "is_all", is_flag=True, help="Every lesson.")
@click.option("--sample", is_flag=True, help="One variant; with --all of six lessons. The date chooses them.")
@student_option
@as_json
def test(name: str, is_all: bool, sample: bool, student: str, as_json: bool) -> int:
    """The author's test: walk through every variant of lesson NAME with the author's solution, and try what must fail.

    With --all as many lessons are tested at once as there are CPUs. Exits with 1 when something is wrong with a lesson.
    Lessons for a real cluster are listed as not run.
    """
    from datetime import UTC, datetime

    from labctl.lessons.author import lessons_of_the_day
    from labctl.loading.lessons import lesson_names
    from labctl.system.signals import interruptible

    if bool(name) == is_all:
        raise UsageError(what="name a lesson, or --all", remedy="labctl lesson test NAME; labctl lesson test --all")
    names = lesson_names() if is_all else (name,)
    if is_all and sample:
        chosen = lessons_of_the_day(names, datetime.now(UTC).toordinal())
        if not as_json:
            say(f"{len(chosen)} of {len(names)} lessons, by the date: {', '.join(chosen)}; all: make test-lessons")
        names = chosen
    tested = []
    with interruptible():
        alone = (_tested(one, student, sample=sample) for one in names)
        for report in _tested_together(names, student, sample=sample) if is_all else alone:
            tested.append(report)
            if not as_json:
                _show_tested(report)
    failed = [report for report in tested if report["problems"]]
    if as_json:
        emit_json({"apiVersion": "labctl/v1", "kind": "LessonTest", "lessons": tested})
    elif is_all:
        run = [report for report in tested if not report["notRun"]]
        say(
            f"{len(run)} lessons were tested, {len(failed)} are not as they should be, {len(tested) - len(run)} not run"
        )
    return _NOT_PASSED if failed else 0


def _tested_together(names: Sequence[str], student: str, *, sample: bool) -> Iterator[dict[str, Any]]:
    """Each by a labctl of its own, as many at once as there are CPUs; the reports in the order of the names. What is
    still going on when this ends is asked to stop, and removes its lab."""
    import os
    import sys
    import time
    from collections import deque

    from labctl.json_text import parse_json
    from labctl.system.clock import Deadline
    from labctl.system.process import Process
    from labctl.system.signals import stop_if_asked

    source = str(Path(__file__).resolve().parents[3])
    own = ("--json", "--student", student, "--timeout", f"{_ONE_TEST_S:g}", *(("--sample",) if sample else ()))
    waiting, running = deque(names), deque[tuple[str, Process, Deadline]]()
    try:
        while waiting or running:
            while waiting and sum(process.is_alive() for _, process, _ in running) < (os.cpu_count() or 1):
                name = waiting.popleft()
                argv = (sys.executable, "-m", "labctl", "lesson", "test", name, *own)
                process = Process(argv, environment={"PYTHONPATH": source})
                running.append((name, process, Deadline.after(_ONE_TEST_S + _END_S)))
            name, process, deadline = running[0]
            if process.is_alive() and not deadline.is_over():
                stop_if_asked()
                time.sleep(_LOOK_S)
                continue
            done = process.wait(timeout_s=_END_S)
            running.popleft()
            try:
                report = parse_json(done.text)["lessons"][0]
            except (ValueError, LookupError, TypeError):
                said = done.error_text.strip()[-500:] or f"it ended with {done.returncode}"
                report = {"lesson": name, "variants": 0, "problems": [said], "notRun": None, "durationS": 0.0}
            yield report
    finally:
        for _, process, _ in running:
            process.stop(timeout_s=_END_S)


def _tested(name: str, student: str, *, sample: bool) -> dict[str, Any]:
    from datetime import UTC, datetime

    from labctl import app
    from labctl.errors import LabError
    from labctl.lessons.author import Examiner, of_the_day
    from labctl.lessons.course import Tools
    from labctl.lessons.variation import all_variants
    from labctl.loading.lessons import load_lesson, load_solution
    from labctl.model.lab import NETNS
    from labctl.system.clock import monotonic_s

    begun_s = monotonic_s()
    report: dict[str, Any] = {"lesson": name, "variants": 0, "problems": [], "notRun": None, "durationS": 0.0}
    try:
        lesson = load_lesson(name, faults=app.fault_names())
        solution = load_solution(lesson)
        if solution is None:
            report["problems"].append(f"there is no solution: solutions/{name}.yaml")
            return report
        if lesson.document.provider != NETNS:
            report["notRun"] = f"it needs a cluster: provider {lesson.document.provider}"
            return report
        every = tuple(all_variants(lesson.document))
        chosen = (of_the_day(lesson, datetime.now(UTC).toordinal()),) if sample else every
        with Progress(quiet=True) as progress:
            tools = Tools(provider=app.provider, checks=app.checks, refuse=app.refuse, observer=progress)
            examiner = Examiner(lesson=lesson, solution=solution, tools=tools, run=_run_labctl, student=student)
            report["problems"] += [str(found) for found in examiner.examine(chosen, is_whole=not sample)]
        report["variants"] = len(chosen)
    except LabError as wrong:
        report["problems"] += wrong.lines()
    report["durationS"] = monotonic_s() - begun_s
    return report


def _run_labctl(argv: Sequence[str], folder: Path) -> Completed:
    """A command as a student types it, in that folder."""
    import sys

    from labctl.system import process

    own = (sys.executable, "-m", "labctl", *argv[1:])
    source = str(Path(__file__).resolve().parents[3])
    return process.run(own, timeout_s=_COMMAND_S, directory=folder, environment={"PYTHONPATH": source})


def _show_tested(report: Mapping[str, Any]) -> None:
    if report["notRun"]:
        say(f"{report['lesson']}: not run: {report['notRun']}")
        return
    took = f"{report['variants']} variants, {report['durationS']:.1f} s"
    if not report["problems"]:
        say(f"{report['lesson']}: passed ({took})")
        return
    say(f"{report['lesson']}: failed ({took})")
    for problem in report["problems"]:
        say(f"  {problem}")


def _standing(course: Course, standing: Standing) -> dict[str, object]:
    won, most = standing.points(course.lesson.document)
    return {
        "apiVersion": "labctl/v1",
        "kind": "Lesson",
        "lesson": course.lesson.name,
        "version": standing.attempt.version,
        "student": standing.attempt.student,
        "attempt": standing.attempt.attempt,
        "lab": standing.attempt.lab,
        "variant": dict(standing.attempt.values),
        "current": standing.current,
        "points": won,
        "mostPoints": most,
        "tasks": [
            {
                "task": task.id,
                "kind": str(task.kind),
                "unlocked": state.is_unlocked,
                "passed": state.is_passed,
                "shown": state.is_shown,
                "tries": state.tries,
                "hints": state.hints,
                "unmeasured": state.unmeasured,
            }
            for task in course.lesson.document.tasks
            for state in (standing.tasks[task.id],)
        ],
    }


def _filled(course: Course, standing: Standing, text: str) -> str:
    from labctl.lessons.variation import filled

    return filled(text, course.said(standing))


def _unlocked_text(course: Course, standing: Standing, written: LessonText) -> str:
    parts = [f"# {written.title}", written.intro]
    for task, state in standing.tasks.items():
        if state.is_unlocked:
            section = written.tasks[task]
            parts += [f"## {task}: {section.title}", section.body]
            if state.is_passed and section.after:
                parts.append(section.after)
    return _filled(course, standing, "\n\n".join(filter(None, parts)))


def _show_current(course: Course, standing: Standing) -> None:
    if standing.current is not None:
        section = course.lesson.text(spoken()).tasks[standing.current]
        _markdown(_filled(course, standing, f"## {standing.current}: {section.title}\n\n{section.body}"))
    _show_next(course, standing)


def _show_next(course: Course, standing: Standing) -> None:
    """The command that the current task waits for."""
    from labctl.lessons.course import next_command

    if standing.current is None:
        won, most = standing.points(course.lesson.document)
        say(f"every task is passed: {won} of {most} points")
        emit("  labctl lesson stop", as_it_is=True)
        return
    say("your turn:")
    emit(
        f"  {next_command(course.lesson.document.task(standing.current), standing.tasks[standing.current])}",
        as_it_is=True,
    )


def _markdown(text: str) -> None:
    """As the terminal shows it. The text is in the right language already."""
    from rich.markdown import Markdown

    show(Markdown(text, hyperlinks=False))
