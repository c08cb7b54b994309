"""A world of its own for one point: network, mounts, process numbers, names, cgroups, and the places to write to.

Everything outside is read-only there, so that what a program writes is in one of the few places that are looked at.
When its first process ends, the kernel ends all others and frees what they held. The clock, the ids of eBPF and the
processors are everybody's.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from labctl.errors import HostLacks
from labctl.system.view import parse_mounts
from labctl.values import dataclass

DESK = Path("/run/desk")
"""The working directory of the programs in a world."""

OWN_PLACES = (Path("/run"), Path("/var/lib"), Path("/dev/shm"))  # nosec B108  # nothing is opened by these names
"""Empty in each world, and writable. Nothing of the project may be in one of them."""

_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # mount, UTS, IPC, PID, network
_OWN_CGROUPS = 0x02000000
_MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x4000, 1 << 18, 2
_MOUNT_SETATTR, _AT_RECURSIVE, _READ_ONLY, _AT_FDCWD = 442, 0x8000, 1, -100
_PR_SET_PDEATHSIG = 1
_USUAL = 2 | 4 | 8  # nosuid, nodev, noexec
_OF_EVERY_HOST = ("/run/lock", "/run/mount", "/run/frr")
"""Made by the system, by mount(8) and by FRR's package."""
_LEAVE_S = 10.0
_FOLDERS = ("home", "runs", "tmp")

_libc = ctypes.CDLL(None, use_errno=True)


def require_root() -> None:
    """Raises HostLacks where no world can be made."""
    if os.geteuid() != 0:
        raise HostLacks(what="faults are put in as root only", remedy="sudo make test-faults")


def in_a_world(act: Callable[[], bytes], answer: int) -> None:
    """Runs `act` as the first process of a new world, and writes what it gives to the descriptor `answer`: one byte `+`
    before it, or `-` and the traceback. To be called in a process of its own, which it ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # the world ends, and is cleared away
    cgroup = _own_cgroup()
    code = 1
    try:
        _check(_libc.unshare(_NAMESPACES), "namespaces of its own")
        first = os.fork()
        if first == 0:
            _be_first(act, answer, has_cgroup=cgroup is not None)
        signal.signal(signal.SIGTERM, lambda number, frame: os.kill(first, signal.SIGKILL))
        os.close(answer)
        _, status = os.waitpid(first, 0)
        code = os.waitstatus_to_exitcode(status)
    finally:
        if cgroup is not None:
            cgroup.leave()
        os._exit(code & 0xFF)


def _be_first(act: Callable[[], bytes], answer: int, *, has_cgroup: bool) -> None:
    code = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if has_cgroup:
            _check(_libc.unshare(_OWN_CGROUPS), "cgroups of its own")
        _furnish(has_cgroup=has_cgroup)
        _write_all(answer, b"+" + act())
        code = 0
    except BaseException:
        _write_all(answer, b"-" + traceback.format_exc().encode())
    finally:
        os._exit(code)


def _write_all(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", closefd=True) as file:
        file.write(data)


def _furnish(*, has_cgroup: bool) -> None:
    _mount("", "/", "", _MS_REC | _MS_PRIVATE)
    _make_read_only("/")
    _mount("proc", "/proc", "proc", _USUAL)
    _check(_libc.umount2(b"/sys", _MNT_DETACH), "/sys")
    _mount("sysfs", "/sys", "sysfs", _USUAL)
    _mount("bpf", "/sys/fs/bpf", "bpf", 0)
    if has_cgroup:
        _mount("cgroup2", "/sys/fs/cgroup", "cgroup2", _USUAL)
    for place in OWN_PLACES:
        _clear(place)
        _mount("tmpfs", str(place), "tmpfs", 0, "mode=755")
    for name in _OF_EVERY_HOST:
        Path(name).mkdir(mode=0o1777)
    DESK.mkdir()
    for name in _FOLDERS:
        (DESK / name).mkdir(mode=0o700)
    os.chdir(DESK)
    for words in ("set lo up", "add eth0 type veth peer name wire"):
        subprocess.run(("ip", "link", *words.split()), check=True, timeout=60)


def _clear(place: Path) -> None:
    """Takes away what is mounted there: the namespaces of others, which would come and go, and would be kept."""
    mounts = [Path(one.place) for one in parse_mounts(os.fsdecode(Path("/proc/self/mountinfo").read_bytes()))]
    for mounted in reversed([one for one in mounts if one == place or place in one.parents]):
        _libc.umount2(os.fsencode(mounted), _MNT_DETACH)


def _make_read_only(place: str) -> None:
    attributes = struct.pack("=QQQQ", _READ_ONLY, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR), ctypes.c_int(_AT_FDCWD), place.encode(), ctypes.c_uint(_AT_RECURSIVE),
        attributes, ctypes.c_size_t(len(attributes)),
    )  # fmt: skip
    _check(result, f"{place} read-only")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode() or None)
    _check(result, f"mount of {target}")


def _check(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), doing)


@dataclass(frozen=True, slots=True)
class _Cgroup:
    """A new cgroup, and a descriptor of the one that it is in, which leads there from every world."""

    parent: int
    name: str

    def leave(self) -> None:
        """The calling process goes to the parent, and the cgroup goes, with those in it, once nothing runs there."""
        _join(self.parent, "cgroup.procs")
        deadline_s = time.monotonic() + _LEAVE_S
        while not _removed(self.parent, self.name) and time.monotonic() < deadline_s:
            time.sleep(0.01)


def _own_cgroup() -> _Cgroup | None:
    """The calling process in a new cgroup at the top, where version 2 is mounted writable. Raises OSError."""
    mounts = parse_mounts(os.fsdecode(Path("/proc/self/mountinfo").read_bytes()))
    tops = [one.place for one in mounts if one.kind == "cgroup2" and "rw" in one.options]
    if not tops:
        return None
    made = _Cgroup(
        os.open(tops[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), f"labctl-faults.{secrets.token_hex(6)}"
    )
    os.mkdir(made.name, dir_fd=made.parent)
    _join(made.parent, f"{made.name}/cgroup.procs")
    return made


def _join(folder: int, members: str) -> None:
    descriptor = os.open(members, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(descriptor, str(os.getpid()).encode())
    finally:
        os.close(descriptor)


def _removed(parent: int, name: str) -> bool:
    try:
        for _, folders, _, at in os.fwalk(name, topdown=False, dir_fd=parent):
            for folder in folders:
                os.rmdir(folder, dir_fd=at)
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def environment() -> Iterator[tuple[str, str]]:
    """What programs in a world are told of it."""
    yield "PATH", os.environ.get("PATH", os.defpath)
    yield "HOME", str(DESK / "home")
    yield "TMPDIR", str(DESK / "tmp")
    yield "LABCTL_RUNS_DIR", str(DESK / "runs")
    yield "LC_ALL", "C.UTF-8"
    yield "COLUMNS", "200"
