"""Files of the host: its settings (/etc, /usr/local), root's also under sudo and in folders of root's alone; and those
that a daemon reads.

It stands alone because every door to the machine does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from labctl.system.files import TO_SHOW, Folder

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_of_host(path: Path, data: bytes, *, mode: int = TO_SHOW) -> None:
    """A whole file among the settings of the host (/etc), which is root's also under sudo, as are its folders that are
    missing (0755). Raises OSError, EPERM for a folder that another user could have written."""
    if not path.parent.exists():
        _make_of_host(path.parent)
    with _of_host(path) as folder:
        folder.write(path.name, data, mode=mode)


def _make_of_host(path: Path) -> None:
    if not path.parent.exists():
        _make_of_host(path.parent)
    with _of_host(path) as above:
        above.make(path.name)
        with above.sub(path.name) as made:
            made.open_to_all()


def remove_of_host(path: Path) -> None:
    """Removes such a file, or a link; nothing when it, or its folder, is not there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), _of_host(path) as folder:
        folder.remove(path.name)


def _of_host(path: Path) -> Folder:
    folder = Folder(os.open(path.parent, _FOLDER), path.parent, is_private=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        folder.close()
        raise PermissionError(errno.EPERM, "another user could have written it", str(path.parent))
    return folder


def make_folder_of(path: Path, contents: Mapping[str, str], *, owner: tuple[int, int]) -> None:
    """A new folder (0750) with these files (0640), by name, for a daemon that runs as that user and group. The folder
    that it is in is made likewise where it is missing. Raises FileExistsError, OSError."""
    if not path.parent.exists():
        os.close(_new_folder_of(path.parent, owner))
    with Folder(_new_folder_of(path, owner), path, is_private=True) as folder:
        for name, text in contents.items():
            with os.fdopen(folder.create(name), "w", encoding="utf-8") as file:
                file.write(text)
                os.fchown(file.fileno(), *owner)
                os.fchmod(file.fileno(), 0o640)


def _new_folder_of(at: Path, owner: tuple[int, int]) -> int:
    at.mkdir(mode=0o700)
    made = os.open(at, _FOLDER)
    os.fchown(made, *owner)
    os.fchmod(made, 0o750)  # nosec B103  # its daemon reads it by its group
    return made
