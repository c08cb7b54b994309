"""A bundle: one file with every image and the chart of a lab, a manifest and checksums, for hosts without a network.

Layout of the tar: `manifest.json` first, then `chart.tgz` and `images/*.tar`. What does not fit its checksum, or has a
name that the manifest does not know, is refused before anything of it is used.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labctl.errors import StepFailed, UsageError
from labctl.providers.cilium import install
from labctl.providers.kind.failures import failed_command, remedy_for
from labctl.providers.kind.images import Part, parts, sha256_of
from labctl.providers.kind.settings import Settings
from labctl.providers.kind.tools import Commands

API_VERSION = "labctl/v1"
MANIFEST = "manifest.json"
CHART = "chart.tgz"
_LONG_S = 3600.0
_MANIFEST_BYTES = 1_000_000


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
        named = {entry["role"]: str(entry["reference"]) for entry in self.manifest["parts"]}
        return {
            "cilium": {
                "version": self.manifest["cilium"],
                "chart": str(self.chart),
                "image": named["agent"],
                "operatorImage": named["operator"],
                "imageRepository": None,
            },
            "kindCluster": {
                "image": named["node"],
                "kubernetes": self.manifest["kubernetes"],
                "toolsImage": named["tools"],
                "pull": False,
                "preloaded": False,
                "archives": [str(path) for path in self.archives],
            },
        }


def pack(settings: Settings, engine: str, commands: Commands, output: Path) -> tuple[Part, ...]:
    """Writes the bundle. Images must be in the engine: pull them first, or `labctl up` once."""
    listed = parts(settings, engine, commands)
    absent = [part.reference for part in listed if part.role != "chart" and not part.digest]
    if absent:
        raise UsageError(
            what=f"cannot pack what is not here: {', '.join(absent)}",
            cause=f"{engine} has no such image",
            remedy=f"{engine} pull {absent[0]}",
        )
    try:
        with tempfile.TemporaryDirectory(prefix="labctl-bundle-", dir=output.parent) as name:
            folder = Path(name)
            chart = _chart(settings, commands, folder)
            entries = [_entry("chart", str(settings.cilium_version), CHART, chart, "")]
            files = [(CHART, chart)]
            for part in listed:
                if part.role == "chart":
                    continue
                inside = f"images/{part.role}.tar"
                archive = folder / f"{part.role}.tar"
                _must(commands, (engine, "save", "--output", str(archive), part.reference))
                entries.append(_entry(part.role, plain_reference(part.reference), inside, archive, part.digest))
                files.append((inside, archive))
            manifest = {
                "apiVersion": API_VERSION,
                "kind": "Bundle",
                "scenario": settings.lab.scenario,
                "cilium": str(settings.cilium_version),
                "kubernetes": str(settings.kubernetes),
                "parts": entries,
            }
            about = folder / MANIFEST
            about.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            whole = folder / "bundle"
            with tarfile.open(whole, "w") as tar:
                for inside, path in ((MANIFEST, about), *files):
                    tar.add(path, arcname=inside, recursive=False)
            shutil.move(whole, output)
    except OSError as failed:
        raise StepFailed(
            what=f"cannot write {output}", cause=str(failed), remedy=remedy_for(str(failed), f"df -h {output.parent}")
        ) from failed
    return listed


def plain_reference(reference: str) -> str:
    """Without a digest: an image that comes out of an archive has none in the engine, only its tag."""
    return reference.partition("@")[0]


def _chart(settings: Settings, commands: Commands, folder: Path) -> Path:
    """The chart as a `.tgz`: the local one, a local folder packaged, or pulled."""
    local = Path(settings.cilium.chart)
    pull = install.argv_pull(settings.cilium, settings.cilium_version, folder)
    if not pull and local.is_file():
        return local
    _must(commands, pull or ("helm", "package", str(local), "--destination", str(folder)))
    return next(iter(sorted(folder.glob("*.tgz"))))


def _entry(role: str, reference: str, file: str, path: Path, digest: str) -> dict[str, object]:
    return {
        "role": role, "reference": reference, "digest": digest or None, "file": file, "sha256": sha256_of(path),
        "byte": path.stat().st_size,
    }  # fmt: skip


def _must(commands: Commands, argv: tuple[str, ...]) -> None:
    done = commands.run(argv, timeout_s=_LONG_S)
    if done.timed_out or done.returncode != 0:
        raise failed_command(done, timeout_s=_LONG_S)


def unpack(bundle: Path, folder: Path) -> Unpacked:
    """Verifies while unpacking. Raises UsageError for anything that is not exactly what the manifest says."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with tarfile.open(bundle) as tar:
            manifest = _manifest(tar, bundle)
            expected = {str(entry["file"]): entry for entry in manifest["parts"]}
            for member in tar:
                _extract(tar, member, expected, folder, bundle)
    except (OSError, tarfile.TarError) as failed:
        raise _broken(bundle, str(failed)) from failed
    lost = [name for name in expected if not (folder / name).is_file()]
    if lost:
        raise _broken(bundle, f"it lacks {', '.join(lost)}")
    roles = {str(entry["role"]): folder / str(entry["file"]) for entry in manifest["parts"]}
    return Unpacked(
        folder=folder,
        manifest=manifest,
        chart=roles["chart"],
        node_archive=roles["node"],
        archives=tuple(roles[role] for role in ("agent", "operator", "tools")),
    )


def load_node_image(unpacked: Unpacked, engine: str, commands: Commands) -> None:
    """kind makes node containers from the engine's images, so this one goes there; the others go into the nodes."""
    _must(commands, (engine, "load", "--input", str(unpacked.node_archive)))


def _manifest(tar: tarfile.TarFile, bundle: Path) -> dict[str, Any]:
    first = tar.next()
    content = tar.extractfile(first) if first and first.name == MANIFEST and first.isfile() else None
    if content is None:
        raise _broken(bundle, f"its first file is not {MANIFEST}")
    try:
        manifest = json.loads(content.read(_MANIFEST_BYTES))
        roles = {entry["role"] for entry in manifest["parts"]}
        files = [str(entry["file"]) for entry in manifest["parts"]]
    except (ValueError, KeyError, TypeError) as failed:
        raise _broken(bundle, f"its manifest cannot be read: {failed}") from failed
    if (manifest.get("apiVersion"), manifest.get("kind")) != (API_VERSION, "Bundle"):
        raise _broken(bundle, f"its manifest is not a Bundle of {API_VERSION}")
    lost = {"node", "agent", "operator", "tools", "chart"} - roles
    if lost:
        raise _broken(bundle, f"its manifest names no {', '.join(sorted(lost))}")
    odd = [file for file in files if not re.fullmatch(r"chart\.tgz|images/[a-z]+\.tar", file)]
    if odd:
        raise _broken(bundle, f"its manifest names the file {odd[0]!r}")
    return dict(manifest)


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, expected: dict[str, Any], folder: Path, bundle: Path
) -> None:
    if member.name == MANIFEST:
        return
    entry = expected.get(member.name)
    content = tar.extractfile(member) if member.isfile() else None
    if entry is None or content is None:
        raise _broken(bundle, f"{member.name!r} is not in its manifest")
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    found = sha256_of(target)
    if found != entry.get("sha256"):
        target.unlink()
        raise _broken(bundle, f"{member.name} has the checksum {found[:12]}…, its manifest says another")


def _broken(bundle: Path, cause: str) -> UsageError:
    return UsageError(
        what=f"{bundle} is not a whole bundle",
        cause=cause,
        remedy="pack it anew where the images are: labctl bundle SCENARIO -o FILE",
    )
