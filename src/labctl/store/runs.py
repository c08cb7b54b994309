"""Writing a run: a directory that no other process writes, a journal, raw files, and a seal when it is over.

    runs/20261122T103220Z-compare-legacy-bpf-3fa9c1/
        run.json        what was asked, of what, where; how it ended (manifest.py)
        journal.jsonl   what happened, in order (journal.py)
        raw/            what the tools printed, before anybody parsed it
        result.json     the document that the command printed
        SHA256SUMS      all of the above, once the run is over

Raw tool output goes into one directory for each check run, and nothing is ever overwritten. The seal is the SHA-256 of
every file, in the format that `sha256sum -c SHA256SUMS` reads. Errors of the disk become messages for people. Reading
runs is `store.reading`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import re
import secrets
import shlex
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from labctl import __version__
from labctl.codec import json_document, plain
from labctl.errors import DiskFull, Interrupted, LabError, UsageError
from labctl.model.comparison import Environment
from labctl.store.environment import read_environment
from labctl.store.journal import JournalWriter, Manifest, RunState, read_manifest, write_manifest
from labctl.system.clock import utc_now
from labctl.system.files import Folder, open_folder, why_untrusted
from labctl.values import dataclass

RESULT_FILE = "result.json"

_RAW_NUMBER = re.compile(r"^([0-9]{1,9})-")


class Run:
    """A run that is being written. Made by `create_run` and `resume_run`."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.path = folder.path
        self._folder = folder
        self._manifest = manifest
        self._journal = JournalWriter(folder)
        self._unsynced: list[str] = []
        self._sinks = itertools.count(_last_raw_number(folder) + 1)  # threads ask for sinks at the same time

    @property
    def id(self) -> str:
        return self._manifest.id

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    def record(self, kind: str, content: Mapping[str, object]) -> None:
        """Appends one entry to the journal. Raises LabError when the disk does not take it."""
        with told(self.path):
            self._journal.append(kind, utc_now(), content)

    def sink(self, name: str) -> RawDirectory:
        """The place for the raw files of one check run: a new directory `raw/NUMBER-NAME` at every call."""
        return RawDirectory(self._folder, f"{next(self._sinks):04d}-{safe_name(name)}", self._unsynced.append)

    def settle(self, settings: Mapping[str, object]) -> None:
        """Adds what the command decided (seed, order, rounds) to `run.json`."""
        self._write(replace(self._manifest, settings={**self._manifest.settings, **settings}))

    def sync(self) -> None:
        """Brings everything so far to the disk, and the folders that name it: call it where a block ends, since it
        takes milliseconds. The journal is last: what it names is there."""
        with told(self.path):
            if self._unsynced:
                self._sync_raw()
            self._journal.sync()
            self._folder.sync_names()

    def save_result(self, document: object) -> None:
        """Stores the document that the command prints. Also after the run has ended, whose seal then covers it."""
        with told(self.path):
            self._folder.write(RESULT_FILE, json_document(document))
            if self._manifest.state is not RunState.RUNNING:
                write_seal(self._folder)

    def finish(self, state: RunState, reason: str = "") -> None:
        """Ends the run: nothing but `save_result` may follow. Raises LabError when the disk is full."""
        self.sync()
        self._journal.close()
        self._write(replace(self._manifest, state=state, reason=reason, ended_at=utc_now()))
        with told(self.path):
            write_seal(self._folder)

    def _sync_raw(self) -> None:
        with self._folder.sub(RAW_DIRECTORY) as raw:
            while self._unsynced:
                _, directory, _ = self._unsynced[-1].split("/")
                with raw.sub(directory) as inner:
                    while self._unsynced and self._unsynced[-1].split("/")[1] == directory:
                        inner.sync(self._unsynced[-1].split("/")[2])
                        self._unsynced.pop()
                    inner.sync_names()
            raw.sync_names()

    def _write(self, manifest: Manifest) -> None:
        with told(self.path):
            write_manifest(self._folder, manifest)
        self._manifest = manifest


@contextlib.contextmanager
def create_run(
    runs_dir: Path,
    *,
    kind: str,
    name: str,
    labs: Mapping[str, object],
    settings: Mapping[str, object] | None = None,
    environment: Environment | None = None,
    argv: Sequence[str] | None = None,
) -> Iterator[Run]:
    """A new run in `runs_dir`, ended when the context is left: complete, interrupted or failed by how it is left.

    `labs` are the resolved labs by side, as `planning.record.lab_to_json` gives them. Without `environment`, what files
    tell about this machine is recorded. Raises LabError when the disk refuses.
    """
    started = datetime.now(UTC)
    with told(runs_dir):
        folder = _new_directory(runs_dir, f"{started:%Y%m%dT%H%M%SZ}-{safe_name(kind)}-{safe_name(name)}")
    with _held(folder):
        manifest = Manifest(
            id=folder.path.name,
            run_kind=kind,
            name=name,
            labctl_version=__version__,
            argv=tuple(sys.argv if argv is None else argv),
            started_at=utc_now(),
            state=RunState.RUNNING,
            environment=_as_object(environment or read_environment()),
            labs={side: plain(lab) for side, lab in labs.items()},
            settings=dict(settings or {}),
        )
        with told(folder.path):
            write_manifest(folder, manifest)
            run = Run(folder, manifest)
        with _ended(run):
            yield run


@contextlib.contextmanager
def resume_run(path: Path, *, trust: bool = False) -> Iterator[Run]:
    """A run that was cut short, opened to go on where it stopped. Its seal is broken until it ends again.

    Raises UsageError when it is complete, of another version, still being written by another process, or in a folder
    that another user could have written (unless `trust`).
    """
    read_manifest(path)
    with told(path):
        folder = open_folder(path)
    if not trust and (why := why_untrusted(folder.stat())):
        raise UsageError(
            what=f"run {path.name} may have been written by another user",
            cause=f"{why}: {path}",
            remedy="inspect it, then repeat the command with --trust",
        )
    with _held(folder):
        manifest = read_manifest(folder.path)
        if manifest.state is RunState.COMPLETE:
            raise UsageError(what=f"run {manifest.id} is complete", cause="there is nothing left to do in it")
        manifest = replace(manifest, state=RunState.RUNNING, reason="", ended_at="")
        with told(folder.path):
            folder.remove(SEAL_FILE)
            write_manifest(folder, manifest)
            run = Run(folder, manifest)
        with _ended(run):
            run.record("resumed", {})
            yield run


def is_being_written(path: Path) -> bool:
    """True while a process holds the run."""
    try:
        descriptor = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def _ended(run: Run) -> Iterator[Run]:
    """Ends the run by the way its context is left. What went wrong goes on to the caller."""
    try:
        yield run
    except (KeyboardInterrupt, Interrupted) as stopped:
        _finish_anyway(run, RunState.INTERRUPTED, str(stopped) or "Ctrl-C")
        raise
    except BaseException as failed:
        _finish_anyway(run, RunState.FAILED, _reason(failed))
        raise
    else:
        run.finish(RunState.COMPLETE)


def _reason(failed: BaseException) -> str:
    """What a LabError says; for any other the kind too, without which `'node1'` means nothing."""
    kind = type(failed).__name__
    return str(failed) if isinstance(failed, LabError) else f"{kind}: {failed}".rstrip(": ")


def _finish_anyway(run: Run, state: RunState, reason: str) -> None:
    """The first error is the one to report: a full disk must not hide what it caused."""
    with contextlib.suppress(LabError):
        run.finish(state, reason)


@contextlib.contextmanager
def _held(folder: Folder) -> Iterator[None]:
    """Holds the run's lock, which the kernel drops when the process ends, however it ends."""
    with told(folder.path):
        descriptor = folder.open_own(LOCK_FILE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise UsageError(
                what=f"run {folder.path.name} is being written by another labctl",
                cause=f"it holds the lock on {folder.path / LOCK_FILE}",
                remedy="wait until it has ended; labctl runs shows it",
            ) from busy
        yield
    finally:
        os.close(descriptor)


def _new_directory(runs_dir: Path, stem: str) -> Folder:
    """Makes a directory that did not exist: mkdir is atomic, so two processes never get the same one."""
    with open_folder(runs_dir, make=True, follow=True) as parent:
        while True:
            name = f"{stem}-{secrets.token_hex(3)}"
            with contextlib.suppress(FileExistsError):
                parent.make(name)
                parent.sync_names()
                return parent.sub(name)


def _last_raw_number(run: Folder) -> int:
    if not run.kind(RAW_DIRECTORY):
        return 0
    with run.sub(RAW_DIRECTORY) as raw:
        return max((int(match.group(1)) for match in map(_RAW_NUMBER.match, raw.names()) if match), default=0)


def _as_object(environment: Environment) -> Mapping[str, object]:
    value = plain(environment)
    assert isinstance(value, dict)
    return value


_NOT_AS_WRITTEN = (errno.ELOOP, errno.EMLINK, errno.EINVAL, errno.ENOTDIR, errno.EISDIR)
"""A link, a second name, a pipe or a folder where labctl writes a file: labctl did not put it there."""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def told(path: Path, *, elsewhere: str = "choose another directory: --runs-dir DIR") -> Iterator[None]:
    """Turns an OSError of the body into a LabError about `path`, a UsageError where something is in the way that labctl
    did not write. Keep the body to the acts on that path.

    `elsewhere` says how the person puts it in another place.
    """
    try:
        yield
    except OSError as failed:
        if failed.errno in _NOT_AS_WRITTEN:
            raise UsageError(
                what=f"cannot write to {path}",
                cause=f"{failed.filename or path}: {failed.strerror}; labctl did not create it that way",
                remedy=f"ls -la {shlex.quote(str(path))}  # or {elsewhere}",
            ) from failed
        kind = DiskFull if failed.errno in _NO_ROOM else LabError
        raise kind(
            what=f"cannot write to {path}",
            cause=failed.strerror or str(failed),
            remedy=f"df -h {path}; ls -ld {path}; or {elsewhere}",
        ) from failed


RAW_DIRECTORY = "raw"

_UNSAFE = re.compile(r"[^A-Za-z0-9._@+=-]+")
_MAX_NAME = 100


def safe_name(text: str) -> str:
    """`text` as one harmless component of a path: no separators, no leading dot, not empty, at most 100 characters."""
    return _UNSAFE.sub("-", text).lstrip(".-")[:_MAX_NAME] or "unnamed"


def _numbered(name: str, number: int) -> str:
    """`ping.txt`, then `ping-2.txt`, `ping-3.txt`, …"""
    if number == 1:
        return name
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{number}{dot}{suffix}"


class RawDirectory:
    """The raw files of one check run, in a directory of their own; a `RawSink`. The directory is made when first used.

    `written` gets the path of every file, relative to the run, so that the run can bring them to the disk when a
    block is done.
    """

    def __init__(self, run: Folder, directory: str, written: Callable[[str], None]) -> None:
        self._run = run
        self._directory = directory
        self._written = written

    def save(self, name: str, data: bytes) -> str:
        """Stores `data` and gives the path relative to the run. A name that was used gets a number.

        Raises LabError when the disk does not take it.
        """
        with (
            told(self._run.path / RAW_DIRECTORY / self._directory),
            self._run.sub(RAW_DIRECTORY, make=True) as raw,
            raw.sub(self._directory, make=True) as directory,
        ):
            made = _write_new(directory, safe_name(name), data)
        path = f"{RAW_DIRECTORY}/{self._directory}/{made}"
        self._written(path)
        return path


def _write_new(directory: Folder, name: str, data: bytes) -> str:
    number = 1
    while True:
        free = _numbered(name, number)
        try:
            descriptor = directory.create(free)
        except FileExistsError:
            number += 1
            continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return free


class MemorySink:
    """A `RawSink` for looks at a lab that leave no run behind. Keeps the files by name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def save(self, name: str, data: bytes) -> str:
        number = 1
        while (free := _numbered(safe_name(name), number)) in self.files:
            number += 1
        self.files[free] = data
        return free


class MemorySinks:
    """Gives a `MemorySink` for each name, always the same one."""

    def __init__(self) -> None:
        self.sinks: dict[str, MemorySink] = {}

    def __call__(self, name: str) -> MemorySink:
        return self.sinks.setdefault(name, MemorySink())


SEAL_FILE = "SHA256SUMS"
LOCK_FILE = ".lock"
_NAMES = "surrogateescape"
"""Names of files stand in the seal as the bytes that they are, as sha256sum wants them."""


_LARGEST_FILE_BYTE, _LARGEST_RUN_BYTE = 1 << 30, 64 << 30
"""What is compared: no output of a program that is kept is as large, and a sparse file may claim any size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealCheck:
    """How a run differs from what was sealed. Paths are relative to the run, sorted."""

    edited: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def is_intact(self) -> bool:
        return not (self.edited or self.missing or self.added)


def write_seal(run: Folder) -> None:
    """Seals every file of the run as it is now. Raises OSError."""
    sums = {name: _digest(run, name)[0] for name in _files(run)}
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    run.write(SEAL_FILE, text.encode(errors=_NAMES))


def check_seal(path: Path) -> SealCheck | None:
    """Compares the run with its seal; None when it was never sealed. Raises LabError when it cannot be read."""
    try:
        with open_folder(path, follow=True) as run:
            if not run.kind(SEAL_FILE):
                return None
            sealed = _parse_seal(run)
            present = set(_files(run))
            edited, left_byte = [], _LARGEST_RUN_BYTE
            for name in sorted(present & set(sealed)):
                digest, size_byte = _digest(run, name, min(left_byte, _LARGEST_FILE_BYTE))
                left_byte -= size_byte
                if digest != sealed[name]:
                    edited.append(name)
            return SealCheck(
                edited=tuple(edited),
                missing=tuple(sorted(set(sealed) - present)),
                added=tuple(sorted(present - set(sealed))),
            )
    except OSError as failed:
        raise LabError(
            what=f"{path} cannot be compared with its seal",
            cause=failed.strerror or str(failed),
            remedy=f"ls -lR {path}",
        ) from failed


def _parse_seal(run: Folder) -> Mapping[str, str]:
    sums: dict[str, str] = {}
    text = run.read(SEAL_FILE).decode(errors=_NAMES)
    for number, line in enumerate(text.splitlines(), start=1):
        digest, gap, name = line.partition("  ")
        if not gap or len(digest) != hashlib.sha256().digest_size * 2:
            path = run.path / SEAL_FILE
            raise LabError(
                what=f"{path}:{number}: this line is not a checksum",
                cause="the file was changed after it was written",
                remedy=f"sha256sum -c {path}",
            )
        sums[name] = digest
    return sums


def _files(run: Folder) -> Iterator[str]:
    """Every entry but folders, links too: a seal covers no link, so one that was put there counts as added."""
    yield from (name for name in run.entries() if name.rpartition("/")[2] not in (SEAL_FILE, LOCK_FILE))


def _digest(run: Folder, name: str, most_byte: int | None = None) -> tuple[str, int]:
    """Of the content, and its size; of a link, a special file or more than `most_byte`, which labctl never wrote, no
    digest that could be equal."""
    *folders, last = name.split("/")
    with contextlib.ExitStack() as stack:
        folder = run
        for each in folders:
            folder = stack.enter_context(folder.sub(each))
        if folder.kind(last) != stat.S_IFREG:
            return "not a regular file", 0
        digest, size_byte = hashlib.sha256(), 0
        for piece in folder.stream(last):
            digest.update(piece)
            size_byte += len(piece)
            if most_byte is not None and size_byte > most_byte:
                return "too large", size_byte
        return digest.hexdigest(), size_byte
