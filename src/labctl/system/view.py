"""What a process inside a network namespace sees mounted: a /sys of its own, and, where its powers are limited, a
/proc of its own processes and the host's switches read-only. Everything else is as on the host, its files too.

sysfs shows the network devices of the namespace in which it was mounted. A process that only enters another network
namespace still sees the host's devices under /sys/class/net. A view is a mount namespace with sysfs mounted again for
one network namespace; what the host has mounted beneath /sys (cgroups, bpffs, debugfs, …) is brought along, which
`ip netns exec` does not do. Mounts of the host still come and go in it (slave), and nothing goes out of it.

A view lives as long as a process or a descriptor is in it: nothing is left behind, and no network namespace is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import socket
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from labctl.system import pids
from labctl.system.powers import Powers
from labctl.values import dataclass

_SYS = "/sys"
_DEVICES = "/sys/devices/virtual/net"
_SWITCHES = "/proc/sys"
_NET_SWITCHES = "/proc/sys/net"
_PROC_OF_THE_HOST = (_SWITCHES, "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
_MOUNTS = "/proc/thread-self/mountinfo"
_THREAD_MOUNTS = "/proc/thread-self/ns/mnt"
_CLONE_NEWNS = 0x20000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_REMOUNT = 0x20
_MS_SLAVE = 1 << 19
_FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}
_USUAL = ("nosuid", "nodev", "noexec")
_SO_NETNS_COOKIE = 71
_MOST_KEPT = 64
_NOT_HERE = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENODEV, errno.ENOENT, errno.EINVAL, errno.ENOSPC}
"""What a host says that never allows it (ENOSPC: user.max_pid_namespaces is 0). Anything else (no descriptor, no memory
left) is a failure of now."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """One line of mountinfo: the mount, the mount that it stands on, its place, its own flags (`ro`, …), and the kind
    of file system."""

    number: int
    parent: int
    place: str
    options: tuple[str, ...]
    kind: str


def parse_mounts(text: str) -> tuple[Mounted, ...]:
    """From /proc/PID/mountinfo (proc_pid_mountinfo(5)), in its order: what was mounted later comes later. Pure."""
    found = []
    for line in filter(None, text.split("\n")):  # a place may have any other character that ends lines
        number, parent, _device, _root, place, options, *rest = line.split(" ")
        plain = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place)
        found.append(
            Mounted(
                number=int(number),
                parent=int(parent),
                place=plain,
                options=tuple(options.split(",")),
                kind=rest[rest.index("-") + 1],
            )
        )
    return tuple(found)


def beneath(mounts: tuple[Mounted, ...], place: str) -> tuple[Mounted | None, tuple[Mounted, ...]]:
    """The mount that is seen at `place` (None: there is none), and those that stand directly on it. Pure."""
    top = next((one for one in reversed(mounts) if one.place == place), None)
    return top, tuple(one for one in mounts if top is not None and one.parent == top.number and one.place != place)


def tree(mounts: tuple[Mounted, ...], place: str) -> tuple[Mounted, ...]:
    """The mount that is seen at `place`, and all that stand on it or on those. Pure."""
    top, _ = beneath(mounts, place)
    found = [] if top is None else [top]
    numbers = {one.number for one in found}
    for one in mounts:  # what stands on a mount comes after it
        if one.parent in numbers and one.number not in numbers:
            numbers.add(one.number)
            found.append(one)
    return tuple(found)


def enter_own(powers: Powers | None = None) -> None:
    """Gives the calling thread a view of its own, for the network namespace that it is in; with `powers`, one in which
    /sys changes nothing but this network's devices. There is no way back for a thread that kept no descriptor of where
    it was. Raises OSError."""
    _check(_libc.unshare(_CLONE_NEWNS), "a mount namespace of its own")
    mounts = _mounts()
    try:
        _mount("", "/", "none", _MS_SLAVE | _MS_REC)
    except OSError as refused:
        if refused.errno != errno.EINVAL:
            raise
        for mount in mounts:  # inside a chroot "/" is no mount
            _mount("", mount.place, "none", _MS_SLAVE)
    _mount_sys(mounts)
    if powers is not None:
        with contextlib.suppress(FileNotFoundError):  # where there is no device, there is nothing to change
            _mount(_DEVICES, _DEVICES, "none", _MS_BIND)
        for mount in tree(_mounts(), _SYS):
            if mount.place != _DEVICES and not (mount.kind == "bpf" and powers is Powers.NODE):
                _forbid_writing(mount.place, mount.options)


def _mounts() -> tuple[Mounted, ...]:
    return parse_mounts(os.fsdecode(Path(_MOUNTS).read_bytes()))


def _mount_sys(mounts: tuple[Mounted, ...]) -> None:
    top, above = beneath(mounts, _SYS)
    flags = _flags(top.options if top is not None else _USUAL)
    with contextlib.ExitStack() as stack:
        kept = []
        for mount in above:
            descriptor = os.open(mount.place, os.O_PATH | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            kept.append((mount.place, descriptor))
        try:
            _mount("sysfs", _SYS, "sysfs", flags)
        except OSError as refused:
            if refused.errno != errno.EBUSY:
                raise
            return  # what is there is this network namespace's already
        for place, descriptor in kept:
            _mount(f"/proc/thread-self/fd/{descriptor}", place, "none", _MS_BIND | _MS_REC)


def guard_proc() -> None:
    """In a /proc of its own, the host's switches can be read, and only those of the network changed. Raises OSError."""
    for place in (place for place in _PROC_OF_THE_HOST if Path(place).exists()):
        _mount(place, place, "none", _MS_BIND)
        if place == _SWITCHES:
            _mount(_NET_SWITCHES, _NET_SWITCHES, "none", _MS_BIND)
        _forbid_writing(place, _USUAL)


def mount_own_proc() -> None:
    """/proc of the PID namespace that the calling process is in. Raises OSError."""
    _mount("proc", "/proc", "proc", _flags(_USUAL))


def _flags(options: tuple[str, ...]) -> int:
    return sum(value for name, value in _FLAGS.items() if name in options)


def _forbid_writing(place: str, options: tuple[str, ...]) -> None:
    """Of this mount alone: neither of what stands on it, nor of the file system elsewhere."""
    _mount("", place, "none", _MS_REMOUNT | _MS_BIND | _flags(("ro", *options)))


def enter_own_if_allowed(powers: Powers | None = None) -> OSError | None:
    """As `enter_own`; where this host allows no view the thread is left with the host's /sys, and gets the reason."""
    try:
        enter_own(powers)
    except OSError as refused:
        if not is_never_allowed(refused):
            raise
        return refused
    return None


def is_never_allowed(refused: OSError) -> bool:
    """What this host answers each time, as against what failed now."""
    return refused.errno in _NOT_HERE


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """Descriptors of a mount namespace and of the directory in it that is this process's root (a chroot stays one)."""

    mounts: int
    root: int
    has_own_proc: bool = False

    @classmethod
    def of_this_thread(cls) -> _View:
        mounts = os.open(_THREAD_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return cls(mounts=mounts, root=os.open("/", os.O_PATH | os.O_CLOEXEC))
        except BaseException:
            os.close(mounts)
            raise

    def enter(self) -> None:
        _check(_libc.setns(self.mounts, _CLONE_NEWNS), "setns to a mount namespace")
        os.fchdir(self.root)
        os.chroot(".")

    def close(self) -> None:
        os.close(self.mounts)
        os.close(self.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Paths of the programs that a PID namespace is made with."""

    setpriv: str
    mount: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    """Descriptors of the thread's PID namespace and of the one made for what it starts; the mount program."""

    home: int
    own: int
    mount: str


class Views:
    """The views of one thread, which alone uses them and stands in one of them: made once for each network namespace,
    since making one costs what starting a process does, and going from one to another a twentieth of it."""

    def __init__(self) -> None:
        self._home: _View | None = None
        self._at: _View | None = None
        self._known: OrderedDict[tuple[int, Powers | None], _View] = OrderedDict()
        self._refused: OSError | None = None
        self._numbers: _Numbers | None = None
        self._no_numbers: OSError | None = None

    def number(self, programs: Programs) -> None:
        """From now on limited views show the processes of a PID namespace of this thread's own, made here: its first
        process is in the network namespace that the thread is in now. Where this host allows none, `unnumbered` says
        why. Raises OSError."""
        if self._numbers is not None or self._no_numbers is not None:
            return
        self.stand_at_home()
        home = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._numbers = _Numbers(home=home, own=pids.make(home, programs.setpriv), mount=programs.mount)
        except OSError as refused:
            os.close(home)
            if not is_never_allowed(refused):
                raise
            self._no_numbers = refused

    @contextlib.contextmanager
    def bearing(self) -> Iterator[None]:
        """Children that the thread gets meanwhile are born with the numbers of the view that it stands in."""
        if self._numbers is None or self._at is None or not self._at.has_own_proc:
            yield
            return
        pids.choose(self._numbers.own)
        try:
            yield
        finally:
            pids.choose(self._numbers.home)

    def stand_inside(self, powers: Powers | None = None) -> None:
        """In the view of the network namespace that the thread is in. Where this host allows none (a container, a user
        namespace), the thread stays where the host's /sys is, and `refused` says why. Raises OSError."""
        if self._refused is not None:
            return
        cookie = _cookie()
        key = (cookie, powers)
        view = self._known.get(key) if cookie else None
        try:
            if view is None:
                view = self._made(powers)
                self._keep(key, view)
            self._go(view)
            self._known.move_to_end(key)
        except OSError as refused:
            self.stand_at_home()
            if refused.errno not in _NOT_HERE:
                raise
            self._refused = refused

    def stand_at_home(self) -> None:
        """Where the thread was before it stood in any view."""
        if self._home is not None:
            self._go(self._home)

    @property
    def refused(self) -> OSError | None:
        return self._refused

    @property
    def unnumbered(self) -> OSError | None:
        return self._no_numbers

    def _made(self, powers: Powers | None) -> _View:
        if self._home is None:
            self._home = self._at = _View.of_this_thread()
        self._go(self._home)
        self._at = None  # until it is known where this ended
        enter_own(powers)
        self._at = _View.of_this_thread()
        if powers is not None and self._numbers is not None:
            self._show_numbers(self._numbers)
        return self._at

    def _show_numbers(self, numbers: _Numbers) -> None:
        """Last of all: from then on /proc does not show this thread."""
        try:
            pids.mount_proc(numbers.home, numbers.own, numbers.mount)
            guard_proc()
        except OSError as refused:
            if not is_never_allowed(refused):
                raise
            self._no_numbers, self._numbers = refused, None
            return
        assert self._at is not None
        self._at = replace(self._at, has_own_proc=True)

    def _keep(self, key: tuple[int, Powers | None], view: _View) -> None:
        if (former := self._known.pop(key, None)) is not None:
            former.close()
        self._known[key] = view
        if len(self._known) > _MOST_KEPT:
            _, oldest = self._known.popitem(last=False)
            oldest.close()

    def _go(self, view: _View) -> None:
        if view is not self._at:
            view.enter()
            self._at = view


def _cookie() -> int:
    """What no other network namespace ever has since boot; 0 before Linux 5.14, where each process gets a view made
    for it. The inode of a namespace is no identity: it is given again as soon as it is free."""
    with socket.socket(socket.AF_UNIX) as one:
        try:
            return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return 0


def _check(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), doing)


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, None), f"mount of {target}")
