"""The door to files. Nobody is led elsewhere by it: not by a symbolic link, a pipe, or a file without an end.

What is read has to be a regular file of bounded size; what is written is whole or not there (written aside, flushed,
renamed, and the folder flushed: it is on the disk when the call returns). A folder is opened once and everything in it
is reached through its descriptor, so that a folder that is swapped for a link meanwhile changes nothing. Files of
labctl's own are 0600 and folders 0700 whatever the umask, and under sudo they belong to the person who called. Knows no
formats. docs/security.md says which users are trusted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from labctl.values import dataclass

MIB = 1 << 20
MOST_BYTE = 64 * MIB
"""The largest file that is read as a whole, unless the caller says otherwise."""

DEEPEST = 32
"""Levels of folders that are walked down; labctl's own have three."""

OWN_FILE = 0o600
OWN_FOLDER = 0o700
TO_SHOW = 0o644
"""The mode of a file that a person asked for by name; their umask is taken off it."""

_ASIDE = re.compile(r"\.(.+)\.[0-9a-f]{12}", re.DOTALL)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTE = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who called labctl: the user behind sudo where root was reached by sudo, otherwise the process's own user."""

    uid: int
    gid: int


def person() -> Person:
    """Only root believes SUDO_UID and SUDO_GID: anybody else could have set them to anything."""
    if os.geteuid() == 0:
        uid, gid = (os.environ.get(name, "") for name in ("SUDO_UID", "SUDO_GID"))
        if uid.isascii() and uid.isdigit() and gid.isascii() and gid.isdigit():
            return Person(uid=int(uid), gid=int(gid))
    return Person(uid=os.geteuid(), gid=os.getegid())


def trusted_users() -> frozenset[int]:
    """User ids whose files may decide what labctl does: root, the process's own user, and the person behind sudo."""
    return frozenset({0, os.geteuid(), person().uid})


def why_untrusted(found: os.stat_result) -> str:
    """Why a file or folder could have been written by another user than `trusted_users`; empty when it could not."""
    if found.st_uid not in trusted_users():
        return f"it belongs to user {found.st_uid}"
    if found.st_mode & stat.S_IWOTH:
        return "every user may write to it"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in (0, person().gid):
        return f"group {found.st_gid} may write to it"
    return ""


def why_untrusted_folder(found: os.stat_result) -> str:
    """Why another user could swap a file of a trusted user in this folder; empty when none can.

    In a sticky folder (/tmp) every user may put files and only their owners may replace them: each is judged by itself.
    The folder's own owner may replace any, sticky or not.
    """
    if found.st_mode & stat.S_ISVTX and found.st_uid in trusted_users():
        return ""
    return why_untrusted(found)


class Untrusted(PermissionError):
    """A user other than `trusted_users` could have written the file; `strerror` says how."""


# ---- one file by its path


def read_file(path: Path, *, most_byte: int = MOST_BYTE, follow: bool = False, owned: bool = False) -> bytes:
    """The content of a regular file of at most `most_byte` bytes.

    Raises OSError: ELOOP for a symbolic link (`follow` allows one), EINVAL for what is not a regular file, EFBIG for a
    larger one, `Untrusted` with `owned` when another user could have written it.
    """
    flags = _READ & ~os.O_NOFOLLOW if follow else _READ
    return _content(os.open(path, flags), str(path), most_byte, owned=owned)


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file that the person named, links followed. Raises OSError."""
    descriptor = os.open(path, _READ & ~os.O_NOFOLLOW)
    try:
        _require_regular(descriptor, str(path))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def digest_of(path: Path) -> str:
    """The SHA-256 of a regular file of any size, in hexadecimal. Raises OSError."""
    with os.fdopen(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def move_into_place(made: Path, path: Path, *, mode: int | None = None) -> None:
    """Puts a file that was made aside on the same file system at `path`, where nothing may be yet. It is then the
    person's, as one that they wrote, or with `mode`. Raises OSError: FileExistsError for whatever is there, a dangling
    link too."""
    with open_folder(made.parent) as aside, open_folder(path.parent, follow=True) as folder:
        if folder.kind(path.name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        aside.hand_over(made.name, mode=TO_SHOW & ~_umask() if mode is None else mode)
        aside.sync(made.name)
        aside.move(made.name, folder, path.name)
        folder.sync_names()


def read_tail(path: Path, *, most_byte: int) -> bytes:
    """The last `most_byte` bytes of a regular file. Raises OSError as `read_file`."""
    with os.fdopen(open_regular(path), "rb") as file:
        size_byte = os.fstat(file.fileno()).st_size
        return os.pread(file.fileno(), most_byte, max(0, size_byte - most_byte))


def write_atomically(path: Path, data: bytes, *, mode: int = TO_SHOW) -> None:
    """Puts `data` at `path` such that a reader, or a crash, sees the old file or the new one and nothing between.

    A symbolic link at `path`, and anything else that is not a regular file, is refused. The file belongs to the person.
    Raises OSError. Makes no folders.
    """
    with open_folder(path.parent, follow=True) as folder:
        folder.write(path.name, data, mode=mode & ~_umask() if mode == TO_SHOW else mode)


def create_stream(path: Path) -> int:
    """A descriptor for writing `path` piece by piece: a new file in place of one that was there, or the named pipe or
    device that is there.

    Raises OSError for a symbolic link, and for a pipe that another user could read.
    """
    with open_folder(path.parent, follow=True) as folder:
        if folder.kind(path.name) in (0, stat.S_IFREG):
            return folder.replace(path.name, mode=TO_SHOW & ~_umask())
        descriptor = folder.open_special(path.name)
    found = os.fstat(descriptor)
    if not stat.S_ISCHR(found.st_mode) and (why := why_untrusted(found)):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, why, str(path))
    return descriptor


def bring_to_disk(descriptor: int, path: Path) -> None:
    """What was written to the descriptor of a regular file, and the file's name in its folder. Raises OSError."""
    os.fsync(descriptor)
    with open_folder(path.parent, follow=True) as folder:
        folder.sync_names()


# ---- labctl's own files: state of labs, what is rendered for them, temporary folders


def read_own(path: Path, *, most_byte: int = MOST_BYTE) -> bytes:
    """The content of a file that labctl itself wrote, in a folder of its own: no other user could have written either.

    Raises OSError: as `read_file` with `owned`, and EPERM for a folder that another user could have written.
    """
    with open_own_folder(path.parent) as folder:
        return folder.read(path.name, most_byte=most_byte, owned=True)


def write_own(path: Path, data: bytes) -> None:
    """A whole file of labctl's own: 0600 whatever the umask, in a folder that is made 0700 where it is missing and
    refused with EPERM where another user could have written it. Both are the person's. Raises OSError."""
    with open_own_folder(path.parent, make=True) as folder:
        folder.write(path.name, data)


def keep_private(path: Path) -> None:
    """Makes what another program wrote into a folder of labctl's own as if labctl had: 0600, the person's. Nothing
    when it is not there. Raises OSError for a link and for what is not a regular file."""
    with contextlib.suppress(FileNotFoundError), open_own_folder(path.parent) as folder:
        folder.hand_over(path.name)


def remove_own(path: Path) -> None:
    """Removes one of labctl's own files; nothing when it, or its folder, is not there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), open_own_folder(path.parent) as folder:
        folder.remove(path.name)


def make_own_folder(path: Path) -> None:
    """A folder of labctl's own and what is missing above it. Raises OSError as `open_own_folder`."""
    open_own_folder(path, make=True).close()


def open_own_folder(path: Path, *, make: bool = False) -> Folder:
    """A folder of labctl's own, such as a lab's state. One that others could read from an earlier labctl is made 0700.

    Raises OSError: as `open_folder`, and EPERM when another user than `trusted_users` could have written it.
    """
    folder = open_folder(path, make=make)
    try:
        if why := why_untrusted(folder.stat()):
            raise PermissionError(errno.EPERM, why, str(path))
        folder.make_private()
    except OSError:
        folder.close()
        raise
    return folder


@contextlib.contextmanager
def temporary_folder(*, beside: Path | None = None) -> Iterator[Path]:
    """A new folder of an unpredictable name, 0700, gone with all that is in it when the context is left: where
    temporary files go, or in the same folder as `beside`, to which what is made in it can then be renamed."""
    path = Path(tempfile.mkdtemp(prefix="labctl-", dir=None if beside is None else beside.parent))
    try:
        yield path
    finally:
        remove_tree(path)


# ---- folders, by descriptor


class Folder:
    """An open folder. Names are single components; a name with a separator, `.` or `..` raises ValueError.

    Made by `open_folder`, `open_private` and `Folder.sub`. Closed by `close`, by the end of a `with`, or with the
    object's life. What is made in one that `is_private` stays the process's own also under sudo.
    """

    def __init__(self, descriptor: int, path: Path, *, is_private: bool = False) -> None:
        self._descriptor = descriptor
        self._is_private = is_private
        self.path = path

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def stat(self) -> os.stat_result:
        return os.fstat(self._descriptor)

    def make_private(self) -> None:
        """Removes all other users' permissions on the folder. Only its owner and root can."""
        mode = stat.S_IMODE(self.stat().st_mode)
        if mode & ~OWN_FOLDER and os.geteuid() in (0, self.stat().st_uid):
            os.fchmod(self._descriptor, mode & OWN_FOLDER)

    def open_to_all(self) -> None:
        """Everybody may enter and read the folder: for settings and programs of the host."""
        os.fchmod(self._descriptor, 0o755)  # nosec B103  # what is in it is for everybody

    def names(self) -> tuple[str, ...]:
        """What is in the folder, sorted."""
        return tuple(sorted(os.listdir(self._descriptor)))  # noqa: PTH208  # by descriptor

    def kind(self, name: str) -> int:
        """The type bits of the entry itself (`stat.S_IFREG`, …), without following it; 0 when there is none."""
        try:
            return stat.S_IFMT(os.stat(_one(name), dir_fd=self._descriptor, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return 0

    def sub(self, name: str, *, make: bool = False) -> Folder:
        """The folder of that name inside; with `make` it is made when it is missing. Raises OSError for a link."""
        if make:
            with contextlib.suppress(FileExistsError):
                self.make(name)
        opened = os.open(_one(name), _FOLDER, dir_fd=self._descriptor)
        return Folder(opened, self.path / name, is_private=self._is_private)

    def make(self, name: str) -> None:
        """A new folder, 0700, the person's. Raises FileExistsError."""
        os.mkdir(_one(name), OWN_FOLDER, dir_fd=self._descriptor)
        try:
            made = os.open(name, _FOLDER, dir_fd=self._descriptor)
            try:
                os.fchmod(made, OWN_FOLDER)
                self._give(made)
            finally:
                os.close(made)
        except BaseException:
            os.rmdir(name, dir_fd=self._descriptor)
            raise

    def read(self, name: str, *, most_byte: int = MOST_BYTE, owned: bool = False) -> bytes:
        """As `read_file`."""
        return _content(self._opened(name, _READ), str(self.path / name), most_byte, owned=owned)

    def stream(self, name: str) -> Iterator[bytes]:
        """The content of a regular file in pieces of at most 1 MiB, however large it is."""
        descriptor = self._opened(name, _READ)
        try:
            _require_regular(descriptor, str(self.path / name))
            while piece := os.read(descriptor, _CHUNK_BYTE):
                yield piece
        finally:
            os.close(descriptor)

    def create(self, name: str, *, mode: int = OWN_FILE) -> int:
        """A descriptor for writing a file that did not exist. Raises FileExistsError, also for a link."""
        descriptor = self._opened(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, OWN_FILE)
        try:
            os.fchmod(descriptor, mode)
            self._give(descriptor)
        except BaseException:
            os.close(descriptor)
            self.remove(name)
            raise
        return descriptor

    def open_own(self, name: str) -> int:
        """A descriptor for reading and appending to a regular file of one name, made when it is missing (0600).

        Raises OSError for a link (symbolic or hard) and for what is not a regular file.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(FileExistsError):
            os.close(self.create(name))
        descriptor = self._opened(name, flags)
        try:
            found = _require_regular(descriptor, str(self.path / name))
            if found.st_nlink > 1:
                raise OSError(errno.EMLINK, "it has a second name (a hard link)", str(self.path / name))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def open_special(self, name: str) -> int:
        """A descriptor for writing to a named pipe or a character device; waits for the pipe's reader. Raises OSError
        for anything else."""
        if self.kind(name) not in (stat.S_IFIFO, stat.S_IFCHR):
            raise _no_file(self.kind(name), self.path / name)
        return self._opened(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)

    def replace(self, name: str, *, mode: int = OWN_FILE) -> int:
        """A descriptor for writing a new file that stands at `name` from now on, in place of the one that was there."""
        with contextlib.suppress(FileExistsError):  # nothing is there that has to stay whole
            return self.create(name, mode=mode)
        aside, descriptor = self._aside(name, mode)
        try:
            os.rename(aside, _one(name), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            os.close(descriptor)
            self.remove(aside)
            raise
        return descriptor

    def write(self, name: str, data: bytes, *, mode: int = OWN_FILE) -> None:
        """A whole file: written aside, flushed to the disk, renamed. Raises OSError, also for a symbolic link."""
        if (kind := self.kind(name)) not in (0, stat.S_IFREG):
            raise _no_file(kind, self.path / name)
        aside, descriptor = self._aside(name, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(aside, _one(name), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            self.remove(aside)
            raise
        self.sync_names()
        self.remove_asides(name)

    def _aside(self, name: str, mode: int) -> tuple[str, int]:
        """A new file that is to become `name`, and a descriptor, whose lock says that its writer lives."""
        while True:
            aside = f".{name[:200]}.{secrets.token_hex(6)}"
            descriptor = self.create(aside, mode=mode)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:  # not taken for a dead one's before it was locked
                return aside, descriptor
            os.close(descriptor)

    def remove_asides(self, of: str | None = None) -> None:
        """Removes files aside whose lock nobody holds: those of killed writers of the file `of`, or of any."""
        for name in [one for one in self.names() if (aside := _ASIDE.fullmatch(one)) and of in (None, aside[1])]:
            with contextlib.suppress(OSError):
                descriptor = self._opened(name, _READ)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.remove(name)
                finally:
                    os.close(descriptor)

    def hand_over(self, name: str, *, mode: int = OWN_FILE) -> None:
        """Gives a regular file in it to the person, with that mode: one that another program wrote."""
        descriptor = self._opened(name, _READ)
        try:
            _require_regular(descriptor, str(self.path / name))
            os.fchmod(descriptor, mode)
            self._give(descriptor)
        finally:
            os.close(descriptor)

    def move(self, name: str, folder: Folder, new_name: str) -> None:
        """Renames an entry of it to an entry of another folder of the same file system."""
        os.rename(_one(name), _one(new_name), src_dir_fd=self._descriptor, dst_dir_fd=folder._descriptor)

    def remove(self, name: str) -> None:
        """Removes one file, or the link itself; nothing when there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_one(name), dir_fd=self._descriptor)

    def remove_tree(self, name: str) -> None:
        """Removes a folder and what is in it, never what a link in it points to; nothing when there is none."""
        try:
            inner = self.sub(name)
        except FileNotFoundError:
            return
        except OSError as failed:
            if failed.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            self.remove(name)
            return
        with inner:
            for entry in inner.names():
                if inner.kind(entry) == stat.S_IFDIR:
                    inner.remove_tree(entry)
                else:
                    inner.remove(entry)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=self._descriptor)

    def entries(self, *, deepest: int = DEEPEST) -> Iterator[str]:
        """Everything below that is no folder, links too, by path relative to this folder; sorted in each folder.

        Raises OSError for folders nested more than `deepest` levels.
        """
        for name in self.names():
            if self.kind(name) != stat.S_IFDIR:
                yield name
                continue
            if deepest == 0:
                raise OSError(errno.ELOOP, "folders are nested too deeply", str(self.path / name))
            with self.sub(name) as inner:
                yield from (f"{name}/{below}" for below in inner.entries(deepest=deepest - 1))

    def sync(self, name: str) -> None:
        """Brings a file to the disk."""
        descriptor = self._opened(name, _READ)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_names(self) -> None:
        """Brings what the folder has in it, by name, to the disk: without it a power cut may leave a flushed file that
        no folder knows."""
        os.fsync(self._descriptor)

    def _give(self, descriptor: int) -> None:
        """To the person, when root writes for one. By descriptor: what it means cannot be swapped."""
        who = person()
        if os.geteuid() == 0 and who.uid != 0 and not self._is_private:
            os.fchown(descriptor, who.uid, who.gid)

    def _opened(self, name: str, flags: int, mode: int = 0) -> int:
        return os.open(_one(name), flags, mode, dir_fd=self._descriptor)


def open_folder(path: Path, *, make: bool = False, follow: bool = False) -> Folder:
    """The folder at `path`. With `make`, what is missing of the path is made (0700, the person's).

    A symbolic link as its last component is refused with ENOTDIR or ELOOP unless `follow` allows it: for folders that
    the person named on the command line. Raises OSError.
    """
    if make:
        _make_folders(path)
    return Folder(os.open(path, _FOLDER & ~os.O_NOFOLLOW if follow else _FOLDER), path)


def open_private(path: Path) -> Folder:
    """The folder at `path`, which only the process's own user may enter; what is missing of the path is made so.

    Raises OSError, EPERM where others could reach into it: it, or the folder that holds it, is another user's.
    """
    parent = None
    for at in (*reversed(path.parents[:-1]), path):
        if parent is None and at.exists():
            continue
        if parent is None:
            parent = Folder(os.open(at.parent, _FOLDER & ~os.O_NOFOLLOW), at.parent, is_private=True)
        parent = parent.sub(at.name, make=True)
    folder = parent or Folder(os.open(path, _FOLDER), path, is_private=True)
    found = folder.stat()
    why = why_untrusted(path.parent.stat())
    if found.st_uid != os.geteuid():
        why = f"it belongs to user {found.st_uid}"
    elif found.st_mode & 0o077:
        why = f"other users may enter it (mode {stat.S_IMODE(found.st_mode):04o})"
    if why:
        folder.close()
        raise PermissionError(errno.EPERM, why, str(path))
    return folder


def remove_tree(path: Path) -> None:
    """Removes the folder at `path` and what is in it. Links are removed, not followed. None: does nothing."""
    try:
        parent = open_folder(path.parent, follow=True)
    except FileNotFoundError:
        return
    with parent:
        parent.remove_tree(path.name)


def remove_empty(path: Path) -> None:
    """Removes the folder at `path`. Raises OSError: ENOTEMPTY for one with something in it."""
    path.rmdir()


def _make_folders(path: Path) -> None:
    missing = []
    at = path
    while not at.exists() and at != at.parent:
        missing.append(at)
        at = at.parent
    for folder in reversed(missing):
        with open_folder(folder.parent, follow=True) as parent, contextlib.suppress(FileExistsError):
            parent.make(folder.name)
            parent.sync_names()


def _no_file(kind: int, path: Path) -> OSError:
    if kind == stat.S_IFLNK:
        return OSError(errno.ELOOP, "it is a symbolic link; name the file itself", str(path))
    return OSError(errno.EINVAL, "it is not a regular file", str(path))


def _one(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of one file")
    return name


def _require_regular(descriptor: int, shown: str) -> os.stat_result:
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), shown)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", shown)
    return found


def _content(descriptor: int, shown: str, most_byte: int, *, owned: bool) -> bytes:
    try:
        found = _require_regular(descriptor, shown)
        if owned and (why := why_untrusted(found)):
            raise Untrusted(errno.EPERM, why, shown)
        pieces, size_byte = [], 0
        while piece := os.read(descriptor, _CHUNK_BYTE):
            size_byte += len(piece)
            # /proc and a growing file say a size of 0: what counts is what comes.
            if size_byte > most_byte:
                raise OSError(errno.EFBIG, f"it is larger than {most_byte:,} bytes", shown)
            pieces.append(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces)


def _umask() -> int:
    """Read from the kernel without changing it, which another thread would notice."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
