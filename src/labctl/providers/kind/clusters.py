"""The kind clusters on this engine: looked up by label, identified by mark, removed only when they are labctl's.

kind's node containers as the engine knows them: found by kind's label, owned by labctl's mark. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from labctl.errors import HostLacks, MeasureFailed, StepFailed, UsageError
from labctl.json_text import parse_json
from labctl.providers.cilium.commands import Commands
from labctl.providers.kind.config import ContainerMark, parse_mark
from labctl.providers.kind.failures import failed_command
from labctl.providers.kind.presence import CLUSTER_LABEL, ROLE_LABEL, argv_list
from labctl.system import files
from labctl.values import dataclass

LOOK_S = 30.0
_LOOKS = 5
_GONE = re.compile(r"no such (object|container)", re.IGNORECASE)
"""docker's and podman's words for a container that is not there any more."""


def nodes_of(
    commands: Commands, engine: str, cluster: str = "", *, timeout_s: float = LOOK_S
) -> tuple[NodeContainer, ...]:
    """Every node container of that cluster, or of all clusters. A container that goes between the list and the look at
    it (somebody else's cluster is removed) is none. Raises HostLacks when the engine does not answer."""
    for _ in range(_LOOKS):
        names = _names(commands, engine, cluster, timeout_s)
        if not names:
            return ()
        inspected = commands.run(argv_inspect(engine, names), timeout_s=timeout_s)
        if not inspected.timed_out and inspected.returncode == 0:
            return parse_inspect(inspected.text)
        if inspected.timed_out or not _GONE.search(inspected.error_text):
            break
    raise failed_command(inspected, timeout_s=timeout_s, what=f"{engine} cannot describe the kind nodes")


def _names(commands: Commands, engine: str, cluster: str, timeout_s: float) -> tuple[str, ...]:
    listed = commands.run(argv_list(engine, cluster), timeout_s=timeout_s)
    if listed.timed_out:
        raise HostLacks(
            what=f"{engine} does not answer",
            cause=f"it did not list its containers within {timeout_s:g} s",
            remedy=f"sudo systemctl status {engine}\n{engine} info",
        )
    if listed.returncode != 0:
        error = failed_command(listed, timeout_s=timeout_s)
        raise HostLacks(what=f"{engine} does not answer", cause=error.cause, remedy=error.remedy)
    return tuple(sorted(listed.text.split()))


def refuse_foreign(nodes: tuple[NodeContainer, ...], cluster: str, lab: str) -> None:
    """Raises UsageError when any node of the cluster lacks the lab's mark."""
    foreign = [node.name for node in nodes if node.mark is None or node.mark.lab != lab]
    if foreign:
        raise UsageError(
            what=f"a kind cluster named {cluster} exists, and labctl did not make it for lab {lab}",
            cause=f"these nodes lack its mark: {', '.join(foreign)}",
            remedy="give the lab another --name; to remove that cluster yourself: "
            f"kind delete cluster --name {cluster}",
        )


def delete(
    commands: Commands, engine: str, cluster: str, lab: str, kubeconfig: Path, argv: tuple[str, ...], timeout_s: float
) -> None:
    """Removes a cluster that carries the lab's mark, whole or in pieces; nothing there is no error.

    Without `kind` the containers themselves are removed, which is what kind does.
    """
    nodes = nodes_of(commands, engine, cluster)
    if not nodes:
        return
    refuse_foreign(nodes, cluster, lab)
    if commands.find("kind") is not None:
        done = commands.run(argv, timeout_s=timeout_s)
    else:
        done = commands.run((engine, "rm", "--force", "--volumes", *(node.name for node in nodes)), timeout_s=timeout_s)
    left = nodes_of(commands, engine, cluster)
    if left:
        error = failed_command(done, timeout_s=timeout_s)
        raise StepFailed(
            what=f"cluster {cluster} is still there: {', '.join(node.name for node in left)}",
            cause=error.cause,
            remedy=f"{engine} rm --force --volumes {' '.join(node.name for node in left)}",
        )
    files.remove_own(kubeconfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContainer:
    """One node of one kind cluster. `mark` is None when labctl did not make it."""

    name: str
    cluster: str
    role: str
    is_running: bool
    mark: ContainerMark | None
    pid: int


def argv_inspect(engine: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return (engine, "inspect", "--type", "container", *names)


def parse_inspect(text: str) -> tuple[NodeContainer, ...]:
    """Raises MeasureFailed when the text is not what `inspect` prints."""
    try:
        entries = parse_json(text or "[]")
        return tuple(_node(entry) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as failed:
        raise MeasureFailed(
            what="the container engine's inspect output cannot be read", cause=text.strip()[:200]
        ) from failed


def _node(entry: Mapping[str, object]) -> NodeContainer:
    config, state = entry["Config"], entry["State"]
    if not isinstance(config, dict) or not isinstance(state, dict):
        raise TypeError("Config and State are objects")
    labels = config.get("Labels") or {}
    mounts = entry.get("Mounts") or []
    if not isinstance(mounts, list):
        raise TypeError("Mounts is a list")
    marks = (parse_mark(str(mount.get("Destination", ""))) for mount in mounts)
    return NodeContainer(
        name=str(entry["Name"]).lstrip("/"),
        cluster=str(labels.get(CLUSTER_LABEL, "")),
        role=str(labels.get(ROLE_LABEL, "")),
        is_running=state.get("Status", "running" if state.get("Running") else "") == "running",
        mark=next((mark for mark in marks if mark is not None), None),
        pid=int(state.get("Pid") or 0),
    )
