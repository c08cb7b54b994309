"""A bundle of a kubeadm lab: every image as archives for the machines, and the chart. Packages are not in it."""

from __future__ import annotations

import os
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path

from labctl.errors import StepFailed, UsageError
from labctl.model.result import Completed
from labctl.providers.base import Part
from labctl.providers.cilium.bundle import (
    CHART,
    chart_file,
    chart_part,
    cilium_section,
    plain_reference,
    read,
    refuse_existing,
    write,
)
from labctl.providers.cilium.commands import Commands, shown
from labctl.providers.cilium.images import images_in
from labctl.providers.cilium.values import normal
from labctl.providers.kubeadm.images import (
    CILIUM_ROLES,
    ENGINE,
    ROLES,
    Doors,
    FoundImage,
    Store,
    locate,
    rename,
)
from labctl.providers.kubeadm.settings import KubeadmSettings
from labctl.system.files import open_folder, temporary_folder

_LONG_S = 3600.0
REQUIRED = (*ROLES, *CILIUM_ROLES, "chart")


def argv_export(socket: str, name: str) -> tuple[str, ...]:
    """To standard output: nothing is written on the machine."""
    return ("ctr", "--address", socket, "--namespace", "k8s.io", "images", "export", "-", name)


def pack(settings: KubeadmSettings, doors: Doors, output: Path) -> tuple[Part, ...]:
    """Writes the bundle. Each image must be in an archive, on a machine, or in docker; nothing is pulled but the
    chart. Raises UsageError that names every image that was not found, StepFailed."""
    refuse_existing(output)
    found = locate(settings, doors)
    _refuse_absent(found, settings, doors)
    try:
        with temporary_folder(beside=output) as folder:
            kept = Path(settings.chart)
            chart = kept
            if not kept.is_file():
                chart = chart_file(settings.cilium, settings.cilium_version, folder, lambda a: _must(doors.here, a))
            images = []
            shared: dict[Path, str] = {}
            for one in found:
                inside, archive = f"images/{one.part.role}.tar", one.archive
                if archive is None:
                    archive = _fetched(one, settings, doors, folder)
                else:
                    inside = shared.setdefault(archive, f"images/archive-{len(shared) + 1}.tar")
                images.append((one.part, inside, archive))
            write(
                settings, chart, images, folder, output,
                provider="kubeadm", imageRepository=settings.kubeadm.image_repository,
            )  # fmt: skip
    except OSError as failed:
        raise StepFailed(
            what=f"cannot write {output}", cause=str(failed), remedy=f"df -h {shlex.quote(str(output.parent))}"
        ) from failed
    return (*(one.part for one in found), chart_part(settings))


def _refuse_absent(found: Sequence[FoundImage], settings: KubeadmSettings, doors: Doors) -> None:
    absent = [one.part.reference for one in found if not one.is_there]
    if not absent:
        return
    asked = ", ".join(node for node, _ in doors.machines)
    silent = "".join(f"; {node}: {why}" for node, why in doors.silence.items())
    places = [
        "in no archive under kubeadm.images.archives",
        f"not in containerd of {asked}" if asked else "on no machine",
        f"not in {ENGINE} on this host",
    ]
    raise UsageError(
        what=f"cannot pack images that were not found anywhere: {', '.join(absent)}",
        cause=f"{', '.join(places)}{silent}",
        remedy=f"labctl up {settings.lab.scenario} --provider kubeadm once, so that the machines have them; or "
        f"{ENGINE} pull {shlex.quote(absent[0])}; or list an archive of it under kubeadm.images.archives in lab.yaml",
    )


def _fetched(one: FoundImage, settings: KubeadmSettings, doors: Doors, folder: Path) -> Path:
    """The image as an archive in `folder`, under the name that the lab asks for."""
    archive, asked = folder / f"{one.part.role}.tar", normal(plain_reference(one.part.reference))
    if one.store is None:
        _must(doors.here, (ENGINE, "save", "--output", str(archive), one.part.reference))
    else:
        _export(one.store, argv_export(settings.kubeadm.runtime.socket, one.stored_as), archive)
        _refuse_torn(archive, one.stored_as, one.store.node)
        if one.stored_as != asked:
            named = folder / f"{one.part.role}-named.tar"
            rename(archive, named, asked)
            with open_folder(folder) as inside:
                inside.move(named.name, inside, archive.name)
    _refuse_torn(archive, asked, one.store.node if one.store else "this host")
    return archive


def _export(store: Store, argv: tuple[str, ...], archive: Path) -> None:
    with (
        open_folder(archive.parent) as folder,
        os.fdopen(folder.create(archive.name), "wb") as file,
        store.commands.start(argv, output=file.fileno()) as running,
    ):
        _refuse_failure(store.commands, running.wait(timeout_s=_LONG_S), argv)


def _refuse_torn(archive: Path, name: str, where: str) -> None:
    """A stream that broke off (a full disk, a lost connection) must not become part of a bundle."""
    try:
        names = images_in(archive)
        cause = "" if name in names else f"it contains {', '.join(names) or 'no image with a name'}"
    except (tarfile.TarError, ValueError, EOFError) as torn:
        cause = str(torn)
    if cause:
        raise StepFailed(
            what=f"the archive that {where} exported is not a complete archive of {name}",
            cause=cause,
            remedy=f"df -h {shlex.quote(str(archive.parent.parent))}; then run the same command again",
        )


def _must(commands: Commands, argv: tuple[str, ...]) -> None:
    if commands.find(argv[0]) is None:
        raise UsageError(what=f"{argv[0]} is not on this host", remedy="labctl doctor --provider kubeadm")
    _refuse_failure(commands, commands.run(argv, timeout_s=_LONG_S), argv)


def _refuse_failure(commands: Commands, done: Completed, argv: tuple[str, ...]) -> None:
    if done.timed_out or done.returncode != 0:
        command = " ".join(word for word in argv if not word.startswith(("-", "/")))
        raise StepFailed(
            what=f"{command} did not end in {_LONG_S:g} s"
            if done.timed_out
            else f"{command} failed (exit status {done.returncode})",
            cause=done.error_text.strip()[-400:] or "it printed nothing",
            remedy=f"by hand: {shown(commands, argv)}",
        )


def unpack(bundle: Path, folder: Path) -> dict[str, dict[str, object]]:
    """What to lay over the sections `cilium` and `kubeadm`, so that nothing but the bundle is used. Raises UsageError
    for anything that is not exactly what the manifest says."""
    manifest = read(bundle, folder, REQUIRED)
    named = {part["role"]: str(part["reference"]) for part in manifest["parts"]}
    files = dict.fromkeys(str(part["file"]) for part in manifest["parts"] if part["role"] != "chart")
    return {
        "cilium": cilium_section(manifest, named, folder / CHART),
        "kubeadm": {
            "kubernetes": manifest.get("kubernetes"),
            "imageRepository": manifest.get("imageRepository"),
            "offline": True,
            "toolsImage": named["tools"],
            "images": {"pull": False, "archives": [str(folder / file) for file in files]},
        },
    }
