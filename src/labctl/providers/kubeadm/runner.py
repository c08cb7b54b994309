"""Runs one playbook by ansible-runner: its events become progress, its failures one error that can be acted on.

Ansible's input and output are kept in one directory (inventory, variables, events, standard output).
The module is imported only when machines are really worked on: ansible-runner takes a while to load.

Progress while Ansible works, as data: which task runs, how it ended on which machine, how long it took.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from labctl.errors import HostLacks, MeasureFailed, StepFailed
from labctl.providers.base import Tell
from labctl.providers.kubeadm.failures import TaskFailure, failure_of, step_failed
from labctl.providers.kubeadm.inventory import to_ansible
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.own_files import require_own, sudo_password
from labctl.providers.kubeadm.ssh_config import reached
from labctl.system import files, process


class TaskOutcome(StrEnum):
    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted:
    """A task begins, on all machines of its play."""

    play: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded:
    """A task has ended on one machine."""

    node: str
    task: str
    outcome: TaskOutcome
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybookEnded:
    """Nothing of this playbook runs any more."""

    playbook: str


TaskEvent = TaskStarted | TaskEnded | PlaybookEnded
TaskObserver = Callable[[TaskEvent], None]


def unheard(event: TaskEvent) -> None:
    """The observer of callers that do not show tasks."""
    del event


class Narrator:
    """Makes one phrase of what all machines report of a task. A task that every machine skipped has no end."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._ended: list[TaskEnded] = []

    def __call__(self, event: TaskEvent) -> None:
        match event:
            case TaskStarted():
                self._end()
                self._tell(event.task, None)
            case TaskEnded():
                self._ended.append(event)
            case PlaybookEnded():
                self._end()

    def _end(self) -> None:
        done = [one for one in self._ended if one.outcome is not TaskOutcome.SKIPPED]
        self._ended = []
        if not done:
            return
        parts = [
            f"{outcome}: {', '.join(nodes)}"
            for outcome in (TaskOutcome.CHANGED, TaskOutcome.FAILED, TaskOutcome.UNREACHABLE)
            if (nodes := sorted(one.node for one in done if one.outcome is outcome))
        ]
        text = done[0].task + (f" ({'; '.join(parts)})" if parts else "")
        self._tell(text, max(one.duration_s for one in done))


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
_MOST_LOG_BYTE = 64 << 20
"""Of what one playbook prints: a few lines for each task and machine."""
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


@dataclass(slots=True)
class _EventListener:
    """Collects the events of one run. Called by ansible-runner's thread, one event after the other."""

    observer: TaskObserver
    failures: list[TaskFailure] = field(default_factory=list)
    counts: dict[TaskOutcome, int] = field(default_factory=lambda: dict.fromkeys(TaskOutcome, 0))
    changed: list[str] = field(default_factory=list)
    refused: str = ""

    def hear(self, event: Mapping[str, Any]) -> bool:
        data = event.get("event_data") or {}
        kind, task, node = event.get("event", ""), str(data.get("task", "")), str(data.get("host", ""))
        match kind:
            case "playbook_on_task_start" | "playbook_on_handler_task_start":
                self.observer(TaskStarted(play=str(data.get("play", "")), task=task))
            case "runner_on_ok":
                changed = bool((data.get("res") or {}).get("changed"))
                self._ended(node, task, TaskOutcome.CHANGED if changed else TaskOutcome.OK, data)
            case "runner_on_skipped":
                self._ended(node, task, TaskOutcome.SKIPPED, data)
            case "runner_on_failed" if not data.get("ignore_errors"):
                self.failures.append(failure_of(node, task, data.get("res") or {}))
                self._ended(node, task, TaskOutcome.FAILED, data)
            case "runner_on_unreachable":
                self.failures.append(failure_of(node, task, data.get("res") or {}, unreachable=True))
                self._ended(node, task, TaskOutcome.UNREACHABLE, data)
            case "error" | "verbose" if "ERROR" in str(event.get("stdout", "")):
                self.refused = str(event["stdout"])
        # Kept on disk by ansible-runner as well.
        return True

    def _ended(self, node: str, task: str, outcome: TaskOutcome, data: Mapping[str, Any]) -> None:
        self.counts[outcome] += 1
        if outcome is TaskOutcome.CHANGED:
            self.changed.append(f"{node}: {task}")
        self.observer(TaskEnded(node=node, task=task, outcome=outcome, duration_s=float(data.get("duration") or 0.0)))


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
        listener = _EventListener(self.observer)
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
            "settings": {"suppress_ansible_output": True, "job_timeout": int(timeout_s), "idle_timeout": 0},
        }
        if check:
            arguments["cmdline"] = "--check"
        if tags:
            arguments["tags"] = ",".join(tags)
        if limit:
            arguments["limit"] = limit
        log = self.directory / "artifacts" / ident / "stdout"
        try:
            result = self._in_thread(init_runner, arguments, log)
        finally:
            self.observer(PlaybookEnded(playbook=playbook))
        if _size_byte(log) > _MOST_LOG_BYTE:
            raise StepFailed(
                what=f"the playbook {playbook}.yml printed more than {_MOST_LOG_BYTE >> 20} MiB, and was stopped",
                cause=_last_lines(log)[-200:],
                remedy=f"tail -c 2000 {shlex.quote(str(log))}",
            )
        if listener.failures:
            raise step_failed(listener.failures, self.machines, str(log))
        if result.status != "successful":
            raise StepFailed(
                what=f"the playbook {playbook}.yml did not finish ({result.status})",
                cause=listener.refused.strip() or _last_lines(log),
                remedy=f"less {shlex.quote(str(log))}",
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
            "LC_ALL": "C.UTF-8",
            # There is no user to answer in a window.
            "SSH_ASKPASS_REQUIRE": "never",
        }

    def _share_a_door(self) -> bool:
        """Whether several machines are behind one jump host, whose sshd hangs up when all forks come at once."""
        doors = [goal.jump or shlex.join(goal.through) for goal in map(reached, self.machines)]
        return any(door and doors.count(door) > 1 for door in doors)

    def _in_thread(self, init_runner: Any, arguments: Mapping[str, Any], log: Path) -> Any:
        """ansible-runner waits in a thread of its own, so that Ctrl-C reaches this one, ends Ansible, and goes on. It
        ends, too, when a machine has it print without an end."""
        stop = threading.Event()
        outcome: dict[str, Any] = {}
        with _without_own_ansible():
            runner = init_runner(**arguments, cancel_callback=stop.is_set)

        def work() -> None:
            try:
                runner.run()
                outcome["result"] = runner
            except BaseException as failed:
                outcome["failed"] = failed

        thread = threading.Thread(target=work, name="labctl-ansible", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.2)
                if _size_byte(log) > _MOST_LOG_BYTE:
                    stop.set()
        except BaseException:
            stop.set()
            thread.join(_END_S)
            raise
        if "failed" in outcome:
            raise outcome["failed"]
        return outcome["result"]


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
