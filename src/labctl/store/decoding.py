"""The way back from plain JSON to values of the model: the inverse of `store.encoding.plain`."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

from labctl.errors import UsageError

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
