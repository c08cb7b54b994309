"""Bundles: one file with every image and the chart of a lab, a manifest and checksums. Which images is the provider's.

Layout of the tar: `manifest.json` first, then `chart.tgz` and `images/*.tar`. A file whose checksum does not match, or
whose name is not in the manifest, is refused before anything of it is used. Several parts may share one archive.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from labctl.errors import StepFailed, UsageError
from labctl.json_text import parse_json
from labctl.model.lab import Lab
from labctl.model.sections import Cilium
from labctl.model.versions import Version
from labctl.providers.base import Part
from labctl.providers.cilium import rendered
from labctl.providers.cilium.commands import Commands
from labctl.providers.cilium.compatibility import has_cilium
from labctl.providers.cilium.settings import Cluster
from labctl.system.files import Folder, digest_of, move_into_place, open_folder, remove_tree, write_own

API_VERSION = "labctl/v1"
MANIFEST = "manifest.json"
CHART = "chart.tgz"
_FILE = re.compile(r"chart\.tgz|images/[a-z0-9]+(-[a-z0-9]+)*\.tar")
_MANIFEST_BYTES = 1_000_000
_MOST_PARTS = 1_000
_RECORD_BYTE = 4096
_LOOK_S = 30.0


def refuse_unpackable(lab: Lab) -> None:
    """Raises UsageError for a lab without Cilium's chart."""
    if not has_cilium(lab):
        raise UsageError(
            what=f"a lab with podNetwork {lab.pod_network.type} is not packed",
            cause="a bundle has Cilium's chart, and this lab's network comes with the node image or by a manifest",
            remedy=f"labctl images {lab.scenario} --provider {lab.provider}  # what to save by hand",
            key="podNetwork",
        )


def plain_reference(reference: str) -> str:
    """Without a digest: an image that comes out of an archive has only its tag."""
    return reference.partition("@")[0]


def engine_digest(reference: str, engine: str, commands: Commands) -> str:
    """The digest that docker or podman on this host has for the image; empty where image or engine is missing."""
    if commands.find(engine) is None:
        return ""
    done = commands.run((engine, "image", "inspect", reference), timeout_s=_LOOK_S)
    return parse_digest(done.text) if done.returncode == 0 and not done.timed_out else ""


def parse_digest(text: str) -> str:
    """From `image inspect`: the first repository digest, or the image's id (which is a digest of its configuration).
    Empty where the text is not its answer."""
    try:
        entry = parse_json(text)[0]
        known = entry.get("RepoDigests") or ()
        return str(known[0]).partition("@")[2] if known else str(entry.get("Id", ""))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        return ""


def parse_digests(text: str) -> tuple[str, ...]:
    """From `image inspect`: every digest that the engine knows of the image; none where the text is not its answer."""
    try:
        entry = parse_json(text)[0]
        known = [str(one).partition("@")[2] for one in entry.get("RepoDigests") or ()]
        return tuple(one for one in (str(entry.get("Id", "")), *known) if one)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        return ()


def chart_file(cilium: Cilium, version: Version, folder: Path, must: Callable[[tuple[str, ...]], object]) -> Path:
    """The chart as a `.tgz`: the local one, else a local folder packaged or the chart pulled into `folder` by `must`,
    which runs helm and raises when it fails."""
    pull = rendered.argv_pull(cilium, version, folder)
    local = Path(cilium.chart)
    if not pull and local.is_file():
        return local
    must(pull or ("helm", "package", str(local), "--destination", str(folder)))
    return next(iter(sorted(folder.glob("*.tgz"))))


def chart_part(settings: Cluster) -> Part:
    """The chart of a lab, with the digest of its file where this host has it."""
    chart = Path(settings.chart)
    reference = settings.cilium.chart or f"cilium {settings.cilium_version} of {rendered.REPOSITORY}"
    return Part(role="chart", reference=reference, digest=f"sha256:{digest_of(chart)}" if chart.is_file() else "")


def cilium_section(manifest: Mapping[str, Any], named: Mapping[str, str], chart: Path) -> dict[str, object]:
    """What to lay over the section `cilium:` so that nothing but the bundle is used. `named`: references by role."""
    return {
        "version": manifest.get("cilium"),
        "chart": str(chart),
        "image": named["agent"],
        "operatorImage": named["operator"],
        "imageRepository": None,
    }


def write(
    settings: Cluster,
    chart: Path,
    images: Iterable[tuple[Part, str, Path]],
    folder: Path,
    output: Path,
    **about: object,
) -> None:
    """Puts the bundle together in `folder` and then moves it to `output`. `images`: each with its name in the bundle
    and its archive here, which several may share. Raises UsageError when something is there already, OSError."""
    version = str(settings.cilium_version)
    entries, files = [_entry("chart", version, CHART, chart, "")], {CHART: chart}
    for part, inside, archive in images:
        entries.append(_entry(part.role, plain_reference(part.reference), inside, archive, part.digest))
        files[inside] = archive
    about |= {"scenario": settings.lab.scenario, "cilium": version, "kubernetes": str(settings.kubernetes)}
    manifest = {"apiVersion": API_VERSION, "kind": "Bundle", **about, "parts": entries}
    first = folder / MANIFEST
    write_own(first, (json.dumps(manifest, indent=2) + "\n").encode())
    whole = folder / "bundle"
    with tarfile.open(whole, "w") as tar:
        for inside, path in ((MANIFEST, first), *files.items()):
            # A link would be kept as one: the file that it leads to is meant.
            tar.add(path.resolve(), arcname=inside, recursive=False)
    try:
        move_into_place(whole, output)
    except FileExistsError:
        raise _is_there(output) from None


def _entry(role: str, reference: str, file: str, path: Path, digest: str) -> dict[str, object]:
    """One part as the manifest has it."""
    return {
        "role": role, "reference": reference, "digest": digest or None, "file": file, "sha256": digest_of(path),
        "byte": path.stat().st_size,
    }  # fmt: skip


def refuse_existing(output: Path) -> None:
    if os.path.lexists(output):
        raise _is_there(output)


def _is_there(output: Path) -> UsageError:
    return UsageError(what=f"{output} is there already", remedy=f"another name, or: rm {shlex.quote(str(output))}")


def read(bundle: Path, folder: Path, roles: Collection[str]) -> dict[str, Any]:
    """Verifies while unpacking into `folder`, and returns the manifest. `roles` must be in it. Raises UsageError for
    anything that is not exactly what the manifest says, StepFailed when the disk is or would be full; nothing of such a
    bundle stays."""
    try:
        with open_folder(folder, make=True) as place:
            return _read(bundle, place, roles)
    except BaseException:
        remove_tree(folder)
        raise


def _read(bundle: Path, place: Folder, roles: Collection[str]) -> dict[str, Any]:
    try:
        _require_plain(bundle, 0)
        # Never compressed: a bundle is as large as what is in it, and its size is its own bound.
        with tarfile.open(bundle, "r:") as tar:
            manifest, expected = _manifest(tar, bundle, roles)
            _require_space(expected, place)
            while member := _next(tar, bundle):
                _extract(tar, member, expected, place, bundle)
    except (OSError, tarfile.TarError, EOFError, RecursionError) as failed:
        if isinstance(failed, OSError) and failed.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(bundle, place, str(failed)) from failed
        raise broken(bundle, str(failed)) from failed
    if expected:
        raise broken(bundle, f"it lacks {', '.join(sorted(expected))}")
    return manifest


def _manifest(
    tar: tarfile.TarFile, bundle: Path, roles: Collection[str]
) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """The manifest, and the size and the checksum of each file that it names."""
    first = tar.next()
    content = tar.extractfile(first) if first and first.name == MANIFEST and first.isfile() else None
    if first is None or content is None:
        raise broken(bundle, f"its first file is not {MANIFEST}")
    if first.size > _MANIFEST_BYTES:
        raise broken(bundle, f"its manifest is larger than {_MANIFEST_BYTES:,} bytes")
    try:
        manifest = parse_json(content.read(_MANIFEST_BYTES))
        parts = manifest["parts"]
        if len(parts) > _MOST_PARTS:
            raise broken(bundle, f"its manifest names {len(parts):,} parts")
        named = {part["role"] for part in parts}
        files = {str(part["file"]): (part.get("byte"), part.get("sha256")) for part in parts}
        alike = all(files[part["file"]] == (part.get("byte"), part.get("sha256")) for part in parts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as failed:
        raise broken(bundle, f"its manifest cannot be read: {failed}") from failed
    if (manifest.get("apiVersion"), manifest.get("kind")) != (API_VERSION, "Bundle"):
        raise broken(bundle, f"its manifest is not a Bundle of {API_VERSION}")
    lost = set(roles) - named
    if lost:
        raise broken(bundle, f"its manifest lacks {', '.join(sorted(lost))}")
    odd = [file for file in files if not _FILE.fullmatch(file)]
    if odd:
        raise broken(bundle, f"its manifest lists the unexpected file {odd[0][:100]!r}")
    if not alike or not all(type(byte) is int and byte >= 0 and isinstance(sha, str) for byte, sha in files.values()):
        raise broken(bundle, "its manifest lacks the size or the checksum of a file")
    return dict(manifest), files


def _require_space(expected: Mapping[str, tuple[int, str]], place: Folder) -> None:
    wanted = sum(byte for byte, _ in expected.values())
    if wanted > (free := shutil.disk_usage(place.path).free):
        raise OSError(errno.ENOSPC, f"it unpacks to {wanted:,} bytes, but only {free:,} are free")


def _next(tar: tarfile.TarFile, bundle: Path) -> tarfile.TarInfo | None:
    """The next member, after its headers were checked against the size of the bundle."""
    _require_plain(bundle, tar.offset)
    tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them
    member = tar.next()
    if member is not None and (member.issparse() or member.offset_data + member.size > bundle.stat().st_size):
        raise broken(bundle, f"{member.name[:100]!r} claims more bytes than are there")
    return member


def _require_plain(bundle: Path, position: int) -> None:
    """Raises UsageError unless a regular file, or the end, is at that byte; a PAX record with its time may precede it.

    tarfile reads such records, and names of any length, into memory whole: a bundle must not decide how much.
    """
    with bundle.open("rb") as file:
        for most_byte in (_RECORD_BYTE, None):
            file.seek(position)
            header = file.read(tarfile.BLOCKSIZE)
            kind, size = header[156:157], header[124:136].strip(b"\0 ")
            if kind in (tarfile.REGTYPE, tarfile.AREGTYPE, b""):
                return
            if kind != tarfile.XHDTYPE or most_byte is None or not size.isdigit() or int(size, 8) > most_byte:
                break
            position += tarfile.BLOCKSIZE * (1 + -(-int(size, 8) // tarfile.BLOCKSIZE))
    raise broken(bundle, f"the entry at byte {position:,} is not a regular file")


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, expected: dict[str, tuple[int, str]], place: Folder, bundle: Path
) -> None:
    """Unpacks one file, which is then no longer expected."""
    part = expected.pop(member.name, None)
    content = tar.extractfile(member)
    if part is None or content is None:
        raise broken(bundle, f"{member.name[:100]!r} is not in its manifest, or is in the bundle twice")
    byte, checksum = part
    if member.size != byte:
        raise broken(bundle, f"{member.name} has {member.size:,} bytes, its manifest says {byte:,}")
    *inside, name = member.name.split("/")
    with contextlib.ExitStack() as stack:
        folder = place
        for part_name in inside:
            folder = stack.enter_context(folder.sub(part_name, make=True))
        file = stack.enter_context(os.fdopen(folder.replace(name), "wb"))
        digest = hashlib.sha256()
        while piece := content.read(1 << 20):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != checksum:
        raise broken(bundle, f"{member.name} has the checksum {digest.hexdigest()[:12]}…, its manifest has another")


def _full(bundle: Path, place: Folder, cause: str) -> StepFailed:
    return StepFailed(what=f"cannot unpack {bundle}", cause=cause, remedy=f"df -h {shlex.quote(str(place.path))}")


def broken(bundle: Path, cause: str) -> UsageError:
    return UsageError(
        what=f"{bundle} is not a complete bundle",
        cause=cause,
        remedy="pack it again on the host that has the images: labctl bundle SCENARIO -o FILE",
    )
