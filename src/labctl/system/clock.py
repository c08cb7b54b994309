"""Time: a monotonic clock, deadlines made from it, and which boot this is. Owns no waiting of its own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from labctl.values import dataclass

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Another one after each boot; the host's own also in a container."""


def monotonic_s() -> float:
    """Seconds on the clock that cannot be set."""
    return time.monotonic()


def utc_now() -> str:
    """The wall clock, ISO 8601 with milliseconds (`2026-11-22T10:15:30.123Z`): for records, never for durations."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def boot_id() -> str:
    """Which boot of this machine it is: what is written down with another one was written before the last boot."""
    return BOOT_ID.read_text(encoding="ascii").strip()


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
