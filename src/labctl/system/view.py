"""What a process inside a network namespace sees mounted: a /sys of its own, everything else as on the host.

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
from dataclasses import dataclass
from pathlib import Path

_SYS = "/sys"
_MOUNTS = "/proc/thread-self/mountinfo"
_THREAD_MOUNTS = "/proc/thread-self/ns/mnt"
_CLONE_NEWNS = 0x20000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SLAVE = 1 << 19
_FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}
_USUAL = ("nosuid", "nodev", "noexec")
_SO_NETNS_COOKIE = 71
_MOST_KEPT = 64
_NOT_HERE = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENODEV, errno.ENOENT, errno.EINVAL}
"""What a host says that never allows it. Anything else (no descriptor, no memory left) is a failure of now."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """One line of mountinfo: the mount, the mount that it stands on, its place, and its own flags (`ro`, …)."""

    number: int
    parent: int
    place: str
    options: tuple[str, ...]


def parse_mounts(text: str) -> tuple[Mounted, ...]:
    """From /proc/PID/mountinfo (proc_pid_mountinfo(5)), in its order: what was mounted later comes later. Pure."""
    found = []
    for line in filter(None, text.split("\n")):  # a place may have any other character that ends lines
        number, parent, _device, _root, place, options, *_ = line.split(" ")
        plain = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place)
        found.append(Mounted(number=int(number), parent=int(parent), place=plain, options=tuple(options.split(","))))
    return tuple(found)


def beneath(mounts: tuple[Mounted, ...], place: str) -> tuple[Mounted | None, tuple[Mounted, ...]]:
    """The mount that is seen at `place` (None: there is none), and those that stand directly on it. Pure."""
    top = next((one for one in reversed(mounts) if one.place == place), None)
    return top, tuple(one for one in mounts if top is not None and one.parent == top.number and one.place != place)


def enter_own() -> None:
    """Gives the calling thread a view of its own, for the network namespace that it is in. There is no way back for a
    thread that kept no descriptor of where it was. Raises OSError."""
    _check(_libc.unshare(_CLONE_NEWNS), "a mount namespace of its own")
    mounts = parse_mounts(os.fsdecode(Path(_MOUNTS).read_bytes()))
    try:
        _mount("", "/", "none", _MS_SLAVE | _MS_REC)
    except OSError as refused:
        if refused.errno != errno.EINVAL:
            raise
        for mount in mounts:  # inside a chroot "/" is no mount
            _mount("", mount.place, "none", _MS_SLAVE)
    top, above = beneath(mounts, _SYS)
    flags = sum(value for name, value in _FLAGS.items() if name in (top.options if top is not None else _USUAL))
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


def enter_own_if_allowed() -> OSError | None:
    """As `enter_own`; where this host allows no view the thread is left with the host's /sys, and gets the reason."""
    try:
        enter_own()
    except OSError as refused:
        if refused.errno not in _NOT_HERE:
            raise
        return refused
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """Descriptors of a mount namespace and of the directory in it that is this process's root (a chroot stays one)."""

    mounts: int
    root: int

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


class Views:
    """The views of one thread, which alone uses them and stands in one of them: made once for each network namespace,
    since making one costs what starting a process does, and going from one to another a twentieth of it."""

    def __init__(self) -> None:
        self._home: _View | None = None
        self._at: _View | None = None
        self._known: OrderedDict[int, _View] = OrderedDict()
        self._refused: OSError | None = None

    def stand_inside(self) -> None:
        """In the view of the network namespace that the thread is in. Where this host allows none (a container, a user
        namespace), the thread stays where the host's /sys is, and `refused` says why. Raises OSError."""
        if self._refused is not None:
            return
        key = _cookie()
        view = self._known.get(key) if key else None
        try:
            if view is None:
                view = self._made()
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

    def _made(self) -> _View:
        if self._home is None:
            self._home = self._at = _View.of_this_thread()
        self._go(self._home)
        self._at = None  # until it is known where this ended
        enter_own()
        self._at = _View.of_this_thread()
        return self._at

    def _keep(self, key: int, view: _View) -> None:
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
