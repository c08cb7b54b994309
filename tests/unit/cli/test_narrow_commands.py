"""What commands print themselves on 40 columns: whole, and no wider than the terminal except what is pasted."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

from labctl.cli.group import COMMANDS
from labctl.cli.streams import line_width
from labctl.providers.base import Probe

from .conftest import Bench

WIDTHS = (40, 50, 60, 80, 110)
each_width = pytest.mark.parametrize("width", WIDTHS)


def too_long(text: str, width: int) -> list[str]:
    """Lines that could have been broken: those of several words, commands not counted."""
    return [
        line for line in text.splitlines() if cell_len(line) > width and " " in line.strip() and "labctl " not in line
    ]


def narrow_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("labctl.cli.output.line_width", lambda stream: width)


@each_width
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, width: int) -> None:
    narrow_terminal(monkeypatch, width)
    said = bench.run(*filter(None, (name, "--help")))
    assert said.code == 0
    assert too_long(said.out, width) == []


@each_width
def test_the_list_names_every_lab_its_scenario_and_its_state(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    narrow_terminal(monkeypatch, width)
    bench.is_up("a-lab-with-quite-a-long-name-of-39-signs")
    bench.is_up("broken", missing=("node1", "node2"), is_whole=False)
    said = bench.run("list")
    assert too_long(said.out, width) == []
    together = " ".join(said.out.split())
    for fact in ("a-lab-with-quite-a-long-name-of-39-signs", "scripted", "bpf, vxlan", "half there, 2 parts missing"):
        assert fact in together


@each_width
def test_doctor_shows_every_probe_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    narrow_terminal(monkeypatch, width)
    found = "/opt/a/rather/long/path/to/iptables-restore"
    bench.provider.lacking = (Probe(name="iptables-restore", present=True, found=found, needed_for="building labs"),)
    said = bench.run("doctor")
    assert too_long(said.out, width) == []
    assert found in "".join(line.strip() for line in said.out.splitlines())
    assert "building labs" in " ".join(said.out.split())


@each_width
def test_validate_and_plan_wrap_prose_and_leave_commands_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int
) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text("apiVersion: labctl/v1\nkind: Scenario\nextends: bpf\nnodse: 3\n")
    wide = bench.run("validate", str(file)).err
    narrow_terminal(monkeypatch, width)
    narrow = bench.run("validate", str(file)).err
    assert too_long(narrow, width) == []
    assert narrow.split() == wide.split()


def test_what_is_piped_into_a_program_is_a_line_each_also_where_columns_is_exported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with (tmp_path / "piped").open("w") as file:
        assert line_width(file) == 0
        monkeypatch.setattr(file, "isatty", lambda: True, raising=False)
        assert line_width(file) == 40
