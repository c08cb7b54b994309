"""Security identities: one number for each set of labels, which is the VNI of what such a pod sends over vxlan.

Cilium gives cluster identities from 256 to 65535; lower numbers are reserved (host, world, …). The number depends on
the labels, not on the order of pods, so that an unchanged pod keeps its identity when another is added (unless the
two would collide).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

FIRST_IDENTITY = 256
LAST_IDENTITY = 65_535


def identities(label_sets: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """The identity of each distinct set of labels, by `label_key`. Raises ValueError when there are too many."""
    keys = sorted({label_key(labels) for labels in label_sets})
    room = LAST_IDENTITY - FIRST_IDENTITY + 1
    if len(keys) > room:
        raise ValueError(f"{len(keys)} different sets of labels, but only {room} identities")
    taken: set[int] = set()
    found: dict[str, int] = {}
    for key in keys:
        offset = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % room
        while offset in taken:
            offset = (offset + 1) % room
        taken.add(offset)
        found[key] = FIRST_IDENTITY + offset
    return found


def label_key(labels: Mapping[str, str]) -> str:
    """The same text for the same labels, whatever their order."""
    return json.dumps(dict(labels), sort_keys=True)
