"""`make audit`: known vulnerabilities of the packages of the lock files. No answer does not mean none."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

TREE = Path(__file__).resolve().parents[2]


def _audit() -> ModuleType:
    specification = importlib.util.spec_from_file_location("audit", TREE / "setup/audit.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


AUDIT = _audit()
GOOD = {"name": "rich", "version": "14.3.4", "vulns": []}
BAD = {
    "name": "jinja2",
    "version": "3.1.0",
    "vulns": [{"id": "PYSEC-2024-1", "fix_versions": ["3.1.3"], "aliases": [], "description": "x"}],
}
# As pip-audit 2.9 said it of an index that stands in for PyPI and has no advisories (it exits 0 then).
SKIPPED = {"name": "rich", "skip_reason": "Dependency not found on PyPI and could not be audited: rich (14.3.4)"}


def output(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **said: str) -> tuple[int, str]:
    """The exit code and the text, where the services say so on standard output (`!…`: on standard error)."""

    def answer(argv: list[str], **_: object) -> SimpleNamespace:
        text = said[argv[argv.index("--vulnerability-service") + 1]]
        return SimpleNamespace(stdout="" if text.startswith("!") else text, stderr=text, returncode=0)

    monkeypatch.setattr(subprocess, "run", answer)
    return AUDIT.main(), capsys.readouterr().out


def test_nothing_known_is_said_and_nobody_else_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(monkeypatch, capsys, pypi=output(GOOD))
    assert (code, text.startswith("audit: no known vulnerabilities in the 1 packages")) == (0, True)


def test_an_advisory_is_told_with_the_version_that_has_it_fixed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(monkeypatch, capsys, pypi=output(GOOD, BAD))
    assert code == 1
    assert "jinja2 3.1.0: PYSEC-2024-1 (fixed in: 3.1.3)" in text
    assert "make upgrade" in text


@pytest.mark.parametrize("osv", ["!ConnectionError: Failed to resolve 'api.osv.dev'", output(SKIPPED), "", "[]", "{}"])
def test_an_index_without_advisories_is_no_good_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], osv: str
) -> None:
    code, text = run(monkeypatch, capsys, pypi=output(SKIPPED), osv=osv)
    assert code == 3
    assert "could not be reached for 1 of 1 packages" in text
    assert "no known vulnerabilities" not in text


def test_no_answer_at_all_is_said_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(monkeypatch, capsys, pypi="!no route to host", osv="!no route to host")
    assert code == 3
    assert "could not be reached for any package" in text
    assert "PyPI: !no route to host" in text


def test_what_one_service_does_not_tell_the_other_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys, pypi=output(SKIPPED), osv=output(GOOD))[0] == 0
    assert run(monkeypatch, capsys, pypi=output(SKIPPED, BAD), osv=output(GOOD))[0] == 1
    code, text = run(monkeypatch, capsys, pypi=output(SKIPPED), osv=output(BAD))
    assert (code, "could not be reached for 1 of 2" in text) == (1, True)


def test_the_lock_files_are_asked_for_by_hash_and_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(argv: list[str], **_: object) -> SimpleNamespace:
        asked.append(argv)
        return SimpleNamespace(stdout=output(GOOD), stderr="", returncode=0)

    monkeypatch.setattr(subprocess, "run", answer)
    AUDIT.ask("pypi")
    assert {"--require-hashes", "--disable-pip"} <= set(asked[0])
    assert [word for word in asked[0] if word.endswith(".txt")] == [str(TREE / lock) for lock in AUDIT.LOCKS]
    assert all((TREE / lock).is_file() for lock in AUDIT.LOCKS)
