"""How the sides of a comparison stand to each other: a word of scenarios and of the command line."""

from __future__ import annotations

from enum import StrEnum


class Strategy(StrEnum):
    """Labs side by side, one lab that is switched between modes, or whatever there is room for."""

    AUTO = "auto"
    PARALLEL = "parallel"
    SWITCH = "switch"
