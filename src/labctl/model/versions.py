"""Versions of Cilium, Kubernetes and Linux: read, ordered, and compared against half-open ranges. Owns no table."""

from __future__ import annotations

import re
from functools import total_ordering

from labctl.values import dataclass

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-.]?((?:rc|pre|snapshot|alpha|beta)[.\w-]*))?")


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A version with an optional pre-release part (`rc.0`), which sorts before the release itself."""

    major: int
    minor: int
    patch: int = 0
    pre: str = ""

    @classmethod
    def parse(cls, text: str) -> Version:
        """Reads `1.13.12`, `v1.16.0-rc.0`, `6.18` and kernel releases such as `6.18.0-14-generic`.

        Raises ValueError when the text does not begin with a version.
        """
        match = _VERSION.match(text.strip())
        if match is None:
            raise ValueError(f"'{text}' is not a version such as 1.16.19")
        major, minor, patch, pre = match.groups()
        return cls(int(major), int(minor), int(patch or 0), pre or "")

    @property
    def series(self) -> tuple[int, int]:
        """Major and minor: what decides about value names."""
        return (self.major, self.minor)

    def _order(self) -> tuple[int, int, int, bool, str]:
        return (self.major, self.minor, self.patch, not self.pre, self.pre)

    def __lt__(self, other: Version) -> bool:
        return self._order() < other._order()

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}" + (f"-{self.pre}" if self.pre else "")


@dataclass(frozen=True, slots=True)
class Series:
    """The minor versions from `since` up to but not including `before`; None means no bound."""

    since: tuple[int, int] | None = None
    before: tuple[int, int] | None = None

    def __contains__(self, version: Version) -> bool:
        return (self.since is None or version.series >= self.since) and (
            self.before is None or version.series < self.before
        )

    def __str__(self) -> str:
        if self.since and self.before:
            return f"{_minor(self.since)} to {_minor((self.before[0], self.before[1] - 1))}"
        if self.since:
            return f"{_minor(self.since)} and later"
        if self.before:
            return f"{_minor((self.before[0], self.before[1] - 1))} and earlier"
        return "every version"


def _minor(series: tuple[int, int]) -> str:
    return f"{series[0]}.{series[1]}"
