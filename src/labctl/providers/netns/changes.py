"""The record of what was changed in a running lab, beside the record of the lab itself, and how an act is kept whole.

An act is written down before it begins and struck out when it has ended. While it lasts it holds a lock, which ends
with its process: what is written down and not locked was left by a command that was killed, and `settle` finishes it.
Nothing depends on the file for removing a lab. It goes with the lab's own record. It stands alone because whoever looks
at a lab reads it, and loads nothing of what changes one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from labctl.codec import json_document, typed
from labctl.errors import LabError, UsageError
from labctl.json_text import parse_json
from labctl.model.changes import NOTHING, Changes, Pending
from labctl.providers.netns.kept import follow_changes
from labctl.providers.netns.record import record_path
from labctl.system import files, locks

_FILE_TURN_S = 10.0
_ACT_TURN_S = 0.2
"""Another command that is at work on the same thing is not waited for."""


def changes_path(lab: str) -> Path:
    return record_path(lab).with_name("changes.json")


def read_changes(lab: str) -> Changes:
    """What was changed; nothing where there is no file, or one that cannot be read."""
    try:
        return typed(Changes, parse_json(files.read_own(changes_path(lab)).decode()), where=str(changes_path(lab)))
    except (OSError, ValueError, UsageError):
        return NOTHING


def update_changes(lab: str, change: Callable[[Changes], Changes]) -> Changes:
    """Replaces the record by what `change` makes of it; gives that. Without any change left there is no file."""
    with locks.held(f"changes-{lab}", timeout_s=_FILE_TURN_S) as is_mine:
        if not is_mine:
            raise UsageError(
                what=f"the record of what was changed in lab {lab} has been locked for {_FILE_TURN_S:g} s",
                remedy=f"fuser -v {locks.directory() / f'changes-{lab}'}  # the process that holds it",
            )
        changed, path = change(read_changes(lab)), changes_path(lab)
        if path.parent.is_dir():  # else the lab was removed meanwhile, and must not come back as a folder
            with files.open_private(path.parent) as folder:
                if changed == NOTHING:
                    folder.remove(path.name)
                else:
                    folder.write(path.name, json_document(changed))
            follow_changes(lab, changed)
        return changed


@contextlib.contextmanager
def acting(lab: str, act: Pending) -> Iterator[None]:
    """The act is written down as begun, and as ended only when the context is left without an error. Raises UsageError
    while another command is at work on the same thing."""
    with locks.held(_lock(lab, act), timeout_s=_ACT_TURN_S) as is_mine:
        if not is_mine:
            raise UsageError(
                what=f"another labctl is changing {act} of lab {lab} right now",
                remedy=f"wait for it, or: fuser -v {locks.directory() / _lock(lab, act)}",
            )
        update_changes(lab, lambda changes: changes.begun(act))
        yield
        update_changes(lab, lambda changes: changes.ended(act))


def settle(lab: str, realise: Callable[[Pending, Changes], None]) -> tuple[str, ...]:
    """Carries out what commands that were killed had begun, as the record says that it is meant to be; says what that
    was. `realise` makes one thing as the record has it."""
    finished = []
    for act in read_changes(lab).pending:
        with locks.held(_lock(lab, act), timeout_s=0) as is_mine:
            if is_mine:
                realise(act, read_changes(lab))
                update_changes(lab, lambda changes, act=act: changes.ended(act))  # type: ignore[misc]
                finished.append(str(act))
    return tuple(finished)


def restore(
    lab: str, changes: Changes, realise: Callable[[Pending, Changes], None]
) -> tuple[tuple[str, LabError], ...]:
    """Makes what `changes` has of a lab that has nothing of it; gives what could not be made, with why. All of it is
    written down as begun first: when this process is killed, `settle` makes the rest."""
    acts = changes.acts()
    update_changes(lab, lambda _: replace(changes, pending=acts))
    failed: list[tuple[str, LabError]] = []
    for act in acts:
        with locks.held(_lock(lab, act), timeout_s=_FILE_TURN_S) as is_mine:
            if not is_mine:  # another command has found it, and is making it
                continue
            try:
                realise(act, read_changes(lab))
            except LabError as error:
                failed.append((str(act), error))
                update_changes(lab, lambda changes, act=act: changes.without(act))  # type: ignore[misc]
            update_changes(lab, lambda changes, act=act: changes.ended(act))  # type: ignore[misc]
    return tuple(failed)


def _lock(lab: str, act: Pending) -> str:
    return f"change-{lab}-{act.kind}-{act.name}"
