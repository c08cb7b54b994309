"""`labctl class`: what is shown before anything is made, who is refused, the board and the CSV as they are written."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cli.conftest import Bench
from labctl import app
from labctl.cli.commands import classroom
from labctl.errors import StepFailed, UsageError
from labctl.lessons import logins
from labctl.lessons.classrooms import Classrooms, facts_of, new_classroom
from labctl.lessons.course import Course, Tools
from labctl.lessons.progress import Act, Attempt, Entry, Mark
from labctl.lessons.records import Records
from labctl.loading.lessons import load_lesson
from labctl.loading.rosters import load_roster
from labctl.model.classroom import Classroom, SharedLab
from labctl.model.lesson import TaskKind

CHECKOUT = Path(__file__).resolve().parents[4]
ROSTER = "apiVersion: labctl/v1\nkind: Class\nname: may\nstudents:\n  annaxyz: '=Anna'\n  boxyz: 王博\n"
LESSON = "which-mode"


@pytest.fixture
def classrooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Classrooms:
    """Below a folder of the test's own, for whoever runs it."""
    tmp_path.chmod(0o700)
    found = Classrooms(tmp_path / "classes")
    monkeypatch.setattr(classroom, "_classrooms", lambda: found)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "may.yaml").write_text(ROSTER, encoding="utf-8")
    return found


@pytest.fixture
def going(classrooms: Classrooms) -> Classroom:
    """A class in which one student has predicted."""
    made = new_classroom(load_roster(Path("may.yaml")), (load_lesson(LESSON, start=CHECKOUT),), CHECKOUT)
    classrooms.write(made)
    records: Records = classrooms.records(made, "annaxyz")
    attempt = Attempt(
        lesson=LESSON, version=1, student="annaxyz", attempt=1, seed="", values={}, lab="annaxyz-x", folder="/"
    )
    records.add(LESSON, Entry(act=Act.STARTED, at="", started=attempt))
    records.add(LESSON, Entry(act=Act.UNLOCKED, at="", task="predict-mode"))
    said = {"value": "bpf", "reason": "=HYPERLINK(1)"}
    records.add(LESSON, Entry(act=Act.ANSWERED, at="", task="predict-mode", mark=Mark.PASSED, **said))  # type: ignore[arg-type]
    return made


def test_everything_is_shown_and_nothing_is_made_without_yes(bench: Bench, classrooms: Classrooms) -> None:
    said = bench.run("class", "start", "may.yaml", "--lesson", LESSON)
    assert said.code == 0
    assert "useradd --create-home --home-dir /home/lab-annaxyz" in said.out
    assert str(logins.rule_path("may")) in said.out
    assert "nothing is made yet" in said.out
    assert classrooms.all() == ()
    document = bench.run("class", "start", "may.yaml", "--lesson", LESSON, "--json").document
    assert (document["made"], len(document["commands"])) == (False, 6)
    assert "password" not in document["students"][0]


def test_a_roster_with_mistakes_a_lesson_that_there_is_not_and_labs_in_the_way_are_refused(
    bench: Bench, classrooms: Classrooms, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text(ROSTER.replace("boxyz", "Bo"), encoding="utf-8")
    refused = bench.run("class", "start", "bad.yaml", "--lesson", LESSON, "--yes")
    assert refused.code == 2
    assert "bad.yaml:6:7: students.Bo: the key 'Bo' is not a student's name" in refused.err
    assert "the roster is invalid: 1 problem" in refused.err
    refused = bench.run("class", "start", "may.yaml", "--lesson", "wich-mode", "--yes")
    assert "did you mean 'which-mode'" in refused.err
    bench.is_up("annaxyz-mine")
    refused = bench.run("class", "start", "may.yaml", "--lesson", LESSON, "--yes")
    assert (refused.code, "annaxyz-mine" in refused.err) == (2, True)
    assert classrooms.all() == ()


def test_a_lesson_for_a_real_cluster_wants_a_lab_of_the_trainers_that_is_up(
    bench: Bench, classrooms: Classrooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ("class", "start", "may.yaml", "--lesson", "why-legacy-log")
    refused = bench.run(*start)
    assert refused.code == 2
    assert "lesson why-legacy-log wants a real cluster, which a student does not build" in refused.err
    assert "--shared why-legacy-log=LAB" in refused.err
    refused = bench.run(*start, "--shared", "why-legacy-log=seen")
    assert (refused.code, "lab seen of the trainer's is not up" in refused.err) == (4, True)
    refused = bench.run("class", "start", "may.yaml", "--lesson", LESSON, "--shared", f"{LESSON}=seen")
    assert f"--shared {LESSON}: that is no lesson of this class for a real cluster" in refused.err
    bench.is_up("seen")
    assert bench.run(*start, "--shared", "why-legacy-log=seen").code == 0
    monkeypatch.setattr(logins, "make", lambda made, write, tell: (made, {"annaxyz": "a", "boxyz": "b"}))
    assert bench.run(*start, "--shared", "why-legacy-log=seen", "--yes").code == 0
    written = classrooms.read("may")
    assert written is not None
    assert [lesson.shared for lesson in written.lessons] == [SharedLab(name="seen", provider=bench.provider.name)]
    assert bench.provider.log == []


def test_a_lesson_that_changes_its_lab_or_wants_a_lab_for_each_is_not_done_at_a_shared_one() -> None:
    lesson = load_lesson("wire-addresses", start=CHECKOUT)
    with pytest.raises(UsageError, match="cannot be done at a lab that all look at: only-pods"):
        classroom._require_looking(lesson)
    looking = tuple(task for task in lesson.document.tasks if task.kind in (TaskKind.PREDICT, TaskKind.OBSERVE))
    vary = {"datapath.encapsulation": ("vxlan", "native"), "var.node": ("node1", "node2")}
    for_each = replace(lesson, document=lesson.document.model_copy(update={"tasks": looking, "vary": vary}))
    with pytest.raises(UsageError, match=r"at one lab: datapath\.encapsulation differs by student"):
        classroom._require_looking(for_each)
    del vary["datapath.encapsulation"]
    classroom._require_looking(replace(lesson, document=for_each.document.model_copy(update={"vary": vary})))


def test_a_student_predicts_and_observes_at_the_trainers_lab_and_changes_nothing_of_it(
    bench: Bench, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    bench.is_up("seen")
    tools = Tools(
        provider=lambda name: bench.provider,
        checks=app.checks,
        refuse=lambda scenario: None,
        observer=lambda event: None,
        shared=SharedLab(name="seen", provider="scripted"),
    )
    records = Records("annaxyz", tmp_path / "state", is_private=True)
    course = Course(load_lesson("pod-range-cluster", start=CHECKOUT), records, tools)
    assert course.start(folder=tmp_path).attempt.lab == "seen"
    assert course.answer("predict-range", "10.0.1.0/24", "Cilium's own pool").grade.mark is Mark.PASSED
    assert course.answer("observe-range", "10.0.1.0/24").grade.mark is Mark.FAILED
    assert course.answer("observe-range", "10.244.1.0/24").grade.mark is Mark.PASSED
    course.reset("observe-range")
    course.stop()
    assert bench.provider.log == []
    assert [lab.name for lab in bench.provider.running] == ["seen"]
    bench.provider.running.clear()
    with pytest.raises(StepFailed, match="lab seen of the trainer's is not up"):
        Course(course.lesson, records, tools).start(folder=tmp_path)


def test_a_user_that_is_there_is_refused(bench: Bench, classrooms: Classrooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labctl.system.users.why_taken", lambda name: f"there is a user {name} (uid 4711)")
    refused = bench.run("class", "start", "may.yaml", "--lesson", LESSON, "--yes")
    assert refused.code == 2
    assert "error: 2 of 2 logins cannot be made" in refused.err
    assert "lab-boxyz: there is a user lab-boxyz (uid 4711)" in refused.err
    assert classrooms.all() == ()


def test_another_class_is_refused_while_one_goes_on_and_the_same_name_when_it_was_held(
    bench: Bench, classrooms: Classrooms, going: Classroom, tmp_path: Path
) -> None:
    (tmp_path / "june.yaml").write_text(ROSTER.replace("may", "june"), encoding="utf-8")
    refused = bench.run("class", "start", "june.yaml", "--lesson", LESSON)
    assert "class may goes on, with other students or lessons" in refused.err
    refused = bench.run("class", "start", "may.yaml", "--lesson", LESSON, "--lesson", "lxc-one-way")
    assert "class may goes on" in refused.err
    assert bench.run("class", "start", "may.yaml", "--lesson", LESSON).code == 0
    classrooms.stop(going)
    refused = bench.run("class", "start", "may.yaml", "--lesson", LESSON)
    assert "class may was held, and its journals are kept" in refused.err


def test_the_board_as_text_as_json_and_as_a_page(bench: Bench, going: Classroom, tmp_path: Path) -> None:
    said = bench.run("class", "board")
    assert said.code == 0
    assert "0 stuck, 1 working, 0 done" in said.out
    assert "which-mode is not started by: 王博" in said.out
    rows = bench.run("class", "board", "--json").document["rows"]
    assert [(row["student"], row["standing"], row["passed"]) for row in rows] == [
        ("annaxyz", "working", 1),
        ("boxyz", "not started", 0),
    ]
    assert bench.run("class", "board", "--html", "board.html").code == 0
    assert "王博" in (tmp_path / "board.html").read_text(encoding="utf-8")
    assert bench.run("class", "board", "--predictions", "--html", "board.html").code == 0
    page = (tmp_path / "board.html").read_text(encoding="utf-8")
    assert ("王博" in page, "What will be in force?" in page) == (False, True)
    watched = bench.run("class", "board", "--watch")
    assert (watched.code, "needs a terminal" in watched.err) == (2, True)


def test_the_csv_goes_to_a_file_or_to_standard_output(bench: Bench, going: Classroom, tmp_path: Path) -> None:
    document = bench.run("class", "export", "may.csv", "--json").document
    assert (document["file"], document["rows"]) == ("may.csv", 2)
    text = (tmp_path / "may.csv").read_text(encoding="utf-8-sig")
    assert bench.run("class", "export", "-").out.removeprefix("\ufeff") == text.replace("\r\n", "\n")
    first = next(csv.DictReader(io.StringIO(text)))
    assert (first["name"], first["reason"], first["prediction"]) == ("'=Anna", "'=HYPERLINK(1)", "bpf")


def test_no_class_is_an_error_that_says_how_to_begin_one(bench: Bench, classrooms: Classrooms) -> None:
    for words in (("board",), ("export", "x.csv"), ("stop",), ("board", "--class", "june")):
        refused = bench.run("class", *words)
        assert (refused.code, "labctl class start ROSTER" in refused.err) == (2, True)


def test_who_is_not_root_is_told_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = bench.run("class", "board")
    assert (refused.code, "labctl class needs root" in refused.err) == (3, True)


def test_entering_is_for_students_behind_sudo_alone(
    bench: Bench, going: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user, uid in (("", ""), ("root", "0"), ("daemon", "1"), ("lab-annaxyz", "4711")):
        monkeypatch.setenv("SUDO_USER", user)
        monkeypatch.setenv("SUDO_UID", uid)
        monkeypatch.setenv("SUDO_GID", uid)
        refused = bench.run("class", "enter", "may", "--", "list")
        assert (refused.code, "is no student of class may" in refused.err) == (2, True), user


def test_what_the_board_needs_of_a_lesson_is_written_down(going: Classroom) -> None:
    (lesson,) = going.lessons
    assert lesson == facts_of(load_lesson(LESSON, start=CHECKOUT))
    assert {task.titles.keys() == {"en", "zh"} for task in lesson.tasks} == {True}
