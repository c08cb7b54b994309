"""JSON from the tools of a cluster. A line of events is read leniently: what is not as expected is empty or 0. A whole
document of an unknown form is an error message, never a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from labctl.errors import LabError, MeasureFailed
from labctl.json_text import parse_json

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
