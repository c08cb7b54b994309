"""Values of the model as plain JSON, and JSON text that is always valid. Knows nothing about files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from labctl.text import json_bytes

_AS_TEXT = (IPv4Address, IPv4Interface, IPv4Network, Path)


def plain(value: object) -> object:
    """`value` with dataclasses as objects (field names unchanged), tuples as lists, enums and addresses as text.

    A number that is not finite becomes the text `NaN`, `Infinity` or `-Infinity`, which `float()` reads back: JSON has
    no such numbers. Raises TypeError for anything that has no plain form.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Set):
        return sorted((plain(item) for item in value), key=str)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, _AS_TEXT):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no plain JSON form: {value!r}")


def json_line(value: object) -> bytes:
    """One line of JSON with its newline."""
    return json_bytes(plain(value), indent=None, is_compact=True) + b"\n"


def json_document(value: object) -> bytes:
    """JSON for people to read, with a newline at its end."""
    return json_bytes(plain(value), indent=2) + b"\n"
