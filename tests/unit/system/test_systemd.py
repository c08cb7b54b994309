"""The unit that brings a lab back at boot: its text, that systemd takes it, and that only labctl's own are removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from labctl.errors import HostLacks, NeedsRoot, StepFailed
from labctl.model.result import Completed
from labctl.system import process, systemd

NAME = "lab-1"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A host on which systemd runs, with a systemctl that makes the link that the real one makes."""
    systemd.RUNNING.mkdir(parents=True)
    systemd.UNITS.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: systemd.UNITS.stat().st_uid if os.getuid() == 0 else 0)
    calls: list[tuple[str, ...]] = []

    def run(argv: Sequence[str], *, timeout_s: float) -> Completed:
        calls.append(tuple(argv))
        if argv[1] == "enable":
            wants = systemd.UNITS / "multi-user.target.wants"
            wants.mkdir()
            (wants / argv[2]).symlink_to(systemd.UNITS / argv[2])
        return Completed(argv=tuple(argv), returncode=0, stdout=b"", stderr=b"", timed_out=False, duration_s=0.0)

    monkeypatch.setattr(process, "run", run)
    return calls


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="writes as root does")


def links() -> list[str]:
    return [path.name for path in (systemd.UNITS / "multi-user.target.wants").iterdir()]


@needs_root
def test_the_unit_is_written_and_started_at_boot_and_removed_without_a_trace(ran: list[tuple[str, ...]]) -> None:
    systemd.enable(NAME)
    path = systemd.path_of(NAME)
    assert path.read_text() == systemd.text_of(NAME)
    assert path.stat().st_mode & 0o777 == 0o644
    assert ran == [("systemctl", "daemon-reload"), ("systemctl", "enable", f"labctl-{NAME}.service")]
    assert systemd.is_enabled(NAME)
    assert systemd.disable(NAME)
    assert (path.exists(), links(), systemd.is_enabled(NAME)) == (False, [], False)
    assert not systemd.disable(NAME)


@needs_root
def test_it_stays_roots_under_sudo(ran: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "1000")
    systemd.enable(NAME)
    assert systemd.path_of(NAME).stat().st_uid == 0


@needs_root
def test_a_unit_that_is_not_labctl_s_is_left_alone(ran: list[tuple[str, ...]]) -> None:
    systemd.path_of(NAME).write_text("[Unit]\n")
    with pytest.raises(StepFailed, match="is not labctl's, and is left alone"):
        systemd.enable(NAME)
    assert not systemd.disable(NAME)
    assert (systemd.path_of(NAME).read_text(), ran) == ("[Unit]\n", [])


@needs_root
def test_when_systemctl_fails_nothing_is_left(ran: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: Sequence[str], *, timeout_s: float) -> Completed:
        failed = argv[1] == "enable"
        error = b"Failed to enable unit: Read-only file system" if failed else b""
        code = 1 if failed else 0
        return Completed(argv=tuple(argv), returncode=code, stdout=b"", stderr=error, timed_out=False, duration_s=0.0)

    monkeypatch.setattr(process, "run", run)
    with pytest.raises(StepFailed, match=f"systemctl enable labctl-{NAME}.service failed") as failed:
        systemd.enable(NAME)
    assert "Read-only file system" in failed.value.cause
    assert not systemd.path_of(NAME).exists()


@needs_root
def test_a_folder_that_another_user_could_write_is_not_written_to(ran: list[tuple[str, ...]]) -> None:
    systemd.UNITS.chmod(0o777)
    with pytest.raises(StepFailed, match="cannot write"):
        systemd.enable(NAME)
    assert ran == []


def test_where_systemd_does_not_run_the_host_lacks_it_and_a_unit_can_still_be_removed() -> None:
    with pytest.raises(HostLacks, match="systemd does not run here") as lacks:
        systemd.enable(NAME)
    assert lacks.value.exit_code == 3
    assert f"labctl up --again {NAME}" in lacks.value.remedy
    assert not systemd.disable(NAME)


def test_without_root_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd.RUNNING.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NeedsRoot):
        systemd.enable(NAME)


@needs_root
def test_a_program_that_systemd_would_not_run_is_refused(
    ran: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/a\\b/python3")
    with pytest.raises(StepFailed, match="a quotation mark or a backslash"):
        systemd.enable(NAME)
    assert ran == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("folder", ["plain", "with space", "100%nine", "$HOME", "精"])
def test_systemd_takes_the_unit_wherever_python_is(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for the program by the path that it reads, and finds it."""
    (tmp_path / folder).mkdir()
    python = tmp_path / folder / "python3"
    shutil.copy("/bin/true", python)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(systemd, "_PACKAGE", tmp_path / folder)
    unit = tmp_path / f"labctl-{NAME}.service"
    unit.write_text(systemd.text_of(NAME))

    def verified() -> str:
        argv = ("systemd-analyze", "verify", "--man=no", str(unit))
        said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        # What else it finds is of this host's own units.
        return "\n".join(line for line in (said.stdout + said.stderr).splitlines() if unit.name in line)

    assert verified() == ""
    python.unlink()
    assert "is not executable" in verified()
