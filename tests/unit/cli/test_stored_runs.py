"""What labctl 0.1 wrote before one codec wrote everything is read, reported and compared as it was.

`tests/fixtures/stored` is what `labctl compare legacy bpf --rounds 2 --duration 0.3 --checks ping` (20 requests in 2
slices), `check` and `trace` left on disk on 29 November 2026, sealed again without their raw files; `lab.json` and
`mark.txt` are the record and the mark of the netns lab that was checked.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from labctl.model.lab import Lab
from labctl.planning.record import digest_of, lab_from_json, lab_to_json
from labctl.providers.netns.record import NamespaceMark, as_document, mark_of, parse_document, parse_mark
from labctl.store.reading import find_run

from .conftest import Bench

STORED = Path(__file__).resolve().parents[2] / "fixtures" / "stored"
KINDS = ("compare", "check", "trace")


def document(kind: str) -> Any:
    return json.loads((STORED / kind / "result.json").read_text(), object_pairs_hook=_as_named_now)


def _as_named_now(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What CHANGELOG.md says was renamed or added since: a p-value says by which correction it is; a comparison has
    explanations, of which an older run has none."""
    now: dict[str, Any] = {}
    for key, value in pairs:
        if key == "signatures" and "metrics" in now:
            now["explanations"] = []
        now |= {"pAdjusted": value, "correction": None} if key == "pHolm" else {key: value}
    return now


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_of_a_stored_run_is_the_document_that_was_printed(bench: Bench, kind: str) -> None:
    said = bench.run("report", str(STORED / kind), "--json")
    assert (said.code, said.err) == (0, "")
    assert json.dumps(said.document, indent=2) == json.dumps(document(kind), indent=2)  # the order of keys counts


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("compare", "client → server"), ("check", "4 pass"), ("trace", "1 sent, 1 answered: every tap shows")],
)
def test_the_report_of_a_stored_run_is_shown(bench: Bench, kind: str, shown: str) -> None:
    said = bench.run("report", str(STORED / kind))
    assert (said.code, said.err) == (0, "")
    assert shown in said.out


def test_two_sides_of_a_stored_run_are_compared(bench: Bench) -> None:
    run = STORED / "compare" / "run.json"
    said = bench.run("compare", f"{run}@legacy", f"{run}@bpf", "--json")
    assert said.code == 0, said.err
    rows = {(row["placement"], row["metric"]): row for row in said.document["metrics"]}
    for row in document("compare")["metrics"]:
        assert rows[row["placement"], row["metric"]]["a"]["samples"] == row["a"]["samples"]


def test_stored_runs_are_listed(bench: Bench, tmp_path: Path) -> None:
    for kind in KINDS:
        shutil.copytree(STORED / kind, tmp_path / kind)
    said = bench.run("runs", "--runs-dir", str(tmp_path), "--json")
    assert [run["state"] for run in said.document["runs"]] == ["complete"] * 3


@pytest.mark.parametrize(("kind", "side"), [("compare", "a"), ("compare", "b"), ("check", "lab"), ("trace", "lab")])
def test_the_labs_of_a_stored_run_are_written_again_as_they_were(kind: str, side: str) -> None:
    record: Any = find_run(STORED, str(STORED / kind)).manifest.labs[side]
    again = lab_to_json(lab_from_json(record))
    assert json.dumps(again) == json.dumps(record)


def _lab() -> Lab:
    lab = parse_document((STORED / "lab.json").read_text())
    assert lab is not None
    return lab


def test_the_record_and_the_mark_of_a_lab_that_is_still_up_are_known() -> None:
    lab, mark = _lab(), (STORED / "mark.txt").read_text().rstrip("\n")
    assert digest_of(lab) == lab.digest
    assert mark_of(lab, "node") == mark
    assert parse_mark(mark) == NamespaceMark(scenario="bpf", digest=lab.digest[:16], kind="node")


def test_the_record_of_a_lab_is_now_that_of_runs() -> None:
    lab = _lab()
    assert json.loads(as_document(lab)) == lab_to_json(lab)
    assert parse_document(as_document(lab)) == lab
