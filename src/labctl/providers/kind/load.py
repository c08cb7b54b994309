"""Brings images into the nodes of a kind cluster: each node is asked what it lacks, and only that is loaded, saved once
for all nodes and imported on all of them at the same time.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from labctl.errors import HostLacks, StepFailed, UsageError
from labctl.providers.base import Completed, Tell
from labctl.providers.cilium.bundle import parse_digests
from labctl.providers.cilium.commands import Commands
from labctl.providers.cilium.images import argv_images, digests_in, in_full, lacking, parse_images
from labctl.providers.kind.actions import HaveImage, LoadArchives, LoadImages, NodesHaveImages, argvs_import
from labctl.system import files
from labctl.system.clock import monotonic_s
from labctl.system.signals import all_at_once

_LOOK_S = 30.0
_LACKS_PLATFORM = re.compile(r"content digest \S+ not found", re.IGNORECASE)
_ONE_PLATFORM = (
    "docker save --platform linux/amd64 {image} -o FILE (docker 28 or later), then kindCluster.archives: [FILE]"
)
_NO_IMAGE = re.compile(r"no such (image|object)|not found|not known|image not known|no such manifest", re.IGNORECASE)


class Tools(Protocol):
    """How the executor runs a tool: `must` raises when it fails, `failed` makes that error."""

    commands: Commands
    tell: Tell

    def must(self, argv: tuple[str, ...], timeout_s: float, remedy: str = "") -> str: ...

    def failed(self, done: Completed, timeout_s: float, remedy: str = "") -> StepFailed: ...


def have_image(tools: Tools, action: HaveImage) -> None:
    """Raises HostLacks when the engine lacks it and may not pull it, StepFailed when the engine or the pull fails."""
    has = tools.commands.run((action.engine, "image", "inspect", action.reference), timeout_s=_LOOK_S)
    if has.returncode == 0 and not has.timed_out:
        return
    # Since 28 docker says "Error response from daemon: No such image": the daemon is not what is missing.
    if has.timed_out or not _NO_IMAGE.search(has.error_text):
        raise tools.failed(has, _LOOK_S)
    if action.pull:
        _told(
            tools, f"{action.engine} pulls {action.reference}",
            lambda: tools.must((action.engine, "pull", action.reference), action.timeout_s),
        )  # fmt: skip
        return
    raise HostLacks(
        what=f"the image {action.reference} is not in {action.engine}, and pulling is disabled",
        cause="kindCluster.pull is false",
        remedy=f"{action.engine} load -i ARCHIVE; or name an image that is there ({action.engine} image ls)",
    )


def load_images(tools: Tools, action: LoadImages) -> None:
    """Raises StepFailed."""
    wanted = {reference: _digests(tools, action.argv_ids(reference)) for reference in action.references}
    missing = {node: lacking(wanted, there) for node, there in _there(tools, action.engine, action.nodes).items()}
    nodes = tuple(node for node in action.nodes if missing[node])
    references = tuple(one for one in action.references if any(one in missing[node] for node in nodes))
    if references:
        said = f"{len(references)} of {len(wanted)} images into {len(nodes)} of {len(action.nodes)} nodes at once"
        _told(tools, said, lambda: _load(tools, action, references, nodes))


def _load(tools: Tools, action: LoadImages, references: tuple[str, ...], nodes: tuple[str, ...]) -> None:
    """By kind, which knows docker alone; else by its own steps."""
    if action.engine == "docker":
        done = tools.commands.run(action.argv_load(references, nodes), timeout_s=action.timeout_s)
        if done.returncode == 0 and not done.timed_out:
            return
        if not _LACKS_PLATFORM.search(done.error_text + done.text):
            raise tools.failed(done, action.timeout_s)
    with files.temporary_folder() as folder:
        archive = str(folder / "images.tar")
        tools.must(action.argv_save(archive, references), action.timeout_s)
        remedy = _ONE_PLATFORM.format(image=references[0])
        all_at_once([_importing(tools, action, archive, node, remedy) for node in nodes])


def _importing(
    tools: Tools, action: LoadImages | LoadArchives, archive: str, node: str, remedy: str
) -> Callable[[], None]:
    def act() -> None:
        for argv in argvs_import(action.engine, archive, node):
            tools.must(argv, action.timeout_s, remedy)

    return act


def load_archives(tools: Tools, action: LoadArchives) -> None:
    """Raises StepFailed, and UsageError for what is no image archive."""
    there = _there(tools, action.engine, action.nodes)
    for archive in action.archives:
        wanted = _archived(archive)
        # One without names says nothing about what is in it.
        nodes = tuple(node for node in action.nodes if not wanted or lacking(wanted, there[node]))
        if not nodes:
            continue
        said = f"{Path(archive).name} into {len(nodes)} of {len(action.nodes)} nodes at once"
        _told(tools, said, lambda a=archive, n=nodes: _load_archive(tools, action, a, n))  # type: ignore[misc]


def _load_archive(tools: Tools, action: LoadArchives, archive: str, nodes: tuple[str, ...]) -> None:
    tools.must(action.argv_load(archive, nodes), action.timeout_s)


def _archived(archive: str) -> Mapping[str, tuple[str, ...]]:
    path = Path(archive)
    try:
        return digests_in(path)
    except FileNotFoundError as lost:
        raise UsageError(
            what=f"there is no archive {archive}", remedy="correct kindCluster.archives in lab.yaml"
        ) from lost
    except (OSError, tarfile.TarError, ValueError, EOFError) as failed:
        raise UsageError(
            what=f"{archive} is not an image archive", cause=str(failed),
            remedy="write it again: docker save -o FILE IMAGE",
        ) from failed  # fmt: skip


def _there(tools: Tools, engine: str, nodes: tuple[str, ...]) -> Mapping[str, Mapping[str, frozenset[str]]]:
    """What each node has, all asked at once. A node that does not say (no crictl in it) has nothing."""

    def ask(node: str) -> Callable[[], Mapping[str, frozenset[str]]]:
        def act() -> Mapping[str, frozenset[str]]:
            listed = tools.commands.run((engine, "exec", node, *argv_images()), timeout_s=_LOOK_S)
            return parse_images(listed.text) if listed.returncode == 0 and not listed.timed_out else {}

        return act

    return dict(zip(nodes, all_at_once([ask(node) for node in nodes]), strict=True))


def _digests(tools: Tools, argv: tuple[str, ...]) -> tuple[str, ...]:
    asked = tools.commands.run(argv, timeout_s=_LOOK_S)
    return parse_digests(asked.text) if asked.returncode == 0 and not asked.timed_out else ()


def nodes_have(tools: Tools, action: NodesHaveImages) -> None:
    """Raises StepFailed that names the first node that lacks something."""

    def ask(node: str) -> Callable[[], str]:
        argv = (action.engine, "exec", node, "ctr", "--namespace", "k8s.io", "images", "ls", "-q")
        return lambda: tools.must(argv, _LOOK_S * 2)

    listed = all_at_once([ask(node) for node in action.nodes])
    for node, text in zip(action.nodes, listed, strict=True):
        there = set(text.split())
        missing = [reference for reference in action.references if in_full(reference) not in there]
        if missing:
            raise StepFailed(
                what=f"node {node} lacks {', '.join(missing)}",
                cause="pulling is disabled, and loading did not put it there",
                remedy=f"{action.engine} exec {node} crictl images; kind load docker-image {missing[0]} "
                f"--nodes {node}; or kindCluster.archives",
            )


def _told(tools: Tools, what: str, act: Callable[[], object]) -> None:
    tools.tell(what, None)
    begun_s = monotonic_s()
    act()
    tools.tell(what, monotonic_s() - begun_s)
