"""Runs as they are found on disk: opened by path or by (the beginning of) a name, listed, checked against the seal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from labctl.errors import LabError, UsageError
from labctl.json_text import parse_json
from labctl.store.journal import (
    JOURNAL_FILE,
    MANIFEST_FILE,
    JournalEntry,
    Manifest,
    RunState,
    count_entries,
    read_journal,
    read_manifest,
)
from labctl.store.runs import RESULT_FILE, SealCheck, check_seal, is_being_written
from labctl.system.files import open_folder, read_file
from labctl.values import dataclass

LAST = "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run on disk. `manifest.state` is `interrupted` also for a run whose process is gone without a word."""

    path: Path
    manifest: Manifest

    def entries(self, kind: str | None = None) -> Iterator[JournalEntry]:
        """The journal's entries in order, those of one kind where it is given. Raises LabError for damaged lines."""
        for entry in read_journal(self.path / JOURNAL_FILE):
            if kind is None or entry.kind == kind:
                yield entry

    def count(self, kind: str) -> int:
        """How many entries of that kind the journal has, without reading what they say. Raises LabError."""
        return count_entries(self.path / JOURNAL_FILE, kind)

    def result(self) -> Mapping[str, object] | None:
        """The document that the command printed; None when the run ended before there was one."""
        path = self.path / RESULT_FILE
        try:
            document = parse_json(read_file(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as failed:
            raise LabError(what=f"{path} is damaged", cause=str(failed), remedy=self._verify) from failed
        if not isinstance(document, dict):
            raise LabError(what=f"{path} is damaged", cause="it is not a JSON object", remedy=self._verify)
        return document

    def raw(self, name: str) -> bytes:
        """A raw file, by the path relative to the run that its `RawSink` gave. Raises LabError."""
        path = self.path / name
        *folders, last = name.split("/")
        try:
            with contextlib.ExitStack() as stack:
                folder = stack.enter_context(open_folder(self.path, follow=True))
                for each in folders:
                    folder = stack.enter_context(folder.sub(each))
                return folder.read(last)
        except ValueError as failed:
            raise LabError(what=f"{name} is not inside run {self.manifest.id}", remedy=self._verify) from failed
        except OSError as failed:
            raise LabError(
                what=f"{path} cannot be read", cause=failed.strerror or str(failed), remedy=self._verify
            ) from failed

    def seal(self) -> SealCheck | None:
        """What differs from the sealed run; None when it was cut short before it was sealed."""
        return check_seal(self.path)

    def require_intact(self) -> None:
        """Raises LabError when files were edited, lost or added after the run ended. An unsealed run passes."""
        found = self.seal()
        if found is None or found.is_intact:
            return
        said = (("edited", found.edited), ("missing", found.missing), ("added", found.added))
        raise LabError(
            what=f"run {self.manifest.id} was changed after it ended",
            cause="; ".join(f"{word}: {', '.join(names)}" for word, names in said if names),
            remedy=self._verify,
        )

    @property
    def _verify(self) -> str:
        return f"cd {self.path} && sha256sum -c SHA256SUMS"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRun:
    """A directory that has a `run.json` which cannot be used, and why."""

    path: Path
    problem: str


def open_run(path: Path) -> StoredRun:
    """The run in that directory. Raises UsageError when there is none that this labctl can read."""
    manifest = read_manifest(path)
    if manifest.state is RunState.RUNNING and not is_being_written(path):
        manifest = replace(
            manifest, state=RunState.INTERRUPTED, reason="its process ended without a word (killed, or the power went)"
        )
    return StoredRun(path=path, manifest=manifest)


def find_run(runs_dir: Path, wanted: str) -> StoredRun:
    """The run of that path, id, unambiguous beginning of an id, or `last`. Raises UsageError with what there is."""
    as_path = Path(wanted)
    if (as_path / MANIFEST_FILE).exists():
        return open_run(as_path)
    names = [path.name for path in _directories(runs_dir)]
    if wanted == LAST and names:
        return open_run(runs_dir / names[-1])
    if wanted in names:
        return open_run(runs_dir / wanted)
    matching = [name for name in names if wanted and name.startswith(wanted)]
    if len(matching) == 1:
        return open_run(runs_dir / matching[0])
    if matching:
        raise UsageError(
            what=f"'{wanted}' is the beginning of {len(matching)} runs",
            cause=", ".join(matching),
            remedy="give more of the name",
        )
    near = get_close_matches(wanted, names, n=1)
    raise UsageError(
        what=f"there is no run '{wanted}' in {runs_dir}",
        cause=f"did you mean {near[0]}?" if near else f"it has {len(names)} runs",
        remedy="labctl runs  # lists them; --runs-dir DIR looks elsewhere",
    )


def list_runs(runs_dir: Path) -> tuple[StoredRun | UnreadableRun, ...]:
    """Every run of the directory, the oldest first. No directory is no runs."""
    found: list[StoredRun | UnreadableRun] = []
    for path in _directories(runs_dir):
        try:
            found.append(open_run(path))
        except LabError as problem:
            found.append(UnreadableRun(path=path, problem=f"{problem.what}: {problem.cause}"))
    return tuple(found)


def _directories(runs_dir: Path) -> tuple[Path, ...]:
    """By name, which is by time: names begin with it."""
    if not runs_dir.is_dir():
        return ()
    return tuple(sorted(path.parent for path in runs_dir.glob(f"*/{MANIFEST_FILE}")))
