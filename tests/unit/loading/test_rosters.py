"""Rosters: every problem of the file at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import RosterInvalid
from labctl.loading.rosters import load_roster

HEAD = "apiVersion: labctl/v1\nkind: Class\nname: may\nstudents:\n"


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "may.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RosterInvalid) as refused:
        load_roster(path)
    assert str(refused.value.lines()[-1]).startswith("  try: correct the places above")
    return [str(problem).removeprefix(f"{path}:") for problem in refused.value.problems]


def test_a_roster_gives_students_by_name_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "may.yaml"
    path.write_text(HEAD + "  wei: 王伟\n  anna: Anna Schmidt\n", encoding="utf-8")
    roster = load_roster(path)
    assert (roster.name, list(roster.students.items())) == ("may", [("wei", "王伟"), ("anna", "Anna Schmidt")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "  Anna: Anna\n", ["5:9: students.Anna: the key 'Anna' is not a student's name"]),
        (HEAD + "  anna-b: Anna\n", ["5:11: students.anna-b: the key 'anna-b' is not a student's name"]),
        (HEAD + "  anna: A\n  anna: B\n", ["6:3: students.anna"]),
        (HEAD + "  anna: Kim\n  bo: Kim\n", ["5:9: students.anna: 'Kim' is another", "6:7: students.bo: 'Kim' is"]),
        (HEAD + "  anna:\n", ["5:8: students.anna: has no value"]),
        (HEAD + "  anna: 7\n", ["5:9: students.anna"]),
        (HEAD.replace("name: may", "name: May_1") + "  anna: A\n", ["3:7: name: 'May_1' is not a class's name"]),
        (HEAD.replace("students", "student") + "  anna: A\n", ["4:1: student", "students"]),
        (HEAD + "  [anna, bo]\n", ["5:3: students"]),
        (HEAD + "  root0: R\n  ../x: X\n", ["6:9: students.'../x': the key '../x' is not a student's name"]),
        ("apiVersion: labctl/v1\nkind: Class\nname: may\nstudents: {}\n", ["4:11: students"]),
        ("kind: Scenario\n", [""]),
        ("{", [""]),
    ],
)
def test_each_problem_is_at_its_line_and_column(tmp_path: Path, text: str, said: list[str]) -> None:
    found = problems(tmp_path, text)
    assert len(found) >= len(said)
    for begin in said:
        assert [one for one in found if begin in one], found


def test_a_file_that_there_is_not_is_said(tmp_path: Path) -> None:
    with pytest.raises(RosterInvalid):
        load_roster(tmp_path / "none.yaml")
