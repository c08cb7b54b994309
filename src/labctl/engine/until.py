"""Goes on until the intervals are narrow: asked at the looks that were declared beforehand, and at no others."""

from __future__ import annotations

from labctl.compare.sequential import half_width
from labctl.engine.asked import Asked
from labctl.engine.measure import IsEnough, never
from labctl.engine.recorded import Measured
from labctl.engine.stored import comparisons
from labctl.model.comparison import Environment


def narrow_enough(asked: Asked, environment: Environment) -> IsEnough:
    """Whether every primary interval of every comparison is within ± `asked.until` at this block."""
    if asked.until is None:
        return never
    until = asked.until
    at = {look.rounds for look in asked.looks}

    def is_enough(block: int, measured: Measured) -> bool:
        if block not in at:
            return False
        widths = [half_width(each.rows) for each in comparisons(asked, measured, environment)]
        return all(width is not None and width <= until for width in widths)

    return is_enough
