"""What is kept of a lab for after the next boot: its record, what was changed in it, and which boot it was up in.

A boot takes the namespaces and empties /run. The copy stands in /var/lib/labctl, which only root may enter; while the
lab is up nothing is decided by it. `labctl up` writes it, every later change of the lab follows in it, and
`labctl down` removes it. Labs that a comparison builds and removes are not kept. It stands alone because it is the one
part of a lab that is not in /run.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.codec import json_document, typed
from labctl.errors import LabError, StepFailed, UsageError
from labctl.json_text import parse_json
from labctl.model.changes import NOTHING, Changes
from labctl.model.fault import Command
from labctl.model.lab import Lab
from labctl.names import is_name
from labctl.providers.base import Kept
from labctl.providers.netns.record import as_document, parse_document, part_names
from labctl.system import files
from labctl.system.clock import boot_id

if TYPE_CHECKING:  # typing only: keeps `labctl list` fast
    from labctl.model.snapshot import ExtraAddress

DIRECTORY = Path("/var/lib/labctl/labs")
_RECORD, _CHANGES, _BOOT = "lab.json", "changes.json", "boot"
_log = logging.getLogger(__name__)


class NetnsKeeping:
    """`Keeping` of the provider seam. Stateless."""

    def keep(self, lab: Lab, changes: Changes) -> None:
        try:
            with files.open_private(_folder(lab.name)) as folder:
                folder.remove(_RECORD)  # written last again: what is there without it is no whole copy
                _write_changes(folder, changes)
                folder.write(_BOOT, boot_id().encode() + b"\n")
                folder.write(_RECORD, as_document(lab).encode() + b"\n")
        except OSError as failed:
            raise StepFailed(
                what=f"lab {lab.name} is up and cannot be brought back after a boot: its record is not kept",
                cause=f"{_folder(lab.name)}: {failed.strerror or failed}",
                remedy=f"df -h {DIRECTORY.parent}; ls -ld {DIRECTORY}",
            ) from failed

    def kept(self, name: str | None = None) -> tuple[Kept, ...]:
        try:
            names = sorted(path.name for path in DIRECTORY.iterdir()) if name is None else [name]
        except OSError:  # none, or another user's to read
            return ()
        return tuple(_kept(one) for one in names if is_name(one) and _is_there(one))

    def forget(self, name: str) -> None:
        files.remove_tree(_folder(name))
        for place in (DIRECTORY, DIRECTORY.parent):
            with contextlib.suppress(OSError):  # it holds something, or was never there
                files.remove_empty(place)

    def extra_addresses(self, lab: Lab) -> tuple[ExtraAddress, ...]:
        from labctl.providers.netns.reading import extra_addresses

        return extra_addresses(lab)

    def add_addresses(self, lab: Lab, addresses: Sequence[ExtraAddress]) -> tuple[tuple[str, LabError], ...]:
        from labctl.providers.netns.breaking import carry_out

        failed: list[tuple[str, LabError]] = []
        for one in addresses:
            argv = ("ip", "address", "replace", str(one.address), "dev", one.device)
            try:
                if one.part not in part_names(lab):
                    raise UsageError(what=f"lab {lab.name} has no part named '{one.part}'")
                carry_out(lab, (Command(part=one.part, argv=argv),))
            except LabError as refused:
                failed.append((str(one), refused))
        return tuple(failed)


def follow_changes(lab: str, changes: Changes) -> None:
    """What was changed in a lab that is kept. The lab is as it is said to be whether or not that can be written."""
    with _following(lab) as folder:
        if folder is not None:
            _write_changes(folder, changes)


def follow_record(lab: Lab) -> None:
    """What a lab that is kept has become."""
    with _following(lab.name) as folder:
        if folder is not None:
            folder.write(_RECORD, as_document(lab).encode() + b"\n")


@contextlib.contextmanager
def _following(lab: str) -> Iterator[files.Folder | None]:
    try:
        if not _is_there(lab):
            yield None
            return
        with files.open_private(_folder(lab)) as folder:
            yield folder
    except OSError as failed:
        _log.warning("%s", f"what was changed in lab {lab} is not kept for after a boot: {failed}")


def _write_changes(folder: files.Folder, changes: Changes) -> None:
    if changes == NOTHING:
        folder.remove(_CHANGES)
    else:
        folder.write(_CHANGES, json_document(changes))


def _folder(lab: str) -> Path:
    """Raises ValueError for what is not a lab's name: the folder is removed with the lab."""
    if not is_name(lab):
        raise ValueError(f"{lab[:60]!r} is not a valid lab name")
    return DIRECTORY / lab


def cut_off() -> tuple[str, ...]:
    """The names of labs of which a part is kept: whoever wrote it was killed before the record, which comes last."""
    try:
        names = [path.name for path in DIRECTORY.iterdir()]
    except OSError:
        return ()
    return tuple(name for name in names if is_name(name) and not _is_there(name))


def _is_there(lab: str) -> bool:
    return os.access(_folder(lab) / _RECORD, os.F_OK)


def _kept(name: str) -> Kept:
    lab: Lab | None = None
    changes, boot, problem = NOTHING, "", ""
    try:
        with files.open_own_folder(_folder(name)) as folder:
            lab = parse_document(folder.read(_RECORD, owned=True).decode())
            boot = folder.read(_BOOT, owned=True).decode().strip()
            if folder.kind(_CHANGES):
                changes = typed(Changes, parse_json(folder.read(_CHANGES, owned=True)), where=_CHANGES)
        if lab is None:
            problem = "another version of labctl wrote it, or it is not whole"
        elif lab.name != name:
            problem = f"it is the record of lab {lab.name}"
            lab = None
    except UsageError as misfit:
        lab, problem = None, f"{misfit.what}: {misfit.cause}"
    except (OSError, ValueError) as unreadable:
        lab, problem = None, str(unreadable)
    return Kept(name=name, lab=lab, changes=changes, is_of_this_boot=boot == boot_id(), problem=problem)
