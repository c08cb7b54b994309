"""What a program in a pod or on a node may do, and how `labctl exec` behaves around it. A pod is no security boundary:
what is held here is that nothing of the host's kernel and none of its processes is within reach by mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns_building import copied_for, needs_root, running

from labctl.model.lab import Lab
from labctl.providers.base import HoldsProcesses
from labctl.providers.netns.provider import NetnsProvider
from labctl.system.powers import Powers, held
from labctl.testing.sample_lab import sample_lab

pytestmark = [pytest.mark.root, needs_root]
ROOT = Path(__file__).parents[3]
LABCTL = str(ROOT / "labctl")
ATTEMPTS = (sys.executable, str(Path(__file__).parent / "attempts.py"), str(os.getpid()))
WAIT_S = 60.0

OF_THE_LAB = (
    "ping", "tcpdump", "packet socket", "raw socket", "low port", "address", "link, tc and mtu", "sysctl net",
    "iptables", "nft", "conntrack", "another user",
)  # fmt: skip
OF_A_NODE = ("bpftool", "mount")
OF_THE_HOST = (
    "unload a module", "see a process", "signal a process", "trace", "root of the first process",
    "network of the first process", "memory of the first process", "device file", "chroot", "raw input and output",
    "clock", "reboot", "accounting", "priority", "sysctl kernel", "sysctl vm", "sysctl fs", "switch in /sys",
    "parameter of a module", "cgroup",
)  # fmt: skip
REFUSALS = {"EPERM", "EACCES", "EROFS", "ESRCH", "ENOENT", "ENOSYS"}
MUST_SHOW = {"see a process", "signal a process", "trace", "device file", "chroot", "sysctl kernel", "accounting"}
"""Of what belongs to the host: what differs with --privileged on any host."""


@pytest.fixture
def lab(host_as_found: str) -> Iterator[Lab]:
    with running(sample_lab(host_as_found)) as lab:
        yield lab


def by_exec(lab: Lab, target: str, *argv: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    full = (LABCTL, "exec", *options, lab.name, target, "--", *argv)
    return subprocess.run(full, capture_output=True, text=True, timeout=60, check=False)


def test_a_program_acts_on_the_labs_network_and_neither_on_the_host_nor_on_its_processes(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    free = json.loads(by_exec(lab, "node1", *ATTEMPTS, options=("--privileged",)).stdout)
    (tmp_path / "tried.device").unlink()
    assert {name for name in OF_THE_LAB + OF_A_NODE if free[name]} == set()
    with NetnsProvider().open(lab) as opened:
        for target, powers in (("client", Powers.POD), ("node1", Powers.NODE)):
            of_check = opened.target(target).run(ATTEMPTS, timeout_s=60)
            of_exec = by_exec(lab, target, *ATTEMPTS)
            for said in (of_check.text, of_exec.stdout):
                found = json.loads(said)
                works = OF_THE_LAB + (OF_A_NODE if powers is Powers.NODE else ())
                assert {name: found[name] for name in works if found[name]} == {}, target
                assert {name: found[name] for name in OF_THE_HOST if found[name] not in REFUSALS} == {}, target
                assert {name for name in MUST_SHOW if found[name] == free[name]} == set(), target
                assert int(found["capabilities"], 16) == sum(1 << one for one in powers.kept.intersection(held()))
            assert target != "client" or (json.loads(of_exec.stdout)["mount"]) == "EPERM"
    assert not (tmp_path / "tried.device").exists()


def test_what_a_program_leaves_running_lives_on_alone_and_ends_with_the_lab(lab: Lab) -> None:
    begun = time.monotonic()
    left = by_exec(lab, "client", "sh", "-c", "sleep 300 >/dev/null 2>&1 & (sleep 0.1 &) ; echo $$")
    assert (left.returncode, left.stdout) == (0, "2\n")
    assert time.monotonic() - begun < 60
    provider = NetnsProvider()
    assert isinstance(provider, HoldsProcesses)
    deadline = time.monotonic() + WAIT_S
    while len(inside := provider.processes(lab.name)) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [one.split()[0] for one in inside] == ["sleep"]
    assert "sleep" not in by_exec(lab, "client", "ps", "-eo", "comm").stdout


def test_exec_ends_as_its_program_ends_and_hands_on_what_it_is_sent(lab: Lab) -> None:
    assert by_exec(lab, "client", "sh", "-c", "exit 41").returncode == 41
    for sent in (signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL):
        assert by_exec(lab, "client", "sh", "-c", f"kill -{int(sent)} $$").returncode == -sent
    script = "trap 'echo heard; exit 9' {0}; echo ready; while :; do sleep 0.05; done"
    for sent in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        with started(lab, "client", "sh", "-c", script.format(sent.name[3:])) as one:
            one.send_signal(sent)
            assert (one.communicate(timeout=WAIT_S)[0], one.returncode) == ("heard\n", 9)
    with started(lab, "node1", "sh", "-c", "echo ready; exec sleep 300") as one:
        one.kill()
        assert one.communicate(timeout=WAIT_S)[0] == ""  # it had the pipe open as long as it lived
    reap_adopted()


def reap_adopted() -> None:
    """Whoever loses a parent outside of the PID namespace becomes a child of pytest here, elsewhere of the host's first
    process, which collects it at once."""
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        if not os.waitpid(-1, os.WNOHANG)[0]:
            time.sleep(0.02)


def started(lab: Lab, target: str, *argv: str) -> subprocess.Popen[str]:
    one = subprocess.Popen((LABCTL, "exec", lab.name, target, "--", *argv), stdout=subprocess.PIPE, text=True)
    assert one.stdout is not None
    assert one.stdout.readline() == "ready\n"
    return one


def test_much_goes_in_and_out(lab: Lab) -> None:
    done = subprocess.run(
        (LABCTL, "exec", lab.name, "client", "--", "cat"), input=b"x" * 5_000_000, stdout=subprocess.PIPE, timeout=60
    )
    assert (done.returncode, len(done.stdout)) == (0, 5_000_000)


NO_PID_NAMESPACES = """
import os
from pathlib import Path
from labctl.providers.netns.probes import _own_processes
from labctl.system import process
from labctl.system.powers import Powers
Path("/proc/sys/user/max_pid_namespaces").write_text("0")
probe = _own_processes()
print(probe.present, probe.required, probe.found)
done = process.run(("true",), timeout_s=60, namespace=Path("/proc/self/ns/net"), powers=Powers.POD)
print(done.returncode, done.error_text)
"""


def test_a_host_that_allows_no_own_processes_says_so(host_as_found: str, tmp_path: Path) -> None:
    inside = ("unshare", "-Urnm", os.path.realpath(sys.executable), "-c", NO_PID_NAMESPACES)
    environment = {**os.environ, "PYTHONPATH": str(copied_for(NO_PID_NAMESPACES, tmp_path))}
    ended = subprocess.run(inside, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ended.stdout.splitlines() == [
        "False False [Errno 28] No space left on device: 'process numbers of its own'",
        "0 ",
    ], ended.stdout + ended.stderr
