"""Every problem of a lesson's files is reported at once, each with its place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from labctl.errors import LessonInvalid, UsageError
from labctl.loading.lesson_texts import digest_of, parse_text
from labctl.loading.lessons import load_lesson, load_solution

CHECKOUT = Path(__file__).resolve().parents[3]
TEMPLATE = CHECKOUT / "docs" / "lesson-template"
FAULTS = ("missing-neighbour", "wrong-vtep")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the template of docs/ as its lesson, as docs/lessons.md says to begin."""
    shutil.copytree(CHECKOUT / "scenarios", tmp_path / "scenarios")
    shutil.copy(CHECKOUT / "lab.yaml", tmp_path)
    (tmp_path / "solutions").mkdir()
    shutil.copytree(TEMPLATE, tmp_path / "lessons" / "lesson-template", ignore=shutil.ignore_patterns("solution.yaml"))
    shutil.copy(TEMPLATE / "solution.yaml", tmp_path / "solutions" / "lesson-template.yaml")
    return tmp_path


def changed(project: Path, file: str, before: str, after: str) -> None:
    path = project / file
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def problems(project: Path) -> list[str]:
    with pytest.raises(LessonInvalid) as invalid:
        load_lesson("lesson-template", faults=FAULTS, start=project)
    return [str(problem) for problem in invalid.value.problems]


def test_the_template_is_a_lesson(project: Path) -> None:
    lesson = load_lesson("lesson-template", faults=FAULTS, start=project)
    assert lesson.document.number == 27
    assert load_solution(lesson, start=project) is not None


def test_a_lesson_without_its_solution_is_one_as_students_have_it(project: Path) -> None:
    (project / "solutions" / "lesson-template.yaml").unlink()
    assert load_solution(load_lesson("lesson-template", start=project), start=project) is None


LESSON = "lessons/lesson-template/lesson.yaml"
ENGLISH, CHINESE = "lessons/lesson-template/en.md", "lessons/lesson-template/zh.md"


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        (LESSON, "fact: ttl", "fact: tll", "there is no fact 'tll'"),
        (LESSON, "role: server-eth0 }", "role: client-lxc }", "no later task observes what is predicted here"),
        (LESSON, ", role: server-eth0 }\n\n  - id: observe", " }\n\n  - id: observe", "no later task observes"),
        (LESSON, ", role: server-eth0 }\n\n  - id: silent", " }\n\n  - id: silent", "ttl needs the key role"),
        (LESSON, "server: $peer", "server: $pear", "there is no variable $pear"),
        (LESSON, "missing-neighbour] }", "missing-neighbor] }", "there is no fault 'missing-neighbor'"),
        (LESSON, "check: tcpdump", "check: tcpdmp", "there is no check 'tcpdmp'"),
        (LESSON, ", is: true", "", "needs the key is, or isNot"),
        (LESSON, "is: true", "is: maybe", "'maybe' is no value of arrived"),
        (LESSON, "scenario: bpf", "scenario: bfp", "there is no scenario 'bfp'"),
        (
            LESSON,
            "    points: 3\n",
            "    points: 3\n    allow: [datapath]\n",
            "has no meaning in a task of kind repair",
        ),
        (LESSON, "name: lesson-template", "name: other", "is not the folder's name 'lesson-template'"),
        (LESSON, "id: observe-hops", "id: predict-hops", "'predict-hops' is the name of an earlier task"),
        (LESSON, "version: 1", "version: one", "must be a whole number"),
        (LESSON, "kind: observe", "kind: look", "is not one of the choices"),
        (LESSON, "minutes: 15", "minuts: 15", "unknown key"),
        (LESSON, "locate: { fact: lost-at", "locate: { fact: lost-at, of: proof", "lost-at is read by trace"),
        (ENGLISH, "## silent-peer: ", "## silent-pear: ", "has no section for this task"),
        (CHINESE, "### after\n\n每个", "每个", "en.md has ### after here"),
        (CHINESE, "<!-- translates en.md ", "<!-- ", "does not say what it translates"),
        (ENGLISH, "What the lesson is about", "What it is about", "translates another text than en.md is now"),
        (CHINESE, "### hint\n\n哪些", "哪些", "has no hint"),
        (ENGLISH, "# How many", "How many", "has no title"),
    ],
)
def test_each_problem_is_found_at_its_place(project: Path, file: str, before: str, after: str, said: str) -> None:
    changed(project, file, before, after)
    found = [problem for problem in problems(project) if said in problem]
    assert found, problems(project)
    assert re.match(r"lessons/lesson-template/\S+:[0-9]+:[0-9]+: ", found[0]), found


def test_all_problems_are_reported_at_once(project: Path) -> None:
    changed(project, LESSON, "fact: lost-at", "fact: lost")
    changed(project, LESSON, "check: tcpdump", "check: dump")
    (project / CHINESE).unlink()
    said = "\n".join(problems(project))
    assert all(part in said for part in ("fact 'lost'", "check 'dump'", "zh.md"))


def test_a_solution_of_another_version_or_task_is_refused(project: Path) -> None:
    changed(project, "solutions/lesson-template.yaml", "version: 1", "version: 2")
    changed(project, "solutions/lesson-template.yaml", "  observe-hops:", "  observe-hop:")
    with pytest.raises(LessonInvalid) as invalid:
        load_solution(load_lesson("lesson-template", start=project), start=project)
    said = "\n".join(str(problem) for problem in invalid.value.problems)
    assert "solves version 2, and the lesson has version 1" in said
    assert "tasks.observe-hop" in said


def test_an_unknown_lesson_is_refused_with_what_there_is(project: Path) -> None:
    with pytest.raises(UsageError, match="there is no lesson 'lesson-templat'") as refused:
        load_lesson("lesson-templat", start=project)
    assert "lesson-template" in refused.value.remedy


def test_code_in_a_fence_is_no_heading() -> None:
    text = parse_text("# T\n\nabout\n\n## one: Title\n\nbody\n\n```\n## two: no task\n```\n\n### hint\n\nlook\n")
    assert list(text.tasks) == ["one"]
    assert text.tasks["one"].hints == ("look",)
    assert "## two: no task" in text.tasks["one"].body
    assert len(digest_of("x")) == 16


def test_a_section_that_begins_with_code_keeps_it_as_code() -> None:
    text = parse_text(
        "# T\n\n    labctl list\n\n## one: Title\n\n    ping\n    pong\n\n### hint\n\n    look\n\nat it\n\n"
    )
    assert text.intro == "    labctl list"
    assert (text.tasks["one"].body, text.tasks["one"].hints) == ("    ping\n    pong", ("    look\n\nat it",))


def test_lines_of_a_chinese_sentence_are_one_and_others_stay() -> None:
    code = "    ip route\n    ip link\n\nOne line\nand more."
    text = parse_text(f"# 标题\n\n第一行，\n第二行（见\nlabctl\n）。\n- 一\n- 二\n\n{code}\n")
    assert text.intro == f"第一行，第二行（见\nlabctl）。\n- 一\n- 二\n\n{code}"
