"""A bad entry in runs/, whatever it is, neither hangs nor kills `labctl runs` and `report`, nor hides the good ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from labctl.model.comparison import Environment
from labctl.store.runs import create_run

HERE = Environment(kernel="6.1.0", cpu_model="Test CPU", cpus=2)
MOST_MB, MOST_S = 256, 100.0
COMMAND = """
import sys
from labctl.cli.group import main
try:
    main()
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=open("peak", "w"))
"""


def make_run(runs_dir: Path, name: str) -> Path:
    with create_run(
        runs_dir, kind="compare", name=name, labs={}, settings={"rounds": 2}, environment=HERE, argv=["labctl"]
    ) as run:
        run.record("noise", {"block": 0})
    return run.path


def _edited(run: Path, **changes: object) -> None:
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _instead(name: str, put: Callable[[Path], Any]) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        (run / name).unlink()
        put(run / name)

    return spoil


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def _deep_lines(path: Path) -> None:
    line = b'{"kind":"noise","at":"","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    path.write_bytes(line)


def _wide_lines(path: Path) -> None:
    """As large as a journal may be, of what takes most memory when it is read."""
    line = b'{"kind":"noise","at":"","x":[' + b"[]," * 2_000_000 + b"0]}\n"
    with path.open("wb") as file:
        for _ in range(20):
            file.write(line)


BAD: Mapping[str, Callable[[Path], Any]] = {
    "run.json is a pipe": _instead("run.json", os.mkfifo),
    "run.json is a link to what has no end": _instead("run.json", lambda path: path.symlink_to("/dev/zero")),
    "run.json is a link to a secret": _instead("run.json", lambda path: path.symlink_to("/etc/shadow")),
    "run.json is a folder": _instead("run.json", Path.mkdir),
    "run.json is deep": _instead("run.json", lambda path: path.write_bytes(b"[" * 1_000_000)),
    "run.json has no end": _instead("run.json", _sparse),
    "run.json is wide": _instead("run.json", lambda path: path.write_bytes(b"[" + b"[]," * 2_600_000 + b"0]")),
    "run.json is empty": _instead("run.json", Path.touch),
    "run.json is no text": _instead("run.json", lambda path: path.write_bytes(b"\xff\xfe\x00" * 1000)),
    "rounds has no end": lambda run: _edited(run, settings={"rounds": 10**4000}),
    "rounds is a text with escapes": lambda run: _edited(run, settings={"rounds": "\x1b[2J\x9b5m"}),
    "rounds is long": lambda run: _edited(run, settings={"rounds": ["\x1b[31m"] * 100_000}),
    "the reason is long and has escapes": lambda run: _edited(run, reason="\x1b]0;x\x07\u202e[red]" * 100_000),
    "the kind is a path": lambda run: _edited(run, runKind="../../etc"),
    "the journal is a pipe": _instead("journal.jsonl", os.mkfifo),
    "the journal is a link": _instead("journal.jsonl", lambda path: path.symlink_to("/dev/zero")),
    "the journal has no end": _instead("journal.jsonl", _sparse),
    "the journal is deep": _instead("journal.jsonl", _deep_lines),
    "the journal is wide": _instead("journal.jsonl", _wide_lines),
    "the journal is a folder": _instead("journal.jsonl", Path.mkdir),
    "the lock is a pipe": _instead(".lock", os.mkfifo),
    "it cannot be entered": lambda run: run.chmod(0),
    "its name has escapes": lambda run: run.rename(run.with_name("20260101T000000Z-\x1b]0;x\x07\n\x9b2J\u202e")),
}


def _labctl(tmp_path: Path, *argv: str) -> tuple[int, str, int]:
    """The exit code, what was printed on both streams, and the most memory that it had, in MB."""
    command = [sys.executable, "-c", COMMAND, *argv]
    begun = time.monotonic()
    done = subprocess.run(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False
    )
    assert time.monotonic() - begun < MOST_S
    return done.returncode, done.stdout.decode(), int((tmp_path / "peak").read_text()) // 1024


@pytest.fixture
def bad_runs(tmp_path: Path) -> Path:
    """One of each between two good ones."""
    runs = tmp_path / "runs"
    make_run(runs, "first-good")
    for number, spoil in enumerate(BAD.values()):
        spoil(make_run(runs, f"bad{number}"))
    (runs / "20260101T000001Z-not-a-folder").write_text("")
    (runs / "20260101T000002Z-a-link").symlink_to("/")
    (runs / "20260101T000003Z-a-circle").symlink_to("20260101T000003Z-a-circle")
    make_run(runs, "last-good")
    return runs


def test_every_good_run_is_listed_among_bad_ones(bad_runs: Path, tmp_path: Path) -> None:
    code, said, peak_mb = _labctl(tmp_path, "runs")

    assert code == 0
    assert {"first-good", "last-good"} <= set(re.findall(r"\w+-good", said))
    assert said.count("unreadable") >= 8
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)
    assert len(said) < 1_000_000
    assert peak_mb < MOST_MB
    assert bad_runs.is_dir()


def test_as_json_too(bad_runs: Path, tmp_path: Path) -> None:
    code, said, peak_mb = _labctl(tmp_path, "runs", "--json")

    assert code == 0
    assert [run["state"] for run in json.loads(said)["runs"]].count("unreadable") >= 8
    assert said.count("-good") >= 2
    assert peak_mb < MOST_MB
    assert bad_runs.is_dir()


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_report_of_a_bad_run_ends_with_words(spoil: Callable[[Path], Any], tmp_path: Path) -> None:
    spoil(make_run(tmp_path / "runs", "bad"))
    name = next((tmp_path / "runs").iterdir())
    try:
        code, said, peak_mb = _labctl(tmp_path, "report", str(name))
    finally:
        name.chmod(0o700)

    assert code in (2, 4)
    assert "error: " in said
    assert "Traceback" not in said
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)
    assert peak_mb < MOST_MB
