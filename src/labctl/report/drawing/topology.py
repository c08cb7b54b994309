"""Where the boxes of a trace stand, and how its ways run between them. Pure.

Pods stand above their nodes, devices one under the other, the wire in the middle. The way from pod to pod is a U: down
the client's column, across, up the server's. Devices that the way does not need stand at the outer side. A way runs in
straight legs, the request at the outer side of the U and the reply at the inner. Boxes that a packet passed by without
entering are gone round, at the way's own side, so that one sees it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

from labctl.model.lab import Placement
from labctl.model.signature import Role
from labctl.model.trace import Carriage, Hop, Mover, PacketPath, Trace, TraceTap, Way
from labctl.report.trace_words import end_kind
from labctl.values import dataclass


class PictureHalf(StrEnum):
    """Which half of the picture something stands in. The wire belongs to neither."""

    CLIENT = "client"
    SERVER = "server"
    WIRE = "wire"


class BoxKind(StrEnum):
    """What a box is."""

    DEVICE = "device"
    KERNEL = "kernel"
    PLACE = "place"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle around its middle (`x`, `y`), in pixels."""

    name: str
    kind: BoxKind
    side: PictureHalf
    x: float
    y: float
    width: float
    height: float
    role: Role | None = None
    note: str = ""

    @property
    def top(self) -> float:
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height / 2

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """All boxes of one picture. `kernels` are the stacks of the nodes, which have no tap of their own; `across_y` is
    the height at which a way goes from the client's column to the server's when there is no wire."""

    width: float
    height: float
    places: tuple[Box, ...]
    devices: Mapping[Role, Box]
    kernels: Mapping[PictureHalf, Box]
    across_y: float

    def boxes(self) -> Iterator[Box]:
        yield from self.devices.values()
        yield from self.kernels.values()


DEVICE_WIDTH, DEVICE_HEIGHT = 172.0, 56.0
_COLUMN_X, _OUTER_X = 490.0, 118.0
_NODE_LEFT, _NODE_RIGHT = 16.0, 768.0
_POD_Y, _POD_TOP, _POD_BOTTOM = 84.0, 14.0, 126.0
_POD_WIDTH = 350.0
_ASIDE_FROM_X = 250.0
_NODE_TOP = 162.0
_ROW = 122.0
_FIRST_ROW_Y = 234.0
_WIRE_WIDTH = 292.0
_PORT_WIDTH, _PORT_FROM_MIDDLE = 88.0, 72.0
_WIRE_ABOVE, _WIRE_BELOW = 118.0, 54.0

_ON_THE_WAY = (
    Role.CLIENT_LXC,
    Role.CLIENT_BRIDGE,
    Role.CLIENT_CILIUM_VXLAN,
    Role.CLIENT_CILIUM_GENEVE,
    Role.CLIENT_TUNNEL,
    Role.CLIENT_UPLINK,
)
_ENDS = (Role.CLIENT_ETH0, Role.SERVER_ETH0)
_ASIDE = (Role.CLIENT_CILIUM_HOST, Role.CLIENT_CILIUM_NET, Role.CLIENT_LO)
_TWIN = {
    Role.CLIENT_ETH0: Role.SERVER_ETH0,
    Role.CLIENT_LXC: Role.SERVER_LXC,
    Role.CLIENT_CILIUM_HOST: Role.SERVER_CILIUM_HOST,
    Role.CLIENT_CILIUM_NET: Role.SERVER_CILIUM_NET,
    Role.CLIENT_CILIUM_VXLAN: Role.SERVER_CILIUM_VXLAN,
    Role.CLIENT_CILIUM_GENEVE: Role.SERVER_CILIUM_GENEVE,
    Role.CLIENT_BRIDGE: Role.SERVER_BRIDGE,
    Role.CLIENT_TUNNEL: Role.SERVER_TUNNEL,
    Role.CLIENT_UPLINK: Role.SERVER_UPLINK,
    Role.CLIENT_LO: Role.SERVER_LO,
    Role.CLIENT_BRIDGE_PORT: Role.SERVER_BRIDGE_PORT,
}


_KNOWN = frozenset((*_TWIN, *_TWIN.values()))


def can_be_drawn(trace: Trace) -> bool:
    """Whether the picture has a place for every tap: it is that of a Cilium node."""
    return all(tap.role in _KNOWN for tap in trace.taps)


def topology_of(trace: Trace) -> Topology:
    taps = {tap.role: tap for tap in trace.taps}
    return _same_node(trace, taps) if trace.placement is Placement.SAME_NODE else _cross_node(trace, taps)


def _cross_node(trace: Trace, taps: Mapping[Role, TraceTap]) -> Topology:
    width = 2 * _NODE_RIGHT + _WIRE_WIDTH
    rows = [role for role in _ON_THE_WAY if role in taps or _TWIN[role] in taps]
    heights = {role: _FIRST_ROW_Y + _ROW * number for number, role in enumerate(rows[:-1])}
    kernel_y = _FIRST_ROW_Y + _ROW * len(heights)
    bottom_y = kernel_y + _ROW
    heights |= {Role.CLIENT_ETH0: _POD_Y, rows[-1]: bottom_y}
    heights |= {role: _FIRST_ROW_Y + (bottom_y - _FIRST_ROW_Y) / 2 * number for number, role in enumerate(_ASIDE)}
    devices: dict[Role, Box] = {}
    for role, y in heights.items():
        x = _OUTER_X if role in _ASIDE else _COLUMN_X
        if role in taps:
            devices[role] = _device(taps[role], PictureHalf.CLIENT, x, y)
        if _TWIN[role] in taps:
            devices[_TWIN[role]] = _device(taps[_TWIN[role]], PictureHalf.SERVER, width - x, y)
    middle = width / 2
    for role, side in ((Role.CLIENT_BRIDGE_PORT, -1), (Role.SERVER_BRIDGE_PORT, 1)):
        if role in taps:
            devices[role] = _device(
                taps[role], PictureHalf.WIRE, middle + side * _PORT_FROM_MIDDLE, bottom_y, _PORT_WIDTH
            )
    node_bottom = bottom_y + DEVICE_HEIGHT / 2 + 40
    sides = {box.side for role, box in devices.items() if role not in _ENDS}
    places = (
        *_ends(trace, taps, _COLUMN_X, width - _COLUMN_X),
        *(
            _node(name, side, left, right, node_bottom)
            for name, side, left, right in (
                (trace.client_node, PictureHalf.CLIENT, _NODE_LEFT, _NODE_RIGHT),
                (trace.server_node, PictureHalf.SERVER, width - _NODE_RIGHT, width - _NODE_LEFT),
            )
            if side in sides
        ),
        _place(
            "wire",
            PictureHalf.WIRE,
            middle,
            bottom_y - _WIRE_ABOVE,
            bottom_y + _WIRE_BELOW,
            _WIRE_WIDTH - 16,
            "the underlay",
        ),
    )
    kernels = {
        side: _kernel(side, x, kernel_y)
        for side, x in ((PictureHalf.CLIENT, _COLUMN_X), (PictureHalf.SERVER, width - _COLUMN_X))
        if side in sides
    }
    return Topology(
        width=width, height=node_bottom + 16, places=places, devices=devices, kernels=kernels, across_y=bottom_y
    )


def _same_node(trace: Trace, taps: Mapping[Role, TraceTap]) -> Topology:
    """One node under both pods; what the way does not need stands in one row at the bottom."""
    width = 1320.0
    left, right, across = 330.0, width - 330.0, _FIRST_ROW_Y + 150
    aside_y = across + 150
    placed = {
        Role.CLIENT_ETH0: (PictureHalf.CLIENT, left, _POD_Y),
        Role.CLIENT_LXC: (PictureHalf.CLIENT, left, _FIRST_ROW_Y),
        Role.SERVER_LXC: (PictureHalf.SERVER, right, _FIRST_ROW_Y),
        Role.SERVER_ETH0: (PictureHalf.SERVER, right, _POD_Y),
    }
    aside = [role for role in taps if role not in placed]
    for number, role in enumerate(aside):
        step = (width - _ASIDE_FROM_X - 40) / len(aside)
        placed[role] = (PictureHalf.CLIENT, _ASIDE_FROM_X + step * (number + 0.5), aside_y)
    devices = {role: _device(taps[role], *where) for role, where in placed.items() if role in taps}
    node_bottom = aside_y + DEVICE_HEIGHT / 2 + 40
    places = (
        *_ends(trace, taps, left, right),
        _node(trace.client_node, PictureHalf.CLIENT, _NODE_LEFT, width - _NODE_LEFT, node_bottom),
    )
    kernels = {PictureHalf.CLIENT: _kernel(PictureHalf.CLIENT, _OUTER_X + 12, aside_y)}
    return Topology(
        width=width, height=node_bottom + 16, places=places, devices=devices, kernels=kernels, across_y=across
    )


def _device(tap: TraceTap, side: PictureHalf, x: float, y: float, width: float = DEVICE_WIDTH) -> Box:
    return Box(
        name=tap.device, kind=BoxKind.DEVICE, side=side, x=x, y=y, width=width, height=DEVICE_HEIGHT, role=tap.role
    )


def _kernel(side: PictureHalf, x: float, y: float) -> Box:
    return Box(
        name="kernel stack", kind=BoxKind.KERNEL, side=side, x=x, y=y, width=DEVICE_WIDTH, height=DEVICE_HEIGHT,
        note="routing, netfilter",
    )  # fmt: skip


def _place(name: str, side: PictureHalf, x: float, top: float, bottom: float, width: float, note: str) -> Box:
    middle = (top + bottom) / 2
    return Box(name=name, kind=BoxKind.PLACE, side=side, x=x, y=middle, width=width, height=bottom - top, note=note)


def _ends(trace: Trace, taps: Mapping[Role, TraceTap], left: float, right: float) -> Iterator[Box]:
    """The pods, or the hosts outside; a node that is an end is drawn as a node."""
    for role, name, address, side, x in (
        (Role.CLIENT_ETH0, trace.client, trace.client_address, PictureHalf.CLIENT, left),
        (Role.SERVER_ETH0, trace.server, trace.server_address, PictureHalf.SERVER, right),
    ):
        if role in taps:
            yield _place(name, side, x, _POD_TOP, _POD_BOTTOM, _POD_WIDTH, f"{end_kind(taps[role])}, {address}")


def _node(name: str, side: PictureHalf, left: float, right: float, bottom: float) -> Box:
    return _place(name, side, (left + right) / 2, _NODE_TOP, bottom, right - left, "node")


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
    if start.y == end.y and PictureHalf.WIRE in (start.side, end.side):
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
    away = outwards * (-1 if in_column.side is PictureHalf.CLIENT else 1)
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
