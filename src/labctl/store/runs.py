"""Writing a run: a directory that nobody else writes, a journal, raw files, and a seal when it is over.

    runs/20261122T103220Z-compare-legacy-bpf-3fa9c1/
        run.json        what was asked, of what, where; how it ended (manifest.py)
        journal.jsonl   what happened, in order (journal.py)
        raw/            what the tools printed, before anybody parsed it (raw.py)
        result.json     the document that the command printed
        SHA256SUMS      all of the above, once the run is over (seal.py)

Reading runs is `store.reading`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from labctl import __version__
from labctl.errors import Interrupted, LabError, UsageError
from labctl.model.comparison import Environment
from labctl.store.disk import told
from labctl.store.encoding import json_document, plain
from labctl.store.environment import read_environment
from labctl.store.journal import JournalWriter
from labctl.store.manifest import Manifest, RunState, read_manifest, write_manifest
from labctl.store.raw import RAW_DIRECTORY, RawDirectory, safe_name
from labctl.store.seal import LOCK_FILE, SEAL_FILE, write_seal
from labctl.system.clock import utc_now
from labctl.system.files import Folder, open_folder, why_untrusted

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
        """Brings everything so far to the disk: call it where a block ends, since it takes milliseconds."""
        with told(self.path):
            while self._unsynced:
                _sync_file(self._folder, self._unsynced[-1])
                self._unsynced.pop()
            self._journal.sync()

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
    tell of this machine is recorded. Raises LabError when the disk refuses.
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
    that somebody else could have written (unless `trust`).
    """
    read_manifest(path)
    with told(path):
        folder = open_folder(path)
    if not trust and (why := why_untrusted(folder.stat())):
        raise UsageError(
            what=f"run {path.name} may have been written by somebody else",
            cause=f"{why}: {path}",
            remedy="look at it, then again with --trust",
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
    """What a LabError says; for any other the kind too, without which `'node1'` tells nobody anything."""
    kind = type(failed).__name__
    return str(failed) if isinstance(failed, LabError) else f"{kind}: {failed}".rstrip(": ")


def _finish_anyway(run: Run, state: RunState, reason: str) -> None:
    """The first error is the one to tell: a full disk must not hide what it caused."""
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
                return parent.sub(name)


def _last_raw_number(run: Folder) -> int:
    if not run.kind(RAW_DIRECTORY):
        return 0
    with run.sub(RAW_DIRECTORY) as raw:
        return max((int(match.group(1)) for match in map(_RAW_NUMBER.match, raw.names()) if match), default=0)


def _sync_file(run: Folder, name: str) -> None:
    raw, directory, file = name.split("/")
    with run.sub(raw) as outer, outer.sub(directory) as inner:
        inner.sync(file)


def _as_object(environment: Environment) -> Mapping[str, object]:
    value = plain(environment)
    assert isinstance(value, dict)
    return value
