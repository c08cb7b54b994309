"""What `compare`, `matrix`, `runs` and `report` say to bad input: in words, exit code 2, nothing touched."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from labctl.model.comparison import Environment
from labctl.store.runs import create_run

from .conftest import Bench, Said

HERE = Environment(kernel="6.1.0", cpu_model="Test CPU", cpus=2)
MATRIX = "apiVersion: labctl/v1\nkind: Matrix\n"


def runs_of(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "runs").glob("*"))


def refused(said: Said, *parts: str) -> None:
    assert said.code == 2, said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("legacy",), "needs two scenarios"),
        (("legacy", "bpf", "--rounds", "0"), "0 is not in the range"),
        (("legacy", "bpf", "--duration", "0"), "0.0 is not in the range"),
        (("legacy", "bpf", "--until", "0"), "0.0 is not in the range"),
        (("legacy", "bpf", "--until", "0%"), "0.0 is not in the range"),
        (("legacy", "bpf", "--until", "one%"), "'one' is not a valid percent"),
        (("legacy", "bpf", "--max-rounds", "9"), "no meaning without --until"),
        (("legacy", "bpf", "--checks", "pong"), "no check is called pong"),
        (("legacy", "bpf", "--checks", "pong"), "did you mean ping?"),
        (("legacy", "bpf", "--until", "2%", "--rounds", "20", "--max-rounds", "10"), "no room for the first look"),
        (("legacy", "bpf", "--until", "2", "--rounds", "20", "--max-rounds", "10"), "no room for the first look"),
        (("legacy", "bpf", "--lang", "de"), "'de' is not one of"),
        (("legacy", "no-such-scenario"), "there is no scenario 'no-such-scenario'"),
        (("legacy", "bpf", "--fail-if", "nonsense"), "cannot read 'nonsense'"),
        (("legacy", "bpf", "--baseline", "nothing"), "there is no run 'nothing'"),
        (("legacy", "last"), "a stored run cannot be compared with a scenario"),
        (("--resume", "nothing"), "there is no run 'nothing'"),
        (("legacy", "bpf", "--resume", "last"), "and no other options"),
        (("last", "last"), "there is no run 'last'"),
    ],
)
def test_a_comparison_that_cannot_be_asked_so(bench: Bench, tmp_path: Path, args: tuple[str, ...], part: str) -> None:
    refused(bench.run("compare", *args), part)
    assert runs_of(tmp_path) == []


def test_a_report_into_a_directory_that_is_not_there_is_told_before_anything_is_measured(
    bench: Bench, tmp_path: Path
) -> None:
    said = bench.run("compare", "legacy", "bpf", "--html", str(tmp_path / "nowhere" / "r.html"))
    assert said.code == 4
    assert "is not a directory" in said.err
    assert f"mkdir -p {tmp_path / 'nowhere'}" in said.err
    assert runs_of(tmp_path) == []


def matrix(tmp_path: Path, text: str, name: str = "m.yaml") -> str:
    path = tmp_path / name
    path.write_text(MATRIX + text)
    return str(path)


def test_every_problem_of_a_matrix_file_is_told_with_its_place(bench: Bench, tmp_path: Path) -> None:
    text = "scenarios: [legacy, bqf]\nchecks: [ping, pong, ping]\nround: 3\nmaxRounds: 0\nplacements: [nowhere]\n"
    said = bench.run("matrix", matrix(tmp_path, text))
    refused(
        said,
        ":3:21: scenarios[1]: there is no scenario",
        "did you mean 'bpf'",
        ":4:16: checks[1]: not every scenario has a check",
        "did you mean 'ping'",
        ":4:22: checks[2]:",
        "is listed twice",
        ":5:1: round: unknown key",
        "did you mean 'rounds'",
        ":6:12: maxRounds:",
        ":7:14: placements[0]:",
    )
    assert runs_of(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "scenarios: is missing"),
        ("scenarios: [legacy]\n", "scenarios: has 1 items"),
        ("scenarios: [legacy, bpf]\nmaxRounds: 20\n", "has no meaning without untilPercent"),
        ("scenarios: [legacy, bpf]\nuntilPercent: -1\n", "untilPercent: -1 is out of range"),
        ("scenarios: [legacy, bpf]\nfailIf: [rtt_p51 > +5%]\n", "no metric is called 'rtt_p51'"),
    ],
)
def test_a_matrix_that_cannot_be_measured_so(bench: Bench, tmp_path: Path, text: str, part: str) -> None:
    # The thresholds of a matrix are judged on what its checks declare; the scripted ones declare nothing.
    refused(bench.run("matrix", matrix(tmp_path, text)), part)


def test_a_matrix_file_that_is_not_there_or_badly_named_is_told(bench: Bench, tmp_path: Path) -> None:
    refused(bench.run("matrix", str(tmp_path / "none.yaml")), "there is no such file")
    said = bench.run("matrix", matrix(tmp_path, "scenarios: [legacy, bpf]\n", "My Matrix.yaml"))
    refused(said, "is not a matrix's name")


def test_a_scenario_file_is_no_matrix_and_says_so(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("apiVersion: labctl/v1\nkind: Scenario\nextends: legacy\n")
    refused(bench.run("matrix", str(path)), "kind:")


def test_validate_knows_matrix_files(bench: Bench, tmp_path: Path) -> None:
    assert bench.run("validate", matrix(tmp_path, "scenarios: [legacy, bpf]\n")).code == 0
    assert bench.run("validate", matrix(tmp_path, "scenarios: [legacy, bqf]\n")).code == 2


def stored_run(tmp_path: Path, kind: str = "matrix", name: str = "m", **changes: Any) -> Path:
    with create_run(tmp_path / "runs", kind=kind, name=name, labs={}, environment=HERE, argv=["labctl"]) as run:
        pass
    path = run.path / "run.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(manifest))
    (run.path / "SHA256SUMS").unlink()
    return run.path


def test_two_matrices_of_one_name_at_once_are_refused(bench: Bench, tmp_path: Path) -> None:
    path = stored_run(tmp_path, state="running")
    with (path / ".lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = bench.run("matrix", matrix(tmp_path, "scenarios: [legacy, bpf]\n"))
    refused(said, "matrix m is being measured by another labctl", path.name)
    assert runs_of(tmp_path) == [path.name]


@pytest.mark.parametrize("command", ["report", "compare"])
def test_a_run_of_another_version_is_refused_with_the_version_that_reads_it(
    bench: Bench, tmp_path: Path, command: str
) -> None:
    stored_run(tmp_path, apiVersion="labctl/v9", labctlVersion="9.1.0")
    args = ("report", "last") if command == "report" else ("compare", "last", "last")
    refused(bench.run(*args), "apiVersion labctl/v9", "9.1.0")


def test_a_damaged_manifest_is_told_and_listed_as_such(bench: Bench, tmp_path: Path) -> None:
    path = stored_run(tmp_path)
    (path / "run.json").write_text('{"apiVersion": "labctl/v1", "kind": "Run"')
    refused(bench.run("report", "last"), "run.json is damaged")
    listed = bench.run("runs", "--json")
    assert listed.code == 0
    (run,) = listed.document["runs"]
    assert run["state"] == "unreadable"
    assert "not JSON" in run["problem"]
    assert "unreadable" in bench.run("runs").out


def test_a_run_without_anything_measured_says_how_it_ended(bench: Bench, tmp_path: Path) -> None:
    from labctl import app
    from labctl.cli.options import load_lab
    from labctl.engine.comparison.request import Options, ask
    from labctl.planning.record import lab_to_json

    labs = [load_lab(name, provider=None, name=None, overrides=()) for name in ("legacy", "bpf")]
    options = Options(seed=1, token="abcd")
    question = ask(labs, {"netns": bench.provider}, app.checks(), labs[0].compare, options)
    with create_run(
        tmp_path / "runs",
        kind="compare",
        name="a-b",
        labs={side.key: lab_to_json(side.lab) for side in question.sides},
        settings=question.asked.settings(),
        environment=HERE,
    ):
        pass
    refused(bench.run("report", "last"), "has nothing to report", "labctl compare --resume")


def test_no_runs_at_all_is_said_with_how_to_make_one(bench: Bench) -> None:
    said = bench.run("runs")
    assert (said.code, "labctl compare legacy bpf" in said.out) == (0, True)
    assert bench.run("runs", "--json").document["runs"] == []
    refused(bench.run("report", "last"), "there is no run 'last'")


def test_a_check_run_has_no_comparison_reports(bench: Bench, tmp_path: Path) -> None:
    stored_run(tmp_path, kind="check", name="x")
    refused(bench.run("report", "last", "--html", str(tmp_path / "r.html")), "has no such report")
    refused(bench.run("compare", "last", "last"), "is not a comparison")


def test_the_name_of_a_run_stands_whole_on_one_line_beside_a_long_reason(bench: Bench, tmp_path: Path) -> None:
    name = "legacy-bpf-legacy-native-bpf-native"
    path = stored_run(tmp_path, kind="compare", name=name, state="failed", reason="the disk is full and more " * 4)
    lines = bench.run("runs").out.splitlines()
    assert any(line.startswith(path.name) for line in lines), lines


def test_a_complete_run_without_checksums_is_reported_with_a_note(bench: Bench, tmp_path: Path) -> None:
    path = stored_run(tmp_path, kind="compare", name="x")
    said = bench.run("report", "last")
    assert f"note: run {path.name} has no SHA256SUMS" in said.err
