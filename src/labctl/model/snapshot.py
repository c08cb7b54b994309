"""A lab that was up, as one value: what it was built from, what was changed in it since, and how it then compared with
its plan. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Interface
from typing import Any

from labctl.model.changes import Changes
from labctl.model.drift import Difference
from labctl.model.lab import Device, Lab, Name
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraAddress:
    """An address that somebody gave to a device of a part of the lab, and that the plan does not have."""

    part: Name
    device: Device
    address: IPv4Interface

    def __str__(self) -> str:
        return f"address {self.address} of {self.part}:{self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`versions` are of the labctl, Python and kernel that it was saved with. `scenario` is the text of the scenario's
    file, for readers; empty where that file alone does not give this lab. `plan` is as `planning.show.as_record` has
    it. `differences` are those of the lab from its plan, None where labs of its kind are not compared."""

    saved_at: str
    versions: Mapping[str, str]
    scenario: str
    lab: Lab
    changes: Changes
    addresses: tuple[ExtraAddress, ...]
    differences: tuple[Difference, ...] | None
    plan: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """How two labs differ: `only_here` is how the one differs from the plan where the other does not, `only_there` how
    the other does."""

    only_here: tuple[Difference, ...] = ()
    only_there: tuple[Difference, ...] = ()

    @property
    def is_nothing(self) -> bool:
        return not self.only_here and not self.only_there
