"""In which order the sides of a comparison are built and measured; runs nothing.

A block is one run of every side × check × pair in random order. Interleaving so turns a neighbour's load, which hits
whole minutes, from a difference between the sides into a difference between blocks, and pairing removes that. Both
labs are rebuilt in the middle, with another one first, so that build luck is noise too.

Where the sides take turns on one lab, a block runs all of one side, then all of the other, in random order within
each turn; the order of the turns is reversed from block to block (a b, b a, a b, …), so that there is one switch a
block, and drift over a few blocks hits both sides alike. Nothing is rebuilt: every switch sets up the datapath again.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from labctl.model.lab import Placement
from labctl.values import dataclass

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
    """All labs are built (again, after the first time) before `before_block`, in the order of `sides`."""

    before_block: int
    sides: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Everything that will happen, in order. Equal arguments give an equal schedule on every machine.

    With `takes_turns` there is one lab, which is switched to the side of the run that is next.
    """

    sides: tuple[str, ...]
    seed: int
    builds: tuple[Build, ...]
    blocks: tuple[tuple[PlannedRun, ...], ...]
    takes_turns: bool = False

    @property
    def rounds(self) -> int:
        return len(self.blocks)

    def build_before(self, block: int) -> Build | None:
        """The build that is due before that block, if any."""
        return next((build for build in self.builds if build.before_block == block), None)

    def last_build(self, block: int) -> Build:
        """The build that the labs of that block come from."""
        return max((build for build in self.builds if build.before_block <= block), key=lambda b: b.before_block)

    def first(self, blocks: int) -> Schedule:
        """The same schedule, ended after that many blocks."""
        return replace(
            self,
            blocks=self.blocks[:blocks],
            builds=tuple(build for build in self.builds if build.before_block <= blocks),
        )

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
            runs = []
            before = "" if number == 1 else self.blocks[number - 2][-1].side
            for run in block:
                is_switch = self.takes_turns and before and run.side != before
                runs.append(f"switch to {run.side}; {run}" if is_switch else str(run))
                before = run.side
            lines.append(f"block {number}: {'; '.join(runs)}")
        return "\n".join(lines)


def schedule(
    sides: Sequence[str],
    work: Sequence[WorkItem],
    rounds: int,
    seed: int,
    *,
    rebuilds: int = 1,
    together: Collection[str] = (),
    takes_turns: bool = False,
) -> Schedule:
    """Plans `rounds` blocks of `work` on every side, with `rebuilds` rebuilds spread evenly between the blocks.

    The runs of a check named in `together` stand next to each other in a block, in random order among themselves.
    With `takes_turns` all runs of a side in a block do, and nothing is rebuilt.
    Fewer rebuilds are planned when there are not enough blocks to put them between. Raises ValueError for fewer than
    two sides, for a side named twice, for no work and for no rounds.
    """
    if len(sides) < 2 or len(set(sides)) != len(sides):
        raise ValueError(f"a comparison needs at least two sides with different keys, not {list(sides)}")
    if not work or rounds < 1 or rebuilds < 0:
        raise ValueError("a comparison needs some work, at least one round, and no negative number of rebuilds")
    # random() alone is promised to stay the same in later Pythons; shuffle() is not.
    source = random.Random(seed)  # nosec B311  # the order has to follow from the seed
    first = _shuffled(tuple(sides), source)
    if takes_turns:
        return _in_turns(tuple(sides), first, tuple(work), rounds, seed, frozenset(together), source)
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


def _in_turns(
    sides: tuple[str, ...],
    first: tuple[str, ...],
    work: tuple[WorkItem, ...],
    rounds: int,
    seed: int,
    together: frozenset[str],
    source: random.Random,
) -> Schedule:
    blocks = []
    for number in range(1, rounds + 1):
        turns = first if number % 2 else first[::-1]
        runs = (
            run for side in turns for run in _shuffled_block(tuple((side, item) for item in work), together, source)
        )
        blocks.append(
            tuple(
                PlannedRun(block=number, position=position, side=side, item=item)
                for position, (side, item) in enumerate(runs, start=1)
            )
        )
    build = Build(before_block=1, sides=first[:1])
    return Schedule(sides=sides, seed=seed, builds=(build,), blocks=tuple(blocks), takes_turns=True)


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
