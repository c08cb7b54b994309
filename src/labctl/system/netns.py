"""Network namespaces under /run/netns, as `ip netns` keeps them: make, enter, list, delete, and the processes inside.

Owns the mounts and the files; knows nothing of labs, of marks, or of what is inside a namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from labctl.errors import StepFailed
from labctl.system import locks
from labctl.system.clock import Deadline
from labctl.units import MILLI
from labctl.values import dataclass

DIRECTORY = Path("/run/netns")
RUN_DIRECTORY = Path("/run/labctl")
_THREAD_NAMESPACE = "/proc/thread-self/ns/net"
_TURN_S = 30.0
"""Mounting or unmounting the directory takes milliseconds."""
_FILE_CONTENT = b"labctl\n"
"""Stands in the file that a namespace gets mounted on. A crash between making the file and mounting leaves a file
that names its owner; an empty one, as `ip netns add` makes, is not touched."""

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SHARED = 1 << 20
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), doing)


def _unshare() -> None:
    _check(_libc.unshare(_CLONE_NEWNET), "unshare")


def _setns(descriptor: int) -> None:
    _check(_libc.setns(descriptor, _CLONE_NEWNET), "setns")


def _mount(source: str, target: str, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), b"none", flags, None), target)


def _unmount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(target.encode(), flags), target)


def unmount(place: Path) -> None:
    """Unmounts whatever is mounted at `place`. Raises OSError."""
    _unmount(str(place), _MNT_DETACH)


def path_of(name: str) -> Path:
    return DIRECTORY / name


def command(name: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    """What a person types to run argv inside: the network is the namespace's, /sys is the host's (which `labctl exec`
    changes). Not `ip netns exec`: its /sys is right, and lacks the cgroups and the bpffs that argv may want."""
    return ("nsenter", f"--net={path_of(name)}", "--", *argv)


@contextlib.contextmanager
def entered(namespace: Path | int, *, home: int | None = None) -> Iterator[None]:
    """The calling thread, and only it, is inside the namespace (a path or an open descriptor). `home` is a descriptor
    of where it is now, for a thread whose /proc does not show it. Raises OSError."""
    home = os.dup(home) if home is not None else os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if isinstance(namespace, int):
            _setns(namespace)
        else:
            enter_for_good(namespace)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def enter_for_good(path: Path) -> None:
    """The calling thread is inside from now on. For a process that is about to become another program. Raises
    OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def throwaway() -> Iterator[None]:
    """The calling thread is inside a namespace without a name, which is gone at the end (unless processes that
    were started inside live on)."""
    home = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _unshare()
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """The path of a namespace that has no name, for processes of this one that run in it; the calling thread is inside
    too. It is gone at the end."""
    with throwaway():
        descriptor = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        finally:
            os.close(descriptor)


def create(name: str, prepare: Callable[[], None]) -> int:
    """Makes the namespace and gives an open descriptor of it.

    `prepare` runs inside it before it gets its name. What it does (setting a mark) is therefore there
    whenever the name is there. Raises FileExistsError when the name is taken, and OSError.
    """
    path = path_of(name)
    with throwaway():
        descriptor = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            prepare()
            with _mount_point(path):
                _mount(f"/proc/self/fd/{descriptor}", str(path), _MS_BIND)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


@contextlib.contextmanager
def _mount_point(path: Path) -> Iterator[None]:
    # With its content from the first moment: an empty file, left by a process that was killed, would have no owner.
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    file = os.open(path.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o444)
    try:
        os.write(file, _FILE_CONTENT)
        # Only with a descriptor of a directory does Python let the kernel follow the link in /proc.
        os.link(f"/proc/self/fd/{file}", path.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(file)
        os.close(directory)
    try:
        yield
    except BaseException:
        path.unlink()
        raise


def prepare_directory() -> None:
    """Makes /run/netns a shared mount point if it is none yet, as the first `ip netns add` after a boot does.

    Without it that first `ip netns add` would bind the directory over itself, with our mounts in it twice, and
    ours could not be removed any more. A file remembers that it was us, for `tidy_directory`.
    """
    with _turn():
        DIRECTORY.mkdir(mode=0o755, exist_ok=True)
        try:
            _mount("", str(DIRECTORY), _MS_SHARED | _MS_REC)
        except OSError as refused:
            if refused.errno != errno.EINVAL:
                raise
            _we_mounted().touch()  # first: who is killed in between has said so
            _mount(str(DIRECTORY), str(DIRECTORY), _MS_BIND | _MS_REC)
            _mount("", str(DIRECTORY), _MS_SHARED | _MS_REC)


def tidy_directory() -> None:
    """Takes the mount of `prepare_directory` away again if it was ours and the directory has nothing in it."""
    if not _we_mounted().exists():
        return
    with _turn():
        if any(names()):
            return
        try:
            # Without MNT_DETACH: if a namespace has been mounted in it since, it is busy, and stays.
            _unmount(str(DIRECTORY))
        except OSError as refused:
            if refused.errno not in (errno.EINVAL, errno.ENOENT):  # never mounted: whoever wanted to was killed
                return
        _we_mounted().unlink(missing_ok=True)


def _we_mounted() -> Path:
    return RUN_DIRECTORY / "netns-mount"


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    RUN_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    with locks.held("netns", timeout_s=_TURN_S) as is_mine:
        if not is_mine:
            raise StepFailed(
                what=f"another labctl has been using {DIRECTORY} for {_TURN_S:g} s",
                remedy=f"fuser -v {locks.directory() / 'netns'}  # which one",
            )
        yield


def names() -> tuple[str, ...]:
    """Every name in /run/netns, sorted: namespaces, and files where none is mounted (see `is_mounted`)."""
    try:
        return tuple(sorted(path.name for path in DIRECTORY.iterdir()))
    except FileNotFoundError:
        return ()


def is_mounted(name: str) -> bool:
    """True where a namespace hangs, false for a plain file or nothing."""
    try:
        return path_of(name).stat().st_dev == Path(_THREAD_NAMESPACE).stat().st_dev
    except OSError:
        return False


def is_our_leftover(name: str) -> bool:
    """True for the plain file of a `create` that was cut off before the mount."""
    path = path_of(name)
    try:
        return not is_mounted(name) and path.is_file() and path.read_bytes() == _FILE_CONTENT
    except OSError:
        return False


def delete(name: str) -> None:
    """Unmounts the namespace and removes its name; nothing happens if there is none.

    The kernel frees the namespace, with every device in it, when its last process and descriptor are gone.
    """
    path = path_of(name)
    while is_mounted(name):
        _unmount(str(path), _MNT_DETACH)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def key_of(name: str) -> tuple[int, int] | None:
    """Device and inode, which identify a namespace however one comes to it. None if there is none."""
    try:
        status = path_of(name).stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def own_key() -> tuple[int, int]:
    """That of the namespace which the calling thread is in."""
    status = Path("/proc/thread-self/ns/net").stat()
    return (status.st_dev, status.st_ino)


def processes_in(namespaces: Collection[tuple[int, int]]) -> tuple[int, ...]:
    """Ids of the processes whose network namespace is one of these keys; never this process itself."""
    wanted = set(namespaces)
    return tuple(
        pid
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        if pid != os.getpid() and _namespace_of_process(pid) in wanted
    )


def name_of(pid: int) -> str:
    """What the kernel calls the process; `?` when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"


def arguments_of(pid: int) -> tuple[str, ...]:
    """What the process was started with; nothing when it has ended."""
    try:
        return tuple(Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0"))
    except OSError:
        return ()


def _namespace_of_process(pid: int) -> tuple[int, int] | None:
    try:
        status = os.stat(f"/proc/{pid}/ns/net")  # noqa: PTH116  # hundreds of processes: a Path costs as much again
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def end_processes(namespaces: Collection[tuple[int, int]], *, timeout_s: float = 5.0) -> int:
    """Kills every process inside these namespaces and waits for their end; says how many there were.

    Each one is held by a pidfd while it is looked at again, so that a number that was given to another process
    meanwhile hits no other. All are killed before one is waited for: a large fabric has hundreds. Raises StepFailed
    when none has ended for `timeout_s` seconds and some are still there.
    """
    wanted = set(namespaces)
    deadline = Deadline.after(timeout_s)
    ended = 0
    # More than once: a process may have made another one while the first list was read.
    while found := processes_in(wanted):
        held = [pidfd for pid in tuple(found)[:_MOST_HELD] if (pidfd := _killed(pid, wanted)) is not None]
        try:
            for pidfd in held:
                if _has_ended(pidfd, deadline):
                    ended += 1
                    deadline = Deadline.after(timeout_s)
        finally:
            for pidfd in held:
                os.close(pidfd)
        if deadline.is_over():
            raise StepFailed(
                what="processes inside the lab do not end",
                cause=f"still there after {timeout_s:g} s and SIGKILL: {', '.join(map(str, found))}",
                remedy="ps -o pid,stat,wchan,args -p " + ",".join(map(str, found)),
            )
    return ended


def end_process(pid: int, namespaces: Collection[tuple[int, int]], *, timeout_s: float = 5.0) -> None:
    """Kills that process, if it is inside one of these namespaces, and waits for its end."""
    if (pidfd := _killed(pid, set(namespaces))) is not None:
        try:
            _has_ended(pidfd, Deadline.after(timeout_s))
        finally:
            os.close(pidfd)


@dataclass(frozen=True, slots=True)
class InsideProcess:
    """A process of a namespace: its id, its name, that of its parent."""

    pid: int
    name: str
    parent: int
    parent_name: str


def processes_by_namespace(namespaces: Collection[tuple[int, int]]) -> dict[tuple[int, int], list[InsideProcess]]:
    """As `processes_in`, in one walk through /proc, by the namespace's key."""
    found: dict[tuple[int, int], list[InsideProcess]] = {}
    wanted = set(namespaces)
    own = os.getpid()
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:  # noqa: PTH208
        key = _namespace_of_process(pid)
        if key is not None and key in wanted and pid != own:
            parent = _parent_of(pid)
            one = InsideProcess(pid, name_of(pid), parent, name_of(parent) if parent else "")
            found.setdefault(key, []).append(one)
    return found


def _parent_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


_MOST_HELD = 200
"""Descriptors that are open at the same time."""


def _killed(pid: int, wanted: Collection[tuple[int, int]]) -> int | None:
    """The process's pidfd once it was sent SIGKILL; None for one that has ended, or is another one."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if _namespace_of_process(pid) in wanted:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return pidfd
    except ProcessLookupError:
        pass
    os.close(pidfd)
    return None


def _has_ended(pidfd: int, deadline: Deadline) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0, deadline.left_s()) / MILLI))
