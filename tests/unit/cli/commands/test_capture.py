"""`capture -w FILE` where FILE is a trap: refused in words, and what it leads to is as it was."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Bench, Said
from labctl.engine import capture
from labctl.engine import capture as capturing
from labctl.model.signature import Role
from labctl.path.pcapng import section
from labctl.providers.base import Tap
from labctl.testing.scripted import ScriptedTarget

HEAD = section("")[:4]


@pytest.fixture
def lab(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A lab whose one tap sees nothing, so that a capture writes its head and ends."""
    bench.is_up("mylab")
    tap = Tap(name="node1:eth0", role=Role.CLIENT_UPLINK, target=ScriptedTarget("node1"), interface="eth0")

    @contextmanager
    def silence(*_: Any, **__: Any) -> Iterator[None]:
        yield None

    monkeypatch.setattr(capture, "chosen_taps", lambda *_: (tap,))
    monkeypatch.setattr(capturing, "check_filter", lambda *_: None)
    monkeypatch.setattr(capturing, "streaming", silence)
    monkeypatch.setattr(capturing, "capture", lambda *_, **__: ((), 0))
    return bench


def written(bench: Bench, path: Path | str) -> Said:
    said = bench.run("capture", "mylab", "-w", str(path))
    assert "Traceback" not in said.err
    return said


def refused(said: Said, *parts: str) -> None:
    assert said.code == 2, said.err
    for part in ("cannot write the capture to", *parts):
        assert part in said.err


def test_a_new_file_and_one_that_is_written_again_hold_the_capture(lab: Bench, tmp_path: Path) -> None:
    for _ in range(2):
        assert written(lab, tmp_path / "x.pcapng").code == 0
        assert (tmp_path / "x.pcapng").read_bytes().startswith(HEAD)


def test_a_link_is_not_followed_and_nothing_is_truncated(lab: Bench, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:*:1\n")
    (tmp_path / "x.pcapng").symlink_to(tmp_path / "shadow")
    refused(written(lab, tmp_path / "x.pcapng"), "symbolic link")
    assert (tmp_path / "shadow").read_text() == "root:*:1\n"


def test_a_dangling_link_makes_no_file(lab: Bench, tmp_path: Path) -> None:
    (tmp_path / "x.pcapng").symlink_to(tmp_path / "cron.d")
    refused(written(lab, tmp_path / "x.pcapng"), "symbolic link")
    assert not (tmp_path / "cron.d").exists()


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/full"])
def test_a_link_to_a_device_is_refused(lab: Bench, tmp_path: Path, device: str) -> None:
    (tmp_path / "x.pcapng").symlink_to(device)
    refused(written(lab, tmp_path / "x.pcapng"), "symbolic link")


def test_a_second_name_of_a_file_is_taken_from_it_and_the_file_stays(lab: Bench, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:*:1\n")
    (tmp_path / "x.pcapng").hardlink_to(tmp_path / "shadow")
    assert written(lab, tmp_path / "x.pcapng").code == 0
    assert (tmp_path / "shadow").read_text() == "root:*:1\n"


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "out"])
def test_who_means_standard_output_is_told_how_it_is_named(lab: Bench, tmp_path: Path, name: str) -> None:
    path = Path("/", name) if name.startswith("/") else tmp_path / name
    if not name.startswith("/"):
        path.symlink_to("/dev/stdout")
    elif not path.is_symlink():
        pytest.skip(f"{path} is no link here")
    refused(written(lab, path), "-w -")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.with_name("gone").mkdir()])
def test_what_is_no_file_is_refused(lab: Bench, tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "place"
    make(path)
    said = written(lab, path if path.exists() else tmp_path / "nothing" / "x.pcapng")
    assert said.code != 0
    assert "cannot" in said.err


def test_the_null_device_takes_a_capture(lab: Bench) -> None:
    assert written(lab, "/dev/null").code == 0


def test_ones_own_pipe_gets_the_capture(lab: Bench, tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", bytearray()
    os.mkfifo(pipe, 0o600)
    reader = threading.Thread(target=lambda: got.extend(pipe.read_bytes()), daemon=True)
    reader.start()
    assert written(lab, pipe).code == 0
    reader.join(5)
    assert bytes(got).startswith(HEAD)


def test_a_pipe_that_everybody_may_use_is_refused(lab: Bench, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o666)
    # It is only judged once there is a reader: opening a pipe waits for one.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        refused(written(lab, pipe), "every user may write to it")
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_a_file_for_which_root_asks_under_sudo_belongs_to_the_person(
    lab: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1235")
    assert written(lab, tmp_path / "x.pcapng").code == 0
    found = (tmp_path / "x.pcapng").stat()
    assert (found.st_uid, found.st_gid) == (1234, 1235)
