"""kind's node containers as the engine knows them: found by kind's label, owned by labctl's mark. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labctl.errors import MeasureFailed
from labctl.json_text import parse_json
from labctl.providers.kind.config import Mark, parse_mark
from labctl.providers.kind.engine import CLUSTER_LABEL, ROLE_LABEL


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContainer:
    """One node of one kind cluster. `mark` is None when labctl did not make it."""

    name: str
    cluster: str
    role: str
    is_running: bool
    mark: Mark | None
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
