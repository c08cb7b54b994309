"""What a program in a pod or on a node may do, and how `labctl exec` behaves around it. A pod is no security boundary:
what is held here is that nothing of the host's kernel and none of its processes is within reach by mistake."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from netns_building import copied_for, needs_root, running

from labctl.model.lab import Lab
from labctl.providers.netns.provider import NetnsProvider
from labctl.system.powers import Powers, held
from labctl.testing.labs import sample_lab

pytestmark = [pytest.mark.root, needs_root]
ROOT = Path(__file__).parents[3]
LABCTL = str(ROOT / "labctl")
ATTEMPTS = (sys.executable, str(Path(__file__).parent / "attempts.py"), str(os.getpid()))
WAIT_S = 60.0
UNTIL_IT_STOPS = "while jobs | grep -q Running; do sleep 0.1; done; jobs\n"

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
    processes = NetnsProvider().capabilities.processes
    deadline = time.monotonic() + WAIT_S
    while len(inside := processes(lab.name)) > 1 and time.monotonic() < deadline:
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


class Terminal:
    """A program with a terminal of its own, and somebody who types once something is to be read."""

    def __init__(self, *argv: str) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update(PS1="PROMPT> ", TERM="dumb")
            os.execvp(argv[0], argv)
        self.unread = ""

    def reads(self, text: str, then: str = "") -> None:
        deadline = time.monotonic() + WAIT_S
        while text not in self.unread:
            assert select.select([self.descriptor], [], [], max(0.0, deadline - time.monotonic()))[0], self.unread
            self.unread += os.read(self.descriptor, 65536).decode(errors="replace")
        self.unread = self.unread.partition(text)[2]
        self.types(then)

    def types(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def once_a_job_is_in_front(self, then: str) -> None:
        """A shell names the job that it continues before it gives it the terminal: a key in between is the shell's."""
        deadline = time.monotonic() + WAIT_S
        while os.tcgetpgrp(self.descriptor) == self.pid:
            assert time.monotonic() < deadline, self.unread
        self.types(then)

    def ends(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)


@contextmanager
def shell(before: tuple[str, ...] = ()) -> Iterator[Terminal]:
    """An interactive shell, which must have its terminal at the end, and answer to it."""
    terminal = Terminal(*before, "bash", "--norc", "--noprofile", "-i")
    try:
        terminal.reads("PROMPT> ")
        yield terminal
        terminal.types("echo still he''re; jobs; exit 23\n")
        terminal.reads("still here\r\nexit")
    except BaseException:
        if front := os.tcgetpgrp(terminal.descriptor):  # 0 when the shell has ended: this process's own group
            os.killpg(front, signal.SIGKILL)
        os.kill(terminal.pid, signal.SIGKILL)
        terminal.ends()
        raise
    assert terminal.ends() == 23


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def typed(lab: Lab, *argv: str, target: str = "client", options: tuple[str, ...] = ()) -> str:
    return shlex.join((LABCTL, "exec", *options, lab.name, target, "--", *argv))


def test_a_shell_in_a_pod_has_the_terminal_with_its_jobs_and_gives_it_back(lab: Lab) -> None:
    inside = typed(lab, "bash", "--norc", "--noprofile", "-i")
    terminal = Terminal("sh", "-c", f'{inside}; echo "code $?"; read typed; echo "typed=$typed"; exit 5')
    terminal.reads("PROMPT> ", "sh -c 'echo be''gun; exec sleep 300'\n")
    terminal.reads("begun", "\x03")
    terminal.reads("PROMPT> ", 'echo "in""terrupted $?"; sh -c "echo be""gun; exec sleep 300"\n')
    terminal.reads("interrupted 130")
    terminal.reads("begun", "\x1a")
    terminal.reads("Stopped", "kill -9 %1; sleep 0.5; jobs; exit 4\n")
    terminal.reads("code 4", "words\n")
    terminal.reads("typed=words")
    assert terminal.ends() == 5


@pytest.mark.parametrize(("target", "options"), [("client", ()), ("node1", ()), ("client", ("--privileged",))], ids=str)
def test_ctrl_c_and_ctrl_z_reach_a_program_in_a_pod(lab: Lab, target: str, options: tuple[str, ...]) -> None:
    with shell() as terminal:
        for key, code in (("\x03", 130), ("\x1c", 131)):
            inside = typed(
                lab, "sh", "-c", "ulimit -c 0; echo be$((1))gun; exec sleep 300", target=target, options=options
            )
            terminal.types(f"{inside}\n")
            terminal.reads("be1gun", "\x1a")
            terminal.reads("Stopped")
            terminal.reads("PROMPT> ", "fg\n")
            terminal.once_a_job_is_in_front(key)
            terminal.reads("PROMPT> ", "echo co''de $?\n")
            terminal.reads(f"code {code}")
            terminal.reads("PROMPT> ")
        inside = typed(lab, "sh", "-c", "echo be$((1))gun; exec cat", target=target, options=options)
        terminal.types(f"{inside}\n")
        terminal.reads("be1gun", "a line\n")
        terminal.reads("a line\r\na line", "\x1a")
        terminal.reads("Stopped")
        terminal.reads("PROMPT> ", "bg\n")
        terminal.reads("PROMPT> ", UNTIL_IT_STOPS)  # it reads where it may not
        terminal.reads("Stopped")
        terminal.reads("PROMPT> ", "fg\n")
        terminal.once_a_job_is_in_front("another\n")
        terminal.reads("another\r\nanother", "\x04")
        terminal.reads("PROMPT> ")


@pytest.mark.parametrize("program", ["sh", "bash --norc", "bash --norc -i"])
def test_a_shell_in_a_pod_stops_goes_on_and_ends_as_a_job_of_the_one_outside(lab: Lab, program: str) -> None:
    with shell() as terminal:
        terminal.types(f"PS1='INSIDE> ' {typed(lab, *program.split())}\n")
        terminal.reads("\nINSIDE> ", "bash --norc -c 'echo be''gun; exec sleep 300'\n")
        terminal.reads("begun", "\x03")
        terminal.reads("\nINSIDE> ", "kill -STOP $$\n")
        terminal.reads("Stopped")
        terminal.reads("PROMPT> ", "fg\n")
        terminal.reads("INSIDE> " if program == "sh" else program)
        terminal.types("echo in''side $$; exit 4\n")
        terminal.reads("inside 2\r\n")
        terminal.reads("PROMPT> ", "echo co''de $?\n")
        terminal.reads("code 4")
        terminal.reads("PROMPT> ")


@pytest.mark.parametrize("program", ["sh", "bash --norc", "cat"])
def test_what_is_started_in_the_background_leaves_the_terminal_until_it_is_in_front(
    lab: Lab, program: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with shell() as terminal:
        terminal.types(f"PS1='INSIDE> ' {typed(lab, *program.split())} &\n")
        terminal.reads("PROMPT> ", UNTIL_IT_STOPS)
        terminal.reads("Stopped")
        terminal.reads("PROMPT> ", "fg\n")
        terminal.once_a_job_is_in_front("echo in''side; exit 4\n" if program != "cat" else "inside\n\x04")
        terminal.reads("inside\r\n")
        terminal.reads("PROMPT> ", "echo co''de $?\n")
        terminal.reads("code 0" if program == "cat" else "code 4")
        terminal.reads("PROMPT> ", f"{typed(lab, 'sh', '-c', f'touch {begun}; exec sleep 300')} &\n")
        until(begun.exists)  # Python itself gives 1 to who interrupts it before it has begun with labctl
        terminal.reads("PROMPT> ", "fg\n")
        terminal.once_a_job_is_in_front("\x03")  # of what runs already, nothing tells it that it is in front
        terminal.reads("PROMPT> ", "echo co''de $?\n")
        terminal.reads("code 130")
        terminal.reads("PROMPT> ")


def test_programs_beside_exec_in_a_pipeline_and_scripts_around_it_have_the_keys_too(lab: Lab) -> None:
    with shell() as terminal:
        beside = "sh -c 'cat; read typed </dev/tty; echo \"typed=$typed\"'"
        terminal.types(f"echo give''n | {typed(lab, 'cat')} | {beside}\n")
        terminal.reads("given\r\n", "words\n")
        terminal.reads("typed=words")
        terminal.reads("PROMPT> ")
        terminal.types(f"{typed(lab, 'sh', '-c', 'echo be$((1))gun; exec sleep 300')} | cat\n")
        terminal.reads("be1gun", "\x1a")
        terminal.reads("Stopped")
        terminal.reads("PROMPT> ", "fg\n")
        terminal.once_a_job_is_in_front("\x03")
        terminal.reads("PROMPT> ", "echo co''de $?\n")
        terminal.reads("code 130")
        terminal.reads("PROMPT> ")
        script = f"for one in 1 2; do {typed(lab, 'sh', '-c', 'echo be$((1))gun; exec sleep 300')}; done; echo do''ne"
        terminal.types(f"bash -c {shlex.quote(script)}\n")
        terminal.reads("be1gun", "\x1a")
        terminal.reads("Stopped")
        terminal.reads("PROMPT> ", "fg\n")
        terminal.once_a_job_is_in_front("\x03")
        terminal.reads("PROMPT> ", "echo co''de $?\n")
        terminal.reads("code 130")
        terminal.reads("PROMPT> ")


@pytest.mark.parametrize("program", ["sh -i", "bash --norc -i"])
@pytest.mark.parametrize("beside", ["| tee {copy}", "2>&1 | cat", "2>{copy}"])
def test_a_shell_in_a_pipeline_gets_the_terminal_when_it_asks_and_ends_well(
    lab: Lab, tmp_path: Path, program: str, beside: str
) -> None:
    with shell() as terminal:
        pipeline = f"PS1= {typed(lab, *program.split())} {beside.format(copy=tmp_path / 'copy')}"
        terminal.types(f"{pipeline}; echo co''des ${{PIPESTATUS[*]}}\n")
        terminal.types("echo in''side\n")
        terminal.reads("inside\r\n", "sh -c 'echo be''gun; exec sleep 300'\n")
        terminal.reads("begun", "\x03")
        terminal.types("echo go''es on\n")
        terminal.reads("goes on\r\n", "exit 0\n")
        terminal.reads("codes 0" + " 0" * ("|" in beside))
        terminal.reads("PROMPT> ")
        terminal.types(f"{typed(lab, 'sh', '-c', 'echo be$((1))gun; exec cat')} {beside.format(copy='/dev/null')}\n")
        terminal.reads("be1gun", "a line\n")
        terminal.reads("a line\r\na line", "\x1a")
        terminal.reads("Stopped")
        terminal.reads("PROMPT> ", "fg\n")
        terminal.once_a_job_is_in_front("another\n")
        terminal.reads("another\r\nanother", "\x04")
        terminal.reads("PROMPT> ")


SUDOERS = "Defaults {use}use_pty, !requiretty\nroot ALL=(ALL:ALL) NOPASSWD: ALL\n"


@pytest.mark.skipif(shutil.which("sudo") is None, reason="needs sudo")
@pytest.mark.parametrize("use", ["", "!"], ids=["on sudo's own terminal", "on the person's terminal"])
def test_behind_sudo_a_shell_and_the_keys_are_as_without_it(lab: Lab, tmp_path: Path, use: str) -> None:
    sudoers = tmp_path / "sudoers"
    sudoers.write_text(SUDOERS.format(use=use))
    sudoers.chmod(0o440)
    with shell(("unshare", "--mount", "--propagation", "private")) as terminal:
        terminal.types(f"mount --bind {sudoers} /etc/sudoers\n")
        terminal.reads("PROMPT> ", f"sudo env PS1='INSIDE> ' {typed(lab, 'bash', '--norc', '-i')}\n")
        terminal.reads("\nINSIDE> ", "sh -c 'echo be''gun; exec sleep 300'\n")
        terminal.reads("begun", "\x03")
        terminal.reads("\nINSIDE> ", "exit 4\n")
        terminal.reads("PROMPT> ", "echo co''de $?\n")
        terminal.reads("code 4")
        terminal.reads("PROMPT> ")
        for key, code in (("\x03", 130), ("\x1c", 131)):
            inside = typed(lab, "sh", "-c", "ulimit -c 0; echo be$((1))gun; exec sleep 300")
            terminal.types(f"sudo {inside}\n")
            terminal.reads("be1gun", "\x1a")
            terminal.reads("Stopped")
            terminal.reads("PROMPT> ", "fg\n")
            terminal.once_a_job_is_in_front(key)
            terminal.reads("PROMPT> ", "echo co''de $?\n")
            terminal.reads(f"code {code}")
            terminal.reads("PROMPT> ")
        terminal.types(f"sudo {typed(lab, 'sh', '-c', 'echo be$((1))gun; exec cat')} | cat\n")
        terminal.reads("be1gun", "a line\n")
        terminal.reads("a line\r\na line", "\x04")
        terminal.reads("PROMPT> ")


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
