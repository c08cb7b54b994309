"""JSON that somebody else wrote becomes values: the one door, with a bound on what that takes.

A line of events is read leniently: what is not as expected is empty or 0. A whole document of an unknown form is an
error message, never a traceback.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from labctl.errors import LabError, MeasureFailed

_MOST_PARTS = 1_000_000
"""Up to some 100 bytes of memory each (a mapping of one key has two); a comparison of 10,000 runs has a fifth."""

_MOST_TEXT_BYTE = (64 << 20) + 1024
"""One character outside of the Basic Multilingual Plane makes all of a text four times as large; a value has a copy."""


def parse_json(data: bytes | str) -> Any:
    """The value of that JSON text. Raises json.JSONDecodeError, which is a ValueError, also for what is nested too
    deeply to read, is no UTF-8, or would take many times its size in memory (`[[],[],…`)."""
    parts = sum(map(data.count, (b"[", b"{", b","))) if isinstance(data, bytes) else sum(map(data.count, "[{,"))
    if parts > _MOST_PARTS:
        raise json.JSONDecodeError(f"it has some {parts:,} parts", "", 0)
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
        if (size_byte := sys.getsizeof(text)) > _MOST_TEXT_BYTE:
            raise json.JSONDecodeError(f"it takes {size_byte >> 20} MiB in memory", "", 0)
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from None
    except UnicodeDecodeError as wrong:
        raise json.JSONDecodeError(f"it is no UTF-8: {wrong.reason}", "", 0) from None


T = TypeVar("T")

_OF_ANOTHER_FORM = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError)


def of_known_form(what: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """For a function whose first argument is what a tool printed: anything other than `what` raises MeasureFailed."""

    def guard(read: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(read)
        def reading(text: str, *arguments: Any, **options: Any) -> T:
            try:
                return read(text, *arguments, **options)
            except LabError:
                raise
            except _OF_ANOTHER_FORM as failed:
                raise MeasureFailed(
                    what=f"{what} does not have the form that labctl knows", cause=text.strip()[:200] or "it is empty"
                ) from failed

        return reading

    return guard


def object_of(line: str) -> dict[str, object]:
    """The object that the line is; empty for anything else."""
    try:
        return mapping_of(parse_json(line))
    except ValueError:
        return {}


def mapping_of(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def number_of(value: object) -> int:
    """A number, also one in a string: protojson writes 64-bit numbers so."""
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdigit() else 0
