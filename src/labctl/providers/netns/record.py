"""The facts of a lab as a file, from which the same Lab value can be read again.

The file is for `labctl status` and for an `up` that has nothing to do. Nothing depends on it for removing a lab.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from labctl.json_text import parse_json
from labctl.model import parameters
from labctl.model.lab import Lab
from labctl.names import is_name
from labctl.system import netns

_VERSION = 1
_ADDRESSES = (ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network)


def record_path(lab: str) -> Path:
    """Raises ValueError for what is no lab's name: the folder of the record is removed with the lab."""
    if not is_name(lab):
        raise ValueError(f"{lab[:60]!r} is no lab's name")
    return netns.RUN_DIRECTORY / "labs" / lab / "lab.json"


def as_document(lab: Lab) -> str:
    """The lab as JSON on one line."""
    return json.dumps({"version": _VERSION, "lab": _encode(lab)}, ensure_ascii=True)


def parse_document(text: str) -> Lab | None:
    """The lab that `as_document` was given; None when the file is from another version or is not whole."""
    try:
        document = parse_json(text)
        if document["version"] != _VERSION:
            return None
        decoded = _decode(Lab, document["lab"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return decoded if isinstance(decoded, Lab) else None


def _encode(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        # The parameters of checks are a union: which member it is has to be said.
        return {"type": type(value).__name__, **named} if isinstance(value, parameters.CheckParameters) else named
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, _ADDRESSES):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    return value


def _decode(kind: Any, data: Any) -> object:
    """`data` as a value of the annotated type `kind`. Raises ValueError, KeyError or TypeError."""
    if typing.get_origin(kind) is typing.Annotated:
        return _decode(typing.get_args(kind)[0], data)
    if kind == parameters.CheckParameters:
        return _decode(getattr(parameters, data["type"]), {key: data[key] for key in data if key != "type"})
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return (
            None if data is None else _decode(next(one for one in typing.get_args(kind) if one is not type(None)), data)
        )
    if typing.get_origin(kind) is tuple:
        return tuple(_decode(typing.get_args(kind)[0], item) for item in data)
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind if isinstance(kind, type) else type(kind))
        return kind(**{name: _decode(hints[name], item) for name, item in data.items()})  # type: ignore[operator]
    if isinstance(kind, type) and (issubclass(kind, enum.Enum) or kind in _ADDRESSES):
        return kind(data)
    return data


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    """Once for each class, not for each of a thousand pods."""
    return typing.get_type_hints(kind, include_extras=True)
