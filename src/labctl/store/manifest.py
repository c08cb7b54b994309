"""`run.json`: who ran what, when, where and how it ended. Strict about its version, silent about everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from labctl.errors import UsageError
from labctl.json_text import parse_json
from labctl.store.codec import json_document
from labctl.system.files import MIB, Folder, open_folder

MANIFEST_FILE = "run.json"
API_VERSION = "labctl/v1"
KIND = "Run"
LONGEST_REASON = 10_000
"""Characters of a reason that are shown."""
LARGEST_BYTE = 16 * MIB
"""A lab of 10,000 pods has a record of some 4 MiB."""


class RunState(StrEnum):
    """`RUNNING`: its process lives. `INTERRUPTED`: stopped by a person, or killed; what it has is whole up to there.

    `FAILED`: an error ended it. A check that failed is not a run that failed.
    """

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`labs` are the resolved labs by side; `settings` is what the command decided (seed, order, rounds).

    Times are UTC in ISO 8601; `ended_at` is empty and `reason` says nothing until the run has ended.
    """

    id: str
    run_kind: str
    name: str
    labctl_version: str
    argv: tuple[str, ...]
    started_at: str
    state: RunState
    ended_at: str = ""
    reason: str = ""
    environment: Mapping[str, object] = field(default_factory=dict)
    labs: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)


def write_manifest(run: Folder, manifest: Manifest) -> None:
    """Raises OSError."""
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "id": manifest.id,
        "runKind": manifest.run_kind,
        "name": manifest.name,
        "state": manifest.state,
        "reason": manifest.reason,
        "startedAt": manifest.started_at,
        "endedAt": manifest.ended_at,
        "labctlVersion": manifest.labctl_version,
        "argv": manifest.argv,
        "settings": manifest.settings,
        "environment": manifest.environment,
        "labs": manifest.labs,
    }
    run.write(MANIFEST_FILE, json_document(document))


def read_manifest(run: Path) -> Manifest:
    """Raises UsageError when there is no run, when it is damaged, or when it is of another apiVersion."""
    path = run / MANIFEST_FILE
    try:
        with open_folder(run, follow=True) as folder:
            document = parse_json(folder.read(MANIFEST_FILE, most_byte=LARGEST_BYTE))
    except (FileNotFoundError, NotADirectoryError) as failed:
        raise UsageError(
            what=f"{run} is not a run", cause=f"it has no {MANIFEST_FILE}", remedy="labctl runs"
        ) from failed
    except OSError as failed:
        raise UsageError(
            what=f"{path} cannot be read", cause=failed.strerror or str(failed), remedy=f"ls -l {path}"
        ) from failed
    except ValueError as failed:
        raise _damaged(path, f"it is not JSON: {failed}") from failed
    if not isinstance(document, dict):
        raise _damaged(path, "it is not a JSON object")
    version, kind = document.get("apiVersion"), document.get("kind")
    if (version, kind) != (API_VERSION, KIND):
        raise UsageError(
            what=f"{run} is not a run that this labctl can read",
            cause=f"it has apiVersion {version} and kind {kind}; this labctl reads {API_VERSION} and {KIND}",
            remedy=f"use the labctl that wrote it ({document.get('labctlVersion', 'version unknown')})",
        )
    try:
        return _manifest(document)
    except (KeyError, TypeError, ValueError) as failed:
        raise _damaged(path, f"{type(failed).__name__}: {failed}") from failed


def _manifest(document: Mapping[str, object]) -> Manifest:
    argv = document["argv"]
    if not isinstance(argv, list):
        raise TypeError("argv is not a list")
    return Manifest(
        id=str(document["id"]),
        run_kind=str(document["runKind"]),
        name=str(document["name"]),
        labctl_version=str(document["labctlVersion"]),
        argv=tuple(str(word) for word in argv),
        started_at=str(document["startedAt"]),
        state=RunState(str(document["state"])),
        ended_at=str(document["endedAt"]),
        reason=str(document["reason"])[:LONGEST_REASON],
        environment=_object(document, "environment"),
        labs=_object(document, "labs"),
        settings=_object(document, "settings"),
    )


def _object(document: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = document[key]
    if not isinstance(value, dict):
        raise TypeError(f"{key} is not an object")
    return value


def _damaged(path: Path, cause: str) -> UsageError:
    return UsageError(what=f"{path} is damaged", cause=cause, remedy=f"sha256sum -c {path.parent}/SHA256SUMS")
