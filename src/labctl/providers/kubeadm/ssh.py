"""SSH by Fabric: connections to each machine, kept and reused (`sessions.py`); programs as `Commands` of the seam.

Where a connection goes, and by which keys, is what `ssh_config.py` says. Host keys are those of known_hosts and no
others: an unknown or changed one is refused with what to do. Logging in is by key or agent; no password is ever sent,
and none stands on a command line. A process that is started has a channel of its own without a terminal, so that its
output is bytes.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import logging
import os
import re
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import HostLacks, LabError, MeasureFailed, StepFailed
from labctl.providers.base import Completed, Running
from labctl.providers.kubeadm.failures import TaskFailure, step_failed
from labctl.providers.kubeadm.inventory import SUDO
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.own_files import require_own, sudo_password
from labctl.providers.kubeadm.running import SshRunning
from labctl.providers.kubeadm.sessions import (
    LONGEST_S,
    OWNER,
    Door,
    Sessions,
    end_strays,
    limited,
    own_traffic,
    owner,
    watched,
)
from labctl.providers.kubeadm.ssh_config import Reached, matches, reached
from labctl.system import process
from labctl.system.files import OWN_FILE, read_file, write_atomically
from labctl.system.signals import uninterrupted

if TYPE_CHECKING:
    from fabric import Connection  # type: ignore[import-untyped]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/labctl/bin"
"""sudo's own has no /usr/local/bin on the RHEL family."""
_CONNECT_S = 10.0
_LOGIN_S = 30.0
"""For each of sshd's answers (banner, keys, login): a busy machine starts an sshd for the connection that it took."""
_KEEPALIVE_S = 5
_GRACE_S = 30.0
_MOST_PACKET_BYTE, _MOST_GREETING_BYTE = 256 << 10, 64 << 10
"""As OpenSSH's own (PACKET_MAX_SIZE; SSH_MAX_PRE_BANNER_LINES is 1024 lines, most of them short)."""
_PATIENCE_S = 20.0
"""So long a machine is tried again whose sshd, or whose jump host's, has too many connections that are not logged in
yet (`MaxStartups`)."""
_CHUNK = 65536
_SAID_S = 2.0
_SUDO_S = 60.0
"""sudo waits 20 s for the name server of a machine that cannot find its own name."""
_UNSAFE = re.compile(r"[^ -~]|['!\\]")
"""What csh, fish or rc read differently inside single quotes, and what locales do."""


_DOORS: dict[str, Door] = {}


def door_of(goal: Reached) -> Door:
    """The sshd that connections to this machine have to pass first: its own, or its jump host's."""
    return _DOORS.setdefault(goal.jump or shlex.join(goal.through) or f"{goal.host}:{goal.port}", Door())


def _is_turned_away(failed: BaseException, said: str) -> bool:
    """Whether sshd hung up before its first word, as it does when too many are not logged in yet (`MaxStartups`).
    `said` is what the way there said, where that is a program."""
    if said:
        words = ("kex_exchange_identification", "Exceeded MaxStartups", "Not allowed at this time")
        return any(text in said for text in words)
    return "banner" in str(failed) or isinstance(failed, EOFError | ConnectionResetError)


def connect(machine: Machine, patience_s: float = _PATIENCE_S, login_s: float = _LOGIN_S) -> Connection:
    """An open connection to the machine. Raises StepFailed that names machine, reason and remedy, and UsageError for
    files that lab.yaml may not name. Where sshd hangs up before its first word, it is tried again for `patience_s`.
    `login_s` is for each of its answers."""
    require_own(machine)
    try:
        import paramiko  # type: ignore[import-untyped]
        from fabric import Config, Connection
    except ImportError as missing:
        raise HostLacks(
            what="Fabric is not on this host", cause=str(missing), remedy='pip install "fabric>=3.2"'
        ) from missing
    # paramiko's threads write tracebacks of their own; what they met is raised here, and reported once.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
    goal = reached(machine)
    door, until_s = door_of(goal), time.monotonic() + patience_s
    while True:
        way: socket.socket | None = None
        connection: Connection | None = None
        with door.turn():
            try:
                way = _way(goal)
                connection = Connection(
                    goal.key_name,
                    user=goal.user,
                    # A name of its own in known_hosts stands there without a port.
                    port=22 if goal.is_alias else goal.port,
                    # With a connection at hand this is the time for banner and keys, at whose end paramiko goes on
                    # regardless.
                    connect_timeout=2 * login_s,
                    connect_kwargs={
                        "banner_timeout": login_s, "auth_timeout": login_s, "sock": way,
                        "auth_strategy": _keys(goal), "transport_factory": functools.partial(_transport, 3 * login_s),
                    },
                    # Read by OpenSSH itself, in `reached`: Fabric's reading of it knows less, and trusts any host key.
                    config=Config(overrides={"load_ssh_configs": False}),
                )  # fmt: skip
                client = connection.client
                client.set_missing_host_key_policy(paramiko.RejectPolicy())
                _know(client.get_host_keys(), goal)
                connection.open()
                shown = connection.transport.get_remote_server_key().get_base64()
                if any(shown in words for words in _marked("@revoked", goal)):
                    raise paramiko.SSHException("the key that the machine presents is marked @revoked in known_hosts")
                connection.transport.set_keepalive(_KEEPALIVE_S)
            except (OSError, paramiko.SSHException, EOFError) as failed:
                said = way.said() if isinstance(way, _Piped) else ""
                with contextlib.suppress(Exception):
                    if connection is not None:
                        connection.close()
                if way is not None:
                    way.close()
                if not _is_turned_away(failed, said) or time.monotonic() >= until_s:
                    raise _unreached(machine, goal, _in_words(failed, goal.known_as), said) from failed
            else:
                door.let_in()
                return connection
        door.turned_away()


def _way(goal: Reached) -> socket.socket:
    return _piped(goal) if goal.through else socket.create_connection((goal.host, goal.port), timeout=_CONNECT_S)


def _transport(handshake_s: float, *words: Any, **named: Any) -> Any:
    """paramiko's transport, whose own 15 s for the exchange of keys would end as if the machine had hung up, and which
    takes a greeting or a packet of any length into memory, before it has seen a key."""
    import paramiko
    from paramiko.packet import Packetizer  # type: ignore[import-untyped]

    class Bounded(Packetizer):  # type: ignore[misc]
        greeting_byte = 0

        def read_all(self, n: int, check_rekey: bool = False) -> bytes:
            if n > _MOST_PACKET_BYTE:
                raise paramiko.SSHException(f"the machine announced a packet of {n} bytes")
            return bytes(super().read_all(n, check_rekey))

        def _read_timeout(self, timeout: float) -> bytes:
            part = bytes(super()._read_timeout(timeout))
            self.greeting_byte += len(part)
            if self.greeting_byte > _MOST_GREETING_BYTE:
                raise paramiko.SSHException(f"the machine greets with more than {_MOST_GREETING_BYTE} bytes")
            return part

    transport = paramiko.Transport(*words, **named, packetizer_class=Bounded)
    transport.handshake_timeout = handshake_s
    return transport


def _unreached(machine: Machine, goal: Reached, message: str, said: str) -> LabError:
    """Why there is no connection: what the way there said, else what the machine did; and what labctl used."""
    if goal.through and said:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        failed: LabError = StepFailed(
            what=f"{machine.node} ({machine.address}): cannot be reached",
            cause=f"the connection by way of {shlex.join(goal.through)} fails: {'; '.join(lines[-2:])}",
            remedy="\n".join([f"ssh {goal.jump} true"] * bool(goal.jump) + [f"ssh {machine.place} true"]),
        )
    else:
        failure = TaskFailure(node=machine.node, task="connect", message=message, unreachable=True)
        failed = step_failed([failure], [machine])
    unfollowed = [*goal.unfollowed, *["@cert-authority in known_hosts"] * bool(_marked("@cert-authority", goal))]
    if unfollowed:
        ignored = ", ".join(unfollowed)
        failed.cause = f"{failed.cause}. labctl does not follow these options of ssh's configuration: {ignored}"
    behind = os.environ.get("SUDO_USER", "")
    if os.geteuid() == 0 and behind not in ("", "root"):
        failed.cause = (
            f"{failed.cause}. labctl runs as root, and uses root's keys, known_hosts and ssh configuration, "
            f"not {behind}'s"
        )
        failed.remedy += "\n# the same command without sudo: building on machines needs no root on this host"
    return failed


def _lines(goal: Reached) -> Iterator[str]:
    """The lines of every file of known hosts that can be read."""
    for file in goal.known_hosts:
        with contextlib.suppress(OSError):
            yield from read_file(Path(file), follow=True).decode("utf-8", errors="replace").splitlines()


def _marked(marker: str, goal: Reached) -> list[list[str]]:
    """The words of every line of known_hosts with that marker."""
    return [line.split() for line in _lines(goal) if line.startswith(marker)]


def _know(keys: Any, goal: Reached) -> None:
    """Puts the known host keys into paramiko's collection: line by line, since one that it cannot read (a marker) would
    be the end of all of them, and with the patterns that it takes for names."""
    from paramiko.hostkeys import HostKeyEntry  # type: ignore[import-untyped]

    for line in _lines(goal):
        entry = None
        if not line.startswith("@"):
            with contextlib.suppress(Exception):  # as many classes as there are ways to be broken
                entry = HostKeyEntry.from_line(line)
        if entry is None or entry.key is None:
            continue
        names = entry.hostnames
        if any(character in name for name in names for character in "*?!"):
            names = [goal.known_as] if matches(names, goal.known_as) else []
        for name in names:
            keys.add(name, entry.key.get_name(), entry.key)


class _Piped(socket.socket):
    """A connection that is the standard streams of a program. Closing it ends the program."""

    def lead(self, program: process.Process) -> None:
        """The program is at the other end."""
        self._program, self._said, self._has_ended = program, "", False
        self._ending = threading.Lock()

    def said(self) -> str:
        """What the program said, its end awaited for a moment: reasons come last."""
        self._end()
        return self._said

    def close(self) -> None:
        super().close()
        self._end()

    def _end(self) -> None:
        """paramiko's thread closes the connection as well, at any time."""
        with self._ending, uninterrupted():
            if self._has_ended:
                return
            self._has_ended = True
            try:
                self._said = self._program.wait(timeout_s=_SAID_S).error_text[-_CHUNK:].strip()  # reasons come last
            except MeasureFailed as flooded:
                self._said = flooded.cause


def _piped(goal: Reached) -> _Piped:
    """Starts the program that leads to the machine. In a session of its own it has no terminal to ask at, and Ctrl-C
    does not end it before what was begun is undone; it ends with labctl, however labctl ends. Raises OSError."""
    ours, its = socket.socketpair()
    try:
        program = process.Process(
            goal.through,
            stdin=its.fileno(),
            output=its.fileno(),
            environment={"SSH_ASKPASS_REQUIRE": "never"},
        )
    except MeasureFailed as missing:
        ours.close()
        raise OSError(errno.ENOENT, missing.cause or missing.what) from missing
    finally:
        its.close()
    way = _Piped(fileno=ours.detach())
    way.lead(program)
    return way


_AGENT = threading.Lock()
"""paramiko finds the agent by the environment of this process, of which there is one."""


def _keys(goal: Reached) -> Any:
    """The keys to log in with, in OpenSSH's order: those of the named files that the agent has, the agent's others
    unless only named ones may be offered, then the files."""
    from paramiko.auth_strategy import AuthStrategy, InMemoryPrivateKey  # type: ignore[import-untyped]

    class Keys(AuthStrategy):  # type: ignore[misc]
        def get_sources(self) -> Iterator[Any]:
            files = [file for file in goal.identities if Path(file).is_file()]
            public = {blob for file in files if (blob := _public_part(file))}
            held = _agent_keys(goal.agent)
            yield from (InMemoryPrivateKey(goal.user, key) for key in held if key.asbytes() in public)
            if not goal.identities_only:
                yield from (InMemoryPrivateKey(goal.user, key) for key in held if key.asbytes() not in public)
            for file in files:
                if key := self._read(file):
                    yield InMemoryPrivateKey(goal.user, key)

        def _read(self, file: str) -> Any:
            """The key in a file; one that cannot be used is named if no other works."""
            import paramiko

            try:
                return paramiko.PKey.from_path(file)
            except (paramiko.PasswordRequiredException, TypeError):
                self.unused.append(f"{file} has a passphrase, and the agent does not hold it")
            except Exception as unreadable:  # as many classes as there are formats
                if not file.endswith(".pub"):
                    self.unused.append(f"{file}: {unreadable}")
            return None

        unused: list[str]

    keys = Keys(ssh_config=None)
    keys.unused = []
    return keys


def _public_part(file: str) -> bytes:
    """The key that is in a public key file, or in the one beside a private key file; empty where there is none."""
    for path in (file, f"{file}.pub"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            kind, text, *_ = read_file(Path(path), follow=True).decode("utf-8", errors="replace").split()
            if kind.startswith(("ssh-", "ecdsa-", "sk-")):
                return base64.b64decode(text)
    return b""


def _agent_keys(path: str) -> tuple[Any, ...]:
    """What the agent holds. One that does not answer holds nothing."""
    import paramiko

    if not path:
        return ()
    with _AGENT:
        before = os.environ.get("SSH_AUTH_SOCK")
        os.environ["SSH_AUTH_SOCK"] = path
        try:
            return tuple(paramiko.Agent().get_keys())
        except (OSError, paramiko.SSHException):
            return ()
        finally:
            if before is None:
                del os.environ["SSH_AUTH_SOCK"]
            else:
                os.environ["SSH_AUTH_SOCK"] = before


def _in_words(failed: BaseException, known_as: str = "") -> str:
    """The exception in the words that OpenSSH has for the same, so that one table of failures knows both. `known_as` is
    the machine's name in known_hosts."""
    import paramiko

    if isinstance(failed, paramiko.BadHostKeyException):
        return f"REMOTE HOST IDENTIFICATION HAS CHANGED ({known_as or failed.hostname})"
    if isinstance(failed, paramiko.AuthenticationException):
        results = getattr(failed, "result", ())
        if any("Authentication timeout" in str(one.result) for one in results):
            return "Connection timed out during authentication"
        if any("Too many authentication failures" in str(one.result) for one in results):
            return "Too many authentication failures"
        unused = getattr(getattr(results, "strategy", None), "unused", ())
        offered = f"{len(results)} keys were offered" if len(results) != 1 else "one key was offered"
        return f"Permission denied (publickey): {'; '.join((offered, *unused))}"
    if isinstance(failed, TimeoutError):
        return "Connection timed out"
    if isinstance(failed, EOFError):
        return "Connection closed by remote host"
    if isinstance(failed, ConnectionResetError):
        return "Connection reset by peer"
    if isinstance(failed, paramiko.SSHException) and "not found in known_hosts" in str(failed):
        return f"Host key verification failed: {failed}"
    if isinstance(failed, paramiko.SSHException) and "banner" in str(failed):
        # The same words whether nothing came or the connection ended: what paramiko met is behind them.
        if isinstance(failed.__context__, TimeoutError):
            return "Connection timed out during banner exchange"
        return f"Connection closed by remote host: {failed}"
    if isinstance(failed, paramiko.SSHException) and "No existing session" in str(failed):
        return "Connection timed out during key exchange"
    return str(failed) or type(failed).__name__


def command_line(before: Sequence[str], argv: Sequence[str]) -> str:
    """One line that runs `before` and then argv, read alike by every login shell (sh, csh, fish, rc).

    Inside single quotes they differ in few characters; where one of these is in argv, a POSIX shell gets argv in
    octal numbers and becomes the program.
    """
    if any(_UNSAFE.search(word) for word in argv):
        text = _UNSAFE.sub(_octal, f"exec {shlex.join(argv)}")
        argv = ("sh", "-c", 'eval "$(printf %b "$0")"', text)
    return shlex.join((*before, *argv))


def _octal(found: re.Match[str]) -> str:
    return "".join(f"\\0{byte:03o}" for byte in found[0].encode("utf-8", "surrogateescape"))


class MachineCommands:
    """`Commands` on one machine, as root, over as many connections as its sshd makes necessary."""

    def __init__(self, machine: Machine, login_s: float | None = None) -> None:
        self.machine = machine
        self.sessions = Sessions(lambda: self._connect(login_s), machine.node, machine.place)
        self._asks: bool | None = None
        """Whether sudo asks for a password, once that is known."""
        self._takes: bool | None = None
        """Whether it takes the one of lab.yaml, likewise."""

    def _connect(self, login_s: float | None) -> Connection:
        """Once and for `login_s`, where that is given; else with the patience that a lab's machines deserve."""
        return connect(self.machine) if login_s is None else connect(self.machine, 0.0, login_s)

    def close(self) -> None:
        self.sessions.close()

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
        limit_s = timeout_s + _GRACE_S
        with self.sessions.short(), self._started(argv, stdin, None, limit_s) as running:
            return running.wait(timeout_s=timeout_s)

    def start(
        self, argv: Sequence[str], *, stdin: bytes | int = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        return self._started(argv, stdin, output, LONGEST_S)

    @contextlib.contextmanager
    def _started(
        self, argv: Sequence[str], stdin: bytes | int, output: int | None, limit_s: float
    ) -> Iterator[SshRunning]:
        import paramiko

        password = sudo_password(self.machine)
        try:
            if password and self._is_let_without():
                password = b""
            become = self.become(bool(password))
            # A program that reads its input ends with that; a sudo that is given a wrong password would wait for more.
            is_watched = stdin == b"" and (not password or self._is_let_with(password))
            watch = watched(limit_s) if is_watched else limited(limit_s) if isinstance(stdin, int) else ()
            before = (*become, "env", f"PATH={PATH}", "LC_ALL=C", f"{OWNER}={owner()}", *watch)
            channel = self.sessions.open()
            channel.exec_command(command_line(before, argv))  # nosec B601  # every word is quoted
        except (OSError, EOFError, paramiko.SSHException) as failed:
            message = _in_words(failed) or "Connection closed by remote host"
            raise step_failed(
                [TaskFailure(node=self.machine.node, task="start a program", message=message, unreachable=True)],
                [self.machine],
            ) from failed
        given, source = (password + stdin, None) if isinstance(stdin, bytes) else (password, stdin)
        running = SshRunning(channel, argv, given, self.machine.node, output, is_watched=is_watched, source=source)
        try:
            yield running
        finally:
            running.close()

    def become(self, has_password: bool) -> tuple[str, ...]:
        """The words before argv that make it run as root. A password goes through standard input, never here."""
        if self.machine.user == "root":
            return ()
        # -k: a password that was given a moment ago would not be read, and end up with the program.
        return (*SUDO.split(), *(("-k", "-S", "-p", "") if has_password else ("-n",)), "--")

    def _is_let_without(self) -> bool:
        """True where sudo does not ask for the password that lab.yaml has: sent all the same, it would be the first
        line that the program reads. Asked once."""
        if self._asks is None:
            self._asks = not self._does_true(("-k", "-n"), b"")
        return not self._asks

    def _is_let_with(self, password: bytes) -> bool:
        """True where sudo takes the password. Asked once."""
        if self._takes is None:
            self._takes = self._does_true(("-k", "-S", "-p", ""), password)
        return self._takes

    def _does_true(self, options: tuple[str, ...], password: bytes) -> bool:
        channel = self.sessions.open()
        channel.exec_command(command_line((*SUDO.split(), *options, "--", "env"), ("true",)))  # nosec B601  # no data in it
        with contextlib.closing(SshRunning(channel, ("sudo",), password, self.machine.node)) as running:
            return running.wait(timeout_s=_SUDO_S).returncode == 0

    def connection_there(self) -> str:
        """What the machine says of labctl's connection: `SSH_CONNECTION`, which sudo would take away. Empty where its
        sshd does not say."""
        import paramiko

        try:
            channel = self.sessions.open()
            channel.exec_command("printenv SSH_CONNECTION")  # nosec B601  # a fixed command
            with contextlib.closing(SshRunning(channel, ("printenv",), b"", self.machine.node)) as running:
                return running.wait(timeout_s=_CONNECT_S).text.strip()
        except (OSError, EOFError, paramiko.SSHException, MeasureFailed):
            return ""

    def read_file(self, path: str) -> bytes:
        """The content of one of the machine's files, which root may read. Raises MeasureFailed."""
        done = self.run(("cat", "--", path), timeout_s=30.0)
        if done.returncode != 0:
            raise MeasureFailed(what=f"cannot read {path} on {self.machine.node}", cause=done.error_text.strip())
        return done.stdout

    def get(self, remote: str, local: Path) -> None:
        """Copies a file of the machine here, as root sees it; written aside, then renamed."""
        write_atomically(local, self.read_file(remote), mode=OWN_FILE)


class Fleet:
    """The connections to all machines of a lab, by node. Leaving its context closes them. With `login_s` each one is
    tried once, and so long."""

    def __init__(self, machines: Sequence[Machine], login_s: float | None = None) -> None:
        self.machines = tuple(machines)
        self._commands = {machine.node: MachineCommands(machine, login_s) for machine in machines}

    def __getitem__(self, node: str) -> MachineCommands:
        return self._commands[node]

    def __iter__(self) -> Iterator[MachineCommands]:
        return iter(self._commands.values())

    @property
    def control_plane(self) -> MachineCommands:
        return self._commands[self.machines[0].node]

    def own_traffic(self) -> str:
        """The pcap expression for labctl's own SSH connections to these machines, asked of them all at once."""
        with ThreadPoolExecutor(max_workers=16) as pool:
            return own_traffic(list(pool.map(MachineCommands.connection_there, self)))

    def unreached(self, timeout_s: float) -> dict[str, LabError]:
        """Why machines cannot be asked, by node, without those that answer. All of them are tried at once."""

        def ask(commands: MachineCommands) -> LabError | None:
            try:
                done = commands.run(("true",), timeout_s=timeout_s)
            except LabError as failed:
                return failed
            if not done.timed_out:
                return None
            return MeasureFailed(
                what=f"{commands.machine.node} ({commands.machine.address}): it lets labctl log in, and runs nothing",
                cause=f"`true` did not end within {timeout_s:g} s",
                remedy=f"ssh {commands.machine.place} true",
            )

        with ThreadPoolExecutor(max_workers=16) as pool:
            found = zip(self._commands, pool.map(ask, self), strict=True)
            return {node: failed for node, failed in found if failed is not None}

    def end_strays(self, *, every: bool = False) -> int:
        """Ends, on all machines, what a labctl that has ended left running (`sessions.end_strays`). Machines that do
        not answer are passed over. Gives how many programs there were."""

        def end(commands: MachineCommands) -> int:
            with contextlib.suppress(LabError):
                return end_strays(commands, every=every)
            return 0

        with ThreadPoolExecutor(max_workers=16) as pool:
            return sum(pool.map(end, self))

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for commands in self._commands.values():
            commands.close()
