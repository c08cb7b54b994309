"""SSH by Fabric: one connection to each machine, kept and reused; programs on it as `Commands` of the seam.

Host keys are those of known_hosts and no others: an unknown or changed one is refused with what to do. Logging in is
by key or agent; no password is ever sent, and none stands on a command line. A process that is started has a channel
of its own without a terminal, so that its output is bytes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import HostLacks, MeasureFailed, StepFailed
from labctl.providers.base import Completed, Running
from labctl.providers.kubeadm.failures import TaskFailure, step_failed
from labctl.providers.kubeadm.machines import Machine
from labctl.system.clock import Deadline

if TYPE_CHECKING:
    from fabric import Connection  # type: ignore[import-untyped]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/labctl/bin"
"""sudo's own has no /usr/local/bin on the RHEL family."""
_CONNECT_S = 10.0
_KEEPALIVE_S = 5
_DRAIN_S = 5.0
_POLL_S = 0.005
_CHUNK = 65536


def connect(machine: Machine) -> Connection:
    """An open connection to the machine. Raises StepFailed that names machine, reason and remedy."""
    try:
        import paramiko  # type: ignore[import-untyped]
        from fabric import Config, Connection
    except ImportError as missing:
        raise HostLacks(
            what="Fabric is not on this host", cause=str(missing), remedy='pip install "fabric>=3.2"'
        ) from missing
    # paramiko's threads write tracebacks of their own; what they met is raised here, and told once.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
    arguments: dict[str, Any] = {"banner_timeout": _CONNECT_S, "auth_timeout": _CONNECT_S}
    if machine.key:
        arguments |= {"key_filename": str(Path(machine.key).expanduser()), "look_for_keys": False}
    connection = Connection(
        machine.address,
        user=machine.user,
        port=machine.port,
        connect_timeout=int(_CONNECT_S),
        connect_kwargs=arguments,
        # ssh_config could name other machines, users and jumps than lab.yaml: what is written there is what happens.
        config=Config(overrides={"load_ssh_configs": False}),
    )
    client = connection.client
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        if machine.known_hosts:
            client.load_host_keys(str(Path(machine.known_hosts).expanduser()))
        else:
            client.load_system_host_keys()
        connection.open()
        connection.transport.set_keepalive(_KEEPALIVE_S)
    except (OSError, paramiko.SSHException, EOFError) as failed:
        with contextlib.suppress(Exception):
            connection.close()
        message = _in_words(failed)
        raise step_failed(
            [TaskFailure(node=machine.node, task="connect", message=message, unreachable=True)], [machine]
        ) from failed
    return connection


def _in_words(failed: BaseException) -> str:
    """The exception in the words that OpenSSH has for the same, so that one table of failures knows both."""
    import paramiko

    if isinstance(failed, paramiko.BadHostKeyException):
        return f"REMOTE HOST IDENTIFICATION HAS CHANGED ({failed.hostname})"
    if isinstance(failed, paramiko.AuthenticationException):
        return f"Permission denied (publickey): {failed}"
    if isinstance(failed, paramiko.ssh_exception.NoValidConnectionsError):
        return "; ".join(str(e) for e in failed.errors.values())
    if isinstance(failed, TimeoutError):
        return "Connection timed out"
    if isinstance(failed, paramiko.SSHException) and "not found in known_hosts" in str(failed):
        return f"Host key verification failed: {failed}"
    if isinstance(failed, paramiko.SSHException) and "banner" in str(failed):
        return f"Connection closed by remote host: {failed}"
    return str(failed) or type(failed).__name__


class SshRunning:
    """A program on a machine, in a channel of its own. Leaving the context of `start` closes the channel."""

    def __init__(self, channel: Any, argv: Sequence[str], stdin: bytes, where: str, output: int | None = None) -> None:
        self._channel, self._argv, self._where, self._output = channel, tuple(argv), where, output
        self._out, self._err = bytearray(), bytearray()
        self._begun_s = time.monotonic()
        self._lock = threading.Lock()
        if stdin:
            threading.Thread(target=self._feed, args=(stdin,), daemon=True).start()
        else:
            channel.shutdown_write()
        self._pumping = threading.Thread(target=self._pump, daemon=True)
        if output is not None:
            self._pumping.start()

    def _pump(self) -> None:
        """Output that goes to a descriptor is passed on as it comes, whether anybody asks or not."""
        with contextlib.suppress(OSError):
            while not self._channel.closed and not (self._is_over() and self._channel.eof_received):
                if not self._read():
                    time.sleep(_POLL_S)

    def _feed(self, stdin: bytes) -> None:
        with contextlib.suppress(OSError):
            self._channel.sendall(stdin)
            self._channel.shutdown_write()

    @property
    def argv(self) -> tuple[str, ...]:
        return self._argv

    def _read(self) -> bool:
        """Takes what has come; true when there was something."""
        with self._lock:
            came = False
            while self._channel.recv_ready():
                self._take(self._channel.recv(_CHUNK))
                came = True
            while self._channel.recv_stderr_ready():
                self._err += self._channel.recv_stderr(_CHUNK)
                came = True
            return came

    def _take(self, data: bytes) -> None:
        """Keeps standard output, or hands it on to the descriptor that wants it."""
        if self._output is None:
            self._out += data
            return
        while data:
            data = data[os.write(self._output, data) :]

    def _is_over(self) -> bool:
        return bool(self._channel.exit_status_ready() or self._channel.closed)

    def is_alive(self) -> bool:
        self._read()
        return not self._is_over()

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        deadline, wanted = Deadline.after(timeout_s), text.encode()
        while True:
            over = self._is_over()
            self._read()
            if wanted in self._out or wanted in self._err:
                return
            if over or deadline.is_over():
                seen = bytes(self._err or self._out)[-400:].decode(errors="replace").strip()
                raise MeasureFailed(
                    what=f"{self._argv[0]} on {self._where} "
                    + ("ended before" if over else f"said nothing of it in {timeout_s:g} s")
                    + f": waited for '{text}'",
                    cause=f"it printed: {seen or 'nothing'}",
                    remedy=shlex.join(self._argv),
                )
            time.sleep(_POLL_S)

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        """A channel carries no signals: who needs them goes through `providers/cilium/targets.py`, which sends them
        by process id. This closes the program's input and waits."""
        del sig
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> Completed:
        deadline = Deadline.after(timeout_s)
        while not self._is_over() and not deadline.is_over():
            if not self._read():
                time.sleep(_POLL_S)
        timed_out = not self._is_over()
        if timed_out:
            self._channel.close()
        # The end is told before the last output has been taken.
        drained = Deadline.after(_DRAIN_S)
        while not timed_out and not self._channel.eof_received and not drained.is_over():
            self._read()
            time.sleep(_POLL_S)
        self._read()
        status = -signal.SIGKILL if timed_out else self._channel.recv_exit_status()
        if status == -1 and not timed_out:
            raise MeasureFailed(
                what=f"the connection to {self._where} was lost while {self._argv[0]} ran",
                cause="no exit status came back",
                remedy="is the machine up? then the same command again",
            )
        return Completed(
            argv=self._argv,
            returncode=status,
            stdout=bytes(self._out),
            stderr=bytes(self._err),
            duration_s=time.monotonic() - self._begun_s,
            timed_out=timed_out,
        )

    def close(self) -> None:
        """After it nothing is written to the descriptor any more: its owner may close it."""
        self._channel.close()
        if self._output is not None:
            self._pumping.join(_DRAIN_S)


class MachineCommands:
    """`Commands` on one machine, as root. One connection for all of them, made when the first one needs it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    @property
    def connection(self) -> Connection:
        with self._lock:
            if self._connection is None or not self._connection.is_connected:
                self._connection = connect(self.machine)
            return self._connection

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @property
    def prefix(self) -> tuple[str, ...]:
        machine = self.machine
        # Shown quoted, so that no shell would read the ~ any more.
        ways = (str(Path(word).expanduser()) if word.startswith("~") else word for word in machine.ways)
        return ("ssh", *ways, f"{machine.user}@{machine.address}", *(() if self.machine.user == "root" else ("sudo",)))

    def find(self, program: str) -> str | None:
        done = self.run(("sh", "-c", 'command -v "$0"', program), timeout_s=_CONNECT_S)
        return done.text.strip() or None

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        with self.start(argv, stdin=stdin) as running:
            return running.wait(timeout_s=timeout_s)

    def start(
        self, argv: Sequence[str], *, stdin: bytes = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        return self._started(argv, stdin, output)

    @contextlib.contextmanager
    def _started(self, argv: Sequence[str], stdin: bytes, output: int | None) -> Iterator[SshRunning]:
        import paramiko

        password = self._sudo_password()
        try:
            channel = self.connection.transport.open_session(timeout=_CONNECT_S)
            channel.exec_command(shlex.join((*self.become(bool(password)), "env", f"PATH={PATH}", *argv)))
        except (OSError, EOFError, paramiko.SSHException) as failed:
            self.close()
            message = _in_words(failed) or "Connection closed by remote host"
            raise step_failed(
                [TaskFailure(node=self.machine.node, task="start a program", message=message, unreachable=True)],
                [self.machine],
            ) from failed
        running = SshRunning(channel, argv, password + stdin, self.machine.node, output)
        try:
            yield running
        finally:
            running.close()

    def become(self, has_password: bool) -> tuple[str, ...]:
        """The words before argv that make it run as root. A password goes through standard input, never here."""
        if self.machine.user == "root":
            return ()
        return ("sudo", "-S", "-p", "", "--") if has_password else ("sudo", "-n", "--")

    def _sudo_password(self) -> bytes:
        path = self.machine.sudo_password_file
        if self.machine.user == "root" or not path:
            return b""
        file = Path(path).expanduser()
        try:
            if file.stat().st_mode & 0o077:
                raise StepFailed(
                    what=f"others may read the sudo password of {self.machine.node} in {path}",
                    remedy=f"chmod 600 {shlex.quote(path)}",
                )
            return file.read_text().rstrip("\n").encode() + b"\n"
        except OSError as failed:
            raise StepFailed(
                what=f"cannot read the sudo password of {self.machine.node}", cause=str(failed),
                remedy="correct sudoPasswordFile: under hosts: in lab.yaml",
            ) from failed  # fmt: skip

    def read_file(self, path: str) -> bytes:
        """The content of one of the machine's files, which root may read. Raises MeasureFailed."""
        done = self.run(("cat", "--", path), timeout_s=30.0)
        if done.returncode != 0:
            raise MeasureFailed(what=f"cannot read {path} on {self.machine.node}", cause=done.error_text.strip())
        return done.stdout

    def get(self, remote: str, local: Path) -> None:
        """Copies a file of the machine here, as root sees it; written aside, then renamed."""
        data = io.BytesIO(self.read_file(remote))
        aside = local.with_name(local.name + ".part")
        aside.write_bytes(data.getvalue())
        aside.rename(local)


class Fleet:
    """The connections to all machines of a lab, by node. Leaving its context closes them."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.machines = tuple(machines)
        self._commands = {machine.node: MachineCommands(machine) for machine in machines}

    def __getitem__(self, node: str) -> MachineCommands:
        return self._commands[node]

    def __iter__(self) -> Iterator[MachineCommands]:
        return iter(self._commands.values())

    @property
    def control_plane(self) -> MachineCommands:
        return self._commands[self.machines[0].node]

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for commands in self._commands.values():
            commands.close()
