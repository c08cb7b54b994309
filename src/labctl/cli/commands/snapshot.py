"""`labctl snapshot save | load | list`: a lab with what was changed in it as one file, and the same lab from that."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl import __version__
from labctl.cli.options import as_json, find_standing, name_option, provider_of, trust_option
from labctl.cli.output import emit, emit_json, say, show, tell
from labctl.cli.progress import Progress
from labctl.codec import plain
from labctl.errors import LabError, StepFailed, UsageError
from labctl.model.lab import Lab

if TYPE_CHECKING:
    from labctl.engine.snapshot import Loaded, StoredSnapshot
    from labctl.model.snapshot import Apart, Snapshot

_LARGEST_SCENARIO_BYTE = 1 << 20


@click.command("snapshot")
@click.argument("act", type=click.Choice(["save", "load", "list"]), metavar="save|load|list")
@click.argument("what", required=False, metavar="[LAB|FILE]")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="With save: where to write it.")
@name_option
@click.option(
    "--snapshots-dir",
    type=click.Path(path_type=Path),
    envvar="LABCTL_SNAPSHOTS_DIR",
    default=Path("snapshots"),
    show_default=True,
    help="Where snapshots are kept.",
)
@trust_option
@as_json
def command(
    act: str,
    what: str | None,
    output: Path | None,
    name: str | None,
    snapshots_dir: Path,
    trust: bool,
    as_json: bool,
) -> int:
    """Save LAB in one file, build the lab of FILE (or of a name that list shows), or list the files.

    Saved are the lab's record and plan, its scenario's file, links that are down, nodes that are stopped, faults (but
    hidden ones), impairments, addresses added by hand, how the lab differs from its plan, and the versions of labctl
    and the kernel. load builds the same lab, here or on another host, changes it as it was, and compares it with what
    was saved: what differs is named, with exit code 4.

    \b
    labctl snapshot save bpf
    labctl snapshot load snapshots/bpf-20261130T083000Z.snapshot.json --name copy
    labctl diff copy --snapshot snapshots/bpf-20261130T083000Z.snapshot.json
    """
    _refuse(act, what, output=output, name=name)
    if act == "list":
        return _list(snapshots_dir, as_json=as_json)
    assert what is not None
    if act == "save":
        return _save(what, output, snapshots_dir, as_json=as_json)
    return _load(place_of(what, snapshots_dir), name, trust=trust, as_json=as_json)


def _refuse(act: str, what: str | None, *, output: Path | None, name: str | None) -> None:
    if act == "list" and what is not None:
        raise UsageError(what="list takes no argument", remedy="labctl snapshot list --snapshots-dir DIR")
    if act != "list" and what is None:
        which = "LAB" if act == "save" else "FILE"
        raise UsageError(what=f"{act} needs a {which}", remedy=f"labctl snapshot {act} {which}")
    if output is not None and act != "save":
        raise UsageError(what="-o is for save", remedy="labctl snapshot save LAB -o FILE")
    if name is not None and act != "load":
        raise UsageError(what="--name is for load", remedy="labctl snapshot load FILE --name LAB")


def place_of(what: str, directory: Path) -> Path:
    """A file, or the name of one in the folder of snapshots, with its ending or without."""
    from labctl.engine.snapshot import SUFFIX

    path = Path(what)
    if "/" in what or path.exists():
        return path
    inside = [directory / what, directory / f"{what}{SUFFIX}"]
    return next((one for one in inside if one.exists()), path)


def _save(name: str, output: Path | None, directory: Path, *, as_json: bool) -> int:
    from labctl.engine.snapshot import SUFFIX, take, write
    from labctl.system.signals import interruptible

    lab, provider = find_standing(name)
    path = output or directory / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}{SUFFIX}"
    with interruptible():
        snapshot = take(provider, lab, scenario=_scenario_text(lab), versions=_versions())
        try:
            size_byte = write(path, snapshot)
        except OSError as failed:
            raise StepFailed(
                what=f"cannot write {path}", cause=failed.strerror or str(failed), remedy="another place: -o FILE"
            ) from failed
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "SnapshotSaved",
                "lab": name,
                "file": str(path),
                "sizeByte": size_byte,
                **_about(snapshot),
            }
        )
        return 0
    changed = [*snapshot.changes.sentences(), *map(str, snapshot.addresses)]
    say(f"lab {name} is saved" + (f", with: {'; '.join(changed)}" if changed else ""))
    emit(f"  {path}", as_it_is=True)
    return 0


def _versions() -> dict[str, str]:
    return {"labctl": __version__, "python": platform.python_version(), "kernel": platform.release()}


def _scenario_text(lab: Lab) -> str:
    """The file of the scenario, if it alone still gives this lab."""
    from labctl.loading import load_scenario
    from labctl.planning.resolve import resolve
    from labctl.system.files import read_file

    try:
        if resolve(load_scenario(lab.source), name=lab.name).digest != lab.digest:
            return ""
        return read_file(Path(lab.source), most_byte=_LARGEST_SCENARIO_BYTE).decode()
    except (LabError, OSError, ValueError):
        return ""


def _about(snapshot: Snapshot) -> dict[str, object]:
    lab = snapshot.lab
    return {
        "savedAt": snapshot.saved_at,
        "scenario": lab.scenario,
        "digest": lab.digest,
        "nodes": len(lab.nodes),
        "pods": len(lab.pods),
        "changed": [*snapshot.changes.sentences(), *map(str, snapshot.addresses)],
        "differences": None if snapshot.differences is None else len(snapshot.differences),
        "versions": dict(snapshot.versions),
    }


def _load(path: Path, name: str | None, *, trust: bool, as_json: bool) -> int:
    from labctl.engine.snapshot import load, read
    from labctl.names import is_name
    from labctl.system.signals import interruptible

    if name is not None and not is_name(name):
        raise UsageError(
            what=f"'{name}' is no name of a lab",
            cause="names have lower-case letters, digits and hyphens, at most 40 characters",
            remedy="labctl snapshot load FILE --name LAB",
        )
    snapshot = read(path, trust=trust)
    chosen, wanted = provider_of(snapshot.lab), name or snapshot.lab.name
    with interruptible(), Progress(quiet=as_json) as progress:
        loaded = load(chosen, snapshot, wanted, progress)
    is_same = not loaded.restored.failed and (loaded.apart is None or loaded.apart.is_nothing)
    if loaded.is_planned_otherwise:
        by, here = snapshot.versions.get("labctl", "?"), __version__
        tell(f"note: labctl {here} builds this lab by other steps than labctl {by}, which saved it")
    if as_json:
        emit_json(_loaded_record(loaded, snapshot, path))
    else:
        lab = loaded.restored.lab
        say(f"lab {lab.name} is up, from {path}: {len(lab.nodes)} nodes, {len(lab.pods)} pods")
        if changed := [*loaded.restored.changes.sentences(), *map(str, snapshot.addresses)]:
            say(f"changed as it was: {'; '.join(changed)}")
        if is_same and loaded.apart is not None:
            say("it is as the lab that was saved")
    for what, why in loaded.restored.failed:
        tell("\n".join((f"note: {what} is not as it was: {why.what}", *why.lines()[1:])))
    if not as_json and loaded.apart is not None:
        show_apart(loaded.apart, f"lab {wanted}", "the snapshot")
    return 0 if is_same else StepFailed.exit_code


def _loaded_record(loaded: Loaded, snapshot: Snapshot, path: Path) -> dict[str, object]:
    return {
        "apiVersion": "labctl/v1",
        "kind": "SnapshotLoaded",
        "lab": loaded.restored.lab.name,
        "file": str(path),
        "of": snapshot.lab.name,
        **_about(snapshot),
        "notRestored": [{"what": what, "why": why.what} for what, why in loaded.restored.failed],
        "plannedOtherwise": loaded.is_planned_otherwise,
        "onlyHere": None if loaded.apart is None else plain(loaded.apart.only_here),
        "onlyThere": None if loaded.apart is None else plain(loaded.apart.only_there),
    }


def show_apart(found: Apart, here: str, there: str) -> None:
    """Each difference with the lab that it is in: how that lab, and not the other, differs from the plan of both."""
    if count := len(found.only_here) + len(found.only_there):
        say(f"{here} differs from {there} in {f'{count} places' if count > 1 else '1 place'}:")
    for name, differences in ((here, found.only_here), (there, found.only_there)):
        for one in differences:
            say(f"only in {name}: {one.words()}")


def _list(directory: Path, *, as_json: bool) -> int:
    from labctl.engine.snapshot import stored

    found = stored(directory)
    if as_json:
        listed = [_listed(one) for one in found]
        emit_json({"apiVersion": "labctl/v1", "kind": "SnapshotList", "directory": str(directory), "snapshots": listed})
    elif not found:
        say(f"no snapshots in {directory}. Make one: labctl snapshot save LAB")
    else:
        _show_table(found)
    return 0


def _listed(one: StoredSnapshot) -> dict[str, object]:
    if one.snapshot is None:
        return {"path": str(one.path), "problem": one.problem}
    return {"path": str(one.path), "lab": one.snapshot.lab.name, **_about(one.snapshot)}


def _show_table(found: tuple[StoredSnapshot, ...]) -> None:
    from labctl.report.grid import Column, Grid

    rows = []
    for one in found:
        if one.snapshot is None:
            rows.append((one.path.name, "", "", f"unreadable: {one.problem}"))
            continue
        lab, changed = one.snapshot.lab, len(one.snapshot.changes.sentences()) + len(one.snapshot.addresses)
        rows.append((one.path.name, lab.name, lab.scenario, str(changed)))
    # The name is whole, so that it can be pasted.
    titles = ("snapshot", "lab", "scenario", "changes")
    show(Grid([Column(title=title, is_text=title == "changes") for title in titles], rows))
    say("build one: labctl snapshot load NAME --name LAB")
