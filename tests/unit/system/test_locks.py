"""A lock is its holder's alone: nobody else can take it, block it or leave one behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from labctl.errors import StepFailed, UsageError
from labctl.providers.netns.record import claimed, is_claimed
from labctl.system import locks

HOLDER = """
import sys, time
from pathlib import Path
from labctl.system import locks
locks.ROOT_DIRECTORY = Path(sys.argv[1])
with locks.held("build-lab", timeout_s=0) as is_mine:
    print(is_mine, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(locks, "ROOT_DIRECTORY", tmp_path / "labctl" / "locks")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "labctl" / "locks"


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_the_folder_and_its_files_are_private_whatever_the_umask(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with locks.held("a", timeout_s=0) as is_mine:
            assert is_mine
            assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_nothing_stays_behind(folder: Path) -> None:
    with locks.held("a", timeout_s=0):
        assert locks.is_held("a")
        assert not locks.is_held("b")
    assert not locks.is_held("a")
    assert list(folder.iterdir()) == []


def test_a_question_creates_nothing(folder: Path) -> None:
    assert not locks.is_held("a")
    assert not folder.exists()


def test_a_lock_ends_with_a_holder_that_is_killed(folder: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    try:
        assert is_claimed("lab")
        with pytest.raises(UsageError, match="being built by another labctl"), claimed("lab"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert (folder / "build-lab").exists()
    assert not is_claimed("lab")
    with claimed("lab"):
        assert is_claimed("lab")
    assert list(folder.iterdir()) == []


def test_an_abstract_socket_of_that_name_blocks_nothing(folder: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
        taken.bind(f"\0labctl/{folder.name}x")
        assert not is_claimed(f"{folder.name}x")
        with claimed(f"{folder.name}x"):
            pass


def test_many_take_turns_and_no_two_have_it_at_once(folder: Path) -> None:
    inside, most, done = [0], [0], [0]

    def take() -> None:
        for _ in range(20):
            with locks.held("turn", timeout_s=120) as is_mine:
                assert is_mine
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1
                done[0] += 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most[0], done[0]) == (1, 80)
    assert folder.is_dir()


def test_a_lock_that_another_has_is_waited_for_no_longer_than_was_said(folder: Path) -> None:
    with locks.held("a", timeout_s=0):
        begun = time.monotonic()
        with locks.held("a", timeout_s=0.1) as is_mine:
            assert not is_mine
        assert time.monotonic() - begun < 60
    assert folder.is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b"])
def test_a_name_is_no_path(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of one file"), locks.held(name, timeout_s=0):
        pass
    assert folder.is_dir()


def _open_to_others(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o755)


def _writable_parent(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o777)


def _link(folder: Path) -> None:
    folder.parent.mkdir()
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")


def _file(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("")


@pytest.mark.parametrize("trap", [_open_to_others, _writable_parent, _link, _file])
def test_a_folder_that_others_could_reach_into_is_refused(folder: Path, trap: object) -> None:
    assert callable(trap)
    trap(folder)
    with pytest.raises(StepFailed, match="cannot keep its locks"), locks.held("a", timeout_s=0):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_another_user_made_first_is_refused(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(StepFailed) as refused, locks.held("a", timeout_s=0):
        pass
    assert "it belongs to user 12345" in refused.value.cause


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_under_sudo_the_locks_stay_root_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "12345")
    monkeypatch.setenv("SUDO_GID", "12345")
    with locks.held("a", timeout_s=0):
        assert {path.stat().st_uid for path in (folder, folder.parent, folder / "a")} == {0}


@pytest.mark.parametrize("put", ["link", "pipe", "second name"])
def test_a_lock_that_was_swapped_is_not_followed(folder: Path, tmp_path: Path, put: str) -> None:
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    other = tmp_path / "other"
    other.write_text("kept")
    if put == "link":
        (folder / "a").symlink_to(other)
    elif put == "pipe":
        os.mkfifo(folder / "a")
    else:
        os.link(other, folder / "a")
    with pytest.raises(StepFailed), locks.held("a", timeout_s=0):
        pass
    assert other.read_text() == "kept"


def test_the_files_of_locks_whose_holders_were_killed_are_removed_and_no_others(folder: Path) -> None:
    with locks.held("held", timeout_s=0) as is_mine:
        assert is_mine
        (folder / "of-a-killed-one").touch(mode=0o600)
        locks.remove_free()
        assert [entry.name for entry in folder.iterdir()] == ["held"]
        assert locks.is_held("held")


def test_where_there_were_no_locks_yet_no_folder_is_made(folder: Path) -> None:
    locks.remove_free()
    assert not folder.exists()
