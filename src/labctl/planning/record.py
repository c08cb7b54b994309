"""A `Lab` as a document and back, without loss; and the digest that equal labs have in common.

Storing the data is not its business. Reading is strict: names, devices, addresses and parameters have to be what the
loader would have let through, since a record may have been cut short, edited, or written by another version, or by
somebody who wants labctl to remove another folder than the lab's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from labctl.codec import Misfit, exact, plain
from labctl.errors import LabError
from labctl.model.lab import Lab

HEADER = {"apiVersion": "labctl/v1", "kind": "Lab"}
DESCRIPTION = ("name", "scenario", "source", "digest")
"""What a lab is called and where it came from: not part of its digest."""


def lab_to_json(lab: Lab) -> dict[str, Any]:
    """Everything about the lab."""
    return HEADER | cast("dict[str, Any]", plain(lab))


def digest_of(lab: Lab) -> str:
    """SHA-256 over what the lab is. What it is called, and which file it came from, is left out."""
    content = {key: value for key, value in cast("dict[str, Any]", plain(lab)).items() if key not in DESCRIPTION}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def lab_from_json(data: Mapping[str, Any]) -> Lab:
    """The lab that `lab_to_json` wrote. Raises LabError when the data is not such a record."""
    try:
        lab = lab_of(data)
        if digest_of(lab) != lab.digest:
            raise ValueError("its digest does not fit its content")
    except (ValueError, RecursionError) as error:
        raise LabError(
            "the lab's record cannot be read", str(error), "remove the lab and build it again: labctl down LAB"
        ) from None
    return lab


def lab_of(data: Mapping[str, Any]) -> Lab:
    """As `lab_from_json`, of a record that nobody else can have written: whether the digest fits is not looked at.
    Raises ValueError."""
    for key in HEADER:
        if key not in data:
            raise Misfit("it is missing", key)
    if any(data[key] != value for key, value in HEADER.items()):
        raise ValueError(
            f"it is a {data['kind']} of {data['apiVersion']}, not a {HEADER['kind']} of {HEADER['apiVersion']}"
        )
    nodes = data.get("nodes")
    content = {key: value for key, value in data.items() if key not in HEADER}
    if isinstance(nodes, list):
        content["nodes"] = [
            {**node, "index": index} if isinstance(node, dict) else node for index, node in enumerate(nodes)
        ]
    lab = exact(Lab, content)
    _refuse_dangling(lab)
    return lab


def _refuse_dangling(lab: Lab) -> None:
    """Raises ValueError for a pod on no node, and for a pair or Service of nothing that is there."""
    nodes, pods = {node.name for node in lab.nodes}, {pod.name for pod in lab.pods}
    parts = [*(node.name for node in lab.nodes), *(pod.name for pod in lab.pods), *(host.name for host in lab.outside)]
    if len(set(parts)) != len(parts):
        raise ValueError("two of its nodes, pods or hosts outside have one name")
    for pod in lab.pods:
        if pod.node not in nodes:
            raise ValueError(f"pod {pod.name} is on no node of it")
    servers = {*parts, *(service.name for service in lab.services)}
    for pair in lab.pairs:
        if pair.client not in parts or pair.server not in servers or pair.via not in (None, *nodes):
            raise ValueError(f"the pair {pair.client} → {pair.destination} is of nothing that it has")
        if pair.via is not None and pair.server in parts:
            raise ValueError(f"the pair {pair.client} → {pair.destination} asks a node's port of what is no Service")
    for service in lab.services:
        if not set(service.backends) <= pods:
            raise ValueError(f"the Service {service.name} has backends that are none of its pods")
