"""The load program carried to where labctl is not, through streams that behave as `kubectl exec -i` does: a shell at
the other end of two pipes. The pods are this host's loopback."""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from labctl.errors import MeasureFailed
from labctl.load.carried import CannotCarry, carried_end
from labctl.load.measure import Plan, Session, Task, measure_load
from labctl.load.slices import Kind
from labctl.system.process import Process

PLAN = Plan(
    tasks=(
        Task(kind=Kind.TCP, share=0.6),
        Task(kind=Kind.STREAM, share=0.3, argument=1, on_one_cpu=True),
        Task(kind=Kind.PACED, share=0.1, argument=1000, length_s=0.01),
    ),
    tapped=Task(kind=Kind.TCP, share=0.1),
    duration_s=0.15,
    message_byte=64,
    spin=True,
    client_cpu=4096,
    server_cpu=4097,
    seed="7",
)

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="labctl ships the load program for x86_64 and aarch64"
)


class PodByDoor:
    """A pod behind a door: `door` is what opens it, `environment` what its shell finds."""

    def __init__(self, name: str, *, door: Sequence[str] = (), environment: Sequence[str] = ()) -> None:
        self.name = name
        self.opened: list[Sequence[str]] = []
        self._words = (*door, "env", *environment) if not door else tuple(door)

    def converse(self, argv: Sequence[str], *, stdin: int, output: int) -> AbstractContextManager[Process]:
        self.opened.append(argv)
        return Process((*self._words, *argv), stdin=stdin, output=output)


class ClosedPod:
    name = "closed"

    def converse(self, argv: Sequence[str], *, stdin: int, output: int) -> AbstractContextManager[Process]:
        raise MeasureFailed("could not run sh in closed", "the pod is gone")


def left_of(pod: PodByDoor) -> list[str]:
    """Files of the program's name, wherever its shell tries to put them."""
    names = [argv[-1] for argv in pod.opened]
    folders = ("/tmp", "/dev/shm", "/var/tmp", "/run", os.environ.get("HOME", "/"), ".")
    return [name for folder in folders for name in names if (Path(folder) / name).exists()]


def test_two_sides_are_measured_through_one_stream_for_each_pod() -> None:
    pods = [PodByDoor(name) for name in ("client-a", "server-a", "client-b", "server-b")]
    sessions = [
        Session(group="cross", client=pods[0], server=pods[1], address="127.0.0.1"),
        Session(group="cross", client=pods[2], server=pods[3], address="127.0.0.1"),
    ]
    result = measure_load(sessions, PLAN)
    assert [len(pod.opened) for pod in pods] == [1, 1, 1, 1]
    assert [left_of(pod) for pod in pods] == [[], [], [], []]
    conditions = result.conditions
    assert conditions.spun == ()
    assert conditions.channel_s is not None
    assert conditions.slice_s == max(0.002, 4 * conditions.channel_s)
    assert result.untapped == "the taps are for pods of this host"
    # Forth and back, though each slice has a command of its own, which knows nothing of the other side.
    places: dict[int, dict[int, int]] = {}
    for number, loaded in enumerate(result.loaded):
        assert not loaded.refused
        assert {one.kind for one in loaded.slices} == {Kind.TCP, Kind.STREAM, Kind.PACED}
        assert {(one.session, one.client_cpu, one.server_cpu) for one in loaded.slices} == {(number, 0xFFFF, 0xFFFF)}
        for one in loaded.slices:
            places.setdefault(one.cycle, {})[one.position] = number
    assert {tuple(turns[place] for place in sorted(turns)) for turns in places.values()} <= {(0, 1, 1, 0), (1, 0, 0, 1)}
    assert all(sorted(turns) == [0, 1, 2, 3] for turns in places.values())


def test_a_session_whose_server_is_not_reached_is_given_up_alone() -> None:
    pods = [PodByDoor(name) for name in ("client", "server", "other")]
    sessions = [
        Session(group="x", client=pods[0], server=pods[1], address="127.0.0.1"),
        Session(group="y", client=pods[0], server=pods[2], address="192.0.2.7"),
    ]
    result = measure_load(sessions, PLAN)
    assert result.loaded[0].slices
    assert result.loaded[1].refused == "cannot bind to the address: Cannot assign requested address"


def commands_of(folder: Path, **scripts: str) -> str:
    """A PATH on which those programs are the scripts."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(stat.S_IRWXU)
    return f"PATH={folder}:{os.environ['PATH']}"


def why(pod: PodByDoor | ClosedPod) -> str:
    with pytest.raises(CannotCarry) as refused, carried_end(pod, "the load program there"):
        pytest.fail("it was carried")
    return refused.value.what


def test_another_machine_than_there_is_a_program_for_is_named(tmp_path: Path) -> None:
    pod = PodByDoor("pod", environment=[commands_of(tmp_path, uname="echo riscv64")])
    assert why(pod) == "there is no load program for the machine of pod (riscv64)"
    assert left_of(pod) == []


def test_a_file_system_that_takes_no_program_is_named(tmp_path: Path) -> None:
    pod = PodByDoor("pod", environment=[commands_of(tmp_path, chmod="exit 1")])
    assert why(pod) == "no folder of pod takes a program: each is read-only, or starts none"
    assert left_of(pod) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'error: unable to upgrade connection: Forbidden' >&2; exit 1",
            "error: unable to upgrade connection: Forbidden",
        ),
        ("exec /no/such/shell 2>/dev/null", "the load program there has ended before it answered"),
        ("echo Welcome", "the shell there said something else than was expected"),
    ],
)
def test_a_door_that_does_not_open_is_named_with_its_own_words(script: str, said: str) -> None:
    assert why(PodByDoor("pod", door=("sh", "-c", script, "sh"))) == f"pod does not let a program run: {said}"


def test_a_pod_that_is_gone_is_named() -> None:
    assert why(ClosedPod()) == "closed does not let a program run: could not run sh in closed"


def test_the_program_ends_with_its_stream_and_leaves_nothing() -> None:
    pod = PodByDoor("pod")
    with carried_end(pod, "the load program there") as end:
        assert -20 <= end.nice() <= 19
        name = pod.opened[0][-1]
        assert left_of(pod) == []
        running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if name.encode() in _text(path)]
        assert running == [], "it is the program now, and the shell is gone"


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
