"""Bundles: one file with every image and the chart of a lab, a manifest and checksums. Which images is the provider's.

Layout of the tar: `manifest.json` first, then `chart.tgz` and `images/*.tar`. What does not fit its checksum, or has a
name that the manifest does not know, is refused before anything of it is used. Several parts may share one archive.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from labctl.errors import StepFailed, UsageError
from labctl.model.sections_kind import Cilium
from labctl.providers.cilium import install
from labctl.providers.cilium.commands import Commands
from labctl.providers.cilium.versions import Version
from labctl.system.files import digest_of, move_into_place, write_own

API_VERSION = "labctl/v1"
MANIFEST = "manifest.json"
CHART = "chart.tgz"
_FILE = re.compile(r"chart\.tgz|images/[a-z0-9]+(-[a-z0-9]+)*\.tar")
_MANIFEST_BYTES = 1_000_000
_LOOK_S = 30.0


def plain_reference(reference: str) -> str:
    """Without a digest: an image that comes out of an archive has only its tag."""
    return reference.partition("@")[0]


def engine_digest(reference: str, engine: str, commands: Commands) -> str:
    """What docker or podman of this host knows the image by; empty when it is not there, or the engine is not."""
    if commands.find(engine) is None:
        return ""
    done = commands.run((engine, "image", "inspect", reference), timeout_s=_LOOK_S)
    return parse_digest(done.text) if done.returncode == 0 and not done.timed_out else ""


def parse_digest(text: str) -> str:
    """From `image inspect`: the first repository digest, or the image's id (which is a digest of its configuration)."""
    try:
        entry = json.loads(text)[0]
    except (ValueError, IndexError, KeyError, TypeError):
        return ""
    known = entry.get("RepoDigests") or ()
    return str(known[0]).partition("@")[2] if known else str(entry.get("Id", ""))


def chart_file(cilium: Cilium, version: Version, folder: Path, must: Callable[[tuple[str, ...]], object]) -> Path:
    """The chart as a `.tgz`: the local one, else a local folder packaged or the chart pulled into `folder` by `must`,
    which runs helm and raises when it fails."""
    pull = install.argv_pull(cilium, version, folder)
    local = Path(cilium.chart)
    if not pull and local.is_file():
        return local
    must(pull or ("helm", "package", str(local), "--destination", str(folder)))
    return next(iter(sorted(folder.glob("*.tgz"))))


def entry(role: str, reference: str, file: str, path: Path, digest: str) -> dict[str, object]:
    """One part as the manifest has it."""
    return {
        "role": role, "reference": reference, "digest": digest or None, "file": file, "sha256": digest_of(path),
        "byte": path.stat().st_size,
    }  # fmt: skip


def write(
    about: Mapping[str, object],
    entries: Sequence[Mapping[str, object]],
    files: Sequence[tuple[str, Path]],
    folder: Path,
    output: Path,
) -> None:
    """Puts the bundle together in `folder` and then moves it to `output`. Raises UsageError when something is there
    already, OSError."""
    manifest = {"apiVersion": API_VERSION, "kind": "Bundle", **about, "parts": list(entries)}
    first = folder / MANIFEST
    write_own(first, (json.dumps(manifest, indent=2) + "\n").encode())
    whole = folder / "bundle"
    with tarfile.open(whole, "w") as tar:
        for inside, path in ((MANIFEST, first), *files):
            # A link would be kept as one: the file that it leads to is meant.
            tar.add(path.resolve(), arcname=inside, recursive=False)
    try:
        move_into_place(whole, output)
    except FileExistsError:
        raise _is_there(output) from None


def refuse_existing(output: Path) -> None:
    if os.path.lexists(output):
        raise _is_there(output)


def _is_there(output: Path) -> UsageError:
    return UsageError(what=f"{output} is there already", remedy=f"another name, or: rm {shlex.quote(str(output))}")


def read(bundle: Path, folder: Path, roles: Collection[str]) -> dict[str, Any]:
    """Verifies while unpacking into `folder`, and gives the manifest. `roles` must be in it. Raises UsageError for
    anything that is not exactly what the manifest says, StepFailed when the disk is full."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with tarfile.open(bundle) as tar:
            manifest = _manifest(tar, bundle, roles)
            expected = {str(part["file"]): part for part in manifest["parts"]}
            for member in tar:
                _extract(tar, member, expected, folder, bundle)
    except (OSError, tarfile.TarError) as failed:
        if isinstance(failed, OSError) and failed.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StepFailed(
                what=f"cannot unpack {bundle}", cause=str(failed), remedy=f"df -h {shlex.quote(str(folder))}"
            ) from failed
        raise broken(bundle, str(failed)) from failed
    lost = [name for name in expected if not (folder / name).is_file()]
    if lost:
        raise broken(bundle, f"it lacks {', '.join(lost)}")
    return manifest


def _manifest(tar: tarfile.TarFile, bundle: Path, roles: Collection[str]) -> dict[str, Any]:
    first = tar.next()
    content = tar.extractfile(first) if first and first.name == MANIFEST and first.isfile() else None
    if content is None:
        raise broken(bundle, f"its first file is not {MANIFEST}")
    try:
        manifest = json.loads(content.read(_MANIFEST_BYTES))
        named = {part["role"] for part in manifest["parts"]}
        files = [str(part["file"]) for part in manifest["parts"]]
    except (ValueError, KeyError, TypeError) as failed:
        raise broken(bundle, f"its manifest cannot be read: {failed}") from failed
    if (manifest.get("apiVersion"), manifest.get("kind")) != (API_VERSION, "Bundle"):
        raise broken(bundle, f"its manifest is not a Bundle of {API_VERSION}")
    lost = set(roles) - named
    if lost:
        raise broken(bundle, f"its manifest names no {', '.join(sorted(lost))}")
    odd = [file for file in files if not _FILE.fullmatch(file)]
    if odd:
        raise broken(bundle, f"its manifest names the file {odd[0]!r}")
    return dict(manifest)


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, expected: dict[str, Any], folder: Path, bundle: Path
) -> None:
    if member.name == MANIFEST:
        return
    part = expected.get(member.name)
    content = tar.extractfile(member) if member.isfile() else None
    if part is None or content is None:
        raise broken(bundle, f"{member.name!r} is not in its manifest")
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    found = digest_of(target)
    if found != part.get("sha256"):
        target.unlink()
        raise broken(bundle, f"{member.name} has the checksum {found[:12]}…, its manifest says another")


def broken(bundle: Path, cause: str) -> UsageError:
    return UsageError(
        what=f"{bundle} is not a whole bundle",
        cause=cause,
        remedy="pack it anew where the images are: labctl bundle SCENARIO -o FILE",
    )
