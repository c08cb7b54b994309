"""Logins of a class: what is shown before it is made, what is refused, what the rule and the script let through."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.lessons import logins
from labctl.lessons.classrooms import Classrooms
from labctl.model.classroom import Classroom, Student
from labctl.system import process, users

CLASS = Classroom(
    name="may-1",
    folder="/srv",
    students=tuple(
        Student(name=name, full_name=name.title(), user=f"lab-{name}") for name in ("annaxyz", "boxyz")
    ),
    lessons=(),
    started_at="2026-11-30T10:00:00.000Z",
)  # fmt: skip


def test_everything_is_shown_before_it_is_made() -> None:
    shown = list(logins.shown(CLASS))
    options = "--user-group --shell /bin/bash --key HOME_MODE=0700 --comment 'labctl class may-1'"
    assert [line for line in shown if line.startswith("useradd ")] == [
        f"useradd --create-home --home-dir /home/{user} {options} {user}" for user in ("lab-annaxyz", "lab-boxyz")
    ]
    for path in (logins.script_path, logins.rule_path, logins.profile_path):
        assert str(path("may-1")) in "\n".join(shown)


def test_a_user_that_is_there_is_refused_with_every_other_one() -> None:
    root = replace(CLASS.students[0], user="root")
    daemon = replace(CLASS.students[1], user="daemon")
    with pytest.raises(UsageError) as refused:
        logins.require_free(replace(CLASS, students=(root, daemon)))
    assert "there is a user root (uid 0)" in refused.value.cause
    assert "there is a user daemon" in refused.value.cause
    assert refused.value.what == "2 of 2 logins cannot be made"


def test_a_home_or_a_group_of_the_name_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "HOMES", tmp_path)
    assert users.why_taken("lab-annaxyz") == ""
    (tmp_path / "lab-annaxyz").symlink_to("/nowhere")
    assert str(tmp_path / "lab-annaxyz") in users.why_taken("lab-annaxyz")


def test_users_that_the_class_has_made_are_no_obstacle_and_no_others_are_its_own() -> None:
    logins.require_free(replace(CLASS, students=(replace(CLASS.students[0], user="root", uid=0),)))
    assert logins._own(CLASS, replace(CLASS.students[0], user="root", uid=0)) is None
    assert logins._own(CLASS, replace(CLASS.students[0], user="daemon", uid=1)) is None


def test_sudo_takes_the_rule_which_names_the_script_alone(tmp_path: Path) -> None:
    text = logins.rule_text(CLASS)
    path = tmp_path / "rule"
    path.write_text(text)
    path.chmod(0o440)
    if (visudo := process.find_program("visudo")) is not None:  # labctl itself asks it before a rule is installed
        subprocess.run((visudo, "-c", "-f", path), check=True, capture_output=True, timeout=60)
    assert text.count("ALL") == 1
    assert text.splitlines()[-1] == f"LABCTL_MAY_1 ALL = (root) NOPASSWD: NOSETENV: {logins.script_path('may-1')}"


def test_the_script_lets_words_of_a_known_form_through_and_nothing_else_of_the_environment(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nenv\nprintf "<%s>" "$@"\n')
    python.chmod(0o755)
    script = tmp_path / "labctl"
    text = logins.script_text("may-1")
    begin = text.index("  /", text.index("SUDO_GID="))
    text = text[:begin] + f'  {python} class enter may-1 -- "$@"\n'
    script.write_text(text.replace('"$(id -u)" -ne 0', "0 -ne 0"))
    environment = {
        "PATH": "/evil", "PYTHONPATH": "/evil", "LD_PRELOAD": "", "LANG": "zh_CN.UTF-8", "TERM": "$(id)",
        "SUDO_USER": "lab-annaxyz", "SUDO_UID": "1001", "SUDO_GID": "1001\nX=1", "HOME": "/home/lab-annaxyz",
    }  # fmt: skip
    argv = ("/bin/sh", script, "exec", "a b", "$(id)")
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=60)
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert (said["LANG"], said["TERM"], said["SUDO_UID"], said["SUDO_GID"]) == ("zh_CN.UTF-8", "", "1001", "")
    assert (said["HOME"], "evil" in done.stdout, "LD_PRELOAD" in said) == ("/root", False, False)
    assert done.stdout.endswith("<class><enter><may-1><--><exec><a b><$(id)>")


def test_passwords_are_long_and_each_another() -> None:
    made = {logins.password() for _ in range(100)}
    assert len(made) == 100
    assert {len(one) for one in made} == {12}
    assert not set("".join(made)) & set("il1o0O")


def test_a_class_is_read_as_it_was_written_and_one_goes_on_at_a_time(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    classrooms = Classrooms(tmp_path / "classes")
    assert classrooms.all() == ()
    with pytest.raises(UsageError, match="no class on this host"):
        classrooms.chosen(None)
    earlier = replace(CLASS, name="april", started_at="2026-10-30T10:00:00.000Z")
    for one in (CLASS, classrooms.stop(earlier)):
        classrooms.write(one)
    assert classrooms.going() == CLASS
    assert [one.name for one in classrooms.all()] == ["may-1", "april"]
    assert classrooms.chosen("april").stopped_at
    assert classrooms.stop(CLASS).stopped_at
    assert classrooms.going() is None
    assert classrooms.chosen(None).name == "may-1"
    classrooms.forget("may-1")
    assert classrooms.read("may-1") is None
    (tmp_path / "classes" / "april" / "class.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        classrooms.all()


def test_the_board_says_whose_journal_was_changed(tmp_path: Path) -> None:
    from labctl.lessons.progress import Act, Entry
    from labctl.model.classroom import LessonFacts, Standing, TaskFacts

    tmp_path.chmod(0o700)
    classrooms = Classrooms(tmp_path / "classes")
    lesson = LessonFacts(
        name="one-way", version=1, minutes=30, tasks=(TaskFacts(id="a", kind="observe", points=1, titles={}),)
    )
    classroom = replace(CLASS, lessons=(lesson,))
    classrooms.write(classroom)
    records = classrooms.records(classroom, "annaxyz")
    records.add("one-way", Entry(act=Act.UNLOCKED, at="", task="a"))
    standings = [row.standing for row in classrooms.board(classroom, classroom.started_at).rows]
    assert standings == [Standing.NOT_STARTED, Standing.NOT_STARTED]
    journal = records.folder / "one-way" / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"a"', '"b"'))
    rows = classrooms.board(classroom, classroom.started_at).rows
    assert (rows[0].student, rows[0].standing) == ("annaxyz", Standing.CHANGED)
