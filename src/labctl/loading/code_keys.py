"""Which keys of a kind or cluster lab name code that runs as root elsewhere, and whether the file may name it.

kind's nodes are privileged containers, so an image, a chart, a patch or a mount of theirs is root on the host of the
container engine. On a cluster that is there a helper's image is root on its nodes, a kubeconfig names programs that
kubectl runs here, and a context says in which of a person's clusters all that happens. A scenario or lab.yaml may
describe a network; such a key counts from the clone that labctl runs from, from the command line, and from any file
after --trust (docs/security.md, "What images, values and patches may do").
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from labctl.errors import Problem
from labctl.loading.conflist_rules import is_address, plugin_code
from labctl.loading.messages import problem_at
from labctl.loading.tree import Block, KeyPath, Listing, Place, Scalar, Tree, find, place_of, plain, text_of
from labctl.model.lab import EXISTING_CLUSTER
from labctl.model.pod_network import NetworkType
from labctl.model.sections import DEFAULT_TOOLS_IMAGE, Propagation

PROVIDER = "kind"
PROVIDER_SECTION = "kindCluster"
_NAMES_CODE = (
    "names what runs as root on the container engine's host, which a file that did not come with labctl may not"
)
_ALLOWED = "read the file, then the same command with --trust"
_ALWAYS = (
    ("kindCluster", "kubeadmConfigPatches"),
    ("kindCluster", "containerdConfigPatches"),
    ("kindCluster", "imageRepository"),
    ("kindCluster", "registryMirrors"),
    ("kindCluster", "archives"),
    ("kindCluster", "extraImages"),
    ("cilium", "chart"),
    ("cilium", "image"),
    ("cilium", "operatorImage"),
    ("cilium", "imageRepository"),
    ("podNetwork", "manifest"),
)
_OF_A_CLUSTER = ("context", "kubeconfig", "image", "helperImage")
_DECIDES = "decides what runs as root on the nodes of which cluster, which a file that did not come with labctl may not"
_RUNS_HERE = "names what runs as root on this host, or a file of it, which a file that did not come with labctl may not"
_KINDS_OWN_IMAGE = re.compile(r"(docker\.io/)?kindest/node(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
_CHOICES = frozenset(
    {
        "acceleration", "algorithm", "dnatPolicy", "identityAllocationMode", "kubeProxyReplacement", "mode", "protocol",
        "routingMode", "tunnel", "tunnelProtocol",
    }
)  # fmt: skip
"""Helm values of Cilium's chart that choose by a word."""
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")


def code_problems(tree: Tree, folders: Mapping[str, Path | None]) -> tuple[Problem, ...]:
    """A problem at each key that names code, of the files (as places call them) in `folders`, which has the folder of
    each file that may not name any. `tree` is a whole scenario, or the sections of a stored lab with its provider."""
    provider = text_of(find(tree, "provider"))
    if provider == EXISTING_CLUSTER:
        found = ((("cluster", key), find(tree, "cluster", key)) for key in _OF_A_CLUSTER)
        return tuple(
            problem_at(value.place, path, _DECIDES, _ALLOWED)
            for path, value in found
            if value is not None
            and text_of(value) not in (None, "", DEFAULT_TOOLS_IMAGE)
            and value.place.file in folders
        )
    if text_of(find(tree, "podNetwork", "type")) == NetworkType.CNI:
        return tuple(
            problem_at(place, path, f"{_RUNS_HERE}; {exception}", _ALLOWED)
            for path, place, exception in plugin_code(tree)
            if place.file in folders
        )
    if provider != PROVIDER:
        return ()
    return tuple(
        problem_at(place, path, f"{_NAMES_CODE}; {exception}" if exception else _NAMES_CODE, _ALLOWED)
        for path, place, exception in _found(tree, folders)
        if place.file in folders
    )


def _found(tree: Tree, folders: Mapping[str, Path | None]) -> Iterator[tuple[KeyPath, Place, str]]:
    for path in _ALWAYS:
        if (value := find(tree, *path)) is not None and plain(value):
            yield path, place_of(tree, path), ""
    image = text_of(find(tree, "kindCluster", "image"))
    if image and not _KINDS_OWN_IMAGE.fullmatch(image):
        yield ("kindCluster", "image"), place_of(tree, ("kindCluster", "image")), "kindest/node may be"
    tools = text_of(find(tree, "kindCluster", "toolsImage"))
    if tools and tools != DEFAULT_TOOLS_IMAGE:
        yield ("kindCluster", "toolsImage"), place_of(tree, ("kindCluster", "toolsImage")), ""
    mounts = find(tree, "kindCluster", "extraMounts")
    for number, mount in enumerate(mounts.items if isinstance(mounts, Listing) else ()):
        if not _is_own_and_read_only(mount, folders.get(mount.place.file)):
            exception = "a folder beside that file may be mounted, with readOnly: true and no link on the way"
            yield ("kindCluster", "extraMounts", number), mount.place, exception
    values = find(tree, "cilium", "values")
    if values is not None:
        exception = "switches, numbers, addresses and modes may be set"
        yield from ((path, place, exception) for path, place in _more_than_data(values, ("cilium", "values"), ""))


def _is_own_and_read_only(mount: Tree, folder: Path | None) -> bool:
    host = text_of(find(mount, "hostPath")) or ""
    read_only, propagation = find(mount, "readOnly"), text_of(find(mount, "propagation"))
    return (
        folder is not None
        and isinstance(read_only, Scalar)
        and read_only.value is True
        and propagation in (None, Propagation.NONE)
        and Path(host).is_absolute()
        and os.path.realpath(host) == os.path.normpath(host)
        and Path(os.path.realpath(host)).is_relative_to(folder)
    )


def _more_than_data(tree: Tree, path: KeyPath, key: str) -> Iterator[tuple[KeyPath, Place]]:
    """The texts that could be code: an image, a command, a path, a file's content."""
    if isinstance(tree, Block):
        for name, entry in tree.entries.items():
            yield from _more_than_data(entry.value, (*path, name), name)
    elif isinstance(tree, Listing):
        for number, item in enumerate(tree.items):
            yield from _more_than_data(item, (*path, number), "")
    elif isinstance(tree.value, str) and not (
        tree.value in ("", "true", "false")
        or is_address(tree.value)
        or (key in _CHOICES and _WORD.fullmatch(tree.value))
    ):
        yield path, tree.place
