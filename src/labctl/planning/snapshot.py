"""A `Snapshot` as a document and back, strictly; and what two labs, or a lab and a snapshot, have not in common. Pure.

Whoever loads a snapshot builds what it says as root, so that reading takes nothing that labctl would not have written:
no key that is missing or unknown, no name that could be a path or an option, and no lab whose digest does not fit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from labctl.codec import Misfit, exact, plain
from labctl.errors import LabError
from labctl.json_text import parse_json
from labctl.model.changes import Changes
from labctl.model.drift import Difference
from labctl.model.lab import Lab
from labctl.model.snapshot import Apart, ExtraAddress, Snapshot
from labctl.planning.record import lab_from_json, lab_to_json
from labctl.text import json_bytes

_API, _KIND = "labctl/v1", "Snapshot"
_KEYS = ("apiVersion", "kind", "savedAt", "versions", "scenario", "lab", "changes", "addresses", "differences", "plan")
_PID = re.compile(r" \(\d+\)$")


def snapshot_document(snapshot: Snapshot) -> bytes:
    """The whole file."""
    content = plain(replace(snapshot, changes=replace(snapshot.changes, pending=())))
    assert isinstance(content, dict)
    document = {"apiVersion": _API, "kind": _KIND, **content, "lab": lab_to_json(snapshot.lab)}
    return json_bytes({key: document[key] for key in _KEYS}, indent=1) + b"\n"


def parse_snapshot(data: bytes) -> Snapshot:
    """The snapshot that `snapshot_document` wrote. Raises ValueError with the reason; of what is not labctl's nothing
    is quoted."""
    try:
        document = parse_json(data)
    except ValueError:
        raise ValueError(_NOT_JSON) from None
    api, kind = (document.get(key) for key in ("apiVersion", "kind")) if isinstance(document, dict) else (None, None)
    if not isinstance(api, str) or not api.startswith("labctl/") or not isinstance(kind, str):
        raise ValueError("it is no document of labctl: it has no apiVersion and kind")
    if kind != _KIND:
        raise ValueError(f"it is a {kind[:40]} of {api[:40]}, not a {_KIND}")
    if api != _API:
        by = document.get("versions")
        version = by.get("labctl") if isinstance(by, dict) else None
        said = f", written by labctl {version[:40]}" if isinstance(version, str) else ""
        raise ValueError(f"it is of {api[:40]}{said}; this labctl reads {_API}")
    return _snapshot(document)


_NOT_JSON = "it is not whole, or no snapshot at all: it is no JSON document"


def _snapshot(document: Mapping[str, Any]) -> Snapshot:
    for key in _KEYS:
        if key not in document:
            raise Misfit("it is missing", key)
    if unknown := sorted(document.keys() - set(_KEYS)):
        raise ValueError(f"it has unknown keys: {', '.join(unknown)[:200]}")
    changes = _at("changes", Changes, document)
    if changes.pending:
        raise Misfit("a snapshot has none", "changes", "pending")
    return Snapshot(
        saved_at=_at("savedAt", str, document),
        versions=_at("versions", Mapping[str, str], document),
        scenario=_at("scenario", str, document),
        lab=_lab(document["lab"]),
        changes=changes,
        addresses=_at("addresses", tuple[ExtraAddress, ...], document),
        differences=_at("differences", tuple[Difference, ...] | None, document),
        plan=_at("plan", Mapping[str, Any], document),
    )


def _at(key: str, kind: Any, document: Mapping[str, Any]) -> Any:
    try:
        return exact(kind, document[key])
    except Misfit as misfit:
        misfit.path = (key, *misfit.path)
        raise
    except (ValueError, OverflowError, RecursionError) as wrong:
        raise Misfit(str(wrong), key) from None


def _lab(data: object) -> Lab:
    if not isinstance(data, dict):
        raise Misfit("an object was expected", "lab")
    try:
        return lab_from_json(data)
    except LabError as refused:
        raise Misfit(refused.cause, "lab") from None


def apart(lab: str, here: Iterable[Difference], other: str, there: Iterable[Difference]) -> Apart:
    """What differs between two labs of one plan, by how each differs from that. Names of the labs, numbers of processes
    and commands by hand do not count."""
    mine, theirs = list(here), list(there)
    return Apart(
        only_here=_beside(mine, lab, theirs, other),
        only_there=_beside(theirs, other, mine, lab),
    )


def _beside(
    some: Sequence[Difference], of: str, others: Iterable[Difference], of_others: str
) -> tuple[Difference, ...]:
    """Those of the first that the second have not."""
    left, found = Counter(_said(one, of_others) for one in others), []
    for one in some:
        said = _said(one, of)
        if left[said]:
            left[said] -= 1
        else:
            found.append(one)
    return tuple(found)


def _said(one: Difference, lab: str) -> tuple[str, ...]:
    texts = (one.change, one.part, one.kind, _PID.sub("", one.name), one.wanted, one.found)
    return tuple(str(text).replace(f"labctl.{lab}.", "labctl..") for text in texts)
