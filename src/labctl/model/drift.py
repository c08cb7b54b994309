"""Drift as data: what a running lab has less, more or other than its plan, or than another scenario asks for."""

from __future__ import annotations

from enum import StrEnum

from labctl.values import dataclass


class Change(StrEnum):
    """How something that is there compares with what is wanted."""

    MISSING = "missing"
    CHANGED = "changed"
    EXTRA = "extra"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as it is wanted.

    `part` is the node, pod, router or host that has it; `kind` what it is (`route`, `device`, `map entry`); `name` as
    `ip`, `tc` and their kin call it. `wanted` and `found` are empty where only its presence is at stake. `key` is the
    path in the scenario that asks for it, `command` what a person would type to mend it. `why` says, of a part that is
    made again, why it cannot be changed in place.
    """

    change: Change
    part: str
    kind: str
    name: str
    wanted: str = ""
    found: str = ""
    key: str = ""
    command: str = ""
    why: str = ""

    def words(self) -> str:
        """What differs, in one line."""
        what = f"{self.part}: {self.name}"
        match self.change:
            case Change.MISSING:
                return f"{what} is missing"
            case Change.EXTRA:
                return f"{what} is not in the plan"
            case Change.CHANGED:
                return f"{what} is {self.found or 'none'}, not {self.wanted or 'none'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """Something that could not be read, so that nothing is known of it."""

    part: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A lab compared with what is wanted of it. `scenario` is the other scenario that it was compared with; empty: its
    own plan."""

    lab: str
    provider: str
    scenario: str = ""
    differences: tuple[Difference, ...] = ()
    unread: tuple[Unread, ...] = ()

    @property
    def is_as_wanted(self) -> bool:
        return not self.differences and not self.unread
