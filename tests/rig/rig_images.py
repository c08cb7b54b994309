"""The images of the cluster, written as one docker archive without a daemon: Kubernetes' own, etcd, pause, tools.

Kubernetes' programs are static and stand alone in their images; whatever needs a file system shares one layer, which is
made from `tools.tar`. Cilium's own images cannot be had here: `standin/` takes the agent's place, and its images are
named so.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rig_place import CACHE, HERE, KUBERNETES

REGISTRY = "k8s.gcr.io"
TOOLS = "docker.io/labctl-rig/tools:1"
AGENT = "docker.io/labctl-rig/cilium-stand-in:v1.13.12"
OPERATOR = "docker.io/labctl-rig/operator-stand-in:v1.13.12"
ARCHIVE = CACHE / "images.tar"
_EPOCH = "2021-01-13T00:00:00Z"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """`files` maps paths in the image to files of this host; `on_tools` puts them on the shared layer."""

    name: str
    files: Mapping[str, Path] = field(default_factory=dict)
    on_tools: bool = False
    entrypoint: Sequence[str] = ()


def images() -> tuple[Image, ...]:
    """Every image of a cluster of the rig."""
    programs = CACHE / "bin"
    alone = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    found = [
        Image(name=f"{REGISTRY}/{name}:v{KUBERNETES}", files={f"/usr/local/bin/{name}": programs / name})
        for name in alone
    ]
    found += [
        Image(
            name=f"{REGISTRY}/kube-proxy:v{KUBERNETES}", on_tools=True,
            files={"/usr/local/bin/kube-proxy": programs / "kube-proxy"},
        ),
        Image(name=f"{REGISTRY}/etcd:3.4.13-0", on_tools=True),
        Image(name=f"{REGISTRY}/pause:3.2", files={"/pause": programs / "pause"}, entrypoint=("/pause",)),
        Image(name=TOOLS, on_tools=True, entrypoint=("sleep", "infinity")),
    ]  # fmt: skip
    found.append(
        Image(name=f"{REGISTRY}/coredns:1.7.0", files={"/coredns": programs / "coredns"}, entrypoint=("/coredns",))
    )
    return tuple(found)


def stand_ins() -> tuple[Image, ...]:
    """The agent that takes Cilium's place, with labctl's own datapath in it, and its operator, which does nothing."""
    here, source = HERE / "standin", HERE.parents[1] / "src"
    files = {f"/opt/standin/{path.name}": path for path in here.iterdir() if path.is_file()}
    files["/usr/bin/cilium"] = here / "cilium"
    for package in ("", "datapath", "model", "system"):
        files |= {
            f"/opt/standin/labctl/{package}/{path.name}".replace("//", "/"): path
            for path in sorted((source / "labctl" / package).glob("*.py"))
        }
    import annotated_types  # all that these modules want of what is not Python's own

    files["/opt/standin/annotated_types/__init__.py"] = Path(annotated_types.__file__)
    files |= {
        f"/opt/standin/labctl/datapath/objects/{path.name}": path
        for path in (source / "labctl" / "datapath" / "objects").glob("*.o")
    }
    return (Image(name=AGENT, files=files, on_tools=True), Image(name=OPERATOR, on_tools=True))


def write_archive(wanted: Iterable[Image], target: Path = ARCHIVE) -> Path:
    """Writes what `docker save` would, unless it is there and newer than all that goes in."""
    wanted = tuple(wanted)
    names = json.dumps([image.name for image in wanted])
    sources = {path for image in wanted for path in image.files.values()} | {
        CACHE / "tools.tar",
        HERE / "rig_images.py",
    }
    newest = max(path.stat().st_mtime for path in sources)
    stamp = target.with_suffix(".names")
    if target.exists() and target.stat().st_mtime > newest and stamp.exists() and stamp.read_text() == names:
        return target
    layers: dict[str, str] = {}
    manifest = []
    fresh = target.with_suffix(".new")
    with tarfile.open(fresh, "w") as archive:
        for image in wanted:
            parts = ([CACHE / "tools.tar"] if image.on_tools else []) + ([_layer(image)] if image.files else [])
            paths = [_add_layer(archive, part, layers) for part in parts]
            config = json.dumps(_config(image, [layers[path] for path in paths])).encode()
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            _add(archive, name, config)
            manifest.append({"Config": name, "RepoTags": [image.name], "Layers": paths})
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    fresh.replace(target)
    stamp.write_text(names)
    return target


def _layer(image: Image) -> bytes:
    """The files of an image as a layer."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for place, path in sorted(image.files.items()):
            member = tarfile.TarInfo(place.lstrip("/"))
            content = path.read_bytes()
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


def _add_layer(archive: tarfile.TarFile, part: Path | bytes, layers: dict[str, str]) -> str:
    """Adds a layer once; the name of it in the archive. `layers` maps names to digests."""
    content = part if isinstance(part, bytes) else part.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    name = f"{digest}/layer.tar"
    if name not in layers:
        layers[name] = f"sha256:{digest}"
        _add(archive, name, content)
    return name


def _config(image: Image, digests: Sequence[str]) -> dict[str, object]:
    settings: dict[str, object] = {"Env": [_PATH]}
    if image.entrypoint:
        settings["Entrypoint"] = list(image.entrypoint)
    return {
        "architecture": "amd64", "os": "linux", "created": _EPOCH, "config": settings,
        "rootfs": {"type": "layers", "diff_ids": list(digests)},
        "history": [{"created": _EPOCH, "created_by": "labctl's rig"} for _ in digests],
    }  # fmt: skip


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))
