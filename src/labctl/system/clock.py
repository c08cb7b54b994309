"""Time: a monotonic clock, and deadlines made from it. Owns no waiting of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime


def monotonic_s() -> float:
    """Seconds on the clock that cannot be set."""
    return time.monotonic()


def utc_now() -> str:
    """The wall clock, ISO 8601 with milliseconds (`2026-11-22T10:15:30.123Z`): for records, never for durations."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock by which something must have happened."""

    at_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        return cls(time.monotonic() + timeout_s)

    def left_s(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self.at_s - time.monotonic())

    def is_over(self) -> bool:
        return time.monotonic() >= self.at_s
