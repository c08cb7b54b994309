from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from labctl.system.files import locked, write_atomically


def test_a_file_is_replaced_whole_and_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    path.write_bytes(b"old")
    write_atomically(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "facts"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["facts"]
    assert path.read_bytes() == b"old"


def test_a_lock_makes_two_take_turns(tmp_path: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def first() -> None:
        with locked(tmp_path / "lock"):
            inside.set()
            time.sleep(0.05)
            order.append("first out")

    holder = threading.Thread(target=first)
    holder.start()
    inside.wait(5)
    with locked(tmp_path / "lock"):
        order.append("second in")
    holder.join()
    assert order == ["first out", "second in"]
