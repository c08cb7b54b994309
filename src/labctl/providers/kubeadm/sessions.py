"""What labctl has on a machine over SSH: connections with their sessions, and the programs that run in them.

sshd lets one connection have `MaxSessions` sessions (10 by default, 2 or 1 on hardened machines), and says so only by
refusing the next one. `Sessions` learns that limit by trying, uses places that have become free, and opens one more
connection when all places are taken. Of connections that are not logged in yet it takes few (`MaxStartups`, 10 by
default), and hangs up on the others: `Door` learns how many, and makes the rest wait, also at a jump host.

A program that is started has one owner, this process. `watched` puts it under a watchdog on the machine that ends it
when its standard input closes (the connection, labctl or sshd ended) or its time is over, and every program carries the
owner in its environment, by which `end_strays` finds what was left all the same.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import MeasureFailed, StepFailed
from labctl.providers.cilium.commands import Commands

if TYPE_CHECKING:
    from fabric import Connection  # type: ignore[import-untyped]

MOST_CONNECTIONS = 128
"""To one machine. With `MaxSessions 2` that is 256 programs at once."""
LONGEST_S = 24 * 3600.0
"""After it the machine ends a program by itself, whatever became of labctl."""
_OPEN_S = 10.0
_PATIENCE_S = 0.3
"""So long a session waits for a place that a short program is about to leave, before one more connection is made."""
_FULL_S = 30.0
_REST_S = 1.0
"""sshd counts a session until its program has ended, also after its channel was closed here: a connection that refuses
one although it should have room is left alone for so long."""
_POLL_S = 0.02
_ASK_S = 30.0


MOST_STARTING = 4
"""Connections that are being made to one sshd at the same time, until it hangs up on one of them."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 4.0
_MORE_AFTER = 8
"""So many connections in a row that were let in show that the door is wider again."""


@dataclass(eq=False)
class Door:
    """One sshd while connections to it are made: `most` of them at a time, and none while it `rests` after it hung up.

    Each time that it hangs up, half as many are made at a time, after a pause that doubles; how many it takes is
    learned so, and is learned anew when it lets in many in a row."""

    most: int = MOST_STARTING
    starting: int = 0
    hung_up: int = 0
    """How often it did, in all."""
    _pause_s: float = _FIRST_PAUSE_S
    _rests_until_s: float = 0.0
    _in_a_row: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Held while a connection is being made, until it is logged in."""
        with self._changed:
            while True:
                rest_s = self._rests_until_s - time.monotonic()
                if rest_s <= 0 and self.starting < self.most:
                    break
                self._changed.wait(timeout=max(_POLL_S, rest_s) if rest_s > 0 else None)
            self.starting += 1
        try:
            yield
        finally:
            with self._changed:
                self.starting -= 1
                self._changed.notify_all()

    def turned_away(self) -> None:
        with self._changed:
            self.hung_up += 1
            self._in_a_row = 0
            self.most = max(1, self.most // 2)
            # Not all at the same moment, of several labctls either.
            self._rests_until_s = time.monotonic() + self._pause_s * random.uniform(0.7, 1.3)  # nosec B311  # no secret
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def let_in(self) -> None:
        with self._changed:
            self._pause_s = _FIRST_PAUSE_S
            self._in_a_row += 1
            if self._in_a_row >= _MORE_AFTER and self.most < MOST_STARTING:
                self.most, self._in_a_row = self.most + 1, 0
            self._changed.notify_all()


@dataclass(eq=False)
class _Held:
    """One connection. `turn` is held while a session is opened: paramiko keeps one refusal for all who wait."""

    connection: Connection
    channels: list[Any] = field(default_factory=list)
    rests_until_s: float = 0.0
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def in_use(self) -> int:
        self.channels = [channel for channel in self.channels if not channel.closed]
        return len(self.channels)


class Sessions:
    """The connections to one machine, made by `connect` when they are needed. `place` is what to type after `ssh`."""

    def __init__(self, connect: Callable[[], Connection], node: str, place: str) -> None:
        self._connect, self._node, self._place = connect, node, place
        self._held: list[_Held] = []
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        """One at a time: of connections that are not logged in yet sshd takes few (`MaxStartups`)."""
        self._short = 0
        self._most = 0
        self.limit: int | None = None
        """How many sessions a connection may have; None while none was refused."""

    @property
    def connections(self) -> int:
        return len(self._held)

    def open(self) -> Any:
        """A new session. Raises what `connect` raises, StepFailed where sshd allows none, MeasureFailed when no place
        becomes free, and paramiko's own errors when a new connection fails at once."""
        begun_s = time.monotonic()
        while True:
            if (channel := self._on_held()) is not None:
                return channel
            waited_s = time.monotonic() - begun_s
            if self._short > 0 and waited_s < _PATIENCE_S and self._held:
                time.sleep(_POLL_S)
                continue
            if len(self._held) < MOST_CONNECTIONS:
                if (channel := self._on_new()) is not None:
                    return channel
                begun_s = time.monotonic()  # another thread made one: again there is something to wait for
                continue
            if waited_s > _FULL_S:
                raise MeasureFailed(
                    what=f"{self._node}: {MOST_CONNECTIONS} SSH connections are full",
                    cause=f"sshd allows {self.limit} sessions on each, and all are in use",
                    remedy="fewer taps at once",
                )
            time.sleep(_POLL_S)

    @contextlib.contextmanager
    def short(self) -> Iterator[None]:
        """While it lasts a place is about to become free."""
        with self._lock:
            self._short += 1
        try:
            yield
        finally:
            with self._lock:
                self._short -= 1

    def close(self) -> None:
        with self._lock:
            held, self._held = self._held, []
        for one in held:
            with contextlib.suppress(Exception):
                one.connection.close()

    def _on_held(self) -> Any:
        """A session on a connection that is there; None where all are full."""
        for one in list(self._held):
            with one.turn:
                if not one.connection.is_connected:
                    self._drop(one)
                    continue
                is_full = self.limit is not None and one.in_use >= self.limit
                if is_full or time.monotonic() < one.rests_until_s:
                    continue
                try:
                    channel = self._session(one)
                except Exception:  # it was lost a moment ago, or the machine does not answer there
                    self._drop(one)
                    continue
                if channel is not None:
                    return channel
        return None

    def _on_new(self) -> Any:
        """A session on a new connection; None where another thread has made one meanwhile."""
        known = len(self._held)
        with self._connecting:
            if len(self._held) > known:
                return None
            one = _Held(self._connect())
            with one.turn:
                with self._lock:
                    self._held.append(one)
                try:
                    channel = self._session(one)
                except BaseException:
                    self._drop(one)
                    raise
                if channel is None:
                    self._drop(one)
                    raise StepFailed(
                        what=f"{self._node}: sshd allows no session on a connection",
                        cause="it lets labctl log in and refuses the first program (MaxSessions 0, or a forced "
                        "forwarding-only account)",
                        remedy=f"ssh {self._place} sudo sshd -T | grep -i maxsessions  # must be 1 or more",
                    )
                return channel

    def _session(self, one: _Held) -> Any:
        """Opened on that connection; None when sshd refuses it, which tells the limit."""
        import paramiko  # type: ignore[import-untyped]

        used = one.in_use
        try:
            channel = one.connection.transport.open_session(timeout=_OPEN_S)
        except paramiko.ChannelException:
            self.limit = max(1, used, self._most)
            if used < self.limit:
                one.rests_until_s = time.monotonic() + _REST_S
            return None
        one.channels.append(channel)
        self._most = max(self._most, used + 1)
        if self.limit is not None:
            self.limit = max(self.limit, self._most)
        return channel

    def _drop(self, one: _Held) -> None:
        with self._lock:
            if one in self._held:
                self._held.remove(one)
        with contextlib.suppress(Exception):
            one.connection.close()


_WATCHDOG = (
    "exec 9<&0 </dev/null; "
    '( trap "" TERM HUP INT; '
    "if command -v timeout; then timeout -s KILL $0 cat <&9; else cat <&9; fi; "
    "kill -TERM 0; sleep 2; kill -KILL 0 ) >/dev/null 2>&1 & w=$!; "
    '"$@" 9<&-; c=$?; kill -KILL $w; exit $c'
)
"""Without characters that csh, fish or rc read differently. sshd gives every session a process group of its own, which
is what `kill … 0` ends; the program stays in the foreground, since a shell lets its background ignore SIGINT."""


def watched(limit_s: float) -> tuple[str, ...]:
    """The words before argv that end it on the machine when its standard input closes, at the latest after `limit_s`.
    The program itself reads /dev/null."""
    return ("sh", "-c", _WATCHDOG, f"{max(1.0, limit_s):.0f}")


def limited(limit_s: float) -> tuple[str, ...]:
    """The words before argv that end it, and what it started, after `limit_s`; its input is its own."""
    return ("timeout", "-s", "KILL", f"{max(1.0, limit_s):.0f}")


OWNER = "LABCTL_OWNER"
_OWNED = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{8})\.(\d{1,20})\.(\d{1,10})\.(\d{1,20})")
_FIND = (
    f'for f in $(grep -slaz "^{OWNER}=" /proc/[0-9]*/environ); do '
    f'p=${{f#/proc/}}; o=$(tr "\\0" "\\n" <"$f" 2>/dev/null | grep -a "^{OWNER}=") && '
    f'echo "${{p%/environ}} ${{o#{OWNER}=}}"; done'
)
_END = (
    f'alive() {{ tr "\\0" "\\n" <"/proc/$1/environ" 2>/dev/null | grep -qaxF "{OWNER}=$2"; }}; '
    "for s in TERM KILL; do for one; do p=${one%%:*}; "
    'if alive "$p" "${one#*:}"; then kill -$s "$p" 2>/dev/null; fi; done; '
    'n=0; while [ $n -lt 10 ]; do left=; for one; do if alive "${one%%:*}" "${one#*:}"; then left=1; fi; done; '
    '[ -n "$left" ] || break; sleep 0.1; n=$((n+1)); done; done; '
    # What targets.py writes for signals, of programs that were killed before they could remove it.
    "for f in /tmp/labctl-????????????????.pid; do "
    '[ ! -s "$f" ] || [ -h "$f" ] || [ -d "/proc/$(cat "$f")" ] || rm -f "$f"; done'
)


@functools.cache
def _host() -> tuple[str, str, int]:
    """What tells this host, its boot and its process numbers from others'."""
    name = ""
    with contextlib.suppress(OSError):
        name = Path("/etc/machine-id").read_text().strip()
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    host = hashlib.sha256(f"labctl {name} {socket.gethostname()}".encode()).hexdigest()[:16]
    return host, (boot or "0" * 8)[:8], Path("/proc/self/ns/pid").stat().st_ino


def owner() -> str:
    """This process, as programs on machines carry it: host, boot, process-number space, process, its start."""
    host, boot, numbers = _host()
    return f"{host}.{boot}.{numbers}.{os.getpid()}.{_started(os.getpid()) or 0}"


def _started(pid: int) -> int | None:
    """When the process started, in the kernel's ticks since boot; None where it is not there (proc(5), field 22)."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = said.rpartition(")")[2].split()
    return None if state in ("Z", "X") else int(fields[18])


def is_gone(mark: str) -> bool:
    """Whether that owner surely has ended. One of another host, or of other process numbers, may be alive."""
    found = _OWNED.fullmatch(mark)
    host, boot, numbers = _host()
    if found is None or found[1] != host:
        return False
    if found[2] != boot:
        return True
    return int(found[3]) == numbers and _started(int(found[4])) != int(found[5])


def end_strays(commands: Commands, *, every: bool = False) -> int:
    """Ends programs on the machine whose labctl has ended; with `every` those of all labctls but this one. Gives how
    many there were. Raises LabError when the machine cannot be asked."""
    found = [line.split(" ") for line in commands.run(("sh", "-c", _FIND), timeout_s=_ASK_S).text.splitlines()]
    strays = [
        f"{words[0]}:{words[1]}"
        for words in found
        if len(words) == 2 and words[0].isdecimal() and _OWNED.fullmatch(words[1])
        if (words[1] != owner() if every else is_gone(words[1]))
    ]
    if strays:
        commands.run(("sh", "-c", _END, "sh", *strays), timeout_s=_ASK_S)
    return len(strays)


_CONNECTION = re.compile(r"([0-9A-Fa-f.:]{2,45})(?:%\S+)? \d{1,5} ([0-9A-Fa-f.:]{2,45})(?:%\S+)? (\d{1,5})")


def own_traffic(said: Sequence[str]) -> str:
    """The pcap expression for the SSH traffic that labctl itself makes, from what each machine says of its connection
    (`SSH_CONNECTION`: client, its port, server, its port). The client's port is left open: more connections come and go
    while packets are captured. Empty where no machine says an address."""
    ways = dict.fromkeys(
        f"(tcp port {found[3]} and host {_plain(found[1])} and host {_plain(found[2])})"
        for line in said
        if (found := _CONNECTION.fullmatch(line.strip())) and found[3] != "0"
    )
    return " or ".join(ways)


def _plain(address: str) -> str:
    """An IPv4 address that a socket for both families shows as IPv6 travels as IPv4."""
    return re.sub(r"^::ffff:(?=\d+\.)", "", address, flags=re.IGNORECASE)
