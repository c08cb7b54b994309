"""Runs one playbook by ansible-runner: its events become progress, its failures one error that can be acted on.

Ansible's input and output are kept in one directory (inventory, variables, events, standard output).
The module is imported only when machines are really worked on: ansible-runner takes a while to load.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labctl.errors import HostLacks, MeasureFailed, StepFailed
from labctl.providers.kubeadm.events import (
    MOST_RESULT,
    EventListener,
    PlaybookEnded,
    TaskObserver,
    TaskOutcome,
    unheard,
)
from labctl.providers.kubeadm.failures import step_failed
from labctl.providers.kubeadm.inventory import to_ansible
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.own_files import require_own, sudo_password
from labctl.providers.kubeadm.ssh_config import reached
from labctl.system import files, process
from labctl.system.clock import Deadline
from labctl.system.usage import ThreadUsage
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybookResult:
    """How a playbook went, in counts of tasks over all machines. `changed_tasks` are `node: task`."""

    playbook: str
    ok: int
    changed: int
    skipped: int
    changed_tasks: tuple[str, ...]
    duration_s: float
    log: str


_SSH_ARGS = (
    "-o ControlMaster=auto -o ControlPersist=60s -o BatchMode=yes -o PasswordAuthentication=no "
    "-o StrictHostKeyChecking=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3 "
    # Of the user's own configuration, what is meant for sitting at a terminal.
    "-o ClearAllForwardings=yes -o PermitLocalCommand=no -o RemoteCommand=none -o RequestTTY=no -o LogLevel=INFO"
)
_SSH_CONFIGURATION = """\
Match all
  BatchMode yes
  StrictHostKeyChecking yes
Include ~/.ssh/config
Include /etc/ssh/ssh_config
"""
"""What ssh reads for Ansible: the user's configuration, after what it may not loosen. By a file and not by options,
since the ssh of a jump host, which ssh starts by itself, gets the file and no option."""
_RETRIES_THROUGH_A_DOOR = 5
"""Ansible waits 1, 3, 7, 15 and 30 s between them; what is merely off takes no longer to be named, except behind a jump
host that several machines share."""
_PACKAGE = 'pip install "ansible-core>=2.15" "ansible-runner>=2.3" "fabric>=3.2"'
_END_S = 15.0
_CLOSE_S = 2.0
_MOST_LOG_BYTE = 16 << 20
"""Of what one playbook prints: a few lines for each task and machine."""
_MOST_EVENT_BYTE = 8 << 20
"""Between two events: one machine's answer to one task, as Ansible prints it. In memory it is twelve times that."""
_MOST_MEMORY_BYTE, _MOST_MACHINE_BYTE = 192 << 20, 48 << 20
"""Of ansible-playbook with what it starts, and more for each machine: it keeps the whole of an answer several times. It
takes 110 MiB for one machine and 290 MiB for six, with their modules on this host (ansible-core 2.19)."""
_LOOK_S, _LOOKS_A_WEIGHING = 0.1, 5
"""The kernel takes some milliseconds to say what one process has in memory."""
_TAIL_BYTE = 65536
_CONFIGURATION = "config"
_SOCKET_BYTE = 107
"""What the path of a Unix socket may have (`sun_path` without its final zero)."""
_SOCKET_NAME_BYTE = 1 + 10 + 17
"""A slash, the ten characters that Ansible makes of a machine, and what ssh appends while it binds."""


def playbooks_directory() -> Path:
    """Where the playbooks are: beside the source tree that this module is part of."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "playbooks" / "prepare.yml").is_file():
            return parent / "playbooks"
    raise HostLacks(
        what="the playbooks were not found",
        cause="the provider kubeadm needs labctl's source tree, with its directory playbooks/",
        remedy="git clone labctl and run ./labctl in it",
    )


def ansible_playbook() -> str | None:
    """The program, of the same installation as this Python first."""
    beside = Path(sys.executable).with_name("ansible-playbook")
    return str(beside) if beside.is_file() else shutil.which("ansible-playbook")


def socket_directory() -> Path:
    """A new directory for ssh's control sockets, mode 0700: where temporary files go, unless ssh could not bind a
    socket there. Raises StepFailed where no directory is suitable."""
    refused = []
    others = ("/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/run", "/dev/shm")  # nosec B108  # mkdtemp is safe there
    for parent in (tempfile.gettempdir(), *others):
        # ssh splits at quotes, and expands % and ${…}.
        if not parent or re.search(r'[%"\\]|\$\{', parent):
            continue
        if len(os.fsencode(parent)) + len("/labctl-ssh-12345678") + _SOCKET_NAME_BYTE > _SOCKET_BYTE:
            refused.append(f"{parent}: its name is too long")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="labctl-ssh-", dir=parent))
        except OSError as failed:
            refused.append(f"{parent}: {failed.strerror}")
    raise StepFailed(
        what="no directory is suitable for ssh's control sockets",
        cause="; ".join(refused) or "the directory for temporary files has % or quotes in its name",
        remedy="run the same command with TMPDIR=DIRECTORY before it, where the directory has a short name",
    )


class AnsibleRunner:
    """Playbooks against one set of machines. `directory` keeps everything (made with mode 0700).

    Raises UsageError and StepFailed for passwords and host keys that are not the person's own (`own_files`).
    """

    def __init__(self, directory: Path, machines: Sequence[Machine], observer: TaskObserver = unheard) -> None:
        self.directory = directory
        self.machines = tuple(machines)
        # Ansible reads these files itself, whenever it needs them.
        for machine in self.machines:
            require_own(machine)
            sudo_password(machine)
        self.observer = observer
        self._sockets = socket_directory()
        files.write_own(self._sockets / _CONFIGURATION, _SSH_CONFIGURATION.encode())
        self._number = 0

    def close(self) -> None:
        """Ends the SSH connections that Ansible kept open."""
        files.remove_own(self._sockets / _CONFIGURATION)
        for socket in self._sockets.iterdir():
            with contextlib.suppress(MeasureFailed):
                process.run(("ssh", "-o", f"ControlPath={socket}", "-O", "exit", "labctl"), timeout_s=5.0)
        # A connection that is just ending still has its socket there, and removes it by itself.
        until_s = time.monotonic() + _CLOSE_S
        while self._sockets.exists() and time.monotonic() < until_s:
            with contextlib.suppress(OSError):
                files.remove_tree(self._sockets)
            time.sleep(0.02)

    def __enter__(self) -> AnsibleRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def play(
        self,
        playbook: str,
        inventory: Mapping[str, Any],
        variables: Mapping[str, Any],
        *,
        check: bool = False,
        tags: Sequence[str] = (),
        limit: str = "",
        timeout_s: float = 3600.0,
    ) -> PlaybookResult:
        """Runs `playbook` (its name without .yml). Raises StepFailed naming machine, task, message and remedy.

        With `check` nothing is changed, and `changed` counts what would be.
        """
        program = ansible_playbook()
        if program is None:
            raise HostLacks(what="ansible-playbook is not on this host", remedy=_PACKAGE)
        try:
            from ansible_runner.interface import init_runner  # type: ignore[import-untyped]
        except ImportError as missing:
            raise HostLacks(what="ansible-runner is not on this host", cause=str(missing), remedy=_PACKAGE) from missing
        listener = EventListener(self.observer)
        ident = self._prepare(playbook, inventory, variables)
        begun = time.monotonic()
        arguments: dict[str, Any] = {
            "private_data_dir": str(self.directory),
            "project_dir": str(playbooks_directory()),
            "playbook": f"{playbook}.yml",
            "ident": ident,
            "quiet": True,
            "event_handler": listener.hear,
            "envvars": self._environment(program),
            "settings": {"suppress_ansible_output": True, "job_timeout": 0, "idle_timeout": 0},
        }
        if check:
            arguments["cmdline"] = "--check"
        if tags:
            arguments["tags"] = ",".join(tags)
        if limit:
            arguments["limit"] = limit
        log = self.directory / "artifacts" / ident / "stdout"
        try:
            status, excess = self._in_thread(init_runner, arguments, log, listener, timeout_s)
        finally:
            self.observer(PlaybookEnded(playbook=playbook))
        if excess:
            raise StepFailed(
                what=f"the playbook {playbook}.yml was stopped: {excess}",
                cause=f"task {listener.task or 'none'}; the last lines before it: {_last_lines(log)[-200:]}",
                remedy=f"tail -c 2000 {shlex.quote(str(log))}",
            )
        if listener.failures:
            raise step_failed(listener.failures, self.machines, str(log))
        if status != "successful":
            raise StepFailed(
                what=f"the playbook {playbook}.yml did not finish ({status})",
                cause=listener.refused.strip() or _last_lines(log),
                remedy=f"less {shlex.quote(str(log))}",
            )
        if not listener.is_summed_up:
            raise StepFailed(
                what=f"{program} ended with success and reported no task of the playbook {playbook}.yml",
                cause=f"its last output: {_last_lines(log)}",
                remedy=f"{shlex.quote(program)} --version  # a different program of that name?",
            )
        return PlaybookResult(
            playbook=playbook,
            ok=listener.counts[TaskOutcome.OK],
            changed=listener.counts[TaskOutcome.CHANGED],
            skipped=listener.counts[TaskOutcome.SKIPPED],
            changed_tasks=tuple(listener.changed),
            duration_s=time.monotonic() - begun,
            log=str(log),
        )

    def _prepare(self, playbook: str, inventory: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        for part in ("inventory", "env", "artifacts", "tmp"):
            files.make_own_folder(self.directory / part)
        # What is in these two is read too. ansible-runner keeps the arguments of a run for the next one: --check would
        # never end. The inventory of older labctls is no data.
        for name in ("cmdline", "envvars", "passwords", "settings", "ssh_key", "extravars"):
            files.remove_own(self.directory / "env" / name)
        files.remove_own(self.directory / "inventory" / "hosts.json")
        files.write_own(self.directory / "inventory" / "hosts.yml", to_ansible(inventory).encode())
        files.write_own(self.directory / "env" / "extravars", to_ansible(variables).encode())
        self._number += 1
        return f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{self._number}-{playbook}"

    def _environment(self, program: str) -> dict[str, str]:
        return {
            "PATH": f"{Path(program).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "ANSIBLE_CONFIG": str(playbooks_directory() / "ansible.cfg"),
            # An inventory is read as YAML and never run; facts of a machine do not become variables of their own name.
            "ANSIBLE_INVENTORY_ENABLED": "ansible.builtin.yaml",
            "ANSIBLE_INJECT_FACT_VARS": "False",
            "ANSIBLE_HOME": str(self.directory / "tmp"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._sockets),
            "ANSIBLE_SSH_ARGS": f"-F {shlex.quote(str(self._sockets / _CONFIGURATION))} {_SSH_ARGS}",
            "ANSIBLE_HOST_KEY_CHECKING": "True",
            # For sudo, which waits 20 s on a machine that cannot find its own name. Connections have their own limit.
            "ANSIBLE_TIMEOUT": "60",
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_SSH_RETRIES": str(_RETRIES_THROUGH_A_DOOR if self._share_a_door() else 0),
            "ANSIBLE_FORKS": str(max(5, len(self.machines))),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_DEPRECATION_WARNINGS": "False",
            "PYTHONWARNINGS": "ignore",
            "MAX_EVENT_RES": str(MOST_RESULT),
            "LC_ALL": "C.UTF-8",
            # There is no user to answer in a window.
            "SSH_ASKPASS_REQUIRE": "never",
        }

    def _share_a_door(self) -> bool:
        """Whether several machines are behind one jump host, whose sshd hangs up when all forks come at once."""
        doors = [goal.jump or shlex.join(goal.through) for goal in map(reached, self.machines)]
        return any(door and doors.count(door) > 1 for door in doors)

    def _in_thread(
        self, init_runner: Any, arguments: Mapping[str, Any], log: Path, listener: EventListener, timeout_s: float
    ) -> tuple[str, str]:
        """How it ended, in ansible-runner's word, and what was too much when a machine had it print or keep too much.

        ansible-runner waits in a thread of its own, so that Ctrl-C reaches this one, ends Ansible, and goes on. It
        would end the first process of Ansible alone: those that work on machines have sessions of their own."""
        stop = threading.Event()
        outcome: dict[str, BaseException] = {}
        with _without_own_ansible():
            runner = init_runner(**arguments, cancel_callback=stop.is_set)
        # After the end of labctl, however it came, no further task begins.
        runner.config.command = [*process.dying_with_this_thread(), *runner.config.command]

        def work() -> None:
            try:
                runner.run()
            except BaseException as failed:
                outcome["failed"] = failed

        thread = threading.Thread(target=work, name="labctl-ansible", daemon=True)
        thread.start()
        limits = _Limits(
            usage=ThreadUsage(thread),
            log=log,
            listener=listener,
            most_memory_byte=_MOST_MEMORY_BYTE + len(self.machines) * _MOST_MACHINE_BYTE,
        )
        deadline = Deadline.after(timeout_s)
        excess, is_late = "", False
        try:
            while thread.is_alive():
                thread.join(_LOOK_S)
                excess, is_late = excess or limits.excess(), is_late or deadline.is_over()
                if thread.is_alive() and (excess or is_late):
                    limits.usage.kill()
                    stop.set()
        except BaseException:
            limits.usage.kill()
            stop.set()
            thread.join(_END_S)
            raise
        if "failed" in outcome:
            raise outcome["failed"]
        return "timeout" if is_late else runner.status, excess


@dataclass(slots=True)
class _Limits:
    """Of what one playbook may print and keep, whatever its machines answer."""

    usage: ThreadUsage
    log: Path
    listener: EventListener
    most_memory_byte: int
    _heard: int = -1
    _read_byte: int = 0
    _looks: int = 0

    def excess(self) -> str:
        """What is too much by now; empty when nothing is."""
        self._looks += 1
        read_byte, heard = self.usage.read_byte(), self.listener.heard
        if heard != self._heard:
            self._heard, self._read_byte = heard, read_byte
        if read_byte - self._read_byte > _MOST_EVENT_BYTE:
            return f"a machine answered one task with more than {_MOST_EVENT_BYTE >> 20} MiB"
        if _size_byte(self.log) > _MOST_LOG_BYTE:
            return f"it printed more than {_MOST_LOG_BYTE >> 20} MiB"
        if self._looks % _LOOKS_A_WEIGHING == 0 and self.usage.memory_byte() > self.most_memory_byte:
            most = f"{self.most_memory_byte >> 20} MiB"
            return f"ansible-playbook used more than {most} of memory for what machines answered"
        return ""


def _size_byte(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _without_own_ansible() -> Iterator[None]:
    """Hides the user's own ANSIBLE_… variables from ansible-runner, which passes on all of this process's: plugins and
    settings of other projects would change what a lab is."""
    own = {name: value for name, value in os.environ.items() if name.startswith("ANSIBLE_")}
    for name in own:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(own)


def _last_lines(log: Path) -> str:
    try:
        text = files.read_tail(log, most_byte=_TAIL_BYTE).decode(errors="replace")
    except OSError:
        return "it wrote no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-3:]) or "it printed nothing"
