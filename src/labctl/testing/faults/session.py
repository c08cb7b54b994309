"""Runs a program in a world, each time in a fork of this process, and puts one fault in at one of its calls.

This process has read the program's modules in and never run it: a thread of it would not be there in the fork.

A fault is one of `ACTS` at the call that has this name for the n-th time. Calls of the program's tools are not counted;
their starts are, since it is the program that starts them. What a tool does wrong, a stand-in does in its place: the
path of the program is exchanged in the memory of the process that is about to become it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import NoReturn

from labctl.testing.faults.calls import Call, Caller, Machine, call_of, process_of, sent, this_machine
from labctl.testing.faults.listener import Asked, Listener, listen_to_me, listener_of
from labctl.testing.faults.world import DESK, environment
from labctl.values import dataclass

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
EXCEPTION = "exception"
REFUSED = "refused"
"""The kernel refuses the message itself (EOPNOTSUPP in its answer), not the sending of it."""
HANG, MISSING, RUBBISH, HALF = "hangs", "is missing", "prints rubbish", "prints half"
TOOL_ACTS = (HANG, MISSING, RUBBISH, HALF)

COMMAND_S = 300.0
"""What no command of a small lab takes, faults and all, on a machine however busy."""
_PATIENCE_S = 1.5
"""How long a person looks at a command that hangs in a tool before Ctrl-C."""
_HANGING, _RUBBISH, _HALF = "/run/h", "/run/r", "/run/f"
"""Stand-ins: no longer than `/bin/ip`, whose path they take in its caller's memory."""
_REAL = "/run/real"
_STAND_INS = {
    _HANGING: "#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do sleep 60; done\n",
    _RUBBISH: "#!/bin/sh\nprintf '\\000\\377{]<%%s 0x 1e999 -- \\033[2J\\n%.0s' 1 2 3\nexit 0\n",
    _HALF: '#!/bin/sh\nread -r real </run/real\nsaid=$("$real" "$@"; echo x$?)\ncode=${said##*x}\nsaid=${said%x*}\n'
    'printf %s "$said" | head -c $(( ${#said} / 2 ))\nexit "$code"\n',
}
_BY_STAND_IN = MappingProxyType({HANG: _HANGING, RUBBISH: _RUBBISH, HALF: _HALF})
_NO_SUCH_KIND = 0x3FFF
"""Of a netlink message: rtnetlink answers EOPNOTSUPP."""


class PutIn(RuntimeError):
    """The exception that a fault is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`act` at the call `call` for the `number`-th time."""

    call: str
    number: int
    act: str

    def __str__(self) -> str:
        return f"{self.call} #{self.number}: {self.act}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended: its exit code (negative: the signal; None: it did not end and was killed), what it printed,
    its calls in order, and whether the fault's call was reached."""

    code: int | None
    out: str
    err: str
    calls: tuple[str, ...] = ()
    was_reached: bool = False
    duration_s: float = 0.0


@dataclass(slots=True)
class _Watched:
    """What is known of the program that is being asked about."""

    process: int
    listener: Listener
    fault: Fault | None
    counts: Counter[str] = field(default_factory=Counter)
    calls: list[str] = field(default_factory=list)
    has_become_another: set[int] = field(default_factory=set)
    is_reached: bool = False
    hangs_since_s: float | None = None


class Session:
    """The programs of one world. `held` are the ids of eBPF programs and maps that any of them had open."""

    def __init__(self, program: Callable[[Sequence[str]], int]) -> None:
        """`program` is what a command line runs: it gets the arguments and gives the exit code."""
        self._program = program
        self._machine = this_machine()
        self._names = self._machine.names()
        self._watched: list[_Watched] = []
        self.held: set[tuple[str, int]] = set()
        for place, text in _STAND_INS.items():
            path = Path(place)
            path.write_text(text, encoding="ascii")
            path.chmod(0o755)

    def run(
        self, *args: str, fault: Fault | None = None, is_watched: bool = False, timeout_s: float = COMMAND_S
    ) -> Ended:
        """Runs the program to its end. With a fault, or `is_watched`, its calls are asked about."""
        begun_s = time.monotonic()
        is_asked = is_watched or fault is not None
        out, err = os.memfd_create("out"), os.memfd_create("err")
        ready, go = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            os.close(go)
            self._become(args, out, err, ready if is_asked else None, self._machine)
        os.close(ready)
        watched = None
        if is_asked:
            try:
                watched = _Watched(process=process, listener=Listener(listener_of(process)), fault=fault)
            except OSError as failed:
                raise RuntimeError(f"nothing of it can be watched: {failed}\n{_content(err)}") from failed
            self._watched.append(watched)
        os.close(go)
        code = self._until_its_end(process, watched, begun_s + timeout_s)
        return Ended(
            code=code,
            out=_content(out),
            err=_content(err),
            calls=tuple(watched.calls) if watched else (),
            was_reached=watched is not None and watched.is_reached,
            duration_s=time.monotonic() - begun_s,
        )

    def _become(self, args: Sequence[str], out: int, err: int, ready: int | None, machine: Machine) -> NoReturn:
        code = 1
        try:
            told = dict(environment())
            os.environ.clear()
            os.environ.update(told)
            os.chdir(DESK)
            os.setsid()
            for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
                os.dup2(descriptor, number)
            keep = {0, 1, 2, err} if ready is None else {0, 1, 2, err, ready}
            for entry in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208
                if entry not in keep:
                    with contextlib.suppress(OSError):
                        os.close(entry)
            _take_standard_streams()
            signal.signal(signal.SIGUSR1, _raise)
            for number in (signal.SIGTERM, signal.SIGHUP):  # which a job in the background, or under nohup, ignores
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if ready is not None:
                listen_to_me(machine)
                os.read(ready, 1)
                os.close(ready)
            code = self._program(args)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except BaseException as failed:
            with contextlib.suppress(OSError):
                os.write(err, f"a traceback of the program itself: {type(failed).__name__}: {failed}\n".encode())
            code = 70
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _until_its_end(self, process: int, watched: _Watched | None, deadline_s: float) -> int | None:
        pidfd = os.pidfd_open(process)
        is_late = False
        try:
            while not self._answer_some(0.2, pidfd):
                if watched and watched.hangs_since_s and time.monotonic() > watched.hangs_since_s + _PATIENCE_S:
                    watched.hangs_since_s = None
                    os.kill(process, signal.SIGINT)
                if time.monotonic() > deadline_s and not is_late:
                    is_late = True
                    os.kill(process, signal.SIGKILL)
        finally:
            os.close(pidfd)
        _, status = os.waitpid(process, 0)
        return None if is_late else os.waitstatus_to_exitcode(status)

    def answer(self, timeout_s: float) -> None:
        """Answers the calls of all programs that still run for that long."""
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            self._answer_some(left_s)

    def _answer_some(self, timeout_s: float, until: int | None = None) -> bool:
        """Those that come first within that time; true when none came and `until`, a pidfd, is that of a process that
        has ended."""
        poll = select.poll()
        by_descriptor = {one.listener.descriptor: one for one in self._watched}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        if until is not None:
            poll.register(until, select.POLLIN)
        events = poll.poll(timeout_s * 1000)
        for descriptor, event in events:
            watched = by_descriptor.get(descriptor)
            if watched is None:
                continue
            if event & select.POLLIN:
                self._answer_one(watched)
            elif event & (select.POLLHUP | select.POLLERR):  # nobody is left who could ask
                watched.listener.close()
                self._watched.remove(watched)
        return any(descriptor == until for descriptor, _ in events) and not any(
            event & select.POLLIN for descriptor, event in events if descriptor != until
        )

    def _answer_one(self, watched: _Watched) -> None:
        asked = watched.listener.next()
        if asked is None:
            return
        caller = Caller(asked.thread)
        call = None
        try:
            process = process_of(asked.thread)
            name = self._names[asked.number]
            if self._counts(watched, process):
                call = call_of(name, asked.arguments, caller)
            if name == "execve":
                watched.has_become_another.add(process)
            if call is not None and call.kind in ("bpf", "netlink"):
                self.held |= set(_bpf_held(process))
        except (OSError, ValueError):  # killed meanwhile, or its memory is not to be read
            pass
        if call is None:
            watched.listener.go_on(asked)
            return
        watched.counts[call.name] += 1
        watched.calls.append(call.name)
        fault = watched.fault
        if fault is None or (call.name, watched.counts[call.name]) != (fault.call, fault.number):
            if not watched.listener.go_on(asked) and watched.listener.descriptor >= 0:
                self._take_back(watched, call)
            return
        watched.is_reached = True
        self._put_in(fault.act, watched, asked, caller)

    def _take_back(self, watched: _Watched, call: Call) -> None:
        """A signal cut the call short before it was answered: it comes again."""
        watched.counts[call.name] -= 1
        del watched.calls[len(watched.calls) - 1 - watched.calls[::-1].index(call.name)]

    def _counts(self, watched: _Watched, process: int) -> bool:
        """The program itself, and what it forked and has not become a tool yet."""
        return process == watched.process or (process != 0 and process not in watched.has_become_another)

    def _put_in(self, act: str, watched: _Watched, asked: Asked, caller: Caller) -> None:
        listener = watched.listener
        if act == "SIGKILL":
            os.kill(watched.process, signal.SIGKILL)
            if process_of(asked.thread) != watched.process:
                listener.go_on(asked)
        elif act in SIGNALS or act == EXCEPTION:
            os.kill(watched.process, signal.SIGUSR1 if act == EXCEPTION else signal.Signals[act])
            listener.go_on(asked)
        elif act == MISSING:
            listener.refuse(asked, errno.ENOENT)
        elif act in _BY_STAND_IN:
            path = caller.text(asked.arguments[0])
            if Path(path).name == "setpriv":
                self._exchange_word(caller, asked, act)
            else:
                self._exchange(caller, asked.arguments[0], path, act)
            if act == HANG:
                watched.hangs_since_s = time.monotonic()
            listener.go_on(asked)
        elif act == REFUSED:
            place, _ = sent(self._names[asked.number], list(asked.arguments), caller)
            caller.write(place + 4, _NO_SUCH_KIND.to_bytes(2, sys.byteorder))
            listener.go_on(asked)
        else:
            listener.refuse(asked, getattr(errno, act))

    def _exchange(self, caller: Caller, place: int, path: str, act: str) -> None:
        Path(_REAL).write_text(f"{path}\n", encoding="utf-8")
        caller.write(place, _BY_STAND_IN[act].encode() + b"\0")

    def _exchange_word(self, caller: Caller, asked: Asked, act: str) -> None:
        """The program that setpriv is to become: the word after `--`."""
        words = caller.words(asked.arguments[1])
        number = words.index("--") + 1
        pointer = int.from_bytes(caller.memory(asked.arguments[1] + 8 * number, 8), sys.byteorder)
        self._exchange(caller, pointer, words[number], act)


def _take_standard_streams() -> None:
    """Those of the process that was forked may be somebody's who captures them."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115


def _raise(number: int, frame: FrameType | None) -> None:
    raise PutIn("put in by the fault harness")


def _content(descriptor: int) -> str:
    with open(descriptor, "rb", closefd=True) as file:
        file.seek(0)
        return file.read().decode(errors="replace")


def _bpf_held(process: int) -> Iterator[tuple[str, int]]:
    """The eBPF programs and maps that a process has open: (`prog` or `map`, id)."""
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            link = os.readlink(entry)  # noqa: PTH115
            if link in _BPF_FILES:
                told = Path(f"/proc/{process}/fdinfo/{entry.name}").read_text(encoding="ascii")
                kind = _BPF_FILES[link]
                yield kind, int(told.partition(f"{kind}_id:")[2].split(None, 1)[0])


_BPF_FILES: Mapping[str, str] = MappingProxyType({"anon_inode:bpf-prog": "prog", "anon_inode:bpf-map": "map"})
