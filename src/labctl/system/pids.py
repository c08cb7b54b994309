"""Processes with process numbers of their own: inside, /proc and `kill` know no others.

A PID namespace lives as long as its first process, and an orphan in it becomes that one's child. That
first process does nothing else here: were it the program itself, a signal that it does not handle would not end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, Self

from labctl.system import powers
from labctl.units import MILLI
from labctl.values import dataclass

_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_SI_KERNEL = 0x80
_FROM_OUTSIDE = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_HEARD = (*_FROM_OUTSIDE, *_STOPS, signal.SIGCONT, signal.SIGCHLD)
_READY = b"+"
_STAYS = b"s"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_MOUNT_S = 30.0
"""Mounting takes a millisecond."""
_FIRST = "exec 3<&0; read -r _ <&3 & wait $!"
"""Ends at the end of its standard input, a pipe whose other end labctl alone holds: also when labctl was killed before
`setpriv` could ask for a signal. `wait` collects the orphans that became its children."""

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
    a /proc shows depends on the process that mounts it, so a process does that from inside. Raises OSError."""
    choose(numbers)
    try:
        helper = _spawn((mount, "-n", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc", "/proc"))
    finally:
        choose(home)
    if _status_within(helper, _MOUNT_S):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), "mount of /proc")


def _status_within(child: int, timeout_s: float) -> int:
    """How the child ended; it is killed when its time is over."""
    ending = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(ending, select.POLLIN)
        if not poll.poll(timeout_s / MILLI):
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(ending)
    return os.waitpid(child, 0)[1]


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
    its terminal's foreground if the caller was; the caller itself stays outside, hands on signals, stops, goes on and
    ends as the child does, and never returns.

    `mount_proc` runs in the first process, which goes to the network namespace `network` so that it is not taken for a
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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    begun, begin = os.pipe()
    if child := os.fork():
        os.close(begun)
        job = _Job.of(child)
        os.close(begin)
        _stay_outside(job, first, ours)
    os.close(begin)
    powers.die_with_parent(signal.SIGKILL)
    ours.close()
    os.read(begun, 1)  # until the caller has seen to the terminal
    os.close(begun)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return None


def _stay_outside(job: _Job, first: int, channel: _PipeEnd) -> NoReturn:
    status = job.attend()
    channel.shut()
    if channel.read() != _STAYS:
        os.waitpid(first, 0)
    code = os.waitstatus_to_exitcode(status)
    job.end(-code)
    _end_as(code)


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
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)  # raises when there is no child
        with contextlib.suppress(BrokenPipeError):
            os.write(end.writing, _STAYS)
        while True:
            os.wait()  # while SIGCHLD is ignored it ends when no child is left, and raises
    os._exit(0)


@dataclass(slots=True, kw_only=True)
class _Job:
    """The child, as a shell sees its jobs. Outside there may be a shell too, whose job this process is: that one sees
    here what it would see of the child.

    In the PID namespace, every process group whose leader is outside has the number 0. A shell there that finds both
    itself and the terminal in "group 0" takes a background for the foreground, and cannot give the terminal back to 0.
    So where there is a terminal the child leads a group of its own (`own`), which has the terminal at once when all of
    its standard streams are (`whole`). Otherwise others in this process's group, beside it in a pipeline, may need the
    keys: the child gets the terminal when it is stopped for having asked for it.
    """

    child: int
    group: int
    own: bool
    terminal: int | None
    whole: bool
    """All of standard input, output and error are the terminal."""
    holds: bool
    """The child's side, and no process outside, has the terminal."""
    holder: int | None = None
    """The group on the child's side that had the terminal when the child was last stopped."""

    @classmethod
    def of(cls, child: int) -> Self:
        """Of a child that waits, and has all of `_HEARD` blocked, as this process has."""
        standard = [number for number in (0, 1, 2) if _foreground(number) is not None]
        terminal, group = (standard[0] if standard else None), os.getpgrp()
        own, whole = terminal is not None, len(standard) == 3
        job = cls(child=child, group=group, own=own, terminal=terminal, whole=whole, holds=False)
        if own:
            os.setpgid(child, child)
            job.holds = whole and job._in_front() and job._give(child)
        else:
            for early in signal.sigpending() & {*_FROM_OUTSIDE, *_STOPS}:  # perhaps it was sent before the child was
                signal.sigtimedwait((early,), 0)
                os.kill(child, early)
        return job

    def attend(self) -> int:
        """Hands on what is sent to this process, and stops when the child does, until it has ended; gives its wait
        status."""
        while True:
            heard = signal.sigwaitinfo(_HEARD)
            if heard.si_signo == signal.SIGCONT:
                self._go_on()
            elif heard.si_signo != signal.SIGCHLD:
                self._hand_on(heard)
            else:
                ended, status = os.waitpid(self.child, os.WNOHANG | os.WUNTRACED)
                if ended and os.WIFSTOPPED(status):
                    self._stop(os.WSTOPSIG(status))
                elif ended:
                    return status

    def end(self, killed_by: int) -> None:
        """The terminal is given back: an interactive shell may have kept it. Ctrl-C would have reached all of this
        process's group, as a script that runs it."""
        if not self.holds:
            return
        self._give(self.group)
        if self.own and killed_by in (signal.SIGINT, signal.SIGQUIT):
            os.kill(0, killed_by)

    def _hand_on(self, heard: signal.struct_siginfo) -> None:
        """What the terminal sends to this process's group (Ctrl-C) goes to a child in that group anyway."""
        if heard.si_code != _SI_KERNEL:
            if heard.si_pid != self.child:
                os.kill(self.child, heard.si_signo)
        elif self.own:
            os.killpg(self.child, heard.si_signo)

    def _stop(self, number: int) -> None:
        """As the child did, and as the terminal would have stopped all of this process's group; then goes on."""
        if self.terminal is not None and self.holds:
            holder = _foreground(self.terminal)
            self.holder = None if holder == self.group else holder
            self._give(self.group)
            self.holds = False
        elif number in (signal.SIGTTIN, signal.SIGTTOU) and self._in_front():
            self._go_on(hand_over=True)  # `fg` of a job that was not stopped says nothing to it
            return
        os.kill(0 if self.own and number in _STOPS else os.getpid(), number)
        if number in _STOPS:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))  # stops here, unless the group is an orphan
            signal.pthread_sigmask(signal.SIG_BLOCK, (number,))
        signal.sigtimedwait((signal.SIGCONT,), 0)
        self._go_on()

    def _go_on(self, *, hand_over: bool = False) -> None:
        if self._in_front():
            self.holds = bool(self.holder and self._give(self.holder))
            if not self.holds and (self.whole or hand_over):
                self.holds = self._give(self.child)
        (os.killpg if self.own else os.kill)(self.child, signal.SIGCONT)

    def _in_front(self) -> bool:
        return self.terminal is not None and _foreground(self.terminal) == self.group

    def _give(self, group: int) -> bool:
        """Without being stopped for it: SIGTTOU is blocked. Of a group that has ended, and of a terminal that was hung
        up, it is False."""
        if self.terminal is None:
            return False
        try:
            os.tcsetpgrp(self.terminal, group)
        except OSError:
            return False
        return True


def _foreground(descriptor: int) -> int | None:
    """The foreground process group, if that is this process's terminal."""
    try:
        return os.tcgetpgrp(descriptor)
    except OSError:
        return None


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
