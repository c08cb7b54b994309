"""Whatever the locale's codec and the bytes of a path: no traceback, JSON and files in UTF-8, the same exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SCENARIOS = Path(__file__).resolve().parents[3] / "scenarios"
ODD = b"lat\xfc \xe4"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "C": {"LC_ALL": "C"},
    "C, and Python told to believe it": ASCII,
    "one that does not exist": {"LC_ALL": "xx_YY.NONE"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin1": {"PYTHONIOENCODING": "latin1:strict"},
    "gbk": {"PYTHONIOENCODING": "gbk"},
    "Chinese on an ascii stream": {"LC_ALL": "zh_CN.UTF-8", "PYTHONIOENCODING": "ascii"},
}
each_locale = pytest.mark.parametrize("locale", LOCALES.values(), ids=LOCALES)


@dataclass(frozen=True, kw_only=True)
class Ended:
    code: int
    out: bytes
    err: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.out.decode("utf-8"))


@pytest.fixture
def odd(tmp_path: Path) -> bytes:
    """A directory whose name is not UTF-8, with a scenario whose name is not either."""
    directory = os.fsencode(tmp_path) + b"/" + ODD
    Path(os.fsdecode(directory)).mkdir()
    write(directory + b"/n\xfcm.yaml", b"apiVersion: labctl/v1\nkind: Scenario\nextends: bpf\nname: odd\n")
    return directory


def write(path: bytes, data: bytes) -> None:
    Path(os.fsdecode(path)).write_bytes(data)


def labctl(*args: str | bytes, cwd: bytes, **environment: str) -> Ended:
    kept = {key: value for key, value in os.environ.items() if key not in ("LC_ALL", "LANG", "PYTHONIOENCODING")}
    ended = subprocess.run(
        [sys.executable, "-m", "labctl", *args],
        cwd=cwd,
        env={"LANG": "C.UTF-8", **kept, "HOME": os.fsdecode(cwd), **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert b"Traceback" not in ended.stderr, ended.stderr.decode(errors="replace")
    return Ended(code=ended.returncode, out=ended.stdout, err=ended.stderr)


@each_locale
def test_a_plan_of_a_file_whose_name_is_not_utf8_is_json_in_utf8(odd: bytes, locale: dict[str, str]) -> None:
    ended = labctl("plan", odd + b"/n\xfcm.yaml", "--json", cwd=odd, **locale)
    assert ended.code == 0, ended.err
    assert ended.document["kind"] == "Plan"


@each_locale
def test_an_error_keeps_its_exit_code_and_shows_the_bytes(odd: bytes, locale: dict[str, str]) -> None:
    ended = labctl("plan", b"gon\xe9.yaml", cwd=odd, **locale)
    assert ended.code == 2
    assert rb"gon\xe9.yaml" in ended.err


def test_help_in_ascii_is_ascii(odd: bytes) -> None:
    ended = labctl("capture", "--help", cwd=odd, **ASCII)
    assert (ended.code, ended.out.isascii()) == (0, True)
    assert b"[TAP...]" in ended.out


def test_a_script_is_utf8_in_every_locale(odd: bytes) -> None:
    in_utf8, in_ascii = (labctl("plan", b"n\xfcm.yaml", "--shell", cwd=odd, **locale) for locale in ({}, ASCII))
    assert in_ascii.out == in_utf8.out
    in_utf8.out.decode("utf-8")


def test_a_scenario_that_is_not_utf8_is_an_error_with_its_place(odd: bytes) -> None:
    write(odd + b"/b\xe4d.yaml", b"apiVersion: labctl/v1\nkind: Scenario\n# \xe4\n")
    ended = labctl("validate", b"b\xe4d.yaml", "--json", cwd=odd, **ASCII)
    assert ended.code == 2
    (problem,) = ended.document["problems"]
    assert os.fsencode(problem["file"]) == b"b\xe4d.yaml"
    assert (problem["line"], problem["column"]) == (3, 3)


def test_the_runs_of_a_directory_that_is_not_utf8_are_listed(odd: bytes) -> None:
    listed = labctl("runs", "--runs-dir", odd + b"/r\xfcns", "--json", cwd=odd)
    assert os.fsencode(listed.document["directory"]) == odd + b"/r\xfcns"
    assert rb"r\xfcns" in labctl("runs", "--runs-dir", b"r\xfcns", cwd=odd).out


def test_the_scenario_of_another_folder_is_found_from_one_that_is_not_utf8(odd: bytes) -> None:
    ended = labctl("images", os.fsencode(SCENARIOS / "bpf.yaml"), "--json", cwd=odd, **ASCII)
    assert (ended.code, ended.document["scenario"]) == (0, "bpf")
