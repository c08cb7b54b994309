"""`run.json`: who ran what, when, where and how it ended. Strict about its version, silent about everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import cast

from labctl.codec import json_document, plain, typed
from labctl.errors import UsageError
from labctl.json_text import parse_json
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
    state: RunState
    reason: str = ""
    started_at: str
    ended_at: str = ""
    labctl_version: str
    argv: tuple[str, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, object] = field(default_factory=dict)
    labs: Mapping[str, object] = field(default_factory=dict)


def write_manifest(run: Folder, manifest: Manifest) -> None:
    """Raises OSError."""
    document = {"apiVersion": API_VERSION, "kind": KIND, **cast("dict[str, object]", plain(manifest))}
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
        manifest = typed(Manifest, document, where=str(path))
    except UsageError as failed:
        raise _damaged(path, failed.cause) from failed
    return replace(manifest, reason=manifest.reason[:LONGEST_REASON])


def _damaged(path: Path, cause: str) -> UsageError:
    return UsageError(what=f"{path} is damaged", cause=cause, remedy=f"sha256sum -c {path.parent}/SHA256SUMS")
