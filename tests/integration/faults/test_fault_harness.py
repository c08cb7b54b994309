"""The fault harness: it puts each fault where it is named, sees each kind of leak, and fails for one that is put in."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from labctl.system.files import open_folder
from labctl.testing.faults.experiment import (
    Command,
    Outcome,
    Recovery,
    Tried,
    recording,
    require_healthy,
    try_all,
    trying,
)
from labctl.testing.faults.points import Point, points_of
from labctl.testing.faults.session import EXCEPTION, HALF, HANG, MISSING, RUBBISH, Fault

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes namespaces")]

PLACE = Path("/run/thing")
DYING_WITH_US = (shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL", "--")


def outcomes(jobs: Sequence[Callable[[], Outcome]]) -> list[Outcome]:
    found: dict[int, Outcome | RuntimeError] = {}
    try_all(jobs, found.__setitem__, at_once=2)
    failed = [one for one in found.values() if isinstance(one, RuntimeError)]
    assert not failed, failed[0]
    return [one for _, one in sorted(found.items()) if isinstance(one, Outcome)]


def toy(args: Sequence[str]) -> int:
    """`make` puts two files and a device into the world and undoes that when it fails; `remove` finds them by name."""
    if args[0] == "remove":
        for path in PLACE.parent.glob("*thing*"):
            path.unlink()
        subprocess.run(("ip", "link", "delete", "made0"), check=False, capture_output=True)
        return 0
    try:
        PLACE.write_text("one")
        subprocess.run((*DYING_WITH_US, "ip", "link", "add", "made0", "type", "bridge"), check=True)
        with open_folder(PLACE.parent) as folder:
            folder.write("thing-too", b"two")
    except OSError as refused:
        print(refused.strerror, flush=True)
        return toy(["remove"]) or 4
    print("runs: /run/thing-too", flush=True)
    return 0


TOY = Tried(program=toy, remove=("remove",), saved=re.compile(r"^runs: (\S+)", re.MULTILINE), read=("read",))
MAKE = Command(name="make", run=("make",), again=("make",))


def fault(call: str, act: str, number: int = 1) -> Fault:
    return Fault(call=call, number=number, act=act)


def test_every_point_of_a_program_that_cleans_up_is_reached_and_nothing_is_left() -> None:
    (recorded,) = outcomes([recording(TOY, MAKE)])
    require_healthy(MAKE, recorded)
    # A tool of the toy goes on by itself when the toy is killed just then.
    points = [one for one in points_of("make", recorded.calls) if not one.fault.call.startswith(("start", "fork"))]
    points.append(Point(command="make", fault=fault("start ip", "EPERM")))
    assert {point.fault.call for point in points} >= {"open /run/thing", "rename /run/thing-too"}
    tried = outcomes([trying(TOY, MAKE, point.fault, Recovery.REMOVE) for point in points])
    assert [point.name for point, one in zip(points, tried, strict=True) if not one.was_reached] == []
    assert [(point.name, one.left) for point, one in zip(points, tried, strict=True) if one.left] == []


def test_each_fault_is_what_it_is_called() -> None:
    at = "write /run/thing"
    acts = ("SIGKILL", "SIGTERM", EXCEPTION, "ENOSPC", "EMFILE")
    killed, ended, raised, full, files = outcomes([trying(TOY, MAKE, fault(at, act), Recovery.REMOVE) for act in acts])
    assert (killed.code, ended.code, raised.code) == (-9, -15, 70)
    assert "PutIn" in raised.said
    assert (full.code, full.said) == (4, f"{os.strerror(28)}\n")
    assert files.said == f"{os.strerror(24)}\n"


def test_a_tool_hangs_is_missing_or_prints_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labctl.testing.faults.left.SETTLE_S", 0.1)

    def asks(args: Sequence[str]) -> int:
        said = subprocess.run((shutil.which("ip") or "ip", "-V"), capture_output=True, check=False).stdout
        print(len(said), said[:10], flush=True)
        return 0

    command = Command(name="ask", run=("ask",))
    tried = Tried(program=asks, remove=("ask",), saved=re.compile("$^(x)"), read=("ask",))
    acts = (HANG, MISSING, RUBBISH, HALF)
    hung, gone, rubbish, half = outcomes(
        [trying(tried, command, fault("start ip", act), Recovery.REMOVE) for act in acts]
    )
    (whole,) = outcomes([recording(tried, command)])
    assert hung.code in (-2, 70)  # by Ctrl-C, after a while
    assert "FileNotFoundError" in gone.said
    assert "\\xff" in rubbish.said
    assert int(half.said.split()[0]) == (int(whole.said.split()[0]) - 1) // 2
    assert {line.split()[0] for line in hung.left} == {"processes:"}  # the tool, which this program does not end


def _leaks(args: Sequence[str]) -> int:
    """One of each kind of thing."""
    for words in (
        "ip link add left0 type bridge", "ip address add 198.51.100.1/24 dev lo",
        "ip rule add from 198.51.100.7 table 7",
        "ip route add blackhole 198.51.100.128/25", "ip netns add left", "nft add table ip left",
        "tc qdisc add dev eth0 clsact", "mkdir /sys/fs/bpf/left", "mount -t tmpfs left /run/lock",
        "sysctl -qw net.ipv4.ip_forward=1",
    ):  # fmt: skip
        subprocess.run(words.split(), check=True)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    subprocess.Popen(("sleep", "300"), start_new_session=True, pass_fds=(listening.fileno(),))
    (Path("/sys/fs/cgroup") / "left").mkdir()
    PLACE.write_text("left")
    return 0


def test_each_kind_of_leak_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labctl.testing.faults.left.SETTLE_S", 0.1)
    tried = Tried(
        program=lambda args: 0 if args == ["x"] else _leaks(args), remove=("leave",), saved=re.compile("$^(x)"), read=()
    )
    (found,) = outcomes([recording(tried, Command(name="leak", run=("leave",)))])
    assert found.code == 0, found.said
    headings = {line.partition(":")[0] for line in found.left}
    wanted = {
        "links", "addresses", "routes", "rules", "nftables", "qdiscs and filters", "bpffs", "mounts", "processes",
        "sockets", "sysctls", "files", "cgroups",
    }  # fmt: skip
    assert wanted - headings == set()
    assert "files: left: /run/netns/left" in "\n".join(found.left)


def test_what_was_said_to_be_saved_has_to_be_there() -> None:
    def lies(args: Sequence[str]) -> int:
        print("runs: nowhere", flush=True)
        return 0

    tried = Tried(program=lies, remove=("x",), saved=TOY.saved, read=("x",))
    (found,) = outcomes([recording(tried, Command(name="lie", run=("x",)))])
    assert found.lost == ("reported as saved, and is not there: nowhere",)


LEAKS = """
import sys
import fault_run
from labctl.system import locks
from labctl.testing.faults import left
from labctl.testing.faults.experiment import Recovery
from labctl.testing.faults.points import Point
from labctl.testing.faults.session import Fault

point = Point(command="up", fault=Fault(call="mkdir /run/netns", number=1, act="SIGKILL"))
fault_run.recorded = lambda commands, at_once, depth: [point]
fault_run.recoveries = lambda point: (Recovery.REMOVE,)
if sys.argv.pop() == "leaks":
    locks.remove_free = lambda: None
    left.SETTLE_S = 0.1
sys.exit(fault_run.main())
"""


@pytest.mark.parametrize(("how", "code", "left"), [("as it is", 0, 0), ("leaks", 1, 1)])
def test_a_leak_that_is_put_into_labctl_makes_the_run_fail(how: str, code: int, left: int) -> None:
    """Locks of a labctl that was killed are left where they are, as they once were. In a process of its own: labctl
    runs in a fork of it, and has one thread that starts processes, which another test may have begun here."""
    ended = subprocess.run(
        (sys.executable, "-c", LEAKS, how),
        capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    said = ended.stdout.splitlines()
    assert (ended.returncode, said[-1]) == (code, f"1 distinct fault points, {left} left something behind"), (
        ended.stderr
    )
    assert ("    files: left: /run/labctl/locks/build-lab" in ended.stdout) is (how == "leaks")
