"""Control groups of version 2: where they are mounted, making, opening and removing those below it.

A cgroup holds no process against its will: to remove one, what is still in it is moved to the top, not ended. What
lab a cgroup belongs to is said by its name alone; only empty ones can be removed, so nothing of others is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import HostLacks
from labctl.system.clock import Deadline
from labctl.system.view import parse_mounts

MEMBERS = "cgroup.procs"
_KIND = "cgroup2"
_MOUNTS = Path("/proc/self/mountinfo")
_REMOVE_S = 5.0


def top() -> Path | None:
    """Where cgroup v2 is mounted writable (often beside version 1: /sys/fs/cgroup/unified), or None."""
    for mount in parse_mounts(os.fsdecode(_MOUNTS.read_bytes())):
        if mount.kind == _KIND and "rw" in mount.options:
            return Path(mount.place)
    return None


def path_of(name: str) -> Path:
    """The directory of the cgroup `name` (a path below the top). Raises HostLacks without cgroup v2."""
    place = top()
    if place is None:
        raise HostLacks(
            what="cgroup v2 is not mounted on this host",
            cause="Services are translated at the sockets of the processes in a cgroup",
            remedy="mkdir -p /run/cgroup2 && mount -t cgroup2 cgroup2 /run/cgroup2",
        )
    return place / name


def make(name: str) -> None:
    """Makes the cgroup and those above it; one that is there stays as it is. Raises OSError, HostLacks."""
    path_of(name).mkdir(mode=0o755, parents=True, exist_ok=True)


@contextlib.contextmanager
def opened(name: str) -> Iterator[int]:
    """A descriptor of the cgroup's directory. Raises OSError, HostLacks."""
    descriptor = os.open(path_of(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_there(name: str) -> bool:
    place = top()
    return place is not None and (place / name).is_dir()


def within(name: str) -> tuple[str, ...]:
    """The cgroups directly in that one, sorted. Raises OSError, HostLacks."""
    return tuple(sorted(f"{name}/{entry.name}" for entry in path_of(name).iterdir() if entry.is_dir()))


def join(members: int) -> None:
    """The calling process is in the cgroup from now on; `members` is a descriptor of its `cgroup.procs`. Raises
    OSError."""
    os.write(members, b"0")


def remove(name: str) -> None:
    """Removes the cgroup and all below it; nothing happens where there is none. Raises OSError."""
    place = top()
    if place is None or not (place / name).is_dir():
        return
    deadline = Deadline.after(_REMOVE_S)
    for folder, _, _ in os.walk(place / name, topdown=False):
        _remove_one(Path(folder), place, deadline)


def _remove_one(folder: Path, place: Path, deadline: Deadline) -> None:
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as refused:
            if refused.errno != errno.EBUSY or deadline.is_over():
                raise
        for process in (folder / MEMBERS).read_text(encoding="ascii").split():
            with contextlib.suppress(OSError):  # it has ended, or is about to
                (place / MEMBERS).write_text(process, encoding="ascii")
