"""A bundle of a kind lab: the node image for the engine, the other images as archives for the nodes, the chart.

The images and the chart of a lab, with digests: what `labctl images` lists and `labctl bundle` packs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labctl.errors import StepFailed, UsageError
from labctl.providers.base import Part as Part
from labctl.providers.cilium.bundle import (
    chart_file,
    chart_part,
    cilium_section,
    engine_digest,
    read,
    refuse_unpackable,
    write,
)
from labctl.providers.cilium.bundle import parse_digest as parse_digest
from labctl.providers.cilium.commands import Commands
from labctl.providers.cilium.compatibility import has_cilium
from labctl.providers.kind.failures import failed_command, remedy_for
from labctl.providers.kind.settings import KindSettings
from labctl.system.files import temporary_folder
from labctl.values import dataclass

_LONG_S = 3600.0
_ROLES = ("node", "agent", "operator", "tools", "chart")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """A bundle on disk, every file verified. `images` are archives for the engine and for the nodes."""

    folder: Path
    manifest: dict[str, Any]
    chart: Path
    node_archive: Path
    archives: tuple[Path, ...]

    def settings(self) -> dict[str, dict[str, object]]:
        """What to lay over the scenario's own sections, so that nothing but the bundle is used."""
        named = {part["role"]: str(part["reference"]) for part in self.manifest["parts"]}
        return {
            "cilium": cilium_section(self.manifest, named, self.chart),
            "kindCluster": {
                "image": named["node"],
                "kubernetes": self.manifest["kubernetes"],
                "toolsImage": named["tools"],
                "extraImages": [reference for role, reference in named.items() if role.startswith(EXTRA)],
                "pull": False,
                "preloaded": False,
                "archives": [str(path) for path in self.archives],
            },
        }


def pack(settings: KindSettings, engine: str, commands: Commands, output: Path) -> tuple[Part, ...]:
    """Writes the bundle. Images must be in the engine: pull them first, or `labctl up` once."""
    refuse_unpackable(settings.lab)
    listed = parts(settings, engine, commands)
    absent = [part.reference for part in listed if part.role != "chart" and not part.digest]
    if absent:
        raise UsageError(
            what=f"cannot pack images that are not here: {', '.join(absent)}",
            cause=f"{engine} has no such image",
            remedy=f"{engine} pull {absent[0]}",
        )
    try:
        with temporary_folder(beside=output) as folder:
            chart = chart_file(settings.cilium, settings.cilium_version, folder, lambda argv: _must(commands, argv))
            images = []
            for part in listed:
                if part.role != "chart":
                    archive = folder / f"{part.role}.tar"
                    _must(commands, (engine, "save", "--output", str(archive), part.reference))
                    images.append((part, f"images/{part.role}.tar", archive))
            write(settings, chart, images, folder, output)
    except OSError as failed:
        raise StepFailed(
            what=f"cannot write {output}", cause=str(failed), remedy=remedy_for(str(failed), f"df -h {output.parent}")
        ) from failed
    return listed


def _must(commands: Commands, argv: tuple[str, ...]) -> None:
    done = commands.run(argv, timeout_s=_LONG_S)
    if done.timed_out or done.returncode != 0:
        raise failed_command(done, timeout_s=_LONG_S)


def unpack(bundle: Path, folder: Path) -> Unpacked:
    """Verifies while unpacking. Raises UsageError for anything that is not exactly what the manifest says."""
    manifest = read(bundle, folder, _ROLES)
    roles = {str(part["role"]): folder / str(part["file"]) for part in manifest["parts"]}
    return Unpacked(
        folder=folder,
        manifest=manifest,
        chart=roles["chart"],
        node_archive=roles["node"],
        archives=tuple(path for role, path in roles.items() if role not in ("node", "chart")),
    )


def load_node_image(unpacked: Unpacked, engine: str, commands: Commands) -> None:
    """kind makes node containers from the engine's images, so this one goes there; the others go into the nodes."""
    _must(commands, (engine, "load", "--input", str(unpacked.node_archive)))


EXTRA = "extra"
"""Images that a lab has beyond the usual three are `extra1`, `extra2`, …"""


def parts(settings: KindSettings, engine: str, commands: Commands) -> tuple[Part, ...]:
    """Every image and the chart. Digests are those of this engine and of the local chart file."""
    if has_cilium(settings.lab):
        agent, operator, tools, *extra = settings.images
        listed = [("node", settings.node_image), ("agent", agent), ("operator", operator), ("tools", tools)]
    else:
        tools, extra = settings.tools_image, [*settings.network_images, *settings.extra_images]
        listed = [("node", settings.node_image), ("tools", tools)]
    listed += [(f"{EXTRA}{number}", reference) for number, reference in enumerate(extra, start=1)]
    found = [
        Part(role=role, reference=reference, digest=digest_of(reference, engine, commands))
        for role, reference in listed
    ]
    return (*found, chart_part(settings)) if has_cilium(settings.lab) else tuple(found)


def digest_of(reference: str, engine: str, commands: Commands) -> str:
    """The digest in the reference itself, else the registry's, else the local image's id; empty when it is not here."""
    if "@" in reference:
        return reference.partition("@")[2]
    return engine_digest(reference, engine, commands)
