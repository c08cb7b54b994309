"""The record of a whole lab: its resolved content in a file of its own.

The record is convenience: who owns a cluster is told by the mark in its nodes, also when no record is left.
"""

from __future__ import annotations

import json
from pathlib import Path

from labctl.errors import LabError
from labctl.json_text import parse_json
from labctl.model.lab import Lab
from labctl.planning.record import lab_from_json, lab_to_json
from labctl.system import files


def encode(lab: Lab) -> str:
    return json.dumps(lab_to_json(lab), indent=1) + "\n"


def read(path: Path) -> Lab | None:
    """None when there is no record, or none that can be read: the lab then counts as half there."""
    try:
        record = parse_json(files.read_own(path))
        return lab_from_json(record) if isinstance(record, dict) else None
    except (OSError, ValueError, LabError):
        return None
