"""A matrix: which scenarios, checks and placements are measured together, complete and valid. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.model.lab import Placement
from labctl.model.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """`scenarios` are loaded; the first is what the others are compared with. What is None or empty is left to the
    first scenario's `compare` section."""

    name: str
    source: str
    scenarios: tuple[Scenario, ...]
    checks: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()
    rounds: int | None = None
    duration_s: float | None = None
    seed: int | None = None
    until: float | None = None
    max_rounds: int | None = None
    reference: bool = False
    fail_if: tuple[str, ...] = ()
