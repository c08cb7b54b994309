"""What a thread and the programs that it started take is measured, and all of them can be ended."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labctl.system.usage import ThreadUsage

MIB = 1 << 20
TREE = "sleep 600 & setsid sleep 600 & (setsid sh -c 'sleep 600 & sleep 600') & echo there; wait"
"""Children, grandchildren, and sessions of their own, as Ansible's are."""
FILLED = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo there; sleep 600; echo $x"


@contextmanager
def working(act: Callable[[], None]) -> Iterator[ThreadUsage]:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    usage = ThreadUsage(thread)
    yield usage
    thread.join(60)
    assert not thread.is_alive()


@contextmanager
def running(script: str) -> Iterator[ThreadUsage]:
    ready = threading.Event()

    def act() -> None:
        with subprocess.Popen(("sh", "-c", script), stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"there\n"
            ready.set()

    with working(act) as usage:
        assert ready.wait(60)
        yield usage


def is_alive(number: int) -> bool:
    """Not ended, or ended and not yet collected by its new parent."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def test_all_programs_end_whatever_their_sessions() -> None:
    with running(TREE) as usage:
        deadline = time.monotonic() + 60
        while len(numbers := tuple(usage._programs(usage._task))) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(numbers) >= 6
        usage.kill()
        while any(map(is_alive, numbers)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(map(is_alive, numbers))


def test_memory_is_that_of_the_whole_tree_and_not_of_other_threads() -> None:
    with running(FILLED) as filled, running("echo there; sleep 600") as small:
        assert filled.memory_byte() > 40_000_000
        assert 0 < small.memory_byte() < 20_000_000
        filled.kill()
        small.kill()


@pytest.mark.parametrize("size_byte", [MIB, 8 * MIB])
def test_what_a_thread_reads_counts_and_what_another_one_reads_does_not(tmp_path: Path, size_byte: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(size_byte))
    begin, looked = threading.Event(), threading.Event()
    read_byte = []

    def act() -> None:
        begin.wait(60)
        source.read_bytes()
        read_byte.append(True)
        looked.wait(60)

    with working(act) as usage:
        source.read_bytes()
        before = usage.read_byte()
        begin.set()
        deadline = time.monotonic() + 60
        while not read_byte and time.monotonic() < deadline:
            time.sleep(0.01)
        assert size_byte <= usage.read_byte() - before < size_byte + MIB
        looked.set()


def test_of_a_thread_that_has_ended_nothing_is_said() -> None:
    with working(lambda: None) as usage:
        pass
    assert (usage.read_byte(), usage.memory_byte()) == (0, 0)
    usage.kill()
