"""The end of a class: labctl that runs for a student is asked to end; the students' labs are removed, and no others."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.lessons.classrooms import Classrooms
from labctl.lessons.ending import end_sessions, remove_labs, session_lock
from labctl.lessons.progress import Act, Attempt, Entry
from labctl.loading import load_scenario
from labctl.model.classroom import Classroom, LessonFacts, Student, TaskFacts
from labctl.planning.resolve import resolve
from labctl.system import locks
from labctl.testing.provider import ScriptedProvider, running_lab

CHECKOUT = Path(__file__).resolve().parents[3]
LESSON = LessonFacts(
    name="one-way", version=1, minutes=30, tasks=(TaskFacts(id="look", kind="observe", points=1, titles={}),)
)
CLASS = Classroom(
    name="may",
    folder="/srv",
    students=tuple(Student(name=name, full_name=name, user=f"lab-{name}", uid=4711) for name in ("anna", "bo")),
    lessons=(LESSON,),
    started_at="2026-11-30T10:00:00.000Z",
)
HOLDER = """
import sys, time
from pathlib import Path
from labctl.lessons.ending import session_lock
from labctl.system import locks
locks.ROOT_DIRECTORY = Path(sys.argv[1])
with session_lock(sys.argv[2], "anna"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(locks, "ROOT_DIRECTORY", tmp_path / "labctl" / "locks")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "labctl" / "locks"


def holder(folder: Path, class_name: str) -> subprocess.Popen[str]:
    argv = (sys.executable, "-c", HOLDER, str(folder), class_name)
    started = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "held\n"
    return started


def test_what_runs_for_students_of_the_class_ends_and_nothing_else(folder: Path) -> None:
    own, other = holder(folder, "may"), holder(folder, "may-2")
    try:
        with session_lock("june", "anna"):
            end_sessions(CLASS)
            assert own.wait(60) == -signal.SIGTERM
            assert other.poll() is None
    finally:
        for one in (own, other):
            one.kill()
            one.communicate()


def test_the_labs_of_students_are_removed_whole_or_not_and_their_lessons_written_down_as_stopped(
    folder: Path, tmp_path: Path
) -> None:
    lab = resolve(load_scenario("bpf", start=CHECKOUT), name="anna-one-way")
    names = ("anna-one-way", "bo-x", "annabel-x", "anna", "trainer-lab")
    provider = ScriptedProvider(name="netns")
    provider.running += [running_lab(resolve(load_scenario("bpf", start=CHECKOUT), name=name)) for name in names]
    classrooms = Classrooms(tmp_path / "classes")
    records = classrooms.records(CLASS, "anna")
    attempt = Attempt(
        lesson="one-way", version=1, student="anna", attempt=1, seed="", values={}, lab=lab.name, folder="/"
    )
    records.add("one-way", Entry(act=Act.STARTED, at="", started=attempt))
    assert remove_labs(classrooms, CLASS, provider, lambda event: None) == ["anna-one-way", "bo-x"]
    assert [running.name for running in provider.running] == ["annabel-x", "anna", "trainer-lab"]
    assert [entry.act for entry in records.entries("one-way")] == [Act.STARTED, Act.STOPPED]
    assert remove_labs(classrooms, CLASS, provider, lambda event: None) == []
    assert len(records.entries("one-way")) == 2
