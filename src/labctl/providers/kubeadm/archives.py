"""Image archives: which images one holds, under which name and digest, and one image given another name.

Reads what `docker save` and `ctr images export` write, packed with gzip or not.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from labctl.json_text import parse_json
from labctl.system.archives import content_of, open_archive

_INDEX, _DOCKER = "index.json", "manifest.json"
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def normal(reference: str) -> str:
    """The reference in full, as containerd keeps it: `tools:1` is `docker.io/library/tools:1`."""
    first, slash, _ = reference.partition("/")
    if not slash:
        return f"docker.io/library/{reference}"
    is_host = "." in first or ":" in first or first == "localhost"
    return reference if is_host else f"docker.io/{reference}"


def images_in(archive: Path) -> Mapping[str, str]:
    """Names in full with digests. Raises OSError, tarfile.TarError or ValueError when it is no image archive."""
    with open_archive(archive) as tar:
        contents = {each.name: parse_json(content_of(tar, each)) for each in tar if each.name in (_INDEX, _DOCKER)}
    if not contents:
        raise ValueError(f"neither {_INDEX} nor {_DOCKER} is in it")
    found: dict[str, str] = {}
    for image in contents.get(_DOCKER) or ():
        config = str(image.get("Config", "")).rpartition("/")[2].removesuffix(".json")
        for name in image.get("RepoTags") or ():
            found[normal(name)] = f"sha256:{config}"
    for described in (contents.get(_INDEX) or {}).get("manifests", ()):
        notes = described.get("annotations") or {}
        name = next((notes[key] for key in _NAMES if "/" in notes.get(key, "") or ":" in notes.get(key, "")), "")
        if name:
            found[normal(name)] = str(described.get("digest", ""))
    return found


def rename(source: Path, target: Path, name: str) -> None:
    """Writes `source`, an archive of containerd with one image, to `target` with `name` for it. What a digest alone
    names has no tag, and the tag is what manifests ask for where nothing is pulled."""
    with open_archive(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            if member.name == _DOCKER:  # the same once more, for docker
                continue
            content = old.extractfile(member)
            if member.name == _INDEX:
                index = parse_json(content_of(old, member))
                for described in index["manifests"]:
                    described["annotations"] = {_NAMES[0]: name, _NAMES[1]: name.rpartition(":")[2]}
                data = json.dumps(index).encode()
                member.size = len(data)
                content = io.BytesIO(data)
            new.addfile(member, content)
