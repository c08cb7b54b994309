"""Processes with process numbers of their own: inside, /proc and `kill` know nobody else.

A PID namespace lives as long as its first process, and whoever loses its parent in it becomes that one's child. That
first process does nothing else here: were it the program itself, a signal that it does not handle would not end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from labctl.system import powers

_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_SI_KERNEL = 0x80
_FROM_OUTSIDE = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_READY = b"+"
_STAYS = b"s"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_FIRST = "exec 3<&0; read -r _ <&3 & wait $!"
"""Ends at the end of its standard input, a pipe whose other end labctl alone holds: also when labctl was killed before
`setpriv` could ask for a signal. `wait` collects whoever became its child."""

_libc = ctypes.CDLL(None, use_errno=True)


def unshare() -> None:
    """The next child of the calling thread is the first process of a new PID namespace. Raises OSError."""
    _check(_libc.unshare(_CLONE_NEWPID), "process numbers of its own")


def choose(descriptor: int) -> None:
    """The PID namespace that children of the calling thread are born in: its own, or one below (a descriptor of it, or
    of a process in it). Raises OSError."""
    _check(_libc.setns(descriptor, _CLONE_NEWPID), "setns to a PID namespace")


def make(home: int, setpriv: str) -> int:
    """A new PID namespace, as a descriptor to `choose`. It ends, with all that is in it, with the calling thread.
    `home` is a descriptor of the one that children are born in before and afterwards. Raises OSError."""
    unshare()
    reading, _held_until_the_end = os.pipe()
    try:
        return os.pidfd_open(_spawn((setpriv, "--pdeathsig", "KILL", "--", "sh", "-c", _FIRST), stdin=reading))
    finally:
        os.close(reading)
        choose(home)


def mount_proc(home: int, numbers: int, mount: str) -> None:
    """Shows the processes of a PID namespace in /proc of the mount namespace that the calling thread is in. Which ones
    a /proc shows depends on who mounts it, so a process does that from inside. Raises OSError."""
    choose(numbers)
    try:
        helper = _spawn((mount, "-n", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc", "/proc"))
    finally:
        choose(home)
    _, status = os.waitpid(helper, 0)
    if status:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), "mount of /proc")


def _spawn(argv: tuple[str, ...], *, stdin: int | None = None) -> int:
    silent = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        streams = (silent if stdin is None else stdin, silent, silent)
        actions = [(os.POSIX_SPAWN_DUP2, stream, standard) for standard, stream in enumerate(streams)]
        return os.posix_spawn(argv[0], argv, {"PATH": _PATH}, file_actions=actions, setsid=True)
    finally:
        os.close(silent)


def become_inner(network: int, mount_proc: Callable[[], None], prepare: Callable[[], None]) -> OSError | None:
    """Splits the calling process, which has one thread. What returns is its child, in a PID namespace of its own and in
    its terminal's foreground if the caller was; the caller itself stays outside, hands on signals, ends as the child
    does, and never returns.

    `mount_proc` runs in the first process, which goes to the network namespace `network` so that nobody takes it for a
    process of the lab; `prepare` runs in the caller before the child is made. What the child leaves running goes on:
    the first process stays until the last of them has ended. An OSError is returned, in the caller, where this host
    allows no such namespace: nothing was split then.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ours, theirs = _channel()
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare()
    except OSError as refused:
        return refused
    first = os.fork()
    if first == 0:
        _be_first(theirs, network, mount_proc)
    theirs.close()
    if (said := ours.read()) != _READY:
        os.waitpid(first, 0)
        choose(home)
        number = int(said or str(errno.EIO))
        return OSError(number, os.strerror(number), "mount of /proc")
    prepare()
    terminal = _terminal()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_FROM_OUTSIDE, signal.SIGCHLD))
    if child := os.fork():
        _stay_outside(child, first, ours, terminal)
    powers.die_with_parent(signal.SIGKILL)
    ours.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return None


def _stay_outside(child: int, first: int, channel: _PipeEnd, terminal: int | None) -> NoReturn:
    status = _attend(child)
    if terminal is not None:
        _take_back(terminal)
    channel.shut()
    if channel.read() != _STAYS:
        os.waitpid(first, 0)
    _end_as(os.waitstatus_to_exitcode(status))


@dataclass(frozen=True, slots=True, kw_only=True)
class _PipeEnd:
    """One end of two pipes between the caller and the first process. A pipe that only one of them can write to tells of
    that one's end."""

    reading: int
    writing: int

    def read(self) -> bytes:
        return os.read(self.reading, 16)

    def shut(self) -> None:
        os.close(self.writing)

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def _channel() -> tuple[_PipeEnd, _PipeEnd]:
    here, there = os.pipe(), os.pipe()
    return _PipeEnd(reading=here[0], writing=there[1]), _PipeEnd(reading=there[0], writing=here[1])


def _be_first(end: _PipeEnd, network: int, mount_proc: Callable[[], None]) -> NoReturn:
    """The first process: holds nothing of the caller's open, and ends when all others have."""
    try:
        _check(_libc.setns(network, _CLONE_NEWNET), "setns to the host's network")
        os.setsid()
        keep = sorted((end.reading, end.writing))
        silent = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(silent, standard)
        os.closerange(3, keep[0])
        os.closerange(keep[0] + 1, keep[1])
        os.closerange(keep[1] + 1, 1 << 16)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then collects those that lost their parent
        mount_proc()
    except OSError as failed:
        os.write(end.writing, str(failed.errno).encode())
        os._exit(1)
    os.write(end.writing, _READY)
    end.read()  # until the caller has shut its end, or is dead
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)  # raises when there is nobody
        with contextlib.suppress(BrokenPipeError):
            os.write(end.writing, _STAYS)
        while True:
            os.wait()  # while SIGCHLD is ignored it ends when nobody is left, and raises
    os._exit(0)


def _attend(child: int) -> int:
    """Hands on what is sent to this process alone, until the child has ended; gives its wait status. What the terminal
    sends (Ctrl-C) goes to the child anyway."""
    while True:
        heard = signal.sigwaitinfo((*_FROM_OUTSIDE, signal.SIGCHLD))
        if heard.si_signo != signal.SIGCHLD:
            if heard.si_code != _SI_KERNEL:
                os.kill(child, heard.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status


def _terminal() -> int | None:
    """A descriptor of the terminal, if this process is in its foreground."""
    for standard in (0, 1, 2):
        with contextlib.suppress(OSError):
            if os.tcgetpgrp(standard) == os.getpgrp():
                return standard
    return None


def _take_back(terminal: int) -> None:
    """An interactive shell gave the terminal to itself, and does not know the number of whom it had it from."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
    with contextlib.suppress(OSError):
        os.tcsetpgrp(terminal, os.getpgrp())


def _end_as(code: int) -> NoReturn:
    """As the child ended: with its exit code, or killed by the same signal."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (-code,))
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


def _check(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), doing)
