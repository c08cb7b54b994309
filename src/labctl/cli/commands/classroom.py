"""`labctl class …`: lessons for many students on this host, with a login for each, and the trainer's board."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labctl.cli.options import as_json, trust_option
from labctl.cli.output import drawn_lines, emit, emit_json, live_screen, say, show, spoken, tell
from labctl.errors import LabError, NeedsRoot, UsageError

if TYPE_CHECKING:
    from labctl.lessons.classrooms import Classrooms
    from labctl.loading.lessons import Lesson
    from labctl.model.classroom import Board, Classroom, SharedLab

_LOOK_S = 2.0
_REFRESH_S = 5
class_option = click.option("--class", "name", metavar="CLASS", help="Default: the one that goes on, or the last.")


@click.group("class")
def command() -> None:
    """Lessons for a class: a login for each student on this host, their labs apart, and a board for the trainer.

    \b
    sudo labctl class start may.yaml --lesson which-mode --lesson lxc-one-way
    sudo labctl class board --watch
    sudo labctl class export may.csv
    sudo labctl class stop

    A student logs in, types labctl lesson start NAME, and reaches their own labs alone. What a login does not keep
    apart is in docs/class.md: a pod is no security boundary, and whoever has real root can read and forge everything.
    """


def _classrooms() -> Classrooms:
    from labctl.lessons.classrooms import Classrooms

    if os.geteuid() != 0:
        raise NeedsRoot("labctl class needs root", "logins, labs and journals of a class are root's")
    return Classrooms()


@command.command("start", short_help="Make the logins of a class.")
@click.argument("roster", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--lesson", "lessons", metavar="NAME", multiple=True, required=True, help="Repeatable.")
@click.option(
    "--shared",
    "shared",
    metavar="LESSON=LAB",
    multiple=True,
    help="A lesson for a real cluster looks at this lab of yours, which no student changes. Repeatable.",
)
@click.option("--yes", is_flag=True, help="Make what is shown.")
@trust_option
@as_json
def start(
    roster: Path, lessons: tuple[str, ...], shared: tuple[str, ...], yes: bool, trust: bool, as_json: bool
) -> None:
    """Make a login for each student of ROSTER, who can then work through the lessons.

    Shows what it makes on this host, and makes it with --yes. The same command again goes on where it was cut off, and
    gives new passwords.
    """
    from labctl.lessons import logins
    from labctl.lessons.classrooms import turn
    from labctl.system.signals import interruptible

    classrooms = _classrooms()
    classroom = _begun(classrooms, roster, lessons, shared, trust=trust)
    logins.require_free(classroom)
    if not yes:
        if as_json:
            emit_json({**_summary(classroom), "made": False, "commands": list(logins.shown(classroom))})
            return
        say(f"class {classroom.name}, {len(classroom.students)} students, would make on this host:")
        for line in logins.shown(classroom):
            emit(f"  {line}", as_it_is=True)
        say("nothing is made yet: the same command with --yes makes it; labctl class stop removes it")
        return
    is_new = classrooms.going() is None
    with interruptible(), turn():
        try:
            classrooms.write(classroom)
            classroom, passwords = logins.make(classroom, classrooms.write, lambda user: tell(f"login {user}"))
        except BaseException:
            if is_new:
                _take_back(classrooms, classroom.name)
            raise
    if as_json:
        emit_json({**_summary(classroom, passwords), "made": True})
        return
    _show_logins(classroom, passwords)


def _take_back(classrooms: Classrooms, name: str) -> None:
    """Whatever of a class was made when its start failed, or was interrupted. What cannot be removed stays written
    down, for `labctl class stop`."""
    from labctl.lessons import logins
    from labctl.system.signals import uninterrupted

    with uninterrupted():
        try:
            if (made := classrooms.read(name)) is not None:
                logins.close(made)
                logins.remove(made, lambda user, processes: None)
            classrooms.forget(name)
        except LabError as failed:
            tell(f"note: {failed.what}; labctl class stop removes what is left")


def _begun(
    classrooms: Classrooms, roster: Path, names: Sequence[str], shared: Sequence[str], *, trust: bool
) -> Classroom:
    """The class that the roster says; the one that was begun, where it is the same."""
    from dataclasses import replace

    from labctl import app
    from labctl.lessons.classrooms import new_classroom
    from labctl.loading.lessons import load_lesson
    from labctl.loading.rosters import load_roster

    wanted = load_roster(roster, trust=trust)
    lessons = tuple(load_lesson(name, faults=app.fault_names(), trust=trust) for name in dict.fromkeys(names))
    made = new_classroom(wanted, lessons, Path.cwd(), _shared_labs(lessons, shared))
    there = classrooms.going()
    if there is None:
        if (earlier := classrooms.read(made.name)) is not None:
            raise UsageError(
                what=f"class {made.name} was held, and its journals are kept",
                cause=f"it was stopped at {earlier.stopped_at}",
                remedy=f"labctl class stop --class {made.name} --forget  # removes them; or another name in the roster",
            )
        _require_no_labs(made)
        return made
    if (there.name, _who(there), there.lessons) != (made.name, _who(made), made.lessons):
        raise UsageError(
            what=f"class {there.name} goes on, with other students or lessons",
            cause="a host has one class at a time, and its journals belong to one roster",
            remedy="labctl class stop",
        )
    return replace(there, folder=made.folder)


def _shared_labs(lessons: Sequence[Lesson], given: Sequence[str]) -> dict[str, SharedLab]:
    """The trainer's labs by lesson: those that are up, for lessons that only look. Raises UsageError, StepFailed."""
    from labctl import app
    from labctl.engine.build import find
    from labctl.lessons.workplace import not_standing
    from labctl.model.classroom import SharedLab
    from labctl.model.lab import NETNS

    asked = dict(one.partition("=")[::2] for one in given)
    names = [lesson.name for lesson in lessons if lesson.document.provider != NETNS]
    if strange := [name for name in asked if name not in names]:
        raise UsageError(
            what=f"--shared {strange[0]}: that is no lesson of this class for a real cluster",
            cause=f"those are: {', '.join(names) or 'none'}",
            remedy="labctl lesson list",
        )
    found = {}
    for lesson in lessons:
        if lesson.document.provider == NETNS:
            continue
        if not asked.get(lesson.name):
            raise UsageError(
                what=f"lesson {lesson.name} wants a real cluster, which a student does not build",
                cause=f"its lab is of the provider {lesson.document.provider}",
                remedy=f"labctl up {lesson.document.scenario}; then the same command with --shared {lesson.name}=LAB",
            )
        _require_looking(lesson)
        there = find([app.provider(name) for name in app.PROVIDERS if name != NETNS], asked[lesson.name])
        if there is None or there.running.lab is None or not there.running.is_whole:
            raise not_standing(asked[lesson.name])
        found[lesson.name] = SharedLab(name=there.running.name, provider=there.provider.name)
    return found


def _require_looking(lesson: Lesson) -> None:
    """Raises UsageError for a lesson that cannot be done at a lab that nobody changes."""
    from labctl.model.lesson import TaskKind

    changing = [task.id for task in lesson.document.tasks if task.kind not in (TaskKind.PREDICT, TaskKind.OBSERVE)]
    if changing:
        raise UsageError(
            what=f"lesson {lesson.name} cannot be done at a lab that all look at: {', '.join(changing)}",
            cause="these tasks configure or repair, and a student changes nothing of the trainer's",
            remedy="another lesson; or the trainer for all: labctl lesson start " + lesson.name,
        )
    if varied := [key for key in lesson.document.vary if not key.startswith("var.")]:
        raise UsageError(
            what=f"lesson {lesson.name} cannot be done at one lab: {', '.join(varied)} differs by student",
            cause="the trainer's lab is one for all",
            remedy="another lesson; or the trainer for all: labctl lesson start " + lesson.name,
        )


def _require_no_labs(made: Classroom) -> None:
    """Raises UsageError for labs that would be a student's, and be removed with theirs."""
    from labctl import app

    prefixes = tuple(f"{student.name}-" for student in made.students)
    names = [one.name for one in app.provider("netns").discover() if one.name.startswith(prefixes)]
    if names:
        raise UsageError(
            what=f"labs of students' names are up already: {', '.join(sorted(names))}",
            cause="a student reaches every lab whose name begins with theirs, and class stop removes them",
            remedy=f"labctl down {' '.join(sorted(names))}; or other names in the roster",
        )


def _who(classroom: Classroom) -> list[tuple[str, str]]:
    return [(one.name, one.full_name) for one in classroom.students]


def _summary(classroom: Classroom, passwords: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "labctl/v1",
        "kind": "Class",
        "class": classroom.name,
        "lessons": [lesson.name for lesson in classroom.lessons],
        "startedAt": classroom.started_at,
        "stoppedAt": classroom.stopped_at or None,
        "students": [
            {
                "student": one.name,
                "name": one.full_name,
                "user": one.user,
                **({"password": passwords[one.name]} if passwords else {}),
            }
            for one in classroom.students
        ],
    }


def _show_logins(classroom: Classroom, passwords: Mapping[str, str]) -> None:
    from labctl.report.grid import Column, Grid

    rows = [(one.full_name, one.user, passwords[one.name]) for one in classroom.students]
    say(f"class {classroom.name} goes on. The passwords are shown this once:")
    show(Grid((Column(title="student", is_text=True), Column(title="login"), Column(title="password")), rows))
    say("a student logs in, and types:")
    emit(f"  labctl lesson start {classroom.lessons[0].name}", as_it_is=True)
    say("yours:")
    emit("  labctl class board --watch", as_it_is=True)
    say("a student with real root on this host can read and forge journals, and reach every lab")


@command.command("board", short_help="Who is where, and what the class predicted.")
@click.option("--watch", is_flag=True, help="Follow it until q or Ctrl-C; with --html a page that loads itself again.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it as one page.")
@click.option("--predictions", is_flag=True, help="Without names: what the class predicted, for everybody's eyes.")
@class_option
@as_json
def board(watch: bool, html: Path | None, predictions: bool, name: str | None, as_json: bool) -> None:
    """Each student in each lesson: at which task, for how many minutes, with how many tries and hints, and how many
    tries could not be measured. Those who are stuck stand first. Below, how many predicted what."""
    from labctl.cli.reports import require_place
    from labctl.system.signals import asked_to_stop

    classrooms = _classrooms()
    classroom = classrooms.chosen(name)
    if watch and as_json:
        raise UsageError(what="--watch shows a screen, and --json one document", remedy="labctl class board --json")
    if html is not None:
        require_place(html)
    if not watch:
        made = _board(classrooms, classroom)
        if html is not None:
            _write_page(html, made, predictions, refresh_s=0)
        if as_json:
            emit_json({"apiVersion": "labctl/v1", "kind": "ClassBoard", **_document(made)})
        elif html is None:
            from labctl.report.board import board_view

            show(*board_view(made, spoken(), has_names=not predictions))
        return
    with asked_to_stop() as stops:
        if html is not None:
            say(f"{html} is written every {_LOOK_S:g} s, until Ctrl-C")
            while not stops():
                _write_page(html, _board(classrooms, classroom), predictions, refresh_s=_REFRESH_S)
                _wait(stops)
            return
        _require_terminal()
        with live_screen() as screen:
            from labctl.report.board import board_view

            drawn_s = -math.inf
            while not stops() and not screen.has_ended():
                if time.monotonic() - drawn_s >= _LOOK_S:
                    made = _board(classrooms, classroom)
                    screen.draw(drawn_lines(*board_view(made, spoken(), has_names=not predictions)))
                    drawn_s = time.monotonic()
                time.sleep(min(screen.patience_s, _LOOK_S) / 5)


def _wait(stops: Callable[[], int]) -> None:
    until_s = time.monotonic() + _LOOK_S
    while not stops() and time.monotonic() < until_s:
        time.sleep(0.1)


def _require_terminal() -> None:
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise UsageError(
            what="labctl class board --watch needs a terminal",
            cause="standard input or output is none",
            remedy="labctl class board --watch --html FILE",
        )


def _board(classrooms: Classrooms, classroom: Classroom) -> Board:
    from labctl.system.clock import utc_now

    return classrooms.board(classroom, utc_now())


def _document(made: Board) -> dict[str, Any]:
    from labctl.codec import plain

    said = plain(made)
    assert isinstance(said, dict)
    return said


def _write_page(path: Path, made: Board, predictions: bool, *, refresh_s: int) -> None:
    from labctl.cli.reports import write_text
    from labctl.report.board import board_page

    write_text(path, board_page(made, spoken(in_files=True), refresh_s=refresh_s, has_names=not predictions))


@command.command("export", short_help="What everybody did, as CSV.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@class_option
@as_json
def export(file: Path, name: str | None, as_json: bool) -> None:
    """Write a line for each student and task to FILE (-: standard output), which spreadsheets read as UTF-8. No cell is
    a formula, whatever a student wrote."""
    from labctl.cli.reports import require_place, write_text
    from labctl.report.class_csv import class_csv

    classrooms = _classrooms()
    made = _board(classrooms, classrooms.chosen(name))
    if str(file) == "-":
        emit(class_csv(made), nl=False, as_it_is=True)
        return
    require_place(file)
    write_text(file, class_csv(made))
    if as_json:
        said = {"class": made.class_name, "file": str(file), "rows": len(made.rows)}
        emit_json({"apiVersion": "labctl/v1", "kind": "ClassExport", **said})
        return
    say(f"{file}: {len(made.rows)} rows of class {made.class_name}")


@command.command("stop", short_help="Remove logins and labs of a class.")
@click.option("--forget", is_flag=True, help="Remove the journals too.")
@class_option
@as_json
def stop(forget: bool, name: str | None, as_json: bool) -> None:
    """Remove the logins of the class with their processes, homes and files, the rule for sudo, and every lab of theirs.

    What was done stays on record for board and export, until --forget.
    """
    from labctl import app
    from labctl.cli.progress import Progress
    from labctl.lessons import logins
    from labctl.lessons.classrooms import turn
    from labctl.lessons.ending import end_sessions, remove_labs
    from labctl.system import users
    from labctl.system.signals import uninterrupted

    classrooms = _classrooms()
    classroom = classrooms.chosen(name)
    removed: list[str] = []
    ended: dict[str, int] = {}
    with turn(), uninterrupted(), Progress(quiet=True) as progress:
        logins.close(classroom)
        end_sessions(classroom)
        removed += remove_labs(classrooms, classroom, app.provider("netns"), progress)
        logins.remove(classroom, lambda user, processes: ended.__setitem__(user, processes))
        removed += remove_labs(classrooms, classroom, app.provider("netns"), progress)
        users.take_over(classrooms.folder(classroom.name))
        if not classroom.stopped_at:
            classroom = classrooms.stop(classroom)
        if forget:
            classrooms.forget(classroom.name)
    if as_json:
        said = {**_summary(classroom), "labs": removed, "logins": ended, "forgotten": forget}
        emit_json(said)
        return
    say(
        f"class {classroom.name} is stopped: {len(ended)} logins with {sum(ended.values())} processes and "
        f"{len(removed)} labs are removed"
    )
    if not forget:
        say(f"what was done is kept in {classrooms.folder(classroom.name)}")
        emit("  labctl class export FILE", as_it_is=True)


@command.command("enter", hidden=True, context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("name")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def enter(ctx: click.Context, name: str, argv: tuple[str, ...]) -> Any:
    """What a student's labctl runs as root. Not to be typed."""
    from labctl.cli.session import enter_session

    return enter_session(_classrooms(), ctx, name, argv)
