"""JSON that somebody else wrote becomes values: the one door, with a bound on what that takes."""

from __future__ import annotations

import json
import sys
from typing import Any

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
