"""Going on until the intervals are narrow, without cheating: looks that are declared beforehand share the 5 %.

Whoever looks after every block and stops when the result pleases has as many chances as looks. Here each look k has a
level of its own, α_k, in proportion to the blocks that are new at it, and the α_k add up to 5 %. By the union bound
the interval that is reported covers the truth in at least 95 % of comparisons, whatever decides when to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from labctl.compare.statistics import CONFIDENCE, fewest_pairs
from labctl.compare.verdict import FEWEST_PAIRS
from labctl.model.comparison import InterimLook, MetricRow


def looks(first: int, most: int, level: float = 1 - CONFIDENCE) -> tuple[InterimLook, ...]:
    """Looks after `first` blocks, twice as many, four times, …, and after `most`; their levels add up to `level`.

    A look whose level no interval of so few pairs can reach is left to the next one. Raises ValueError unless
    FEWEST_PAIRS ≤ first ≤ most.
    """
    if not FEWEST_PAIRS <= first <= most:
        raise ValueError(f"looks need {FEWEST_PAIRS} ≤ first ≤ most, not {first} and {most}")
    ends = []
    rounds = first
    while rounds < most:
        ends.append(rounds)
        rounds *= 2
    ends.append(most)
    while len(ends) > 1 and fewest_pairs(1, level * ends[0] / most) > ends[0]:
        ends.pop(0)
    return tuple(
        InterimLook(rounds=end, level=level * (end - before) / most)
        for before, end in zip((0, *ends[:-1]), ends, strict=True)
    )


def confidence_at(planned: Sequence[InterimLook], rounds: int) -> float:
    """The confidence of the intervals after that many blocks.

    Between two looks (a run that was cut short) it is that of the next one: the result had no part in stopping.
    """
    for look in planned:
        if rounds <= look.rounds:
            return 1 - look.level
    return CONFIDENCE


def half_width(rows: Iterable[MetricRow]) -> float | None:
    """Half the width of the widest interval of the rows that get a verdict, relative; None when there is none.

    Rows that are refused do not count: no further block would mend them.
    """
    widths = [
        (row.change.high - row.change.low) / 2
        for row in rows
        if row.change is not None and row.margin is not None and row.refusal is None
    ]
    return max(widths, default=None)
