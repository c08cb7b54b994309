"""Sessions, connections and processes over real sshds: their limits, their ends, and what is left after them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kubeadm_farm import Farm, two_machines
from kubeadm_labs import make_lab
from labctl.engine.capture import counts_by_tap, left_out, sources_of, streaming
from labctl.errors import LabError, MeasureFailed, StepFailed
from labctl.load.measure import Plan, Session, Task, measure_load
from labctl.load.slices import Kind
from labctl.model.signature import Role
from labctl.providers.base import Tap, TargetKind
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.providers.kubeadm import ssh
from labctl.providers.kubeadm.machines import Machine, machines_of
from labctl.providers.kubeadm.running import PUMP
from labctl.providers.kubeadm.sessions import MOST_STARTING, OWNER, end_strays, owner
from labctl.providers.kubeadm.ssh import Fleet, MachineCommands
from labctl.providers.kubeadm.ssh_config import reached

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not on this host"),
]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    yield from two_machines(tmp_path_factory.mktemp("machines"))


@pytest.fixture
def commands(machines: Farm) -> Iterator[MachineCommands]:
    opened = MachineCommands(machine(machines))
    yield opened
    opened.close()


def machine(grown: Farm) -> Machine:
    return machines_of(make_lab(hosts=[grown.hosts()[0]], nodes=1))[0]


def target(commands: MachineCommands) -> DoorTarget:
    return DoorTarget(name="node1", kind=TargetKind.NODE, commands=commands, door=Door(closed=(), open=()))


@contextlib.contextmanager
def max_sessions(grown: Farm, most: int) -> Iterator[None]:
    """Of every connection to the first machine that is made from now on."""
    grown.machines[0].run(
        "sh", "-c", f"cp /run/sshd/config /run/sshd/before; echo MaxSessions {most} >>/run/sshd/config"
    )
    try:
        yield
    finally:
        grown.machines[0].run("mv", "/run/sshd/before", "/run/sshd/config")


def processes(grown: Farm, name: str) -> list[str]:
    return [line for line in grown.machines[0].run("ps", "-eo", "args").splitlines() if line.startswith(name)]


def wait_until(holds: Callable[[], object], within_s: float = 20.0) -> None:
    until_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until_s, f"did not hold within {within_s:g} s"
        time.sleep(0.1)


@pytest.mark.parametrize("most", [10, 2, pytest.param(1, marks=pytest.mark.thorough)])
def test_many_programs_at_once_share_what_sshd_allows(machines: Farm, commands: MachineCommands, most: int) -> None:
    with max_sessions(machines, most), ThreadPoolExecutor(max_workers=24) as pool:
        said = list(
            pool.map(lambda n: commands.run(("sh", "-c", f"sleep 0.3; echo {n}"), timeout_s=60).text, range(24))
        )
    assert said == [f"{number}\n" for number in range(24)]
    assert commands.sessions.limit == most
    assert commands.sessions.connections <= 24 // most + 1


def test_sessions_that_ended_make_room_and_no_connection_more(machines: Farm, commands: MachineCommands) -> None:
    with max_sessions(machines, 2):
        for _ in range(12):
            commands.run(("true",), timeout_s=60)
        assert commands.sessions.connections == 1


def test_an_sshd_that_allows_no_session_is_told_as_such(machines: Farm, commands: MachineCommands) -> None:
    with max_sessions(machines, 0), pytest.raises(StepFailed, match="sshd allows no session") as failed:
        commands.run(("true",), timeout_s=60)
    assert "maxsessions" in failed.value.remedy


@pytest.mark.parametrize("most", [10, pytest.param(2, marks=pytest.mark.thorough)])
def test_forty_taps_of_one_machine_are_captured_whatever_sshd_allows(
    machines: Farm, commands: MachineCommands, most: int
) -> None:
    taps = [
        Tap(name=f"node1:tap{number}", role=Role.CLIENT_LXC, target=target(commands), interface="lo")
        for number in range(40)
    ]
    sources = sources_of(taps)
    assert len(sources) == 80
    opened: list[Any] = []
    sessions, open_session = commands.sessions, commands.sessions.open

    def counted() -> Any:
        opened.append(open_session())
        return opened[-1]

    with max_sessions(machines, most), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "open", counted)
        with streaming(sources, "icmp", snap_byte=128, immediate=True, ready_timeout_s=60.0) as stream:
            machines.machines[0].run("ping", "-c", "3", "-i", "0.2", "127.0.0.1")
            seen = [*stream.read(), *stream.drain(timeout_s=1.0)]
            ended, rest = stream.stop()
        assert len(opened) == 80, "a capture is stopped through the session that it runs in"
        assert [one.trouble for one in ended if one.trouble] == []
        assert {counts.lost for counts in counts_by_tap(ended).values()} == {0}
        # Three requests and three answers; libpcap shows a packet of loopback as it comes in, and not a second time.
        assert [sum(1 for _, n, _ in (*seen, *rest) if n == number) for number in range(80)] == [6, 0] * 40
        assert commands.sessions.connections <= 80 // most + 4
    commands.close()
    wait_until(lambda: not processes(machines, "tcpdump"))


def test_the_load_program_is_carried_to_a_machine_and_measures_there(machines: Farm, commands: MachineCommands) -> None:
    """Through sshd: one session for each end, whose program is gone with it, and of which nothing is left."""
    ends = (target(commands), replace(target(commands), name="node2"))
    session = Session(group="x", client=ends[0], server=ends[1], address="127.0.0.1")
    task = Task(kind=Kind.TCP, share=1.0)
    result = measure_load(
        [session],
        Plan(tasks=(task,), duration_s=0.2, message_byte=64, spin=True, client_cpu=0, server_cpu=0, seed="7"),
    )
    (loaded,) = result.loaded
    assert not loaded.refused
    assert sum(one.operations for one in loaded.slices) > 0
    assert result.conditions.channel_s is not None
    assert result.conditions.slice_s >= 4 * result.conditions.channel_s
    wait_until(lambda: not processes(machines, "/proc/self/fd/3"))
    assert "labctl-load" not in machines.machines[0].run("ls", "/tmp", "/dev/shm", "/var/tmp", "/run")


def test_a_descriptor_that_its_owner_closed_is_still_written_to(commands: MachineCommands) -> None:
    """The capture closes its end of a pipe as soon as tcpdump has been started."""
    reading, writing = os.pipe()
    script = "i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); sleep 0.02; done"
    with target(commands).start(("sh", "-c", script), output=writing) as running:
        os.close(writing)
        other = os.open("/dev/null", os.O_RDONLY)  # gets the number that was closed
        with os.fdopen(reading, "rb") as file:
            assert file.read() == b"".join(b"%d\n" % number for number in range(40))  # to its end
        assert running.wait(timeout_s=60).returncode == 0
    os.close(other)


@pytest.mark.parametrize(
    "end", ["leaving", *(pytest.param(end, marks=pytest.mark.thorough) for end in ("stop", "reader gone"))]
)
def test_a_pipe_that_nobody_reads_holds_nothing_up(machines: Farm, commands: MachineCommands, end: str) -> None:
    reading, writing = os.pipe()
    begun_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        if end != "reader gone":
            stack.callback(os.close, reading)
        running = stack.enter_context(target(commands).start(("yes", f"full-{len(end)}"), output=writing))
        os.close(writing)
        time.sleep(1.0)
        assert running.is_alive()
        if end == "stop":
            with pytest.raises(MeasureFailed, match="is not read"):
                running.stop(sig=signal.SIGINT, timeout_s=3)
        elif end == "reader gone":
            os.close(reading)
            with pytest.raises(MeasureFailed):
                running.wait(timeout_s=60)
    assert time.monotonic() - begun_s < 60
    assert PUMP not in [one.name for one in threading.enumerate()], "it waits in write(2), where nothing ends it"
    wait_until(lambda: not processes(machines, f"yes full-{len(end)}"))


def test_a_file_that_cannot_be_written_is_an_error(commands: MachineCommands) -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        target(commands).start(("echo", "lost"), output=full.fileno()) as running,
        pytest.raises(MeasureFailed, match="cannot be written here") as failed,
    ):
        running.wait(timeout_s=60)
    assert failed.value.cause == "No space left on device"


def test_what_ran_ends_with_its_connection(machines: Farm, commands: MachineCommands) -> None:
    with contextlib.suppress(LabError), target(commands).start(("sleep", "4301")) as running:
        wait_until(lambda: processes(machines, "sleep 4301"))
        machines.machines[0].run("pkill", "-KILL", "-x", "sshd(-session|-auth)?")  # by parts since OpenSSH 9.8
        wait_until(lambda: not processes(machines, "sleep 4301"))
        assert not running.is_alive()
    wait_until(lambda: not processes(machines, "timeout"))


def test_what_does_not_listen_to_sigterm_ends_all_the_same(machines: Farm, commands: MachineCommands) -> None:
    deaf = ("sh", "-c", "trap '' TERM; while :; do sleep 4302; done")
    with commands.start(deaf):
        wait_until(lambda: processes(machines, "sleep 4302"))
    wait_until(lambda: not processes(machines, "sleep 4302"))


@pytest.mark.thorough
def test_the_machine_ends_what_has_run_for_too_long(machines: Farm, commands: MachineCommands) -> None:
    with commands._started(("sleep", "4303"), b"", None, 2.0) as running:
        assert running.is_alive()
        wait_until(lambda: not running.is_alive(), within_s=15)
    assert not processes(machines, "sleep 4303")


_CAPTURING = r"""
import os, sys, time
from kubeadm_labs import make_lab
from labctl.providers.base import TargetKind
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.providers.kubeadm import own_files
from labctl.providers.kubeadm.machines import machines_of
from labctl.providers.kubeadm.ssh import MachineCommands
import json, pathlib

own_files.config_folders = lambda: (pathlib.Path(sys.argv[2]),)
commands = MachineCommands(machines_of(make_lab(hosts=[json.loads(sys.argv[1])], nodes=1))[0])
node = DoorTarget(name="node1", kind=TargetKind.NODE, commands=commands, door=Door(closed=(), open=()))
reading, writing = os.pipe()
with node.start(("tcpdump", "-U", "-Z", "root", "-i", "lo", "-w", "-", "udp"), output=writing) as running:
    running.wait_for_output("listening on", timeout_s=60)
    print("listening", flush=True)
    time.sleep(600)
"""


def test_a_labctl_that_is_killed_leaves_no_tcpdump(machines: Farm) -> None:
    labctl = subprocess.Popen(
        (sys.executable, "-c", _CAPTURING, json.dumps(machines.hosts()[0]), str(machines.directory.parent)),
        env={**os.environ, "PYTHONPATH": ":".join(p for p in sys.path if p)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert labctl.stdout is not None
        assert labctl.stdout.readline() == b"listening\n"
        assert processes(machines, "tcpdump")
    finally:
        labctl.kill()
        labctl.communicate()
    wait_until(lambda: not processes(machines, "tcpdump"))


def test_strays_are_found_by_their_owner_and_ended(machines: Farm, commands: MachineCommands) -> None:
    """Of an owner that has ended, of one that may be alive, of another host, and of somebody who is not labctl."""
    wait_until(lambda: end_strays(commands) == 0)  # watchdogs of the tests before
    ended = subprocess.Popen(("true",))
    ended.wait()
    host, boot, numbers, pid, start = owner().split(".")
    owners = {
        "4401": f"{host}.{boot}.{numbers}.{ended.pid}.1",
        "4402": f"{host}.{boot[::-1]}.{numbers}.{pid}.{start}",
        "4403": f"{host}.{boot}.{int(numbers) + 1}.{ended.pid}.1",
        "4404": f"{host}.{boot}.{numbers}.{pid}.{int(start) + 1}",
        "4405": f"{'0' * 16}.{boot}.{numbers}.{ended.pid}.1",
        "4406": "$(reboot)",
        "4407": owner(),
    }
    running = [
        subprocess.Popen((*machines.machines[0].enter(), "env", f"{OWNER}={mark}", "setsid", "sleep", seconds))
        for seconds, mark in owners.items()
    ]
    machines.machines[0].run("sh", "-c", "echo 999999 >/tmp/labctl-0123456789abcdef.pid")
    try:
        wait_until(lambda: len(processes(machines, "sleep 440")) == len(owners))
        assert end_strays(commands) == 3
        wait_until(lambda: sorted(processes(machines, "sleep 440")) == [f"sleep 440{n}" for n in (3, 5, 6, 7)])
        assert not machines.machines[0].exists("/tmp/labctl-0123456789abcdef.pid")
        assert end_strays(commands) == 0
        assert end_strays(commands, every=True) == 2
        wait_until(lambda: sorted(processes(machines, "sleep 440")) == ["sleep 4406", "sleep 4407"])
    finally:
        for one in running:
            one.kill()
            one.wait()
        machines.machines[0].run("pkill", "-f", "sleep 440", check=False)


@dataclass(frozen=True)
class Listening:
    """An sshd of the test's own, with a listening socket, in this host's network."""

    machine: Machine
    port: int


@contextlib.contextmanager
def listening(grown: Farm, directory: Path, address: str, options: Sequence[str] = ()) -> Iterator[Listening]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "host")), check=True)
    known = directory / "known_hosts"
    known.write_text(f"[{address}]:{port} {(directory / 'host.pub').read_text()}")
    given = (
        f"Port={port}", f"ListenAddress={f'[{address}]' if ':' in address else address}", f"HostKey={directory}/host",
        "PidFile=none", "UsePAM=no", f"AuthorizedKeysFile={grown.key}.pub", "StrictModes=no", "PermitRootLogin=yes",
        *options,
    )  # fmt: skip
    argv = ("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *(word for one in given for word in ("-o", one)))
    script = f"mount -t tmpfs tmpfs /run && mkdir -p -m 755 /run/sshd && exec {shlex.join(argv)}"
    with (directory / "log").open("wb") as log:
        sshd = subprocess.Popen(("unshare", "--mount", "--propagation", "private", "sh", "-c", script), stderr=log)
    try:
        wait_until(lambda: "Server listening" in (directory / "log").read_text())
        yield Listening(replace(machine(grown), address=address, port=port, known_hosts=str(known)), port)
    finally:
        sshd.terminate()
        sshd.wait(timeout=60)


@pytest.mark.thorough
def test_an_sshd_that_has_too_many_at_its_door_is_tried_again(machines: Farm, tmp_path: Path) -> None:
    with listening(machines, tmp_path, "127.0.0.1", ("MaxStartups=2", "LoginGraceTime=60")) as there:
        silent = [socket.create_connection(("127.0.0.1", there.port)) for _ in range(2)]
        for one in silent:
            assert one.recv(4) == b"SSH-"
        commands = MachineCommands(there.machine)

        def leave() -> None:
            for one in silent:
                one.close()

        leaving = threading.Timer(1.2, leave)
        leaving.start()
        try:
            assert commands.run(("echo", "in"), timeout_s=60).text == "in\n"
        finally:
            commands.close()
            leaving.join()
        log = (tmp_path / "log").read_text()
        assert "maxstartups" in log.lower()  # it did turn labctl away; OpenSSH 10 writes it in small letters


@pytest.mark.thorough
def test_many_labctls_at_once_come_past_max_startups(machines: Farm, tmp_path: Path) -> None:
    options = ("MaxStartups=1", "MaxSessions=1", "LoginGraceTime=60")
    with listening(machines, tmp_path, "127.0.0.1", options) as there:
        several = [MachineCommands(there.machine) for _ in range(3)]
        try:
            with ThreadPoolExecutor(max_workers=6) as pool:
                said = list(pool.map(lambda n: several[n % 3].run(("echo", str(n)), timeout_s=60).text, range(6)))
        finally:
            for one in several:
                one.close()
    assert said == [f"{number}\n" for number in range(6)]


@pytest.mark.thorough
def test_many_machines_behind_one_jump_host_come_past_its_max_startups(
    machines: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection is one more to the jump host, of which one place is taken by somebody who says nothing."""
    options = ("MaxStartups=2", "LoginGraceTime=120")
    with listening(machines, tmp_path, "127.0.0.1", options) as jump, contextlib.ExitStack() as held:
        behind = reached(machine(machines))
        through = (
            "ssh", "-F", "none", "-i", str(machines.key), "-o", f"UserKnownHostsFile={tmp_path}/known_hosts",
            "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-W", f"[127.0.0.1]:{behind.port}",
            "-p", str(jump.port), "root@127.0.0.1",
        )  # fmt: skip
        goal = replace(behind, through=through, jump=f"-p {jump.port} root@127.0.0.1")
        monkeypatch.setattr(ssh, "reached", lambda _: goal)
        silent = held.enter_context(socket.create_connection(("127.0.0.1", jump.port)))
        assert silent.recv(4) == b"SSH-"
        several = [MachineCommands(machine(machines)) for _ in range(12)]
        try:
            with ThreadPoolExecutor(max_workers=12) as pool:
                said = list(pool.map(lambda n: several[n].run(("echo", str(n)), timeout_s=60).text, range(12)))
        finally:
            for one in several:
                one.close()
        assert said == [f"{number}\n" for number in range(12)]
        door = ssh.door_of(goal)
        assert door.hung_up >= 1  # it did turn labctl away
        assert door.most < MOST_STARTING  # and that was learned
        assert "maxstartups" in (tmp_path / "log").read_text().lower()


@pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.thorough)])
def test_a_capture_does_not_feed_on_its_own_connection(machines: Farm, tmp_path: Path, address: str) -> None:
    """Every packet that is taken would be sent over SSH, in packets that are taken."""
    with listening(machines, tmp_path, address, ("MaxSessions=2",)) as there, Fleet((there.machine,)) as fleet:
        own = fleet.own_traffic()
        assert own == f"(tcp port {there.port} and host {address} and host {address})"
        node = target(fleet["node1"])
        tap = Tap(name="node1:lo", role=Role.CLIENT_LO, target=node, interface="lo", own=own)
        seen: dict[str, int] = {}
        for case, watched in (("own", Tap(name=tap.name, role=tap.role, target=node, interface="lo")), ("less", tap)):
            with streaming(sources_of([watched]), f"tcp port {there.port}", snap_byte=128, immediate=True) as stream:
                until_s, asked = time.monotonic() + 60, 0
                seen[case] = 0
                while asked < 5 or (case == "own" and seen[case] <= 100 and time.monotonic() < until_s):
                    fleet["node1"].run(("true",), timeout_s=60)  # more connections, with ports of their own
                    asked += 1
                    seen[case] += len(stream.read())
                seen[case] += len(stream.drain(timeout_s=0.5))
                ended, rest = stream.stop()
                seen[case] += len(rest)
            assert [one.trouble for one in ended if one.trouble] == []
        assert seen["own"] > 100
        assert seen["less"] == 0
        assert left_out([tap]) == f"labctl's own connections are left out at node1:lo: {own}"
