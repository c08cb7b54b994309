"""Users of this host that labctl makes and removes: with a mark, by the host's own tools, with all that they leave.

Only a user whose comment carries the mark is removed, with its processes, its home, its jobs and its files in folders
that everybody may write to. Reading and writing as another user is here too: by that user's rights, so that no link
leads where they may not go. It stands alone because every door to the machine does.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from labctl.errors import MeasureFailed, StepFailed
from labctl.model.result import Completed
from labctl.system import files, process
from labctl.system.clock import Deadline
from labctl.values import dataclass

HOMES = Path("/home")
_TIMEOUT_S = 60.0
_POLL_S = 0.02
_COMMON = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/var/mail", "/var/spool/cron", "/var/lib/systemd/linger")  # nosec B108  # looked through for what a removed user left there
_KINDS_OF_MEMORY = {"shm": "-m", "sem": "-s", "msg": "-q"}
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One of this host. `mark` is its comment (the GECOS field)."""

    name: str
    uid: int
    gid: int
    home: str
    mark: str


def find(name: str) -> User | None:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return User(name=name, uid=found.pw_uid, gid=found.pw_gid, home=found.pw_dir, mark=found.pw_gecos)


def why_taken(name: str) -> str:
    """Why a user of that name cannot be made; empty when one can."""
    if (there := find(name)) is not None:
        return f"there is a user {name} (uid {there.uid})"
    with contextlib.suppress(KeyError):
        return f"there is a group {name} (gid {grp.getgrnam(name).gr_gid})"
    if os.path.lexists(HOMES / name):
        return f"there is {HOMES / name}, which would become that user's"
    return ""


def argv_make(name: str, mark: str) -> tuple[str, ...]:
    """A user with a group and a home of their own, which nobody else may enter."""
    return (
        "useradd", "--create-home", "--home-dir", str(HOMES / name), "--user-group", "--shell", "/bin/bash",
        "--key", "HOME_MODE=0700", "--comment", mark, name,
    )  # fmt: skip


def argv_remove(name: str) -> tuple[str, ...]:
    return ("userdel", "--remove", name)


def make(name: str, mark: str) -> User:
    """Raises StepFailed."""
    _done(argv_make(name, mark))
    if (made := find(name)) is None:
        raise StepFailed(what=f"useradd made no user {name}", remedy=f"getent passwd {name}")
    return made


def set_passwords(passwords: Sequence[tuple[str, str]]) -> None:
    """Of users by name. The passwords stand in no command line. Raises StepFailed."""
    _done(("chpasswd",), stdin="".join(f"{name}:{password}\n" for name, password in passwords).encode())


def lock(name: str) -> None:
    """No new login: not by password, and not by a key."""
    _done(("usermod", "--lock", "--expiredate", "1", name))


def remove(user: User) -> None:
    """With the home. Its processes have to be ended before. Raises StepFailed."""
    for folder in _COMMON:
        if Path(folder).is_dir():
            _tried(("find", folder, "-xdev", "-depth", "-user", str(user.uid), "-delete"))
    for jobs in Path("/var/spool/cron").glob("*/" + user.name):
        _tried(("rm", "-f", "--", str(jobs)))
    for kind, option in _KINDS_OF_MEMORY.items():
        for number in _memory_of(kind, user.uid):
            _tried(("ipcrm", option, number))
    # userdel says 12 where the home or the mail could not be removed, and has removed the user.
    done = _run(argv_remove(user.name))
    if find(user.name) is not None:
        raise _failed(argv_remove(user.name), done)
    if os.path.lexists(user.home):
        files.remove_tree(Path(user.home))


def take_over(folder: Path) -> None:
    """What was given to a user in a folder of labctl's own is root's again: the user's number may be another's soon."""
    if folder.is_dir():
        _done(("chown", "--recursive", "--no-dereference", "0:0", "--", str(folder)))


def _memory_of(kind: str, uid: int) -> Iterator[str]:
    """The numbers of a user's shared memory, semaphores and queues (proc(5), /proc/sysvipc)."""
    try:
        lines = Path(f"/proc/sysvipc/{kind}").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    names = lines[0].split()
    for line in lines[1:]:
        said = dict(zip(names, line.split(), strict=False))
        if str(uid) in (said.get("uid"), said.get("cuid")):
            yield line.split()[1]


# ---- processes


def processes_of(uid: int) -> tuple[int, ...]:
    """Those that are that user in any way: really, effectively, saved, or for files."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and str(uid) in _users_of(int(entry.name)):
            found.append(int(entry.name))
    return tuple(found)


def _users_of(pid: int) -> tuple[str, ...]:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("State:") and "\tZ" in line:
                return ()
            if line.startswith("Uid:"):
                return tuple(line.split()[1:])
    return ()


def end_processes_of(uid: int, *, timeout_s: float = 10.0) -> int:
    """Kills all of them, and those that they make meanwhile; gives how many there were. Raises StepFailed."""
    if uid <= 0:
        raise ValueError("processes of root are not ended by their user")
    deadline, ended = Deadline.after(timeout_s), set[int]()
    while found := processes_of(uid):
        for pid in found:
            _kill(pid, uid)
        ended |= set(found)
        if deadline.is_over():
            raise StepFailed(
                what=f"processes of user {uid} do not end",
                cause=f"still there after {timeout_s:g} s and SIGKILL: {', '.join(map(str, found))}",
                remedy="ps -o pid,stat,wchan,args -p " + ",".join(map(str, found)),
            )
        time.sleep(_POLL_S)
    return len(ended)


def _kill(pid: int, uid: int) -> None:
    """Held by a pidfd while it is looked at again: a number that another process has by now is left alone."""
    with contextlib.suppress(ProcessLookupError):
        held = os.pidfd_open(pid)
        try:
            if str(uid) in _users_of(pid):
                signal.pidfd_send_signal(held, signal.SIGKILL)
        finally:
            os.close(held)


# ---- by another user's rights


@contextlib.contextmanager
def as_person() -> Iterator[None]:
    """This thread reaches files by the rights of the user behind sudo, and no others: no link of theirs leads root
    astray. Raises OSError where it cannot."""
    who = files.person()
    if os.geteuid() != 0 or who.uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([who.gid])
    try:
        _libc.setfsgid(who.gid)
        _libc.setfsuid(who.uid)  # the kernel takes the capabilities for files away with it
        if _libc.setfsuid(-1) != who.uid:
            raise PermissionError(1, "the kernel does not let labctl become the user for files")
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)
        os.setgroups(groups)


def _run(argv: Sequence[str], stdin: bytes = b"") -> Completed:
    try:
        return process.run(argv, timeout_s=_TIMEOUT_S, stdin=stdin)
    except MeasureFailed as failed:
        raise StepFailed(what=failed.what, cause=failed.cause, remedy="labctl doctor --class 1") from failed


def _tried(argv: Sequence[str]) -> None:
    """What is left behind by it is seen, or is none."""
    with contextlib.suppress(StepFailed):
        _run(argv)


def _done(argv: Sequence[str], stdin: bytes = b"") -> None:
    done = _run(argv, stdin)
    if done.returncode or done.timed_out:
        raise _failed(argv, done)


def _failed(argv: Sequence[str], done: Completed) -> StepFailed:
    said = done.error_text.strip() or done.text.strip() or f"exit code {done.returncode}"
    return StepFailed(what=f"{argv[0]} failed", cause=said, remedy=shlex.join(argv))
