"""Which images an archive holds and a node has, by name and digest, so that nothing is loaded that is there. Pure but
for reading the archive.

An image has several digests: of its configuration (docker's and crictl's id) and of its manifest (containerd's, and
docker's where it keeps images in containerd). Two sides speak of one image when any of them is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labctl.json_text import parse_json
from labctl.providers.cilium.values import normal
from labctl.system.archives import content_of, open_archive

INDEX, DOCKER = "index.json", "manifest.json"
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
"""Annotations of an OCI index that name an image, the whole name first."""


def images_in(archive: Path) -> Mapping[str, str]:
    """Names in full, each with the digest that the archive knows it by. Raises OSError, tarfile.TarError or ValueError
    when it is no image archive."""
    return {name: digests[-1] for name, digests in digests_in(archive).items()}


def digests_in(archive: Path) -> Mapping[str, tuple[str, ...]]:
    """Names in full, each with every digest that the archive has of it. Raises as `images_in`."""
    with open_archive(archive) as tar:
        contents = {each.name: parse_json(content_of(tar, each)) for each in tar if each.name in (INDEX, DOCKER)}
    if not contents:
        raise ValueError(f"neither {INDEX} nor {DOCKER} is in it")
    found: dict[str, tuple[str, ...]] = {}
    for image in contents.get(DOCKER) or ():
        config = str(image.get("Config", "")).rpartition("/")[2].removesuffix(".json")
        for name in image.get("RepoTags") or ():
            found[normal(name)] = (f"sha256:{config}",)
    for described in (contents.get(INDEX) or {}).get("manifests", ()):
        notes = described.get("annotations") or {}
        name = next((notes[key] for key in NAMES if "/" in notes.get(key, "") or ":" in notes.get(key, "")), "")
        if name:
            found[normal(name)] = (*found.get(normal(name), ()), str(described.get("digest", "")))
    return found


def argv_images() -> tuple[str, ...]:
    """crictl, listing what the kubelet would find on a node."""
    return ("crictl", "images", "--output", "json")


def parse_images(text: str) -> Mapping[str, frozenset[str]]:
    """Names in full, each with every digest that is known of it. What is not a list of images is none: everything is
    then loaded, as on a node that has none."""
    found: dict[str, frozenset[str]] = {}
    try:
        for image in parse_json(text)["images"]:
            ids = {str(image.get("id", "")), *(str(one).partition("@")[2] for one in image.get("repoDigests") or ())}
            for name in image.get("repoTags") or ():
                found[in_full(str(name))] = frozenset(_with_algorithm(one) for one in ids if one)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return found


def in_full(reference: str) -> str:
    """The name that containerd gives to a reference: with its registry, `library/` and tag spelt out."""
    name, _, digest = normal(reference).partition("@")
    if digest:
        return f"{name}@{digest}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _with_algorithm(digest: str) -> str:
    return digest if ":" in digest else f"sha256:{digest}"


def lacking(wanted: Mapping[str, Sequence[str]], there: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Which of the wanted images, each with the digests that it may have, are not there, or are another image under
    that name. A wanted image of which no digest is known is there when its name is."""
    return tuple(
        name
        for name, digests in wanted.items()
        if (full := in_full(name)) not in there
        or (digests and not {_with_algorithm(one) for one in digests} & there[full])
    )
