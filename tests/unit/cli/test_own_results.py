"""What commands leave on the disk: nothing that others may write, whatever the umask, and under sudo the person's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.model.comparison import Environment

from .conftest import Bench

HERE = Environment(kernel="6.1.0", cpu_model="Test CPU", cpus=2)
SHOWN = ("report.html", "report.md", "report.csv", "report.xml")
"""What a person asks for by name, to show it to others."""


@pytest.fixture(params=[0, 0o022, 0o077], ids=lambda mask: f"umask {mask:03o}")
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def everything(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What check and compare leave when they are asked for every file that there is."""
    monkeypatch.setattr("labctl.engine.comparison.compare.environment_now", lambda: HERE)
    place = tmp_path / "place"
    place.mkdir(mode=0o755)
    bench.is_up("mylab")
    html, markdown, csv, junit = (str(place / name) for name in SHOWN)
    report = ("--html", html, "--markdown", markdown, "--csv", csv, "--junit", junit)
    assert bench.run("check", "mylab", "--json").code == 0
    assert bench.run("check", "mylab", "--junit", str(place / "check.xml")).code == 0
    said = bench.run("compare", "legacy", "bpf", "--rounds", "1", "--json", *report)
    assert (said.code, said.out[:1]) == (0, "{"), said.err
    made = [*(tmp_path / "runs").rglob("*"), *place.iterdir()]
    assert {*SHOWN, "check.xml", "journal.jsonl", "run.json", "SHA256SUMS", "raw"} <= {path.name for path in made}
    return [tmp_path / "runs", *made]


@pytest.mark.usefixtures("_umask")
def test_nothing_that_others_may_write_is_left(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in everything(bench, tmp_path, monkeypatch):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert not mode & 0o022, f"{path} has mode {mode:04o}"
        if path.is_relative_to(tmp_path / "runs"):
            assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has mode {mode:04o}"


def test_results_belong_to_the_person_behind_sudo(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1235")
    for path in everything(bench, tmp_path, monkeypatch):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (1234, 1235), path


@pytest.mark.parametrize("name", SHOWN)
def test_a_report_is_not_written_through_a_link(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("labctl.engine.comparison.compare.environment_now", lambda: HERE)
    bench.is_up("mylab")
    (tmp_path / "shadow").write_text("root:*:1\n")
    (tmp_path / name).symlink_to(tmp_path / "shadow")
    option = {"html": "--html", "md": "--markdown", "csv": "--csv", "xml": "--junit"}[name.rpartition(".")[2]]
    said = bench.run("compare", "legacy", "bpf", "--rounds", "1", option, str(tmp_path / name))
    assert said.code == 2, said.err
    assert "symbolic link" in said.err
    assert (tmp_path / "shadow").read_text() == "root:*:1\n"
