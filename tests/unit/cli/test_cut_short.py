"""A run that the power, a kill or a full disk cut short is read up to there, says so, and can be resumed."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.engine.comparison.stored import read_comparison
from labctl.errors import LabError
from labctl.store.reading import open_run

from .conftest import Bench

PROGRAM = Path(__file__).with_name("full_disk.py")


def comparison(bench: Bench, runs_dir: Path) -> Path:
    bench.is_up("x")
    said = bench.run(
        *("compare", "legacy", "bpf", "--checks", "ping", "--rounds", "3", "--seed", "1", "--runs-dir", str(runs_dir))
    )
    assert said.code in (0, 1), said.err
    (run,) = runs_dir.iterdir()
    return run


def killed(run: Path) -> None:
    """As if its process had been killed before its end."""
    (run / "SHA256SUMS").unlink()
    (run / "result.json").unlink()
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(manifest | {"state": "running", "endedAt": "", "reason": ""}))


def test_a_comparison_whose_journal_was_cut_off_in_any_line_is_read_up_to_there(bench: Bench, tmp_path: Path) -> None:
    """At any byte: the tests of the journal."""
    run = comparison(bench, tmp_path / "runs")
    killed(run)
    journal = run / "journal.jsonl"
    data = journal.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    inside = [(begin + end) // 2 for begin, end in itertools.pairwise([0, *ends])]
    counts = set()
    for length in sorted({0, 1, *ends, *(end - 1 for end in ends), *inside}, reverse=True):
        os.truncate(journal, length)
        entries = [json.loads(line) for line in data[:length].split(b"\n")[:-1]]
        measured = read_comparison(open_run(run)).measured
        assert len(measured.records) == sum(entry["kind"] == "run" for entry in entries)
        assert measured.whole_blocks() == {e["reading"]["block"] for e in entries if e["kind"] == "noise"}
        counts.add(len(measured.whole_blocks()))
    assert counts == {0, 1, 2, 3}


@pytest.mark.parametrize("share", [0, 35, 85, 100])
def test_a_report_of_what_was_cut_off_says_that_it_was(bench: Bench, tmp_path: Path, share: int) -> None:
    run = comparison(bench, tmp_path / "runs")
    killed(run)
    journal = run / "journal.jsonl"
    os.truncate(journal, journal.stat().st_size * share // 100)
    said = bench.run("report", str(run))
    assert "its process ended without a word (killed, or the power went)" in said.err
    assert "Traceback" not in said.err
    if said.code == 2:
        assert "has nothing to report" in said.err
        assert f"labctl compare --resume {run}" in said.err
    again = bench.run("compare", "--resume", str(run))
    assert again.code in (0, 1), again.err
    whole = read_comparison(open_run(run)).measured
    assert whole.whole_blocks() == {1, 2, 3}


def test_a_run_that_ended_and_lost_the_end_of_any_file_is_refused_by_the_name_of_the_file(
    bench: Bench, tmp_path: Path
) -> None:
    run = comparison(bench, tmp_path / "runs")
    for path in sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock"):
        data = path.read_bytes()
        for length in sorted({0, 1, len(data) // 2, len(data) - 2, len(data) - 1} & set(range(len(data)))):
            if data[length:] == b"\n" and path.name == "SHA256SUMS":
                continue  # every line is there
            path.write_bytes(data[:length])
            with pytest.raises(LabError) as told:
                open_run(run).require_intact()
            if path.name != "SHA256SUMS":
                assert str(path.relative_to(run)) in told.value.what + told.value.cause
        path.write_bytes(data)
    open_run(run).require_intact()


def test_a_full_disk_stops_a_comparison_whose_blocks_are_kept_and_the_rest_is_measured_when_there_is_room(
    tmp_path: Path,
) -> None:
    own = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    disk = tmp_path / "disk"
    disk.mkdir()
    tried = subprocess.run(("unshare", *own, "--mount", "true"), check=False, capture_output=True, timeout=60)
    if tried.returncode != 0:
        pytest.skip(f"no mount namespace here: {tried.stderr.decode().strip()}")
    tree = Path(__file__).resolve().parents[3]
    ended = subprocess.run(
        ("unshare", *own, "--mount", sys.executable, str(PROGRAM), str(disk)),
        env={**os.environ, "PYTHONPATH": f"{tree / 'src'}:{tree / 'tests' / 'unit'}"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    stopped, report, rest, whole = (json.loads(line) for line in ended.stdout.splitlines())
    assert stopped["code"] == 4
    assert "No space left on device" in stopped["err"]
    assert "labctl compare --resume " in stopped["err"]
    assert "complete blocks, which are kept: 0" not in stopped["err"]
    assert stopped["err"].count("removed ") == 2, "the labs were removed"
    assert report["code"] == 0
    assert "cut short" in report["out"]
    assert "is failed" in report["err"] or "is interrupted" in report["err"]
    assert rest["code"] == 0, rest["err"]
    assert "block 1/" not in rest["err"], "a complete block was measured again"
    assert whole["code"] == 0, whole["err"]
    assert "cut-short" not in [warning["kind"] for warning in json.loads(whole["out"])["warnings"]]
