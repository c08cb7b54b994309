"""Times of two nodes that have clocks of their own, told by one of them. Pure.

The offset is measured from outside and known to some error. What was captured narrows it: no packet arrives before it
was sent, neither a request nor a reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from labctl.model.movement import Movement
from labctl.path.sighting import Sighting, Way

_MS_NS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The clock of `node` is `offset_ns` ahead of that of `reference`, give or take `error_ns`."""

    reference: str
    node: str
    offset_ns: int
    error_ns: int

    def in_words(self) -> str:
        way = "ahead of" if self.offset_ns >= 0 else "behind"
        return (
            f"{self.node}'s clock is {abs(self.offset_ns) / _MS_NS:.2f} ms {way} {self.reference}'s "
            f"(± {self.error_ns / _MS_NS:.2f} ms): its times are told by {self.reference}'s clock, and a hop from one "
            "to the other is known no better than that"
        )

    def sightings(self, seen: Iterable[Sighting], node_of: Mapping[str, str]) -> tuple[Sighting, ...]:
        """By the reference's clock. `node_of` gives the node of each tap."""
        return tuple(
            one._replace(time_ns=one.time_ns - self.offset_ns) if node_of.get(one.tap) == self.node else one
            for one in seen
        )

    def movements(self, movements: Iterable[Movement]) -> tuple[Movement, ...]:
        return tuple(
            replace(one, time_ns=one.time_ns - self.offset_ns)
            if one.node == self.node and one.time_ns is not None
            else one
            for one in movements
        )

    def narrowed(self, seen: Sequence[Sighting], node_of: Mapping[str, str]) -> Clocks:
        """The nearest offset within the error by which every packet arrives after it was sent, or this one."""
        least, most = _bounds(seen, node_of, self.reference, self.node)
        low = self.offset_ns - self.error_ns if least is None else least
        high = self.offset_ns + self.error_ns if most is None else most
        if low > high or low <= self.offset_ns <= high:
            return self
        nearest = (low + high) // 2
        return replace(self, offset_ns=nearest) if abs(nearest - self.offset_ns) <= self.error_ns else self


def _bounds(
    seen: Sequence[Sighting], node_of: Mapping[str, str], reference: str, node: str
) -> tuple[int | None, int | None]:
    """The least and the most that the offset can be: replies leave `node` before they are at `reference`, requests
    arrive at `node` after they have left."""
    least: list[int] = []
    most: list[int] = []
    for number, way in {(one.number, one.way) for one in seen}:
        here = [
            one.time_ns for one in seen if (one.number, one.way) == (number, way) and node_of.get(one.tap) == reference
        ]
        there = [one.time_ns for one in seen if (one.number, one.way) == (number, way) and node_of.get(one.tap) == node]
        if not here or not there:
            continue
        if way is Way.REQUEST:
            most.append(min(there) - max(here))
        else:
            least.append(max(there) - min(here))
    return max(least, default=None), min(most, default=None)
