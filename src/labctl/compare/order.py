"""In which order the sides of a comparison are built and measured; runs nothing.

A block is one run of every side × check × pair in random order. Interleaving so turns a neighbour's load, which hits
whole minutes, from a difference between the sides into a difference between blocks, and pairing removes that. Both
labs are rebuilt in the middle, with another one first, so that build luck is noise too.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from labctl.model.lab import Placement

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """One check on one pair: what every side runs once in every block."""

    check: str
    client: str
    server: str
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run. `block` and `position` count from 1."""

    block: int
    position: int
    side: str
    item: WorkItem

    def __str__(self) -> str:
        return f"{self.side} {self.item.check} {self.item.client}→{self.item.server}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """All labs are built (anew, after the first time) before `before_block`, in the order of `sides`."""

    before_block: int
    sides: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Everything that will happen, in order. Equal arguments give an equal schedule on every machine."""

    sides: tuple[str, ...]
    seed: int
    builds: tuple[Build, ...]
    blocks: tuple[tuple[PlannedRun, ...], ...]

    @property
    def rounds(self) -> int:
        return len(self.blocks)

    def build_before(self, block: int) -> Build | None:
        """The build that is due before that block, if any."""
        return next((build for build in self.builds if build.before_block == block), None)

    def runs(self) -> Iterator[PlannedRun]:
        for block in self.blocks:
            yield from block

    def text(self) -> str:
        """The schedule for people, one line a block or build."""
        lines = []
        for number, block in enumerate(self.blocks, start=1):
            build = self.build_before(number)
            if build is not None:
                lines.append(f"{'build' if number == 1 else 'rebuild'}: {', '.join(build.sides)}")
            lines.append(f"block {number}: {'; '.join(str(run) for run in block)}")
        return "\n".join(lines)


def schedule(
    sides: Sequence[str],
    work: Sequence[WorkItem],
    rounds: int,
    seed: int,
    *,
    rebuilds: int = 1,
    together: Collection[str] = (),
) -> Schedule:
    """Plans `rounds` blocks of `work` on every side, with `rebuilds` rebuilds spread evenly between the blocks.

    The runs of a check named in `together` stand next to each other in a block, in random order among themselves.
    Fewer rebuilds are planned when there are not enough blocks to put them between. Raises ValueError for fewer than
    two sides, for a side named twice, for no work and for no rounds.
    """
    if len(sides) < 2 or len(set(sides)) != len(sides):
        raise ValueError(f"a comparison needs at least two sides with different keys, not {list(sides)}")
    if not work or rounds < 1 or rebuilds < 0:
        raise ValueError("a comparison needs some work, at least one round, and no negative number of rebuilds")
    # random() alone is promised to stay the same in later Pythons; shuffle() is not.
    source = random.Random(seed)
    first = _shuffled(tuple(sides), source)
    points = min(rebuilds, rounds - 1)
    starts = (1, *(1 + round(rounds * (i + 1) / (points + 1)) for i in range(points)))
    builds = tuple(
        Build(before_block=start, sides=_rotated(first, turn)) for turn, start in enumerate(dict.fromkeys(starts))
    )
    every = tuple((side, item) for side in sides for item in work)
    blocks = tuple(
        tuple(
            PlannedRun(block=number, position=position, side=side, item=item)
            for position, (side, item) in enumerate(_shuffled_block(every, frozenset(together), source), start=1)
        )
        for number in range(1, rounds + 1)
    )
    return Schedule(sides=tuple(sides), seed=seed, builds=builds, blocks=blocks)


def _shuffled_block(
    runs: tuple[tuple[str, WorkItem], ...], together: frozenset[str], source: random.Random
) -> tuple[tuple[str, WorkItem], ...]:
    """Random order, except that the runs of a check in `together` make one bunch."""
    bunches: dict[object, list[tuple[str, WorkItem]]] = {}
    for run in runs:
        bunches.setdefault(run[1].check if run[1].check in together else run, []).append(run)
    return tuple(run for bunch in _shuffled(tuple(bunches.values()), source) for run in _shuffled(tuple(bunch), source))


def _shuffled(values: tuple[T, ...], source: random.Random) -> tuple[T, ...]:
    if len(values) < 2:
        # Draws nothing, so that bunches of one leave the order of a seed as it is without bunches.
        return values
    keys = [source.random() for _ in values]
    return tuple(values[i] for i in sorted(range(len(values)), key=lambda i: keys[i]))


def _rotated(values: tuple[str, ...], turns: int) -> tuple[str, ...]:
    start = turns % len(values)
    return values[start:] + values[:start]
