"""docs/providers.md says what tests/live_results.json recorded, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from live_acts import ACTS, Live
from live_results import BEGIN, DOCUMENT, END, RECORD, new_column, recorded, rendered, tried

COLUMN = {
    "date": "2026-11-29",
    "about": "a host",
    "acts": {
        "up": {"held": True, "seconds": 12.34, "phases": {"load-images": 8.0, "pods": 3.25}},
        "check": {"failed": True},
        "engine gone": {"not": "there is none"},
        "down": {"held": True, "seconds": 130.0},
    },
}


def test_the_table_of_the_document_is_that_of_the_record() -> None:
    text = DOCUMENT.read_text()
    assert rendered(text, json.loads(RECORD.read_text())) == text


def test_every_recorded_act_is_one_of_the_table() -> None:
    for column in json.loads(RECORD.read_text()).values():
        assert set(column["acts"]) <= set(ACTS)
        for result in column["acts"].values():
            assert set(result) - {"phases"} in ({"held", "seconds"}, {"failed"}, {"not"})


def test_every_act_has_a_row_and_every_result_its_words() -> None:
    table = rendered(f"before\n{BEGIN}\nold\n{END}\nafter", {"one": COLUMN}).splitlines()
    rows = dict(line.strip("| ").split(" | ") for line in table if line.startswith("| ") and "---" not in line)
    assert list(rows)[1:] == list(ACTS)
    assert (rows["up"], rows["down"]) == ("held, 12.3 s", "held, 130 s")
    assert (rows["check"], rows["engine gone"], rows["trace"]) == ("**failed**", "does not apply", "not tried")
    assert "- one, engine gone: there is none" in table
    assert "- **one**: load-images 8.0, pods 3.2" in table
    assert (table[0], table[-1]) == ("before", "after")


def test_an_act_that_fails_is_recorded_as_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def breaks(live: Live) -> None:
        raise AssertionError("it broke")

    live = Live(provider="x", name="x", scenario="x", other="y", directory=tmp_path, without={"list": "no list here"})
    column = new_column("here")
    monkeypatch.setitem(ACTS, "check", lambda live: {"phases": {"pods": 2.0}})
    tried("check", live, column)
    assert column["acts"].pop("check")["phases"] == {"pods": 2.0}
    monkeypatch.setitem(ACTS, "up", breaks)
    with pytest.raises(AssertionError, match="it broke"):
        tried("up", live, column)
    tried("list", live, column)
    assert column["acts"] == {"up": {"failed": True}, "list": {"not": "no list here"}}


def test_a_run_of_some_acts_leaves_what_is_known_of_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("live_results.RECORD", tmp_path / "results.json")
    monkeypatch.setattr("live_results.DOCUMENT", tmp_path / "providers.md")
    (tmp_path / "providers.md").write_text(f"{BEGIN}\n{END}")
    monkeypatch.setenv("LABCTL_LIVE_RECORD", "1")
    recorded("one", COLUMN)
    monkeypatch.setenv("LABCTL_LIVE_ACTS", "^check$")
    recorded("one", {**COLUMN, "acts": {"check": {"held": True, "seconds": 1.0}}})
    acts = json.loads((tmp_path / "results.json").read_text())["one"]["acts"]
    assert acts == {**COLUMN["acts"], "check": {"held": True, "seconds": 1.0}}  # type: ignore[dict-item]
    monkeypatch.delenv("LABCTL_LIVE_ACTS")
    recorded("one", {**COLUMN, "acts": {}})
    assert json.loads((tmp_path / "results.json").read_text())["one"]["acts"] == {}
