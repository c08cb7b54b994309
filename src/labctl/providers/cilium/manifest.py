"""The manifest of another pod network than Cilium: read, its images and workloads found, applied as it was read.

It is another's: nothing of it runs here, and the person named it (docs/security.md). Of its text only images' names and
the names of DaemonSets and Deployments are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from labctl.errors import UsageError
from labctl.model.lab import Lab
from labctl.model.pod_network import NetworkType
from labctl.providers.cilium.commands import WriteFile
from labctl.system import files
from labctl.values import dataclass

_KEY = "podNetwork.manifest"
_MOST_BYTE = 8 << 20
_MOST_PARTS = 200_000
_CONTAINERS = ("initContainers", "containers")
_PLUGINS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
"""Where container runtimes look for CNI plugins, as they are packaged."""
_WORKLOADS = ("DaemonSet", "Deployment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What runs in the cluster for the network, by its kind, namespace and name."""

    kind: str
    namespace: str
    name: str

    @property
    def shown(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


KINDNET = Workload(kind="DaemonSet", namespace="kube-system", name="kindnet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest as it was read."""

    path: Path
    text: str
    images: tuple[str, ...]
    workloads: tuple[Workload, ...]
    host_paths: tuple[str, ...] = ()
    """Of the nodes, that its pods mount."""

    @property
    def plugin_directory(self) -> str:
        """Where it puts its CNI plugins, or finds those that are there; empty where it mounts no such directory."""
        return next((path for path in self.host_paths if path in _PLUGINS), "")

    def written(self, at: Path) -> WriteFile:
        """What was looked at is what is applied, whatever becomes of the file."""
        return WriteFile(path=at, text=self.text)


def manifest_of(lab: Lab) -> Manifest | None:
    """The lab's; None where its network has none. A path is relative to the scenario's file. Raises
    UsageError."""
    said = lab.pod_network.manifest
    if lab.pod_network.type is not NetworkType.MANIFEST or said is None:
        return None
    path = manifest_path(lab, said)
    try:
        text = files.read_file(path, most_byte=_MOST_BYTE, follow=True).decode("utf-8")
    except (OSError, UnicodeDecodeError) as failed:
        why = failed.strerror if isinstance(failed, OSError) and failed.strerror else "it is not UTF-8"
        raise UsageError(
            what=f"the manifest {path} cannot be read",
            cause=why,
            remedy="podNetwork.manifest: the file's path, from the scenario's folder",
            key=_KEY,
        ) from failed
    return parse_manifest(text, path)


def manifest_path(lab: Lab, said: str) -> Path:
    return Path(lab.source).parent / said


def workloads_in_force(lab: Lab, applied: Path) -> tuple[Workload, ...]:
    """What runs for the network of a lab that is up, from the manifest as it was applied; none where nothing is left of
    that."""
    if lab.pod_network.type is NetworkType.KINDNET:
        return (KINDNET,)
    try:
        return parse_manifest(files.read_own(applied).decode("utf-8"), applied).workloads
    except (OSError, ValueError, UsageError):
        return ()


def parse_manifest(text: str, path: Path) -> Manifest:
    """Raises UsageError, with the place in the manifest, for what is no list of Kubernetes objects."""
    try:
        documents = [one for one in yaml.safe_load_all(text) if one is not None]
    except yaml.YAMLError as failed:
        mark = getattr(failed, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        raise UsageError(
            what=f"the manifest {path.name} is not YAML",
            cause=f"{place}: {getattr(failed, 'problem', None) or 'it cannot be parsed'}",
            remedy=f"kubectl apply --dry-run=client -f {path}",
            key=_KEY,
        ) from failed
    objects = [each for one in documents for each in _objects(one)]
    if not objects or not all(_is_object(one) for one in objects):
        raise UsageError(
            what=f"the manifest {path.name} holds something else than Kubernetes objects",
            cause="each of its documents needs apiVersion and kind" if objects else "it is empty",
            remedy=f"kubectl apply --dry-run=client -f {path}",
            key=_KEY,
        )
    workloads = tuple(
        Workload(
            kind=one["kind"],
            namespace=str(one["metadata"].get("namespace") or "default"),
            name=str(one["metadata"].get("name", "")),
        )
        for one in objects
        if one["kind"] in _WORKLOADS and isinstance(one.get("metadata"), dict)
    )
    parts = tuple(_parts(objects))
    return Manifest(
        path=path, text=text, images=tuple(dict.fromkeys(_images(parts))), workloads=workloads,
        host_paths=tuple(dict.fromkeys(_host_paths(parts))),
    )  # fmt: skip


def _objects(document: Any) -> Iterator[Any]:
    """The items of a List, else the document itself."""
    if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
        yield from document["items"]
    else:
        yield document


def _is_object(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("kind"), str) and isinstance(one.get("apiVersion"), str)


def _parts(objects: list[Any]) -> Iterator[Mapping[Any, Any]]:
    """Every mapping, at whatever depth; each is visited once, since YAML's aliases make many of one."""
    seen: set[int] = set()
    left: list[Any] = list(reversed(objects))
    while left and len(seen) < _MOST_PARTS:
        part = left.pop()
        if id(part) in seen or not isinstance(part, dict | list):
            continue
        seen.add(id(part))
        if isinstance(part, Mapping):
            yield part
            left += reversed(list(part.values()))
        else:
            left += reversed(part)


def _images(parts: Iterable[Mapping[Any, Any]]) -> Iterator[str]:
    """Of every container."""
    for part in parts:
        for key in _CONTAINERS:
            containers = part.get(key)
            for one in containers if isinstance(containers, list) else ():
                if isinstance(one, Mapping) and isinstance(one.get("image"), str):
                    yield one["image"]


def _host_paths(parts: Iterable[Mapping[Any, Any]]) -> Iterator[str]:
    """Of every volume that is a path of the node, without a slash at its end."""
    for part in parts:
        volume = part.get("hostPath")
        path = volume.get("path") if isinstance(volume, Mapping) else None
        if isinstance(path, str) and path.startswith("/"):
            yield str(PurePosixPath(path))
