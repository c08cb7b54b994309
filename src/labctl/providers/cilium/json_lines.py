"""One line of JSON from an agent's tool, read leniently: what is not as expected is empty or 0, never an exception."""

from __future__ import annotations

import json


def object_of(line: str) -> dict[str, object]:
    """The object that the line is; empty for anything else."""
    try:
        return mapping_of(json.loads(line))
    except ValueError:
        return {}


def mapping_of(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def number_of(value: object) -> int:
    """A number, also one in a string: protojson writes 64-bit numbers so."""
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdigit() else 0
