"""One process of the load program, and its commands: where the binary is, how it is started, what it answers.

Commands and answers go over a socket pair (`source/main.c` lists them). A process ends with labctl, and when its end of
the socket pair closes.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from labctl.errors import MeasureFailed, ToolMissing
from labctl.system.process import Process
from labctl.system.signals import stop_if_asked
from labctl.values import dataclass

OVERRIDE = "LABCTL_LOAD"
OWN_NAMESPACE = "-"
"""Of a process of the program: that in which it was started."""
_PROGRAMS = Path(__file__).with_name("programs")
_ANSWER_S = 30.0
_LOOK_S = 0.5
_LONGEST_LINE_BYTE = 4096
_MOST_RECORDS_BYTE = 64 << 20


def find_load_program() -> Path:
    """What `LABCTL_LOAD` names, or else the binary that labctl ships for this machine. Raises ToolMissing with the way
    to make one."""
    asked = os.environ.get(OVERRIDE)
    path = Path(asked) if asked else _PROGRAMS / f"labctl-load-{platform.machine()}"
    if path.is_file() and os.access(path, os.X_OK):
        return path.resolve()
    raise ToolMissing(
        what=f"there is no load program for this machine ({platform.machine()})",
        cause=f"{OVERRIDE} names {asked}, which is no program" if asked else "labctl ships it for x86_64 and aarch64",
        remedy=f"make -C {Path(__file__).parent} here  # then set {OVERRIDE} to what it prints",
    )


def load_program_for(machine: str) -> Path | None:
    """The binary for a machine of that kind (`uname -m`), this host's or another; None where there is none."""
    if machine == platform.machine():
        return find_load_program()
    path = _PROGRAMS / f"labctl-load-{machine}"
    return path if path.is_file() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where one address is listened at: for data, for short connections, for datagrams."""

    data: int
    connect: int
    udp: int

    @property
    def words(self) -> tuple[str, str, str]:
        return str(self.data), str(self.connect), str(self.udp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How every TCP socket is made, and how long a message is. Sizes in bytes."""

    congestion: str
    buffer_byte: int
    message_byte: int
    streams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What the kernel made of a `Shape`."""

    congestion: str
    send_buffer_byte: int
    receive_buffer_byte: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Slices of one kind that follow each other at once, one on each of `sessions`; a CPU of None is any."""

    kind: str
    argument: int
    warm_ns: int
    length_ns: int
    client_cpu: int | None
    server_cpu: int | None
    cycle: int
    sessions: tuple[int, ...]


class Refused(MeasureFailed):
    """A command that the program could not carry out; `cause` is its words."""


class LoadEnd:
    """A process of the load program, as what gives it commands."""

    def __init__(self, control: socket.socket, name: str) -> None:
        control.settimeout(_LOOK_S)
        self._control = control
        self._name = name
        self._received = b""

    def nice(self) -> int:
        """The priority that it has now: -20 where that is allowed."""
        return int(self._ask("nice")[0])

    def count(self) -> str:
        """Counts cycles and instructions from now on; why that cannot be, or nothing."""
        try:
            self._ask("count")
        except Refused as refused:
            return refused.cause
        return ""

    def watch(self, thread: int) -> None:
        """A thread of the kernel whose CPU time and waiting are looked at in each slice."""
        self._ask("watch", str(thread))

    def listen(self, namespace: str, address: str, shape: Shape) -> Ports:
        words = self._ask("listen", namespace, address, shape.congestion, str(shape.buffer_byte))
        data, connect, udp = map(int, words)
        return Ports(data=data, connect=connect, udp=udp)

    def connect(self, session: int, namespace: str, address: str, ports: Ports, shape: Shape) -> InForce:
        """Connects a session of that number. Raises Refused, also where the network does not let it through."""
        streams, size = str(shape.streams), str(shape.message_byte)
        buffer = str(shape.buffer_byte)
        words = self._ask(
            "open", str(session), namespace, address, *ports.words, streams, shape.congestion, buffer, size
        )
        return InForce(congestion=words[0], send_buffer_byte=int(words[1]), receive_buffer_byte=int(words[2]))

    def run(self, order: Order) -> bytes:
        """The records of those slices, one behind the other. Raises Refused when one of them failed."""
        cpus = ["-" if cpu is None else str(cpu) for cpu in (order.client_cpu, order.server_cpu)]
        numbers = map(str, (order.argument, order.warm_ns, order.length_ns))
        words = self._ask("run", order.kind, *numbers, *cpus, str(order.cycle), *map(str, order.sessions))
        size = int(words[0])
        if size > _MOST_RECORDS_BYTE:
            raise MeasureFailed(f"{self._name} answered with {size} bytes, which no command gives")
        while len(self._received) < size:
            self._receive()
        records, self._received = self._received[:size], self._received[size:]
        return records

    def _ask(self, *words: str) -> tuple[str, ...]:
        """Gives a command; returns the words after `ok`."""
        try:
            self._control.sendall(" ".join(words).encode() + b"\n")
        except OSError as failed:
            raise MeasureFailed(f"{self._name} has ended", str(failed)) from failed
        state, _, rest = self.line().partition(" ")
        if state != "ok":
            raise Refused(what=f"{self._name} could not {words[0]}", cause=rest)
        return tuple(rest.split())

    def line(self, timeout_s: float = _ANSWER_S) -> str:
        """The next line that comes."""
        while b"\n" not in self._received:
            if len(self._received) > _LONGEST_LINE_BYTE:
                raise MeasureFailed(f"{self._name} answered with something else than a line")
            self._receive(timeout_s)
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")

    def send(self, data: bytes, timeout_s: float) -> None:
        """Bytes for whatever is at the other end, before it is the load program."""
        self._control.settimeout(timeout_s)
        try:
            self._control.sendall(data)
        except OSError as failed:
            raise MeasureFailed(f"{self._name} has ended", str(failed)) from failed
        finally:
            self._control.settimeout(_LOOK_S)

    def _receive(self, timeout_s: float = _ANSWER_S) -> None:
        waited_s = 0.0
        while True:
            stop_if_asked()
            try:
                data = self._control.recv(1 << 20)
            except TimeoutError:
                waited_s += _LOOK_S
                if waited_s >= timeout_s:
                    raise MeasureFailed(f"{self._name} did not answer within {timeout_s:g} s") from None
                continue
            except OSError as failed:
                raise MeasureFailed(f"{self._name} has ended", str(failed)) from failed
            if not data:
                raise MeasureFailed(f"{self._name} has ended before it answered")
            self._received += data
            return


@contextmanager
def load_end(program: Path, name: str) -> Iterator[LoadEnd]:
    """A process of the program, which ends with the context. `name` is what messages call it."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = Process((str(program),), stdin=theirs.fileno(), output=theirs.fileno())
        with process:
            yield LoadEnd(ours, name)


@contextmanager
def spinning(program: Path, cpus: Sequence[int]) -> Iterator[None]:
    """Those CPUs do not go to sleep while it lasts: a process of the lowest priority (SCHED_IDLE), which anything else
    displaces at once, runs on each."""
    if not cpus:
        yield
        return
    with Process((str(program), "spin", *map(str, cpus))) as process:
        process.wait_for_output("spinning", timeout_s=60)
        yield
