"""Values of the model as plain JSON and back, and JSON text that is always valid. Knows nothing about files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, TypeVar, cast

from labctl.errors import UsageError
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


T = TypeVar("T")


def typed(kind: type[T], data: object, *, where: str) -> T:
    """The value of that dataclass which `plain` made `data` of; `where` names the place in error messages.

    Numbers come back as they were, to the last bit; `NaN` and `Infinity` too. Raises UsageError.
    """
    from pydantic import ValidationError

    try:
        value: T = _adapter(cast(Any, kind)).validate_python(data)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(step) for step in first["loc"])
        name = getattr(kind, "__name__", str(kind))
        told = "it is missing" if data is None else first["msg"]
        raise UsageError(
            what=f"{where} cannot be read",
            cause=f"{path}: {first['msg']}" if path else f"{name}: {told}",
            remedy="it was changed after it was written, or another version of labctl wrote it; measure again",
        ) from invalid
    return value


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
