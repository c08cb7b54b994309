"""How a way runs between boxes: in straight legs, the request at the outer side of the U and the reply at the inner.

Boxes that a packet passed by without entering are gone round, at the way's own side, so that one sees it. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from labctl.model.movement import Mover
from labctl.model.path import Carriage, Hop, PacketPath, Way
from labctl.report.drawing.topology import Box, Side, Topology

Point = tuple[float, float]

LANE = 13.0
_ROUND = 16.0
"""How far from a box a way goes past it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """From one sighting to the next. `points` go from the middle of a box (moved to the lane) to that of the other;
    `start` and `end` are the boxes; `hop` is the sighting that it leads to; `is_around`: it goes round boxes."""

    way: Way
    hop: Hop
    start: Box
    end: Box
    points: tuple[Point, ...]
    is_around: bool


def passes_kernel(hop: Hop) -> bool:
    """Whether the packet went through a node's stack before this sighting: it was forwarded, netfilter saw it, or its
    envelope was put on or taken off."""
    is_carried = hop.carriage in (Carriage.KERNEL, Carriage.TUNNEL)
    return is_carried or any(act.mover is Mover.NETFILTER for act in hop.moved_by)


def legs(path: PacketPath, topology: Topology) -> tuple[Leg, ...]:
    """One leg between each two neighbouring sightings."""
    found = []
    for before, hop in itertools.pairwise(path.hops):
        start, end = topology.devices.get(before.role), topology.devices.get(hop.role)
        if start is None or end is None:
            continue
        points, is_around = _between(start, end, hop, path.way, topology)
        found.append(Leg(way=path.way, hop=hop, start=start, end=end, points=points, is_around=is_around))
    return tuple(found)


def _between(start: Box, end: Box, hop: Hop, way: Way, topology: Topology) -> tuple[tuple[Point, ...], bool]:
    through = _kernel_between(start, end, topology) if passes_kernel(hop) else None
    obstacles = [box for box in topology.boxes() if box not in (start, end, through)]
    outwards = 1 if way is Way.REQUEST else -1
    if start.x == end.x:
        middle, is_around = _column(start.x, start, start.y, end.y, obstacles, outwards)
        return middle, is_around
    if start.y == end.y and Side.WIRE in (start.side, end.side):
        y = start.y + outwards * LANE
        return ((start.x, y), (end.x, y)), False
    if start.side is end.side:
        corner = start.x + outwards * LANE
        y = end.y + outwards * LANE
        return ((corner, start.y), (corner, y), (end.x, y)), False
    # Down one column, across, up the other.
    y = topology.across_y + outwards * LANE
    down, is_down_around = _column(start.x, start, start.y, y, obstacles, outwards)
    up, is_up_around = _column(end.x, end, y, end.y, obstacles, outwards)
    return (*down, *up), is_down_around or is_up_around


def _kernel_between(start: Box, end: Box, topology: Topology) -> Box | None:
    low, high = sorted((start.y, end.y))
    return next((box for box in topology.kernels.values() if box.x == start.x and low < box.y < high), None)


def _column(
    x: float, in_column: Box, from_y: float, to_y: float, obstacles: Iterable[Box], outwards: int
) -> tuple[tuple[Point, ...], bool]:
    """Straight along a column, except round the boxes that stand in it between the two heights."""
    away = outwards * (-1 if in_column.side is Side.CLIENT else 1)
    lane = x + away * LANE
    low, high = sorted((from_y, to_y))
    inside = sorted(
        (box for box in obstacles if box.x == x and low < box.y < high), key=lambda box: box.y, reverse=from_y > to_y
    )
    if not inside:
        return ((lane, from_y), (lane, to_y)), False
    step = _ROUND if to_y > from_y else -_ROUND
    points: list[Point] = [(lane, from_y)]
    aside = x + away * (inside[0].width / 2 + _ROUND)
    first, last = (inside[0].top, inside[-1].bottom) if step > 0 else (inside[0].bottom, inside[-1].top)
    points += [(lane, first - step), (aside, first - step), (aside, last + step), (lane, last + step), (lane, to_y)]
    return tuple(points), True
