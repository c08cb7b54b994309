"""Saves a lab that is up as one value, and builds the same lab from it, on this host or another.

What is saved of a lab: its record, its plan, what was changed in it on purpose, addresses that somebody added by hand,
and how it differs from its plan in all. After loading the new lab is compared with that, so that whatever did not come
along is named. Files are read through the same judgement as scenarios: root goes by none that another user could have
written.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from labctl.engine.again import Restored, change
from labctl.engine.build import find, require_host, up
from labctl.engine.events import Observer
from labctl.errors import UsageError
from labctl.json_text import parse_json
from labctl.model.changes import NOTHING
from labctl.model.drift import Drift
from labctl.model.lab import Lab
from labctl.model.pod_network import NetworkType
from labctl.model.snapshot import Apart, Snapshot
from labctl.planning.show import as_record
from labctl.planning.snapshot import apart, parse_snapshot, snapshot_document
from labctl.providers.base import Keeping, Provider
from labctl.system import files
from labctl.system.clock import utc_now
from labctl.values import dataclass

SUFFIX = ".snapshot.json"
_PACKAGE = Path(__file__).resolve().parents[1]
_PLACE = "/LABCTL"
"""Stands in a plan for where labctl is installed, which is another place on another host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The lab from a snapshot. `apart` is how it differs from the one that was saved, None where that cannot be
    compared; `is_planned_otherwise`: this labctl builds such a lab by other steps than the one that saved it."""

    restored: Restored
    apart: Apart | None
    is_planned_otherwise: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """A file in a folder of snapshots. `snapshot` is None where it cannot be read: `problem` says why."""

    path: Path
    snapshot: Snapshot | None
    problem: str = ""


def keeping_of(provider: Provider, name: str) -> Keeping:
    """What saves labs of that provider. Raises UsageError where nothing does."""
    if (keeping := provider.capabilities.keeping) is not None:
        return keeping
    raise UsageError(
        what=f"snapshots are of labs of the provider netns, and lab {name} is built by {provider.name}",
        cause="what such a lab has is made by other programs (Kubernetes, Cilium), and kept by them",
        remedy=f"labctl support {name}  # everything about it in one archive, to look at",
    )


def take(provider: Provider, lab: Lab, *, scenario: str, versions: Mapping[str, str]) -> Snapshot:
    """The lab of that record, which is up, as it is now. Raises UsageError, NeedsRoot."""
    keeping, changing = keeping_of(provider, lab.name), provider.capabilities.changing
    if changing is not None:
        changing.settle(lab)
    drift = _drift(provider, lab)
    if drift is not None and drift.unread:
        first = drift.unread[0]
        raise UsageError(
            what=f"lab {lab.name} cannot be saved: {first.kind} of {first.part} cannot be read",
            cause=first.why,
            remedy=f"labctl diff {lab.name}",
        )
    return Snapshot(
        saved_at=utc_now(),
        versions=versions,
        scenario=scenario,
        lab=lab,
        changes=NOTHING if changing is None else changing.changes(lab),
        addresses=() if drift is None else keeping.extra_addresses(lab),
        differences=None if drift is None else drift.differences,
        plan=_plan(provider, lab),
    )


def load(provider: Provider, snapshot: Snapshot, name: str, observer: Observer) -> Loaded:
    """Builds the lab under that name, changes it as it was, and compares it with what was saved. Raises UsageError for
    a name that is taken, and what stops a build."""
    keeping, lab = keeping_of(provider, snapshot.lab.name), replace(snapshot.lab, name=name)
    is_planned_otherwise = _plan(provider, snapshot.lab) != snapshot.plan
    if find([provider], name) is not None:
        raise UsageError(
            what=f"a lab named {name} is there already",
            remedy=f"labctl down {name}, then the same command; or another name: --name OTHER",
        )
    require_host(provider, lab)
    restored = change(provider, lab, snapshot.changes, up(provider, lab, observer))
    restored = replace(restored, failed=(*restored.failed, *keeping.add_addresses(lab, snapshot.addresses)))
    return Loaded(restored=restored, apart=against(provider, lab, snapshot), is_planned_otherwise=is_planned_otherwise)


def against(provider: Provider, lab: Lab, snapshot: Snapshot) -> Apart | None:
    """How the lab of that name, which is up, differs from what was saved; None where neither can be compared."""
    drift = _drift(provider, replace(snapshot.lab, name=lab.name))
    if drift is None or snapshot.differences is None:
        return None
    return apart(lab.name, drift.differences, snapshot.lab.name, snapshot.differences)


def between(provider: Provider, here: Lab, there: Lab) -> Apart | None:
    """How two labs that are up differ; None where they cannot be compared."""
    mine, theirs = _drift(provider, here), _drift(provider, replace(here, name=there.name))
    if mine is None or theirs is None:
        return None
    return apart(here.name, mine.differences, there.name, theirs.differences)


def _drift(provider: Provider, lab: Lab) -> Drift | None:
    """None for a lab whose pods plugins attach, which is not compared with its plan."""
    seam = provider.capabilities.drifting
    if seam is None or lab.pod_network.type is NetworkType.CNI:
        return None
    return seam.compared(lab).drift


def _plan(provider: Provider, lab: Lab) -> Mapping[str, Any]:
    """As it is stored: without the place where labctl is. Raises UsageError for a lab that cannot be built."""
    try:
        text = json.dumps(as_record(provider.plan(lab)))
    except (KeyError, ValueError, IndexError) as misfit:  # no loader has seen what a file says
        raise UsageError(
            what=f"the snapshot of lab {lab.name} is of no lab that can be built", cause=str(misfit)
        ) from misfit
    here = json.dumps(str(_PACKAGE))[1:-1]
    record = parse_json(text.replace(here, _PLACE))
    assert isinstance(record, dict)
    return record


def write(path: Path, snapshot: Snapshot) -> int:
    """A new file; gives its size in bytes. Raises UsageError for a name that is taken, OSError."""
    data = snapshot_document(snapshot)
    with files.open_folder(path.parent, make=True, follow=True) as folder:
        if folder.kind(path.name):
            raise UsageError(what=f"{path} already exists", remedy=f"another name, or: rm {shlex.quote(str(path))}")
        folder.write(path.name, data)
    return len(data)


def read(path: Path, *, trust: bool = False) -> Snapshot:
    """The snapshot in that file. Raises UsageError with what is wrong with it, and when labctl is root and another user
    could have written it (unless `trust`), or when it names programs that would run here (unless `trust`)."""
    try:
        snapshot = parse_snapshot(_content(path, trust=trust))
    except files.Untrusted as untrusted:
        raise _untrusted(path, untrusted) from None
    except OSError as failed:
        raise UsageError(
            what=f"the snapshot {path} cannot be read", cause=failed.strerror or str(failed),
            remedy="labctl snapshot list",
        ) from None  # fmt: skip
    except (ValueError, RecursionError) as wrong:
        raise UsageError(
            what=f"{path} is no snapshot that can be loaded", cause=str(wrong),
            remedy="labctl snapshot save LAB  # on the host that has the lab, writes another one",
        ) from None  # fmt: skip
    if snapshot.lab.pod_network.type is NetworkType.CNI and not trust:
        raise UsageError(
            what=f"the snapshot {path} names plugins, which would run as root on this host",
            cause="a file may not decide that: podNetwork.conflist of its lab",
            remedy="look at the file, then the same command with --trust",
        )
    return snapshot


def stored(directory: Path) -> tuple[StoredSnapshot, ...]:
    """Those in a folder, by name. What is no snapshot by its name is left out; one that cannot be read says why."""
    try:
        with files.open_folder(directory, follow=True) as folder:
            names = [name for name in folder.names() if name.endswith(SUFFIX)]
    except OSError:
        return ()
    return tuple(_stored(directory / name) for name in names)


def _stored(path: Path) -> StoredSnapshot:
    try:
        return StoredSnapshot(path=path, snapshot=read(path))
    except UsageError as refused:
        return StoredSnapshot(path=path, snapshot=None, problem=refused.cause or refused.what)


def _content(path: Path, *, trust: bool) -> bytes:
    if "\x00" in str(path):
        raise OSError(errno.EINVAL, "the file's name has a NUL character in it")
    is_judged = os.geteuid() == 0 and not trust
    # What is judged and what is opened is the same path: a link on the way cannot be swapped in between.
    with files.open_folder(Path(os.path.realpath(path.parent))) as folder:
        if is_judged and (why := files.why_untrusted_folder(folder.stat())):
            raise files.Untrusted(errno.EPERM, f"its folder: {why}", str(path))
        return folder.read(path.name, owned=is_judged)


def _untrusted(path: Path, untrusted: OSError) -> UsageError:
    return UsageError(
        what=f"{path} has dubious ownership: another user could have written it",
        cause=f"{untrusted.strerror}, and labctl runs as root",
        remedy=f"less {shlex.quote(str(path))}  # then the same command with --trust",
    )
