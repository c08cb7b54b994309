"""The picture of a lab's graph as SVG, and the page that holds it. Positions only; what is there is `graph`'s.

Every node has a column of its own, with its pods below it and its devices in it; routers and switches stand above what
hangs on them. Each wire has an end of its own at a part, so that names of devices do not meet. A picture as wide as its
lab: a page scrolls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from html import escape

from markupsafe import Markup

from labctl.language import Language
from labctl.report.graph import Graph, Place, Tier, Wire
from labctl.report.pages import language_tag, page, rendered
from labctl.values import dataclass

_BOX, _LINE, _GAP, _MARGIN = 150, 15, 22, 24
_ROW_GAP, _TUNNEL_ROOM = 78, 34
_LETTER = 5.8
"""How wide a letter of a device's name is, about."""
_PORT = 64
"""Room for the name of a device at the end of a wire."""
_MOST_NAMED = 12
"""Of a part with more wires on one side, the devices have no names in the picture."""
_BESIDE_GAP = 150
"""Between parts of one row that wires join."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.left + self.width / 2

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height


def graph_file(graph: Graph) -> str:
    """The picture as a file that stands alone."""
    return rendered("graph.svg", drawing=graph_drawing(graph))


def graph_drawing(graph: Graph) -> str:
    """One SVG element."""
    boxes = _boxes(graph)
    width = max((box.right for box in boxes.values()), default=0) + _MARGIN
    height = max((box.bottom for box in boxes.values()), default=0) + _MARGIN
    parts = [f"<title>{escape(graph.title)}</title>"]
    parts += _tunnels(graph, boxes)
    parts += _wires(graph, boxes)
    parts += [_place(graph, place, boxes[place.name]) for place in graph.places]
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" class="graph">'
    return Markup(f"{head}{''.join(parts)}</svg>")  # nosec B704  # every text in it was escaped, the rest are numbers


def graph_page(graph: Graph, language: Language = Language.ENGLISH) -> str:
    """The whole page."""
    return page(
        "graph.html",
        language=language_tag(language),
        title=graph.title,
        styles=("report.css", "graph.css"),
        main_class="graph",
        headline=graph.title,
        ways=graph.ways,
        drawing=graph_drawing(graph),
    )


def _boxes(graph: Graph) -> dict[str, _Box]:
    """Columns of nodes and pods first, then from there upwards, each part above the middle of what hangs on it."""
    rows: dict[Tier, list[Place]] = {}
    for place in graph.places:
        rows.setdefault(place.tier, []).append(place)
    heights = {tier: max(_height(place) for place in row) for tier, row in rows.items()}
    tops: dict[Tier, float] = {}
    top = float(_MARGIN)
    has_tunnels = any(wire.is_tunnel for wire in graph.wires)
    for tier in sorted(rows):
        if tier is Tier.NODE and has_tunnels:
            top += _TUNNEL_ROOM
        if tier in (Tier.SPINE, Tier.EDGE) and _has_arcs(graph, rows[tier]):
            top += _TUNNEL_ROOM
        tops[tier] = top
        top += heights[tier] + _ROW_GAP
    boxes = _columns(graph, rows, tops, heights)
    for tier in (Tier.WIRE, Tier.EDGE, Tier.SPINE, Tier.OUTSIDE):
        if tier in rows:
            boxes |= _above(graph, rows[tier], tops[tier], heights[tier], boxes)
    shift = _MARGIN - min((box.left for box in boxes.values()), default=0)
    return {name: replace(box, left=round(box.left + shift)) for name, box in boxes.items()}


def _height(place: Place) -> float:
    return (1 + len(place.facts)) * _LINE + 12 + 22 * len(_device_rows(place))


def _device_rows(place: Place) -> list[list[str]]:
    """As many to a row as a box holds."""
    rows: list[list[str]] = []
    room = 0.0
    for device in place.devices:
        if room < _chip_width(device) or not rows:
            rows.append([])
            room = _BOX - 8
        rows[-1].append(device)
        room -= _chip_width(device) + 6
    return rows


def _chip_width(device: str) -> float:
    return len(device) * _LETTER + 14


def _columns(
    graph: Graph, rows: Mapping[Tier, list[Place]], tops: Mapping[Tier, float], heights: Mapping[Tier, float]
) -> dict[str, _Box]:
    boxes: dict[str, _Box] = {}
    left = 0.0
    below = {wire.ends[1]: wire.ends[0] for wire in graph.wires if not wire.is_tunnel}
    for node in rows.get(Tier.NODE, ()):
        pods = [pod for pod in rows.get(Tier.POD, ()) if below.get(pod.name) == node.name]
        width = max(1, len(pods)) * (_BOX + _GAP) - _GAP
        boxes[node.name] = _Box(left=left, top=tops[Tier.NODE], width=width, height=heights[Tier.NODE])
        for number, pod in enumerate(pods):
            at = left + number * (_BOX + _GAP)
            boxes[pod.name] = _Box(left=at, top=tops[Tier.POD], width=_BOX, height=heights[Tier.POD])
        left += width + _GAP
    return boxes


def _above(graph: Graph, row: list[Place], top: float, height: float, boxes: Mapping[str, _Box]) -> Mapping[str, _Box]:
    """Where the parts of a row stand: the wire of a bridge along all that is on it, others above their middle."""
    if row[0].tier is Tier.WIRE:
        left = min((box.left for box in boxes.values()), default=0)
        right = max((box.right for box in boxes.values()), default=_BOX)
        return {row[0].name: _Box(left=left, top=top, width=right - left, height=height)}
    joined = {place.name: [*_others(graph, place.name)] for place in row}
    names = {place.name for place in row}
    gap = _BESIDE_GAP if any(other in names for others in joined.values() for other in others) else _GAP
    wanted = {}
    for number, place in enumerate(row):
        under = [boxes[other].middle for other in joined[place.name] if other in boxes and boxes[other].top > top]
        wanted[place.name] = sum(under) / len(under) if under else number * (_BOX + gap)
    ordered = sorted(row, key=lambda place: wanted[place.name])
    widths = {place.name: _width(len(joined[place.name])) for place in row}
    found: dict[str, _Box] = {}
    left = float("-inf")
    for place in ordered:
        width = widths[place.name]
        left = max(left, wanted[place.name] - width / 2)
        found[place.name] = _Box(left=left, top=top, width=width, height=height)
        left += width + gap
    # Pushed apart to the right only: back over the middle of what is below.
    off = sum(box.middle - wanted[name] for name, box in found.items()) / len(found)
    return {name: replace(box, left=box.left - off) for name, box in found.items()}


def _width(wires: int) -> float:
    return max(_BOX, wires * _PORT) if wires <= _MOST_NAMED else _BOX


def _others(graph: Graph, name: str) -> Iterator[str]:
    for wire in graph.wires:
        if name in wire.ends and not wire.is_tunnel:
            yield wire.ends[1 - wire.ends.index(name)]


def _has_arcs(graph: Graph, row: Iterable[Place]) -> bool:
    names = {place.name for place in row}
    return len(names) > 2 and any(set(wire.ends) <= names for wire in graph.wires)


def _wires(graph: Graph, boxes: Mapping[str, _Box]) -> Iterator[str]:
    wires = [wire for wire in graph.wires if not wire.is_tunnel]
    ends = {
        (number, end): _port(wires, number, end, boxes)
        for number, wire in enumerate(wires)
        for end in (0, 1)
        if boxes[wire.ends[0]].top != boxes[wire.ends[1]].top
    }
    for number, wire in enumerate(wires):
        if (number, 0) in ends:
            yield _upright(graph, wire, ends[number, 0], ends[number, 1])
        else:
            yield _beside(graph, wire, boxes)


def _port(wires: list[Wire], number: int, end: int, boxes: Mapping[str, _Box]) -> tuple[float, float, bool]:
    """Where that end of the wire meets its part, and whether its device has a name there. The ends on one side of a
    part stand in the order of what they lead to."""
    part = wires[number].ends[end]
    here, there = boxes[part], boxes[wires[number].ends[1 - end]]
    is_below = there.top > here.top
    level = here.bottom if is_below else here.top
    beside = sorted(
        (boxes[wire.ends[1 - wire.ends.index(part)]].middle, other)
        for other, wire in enumerate(wires)
        if part in wire.ends
        and (boxes[wire.ends[1 - wire.ends.index(part)]].top > here.top) == is_below
        and boxes[wire.ends[1 - wire.ends.index(part)]].top != here.top
    )
    is_named = len(beside) <= _MOST_NAMED
    if here.left <= there.left and there.right <= here.right:
        return there.middle, level, is_named  # straight above, or below, all of it
    place = [other for _, other in beside].index(number)
    return here.left + here.width * (place + 1) / (len(beside) + 1), level, is_named


def _upright(graph: Graph, wire: Wire, one: tuple[float, float, bool], other: tuple[float, float, bool]) -> str:
    (x, y, _), (x2, y2, _) = one, other
    path = f'<path class="{_class(graph, wire)}" d="M{x:g} {y:g}L{x2:g} {y2:g}"/>'
    return path + "".join(
        _device(graph, f"{part}:{device}", device, start[0] + _within(end[0] - start[0], 12), _toward(start[1], end[1]))
        for part, device, start, end in zip(wire.ends, wire.devices, (one, other), (other, one), strict=True)
        if device and start[2]
    )


def _within(value: float, most: float) -> float:
    return max(-most, min(most, value * 0.2))


def _toward(start: float, end: float) -> float:
    return start + 17 if end > start else start - 9


def _device(graph: Graph, tap: str, device: str, x: float, y: float) -> str:
    style, text = _named(graph, tap, device)
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="middle">{escape(text)}</text>'


def _named(graph: Graph, tap: str, device: str) -> tuple[str, str]:
    """With the numbers of the packet's way where it was seen there."""
    numbers = graph.numbers(tap)
    if not numbers:
        return "device", device
    return " ".join(("device", "seen")), f"{','.join(map(str, numbers))} · {device}"


def _beside(graph: Graph, wire: Wire, boxes: Mapping[str, _Box]) -> str:
    """Parts of one row: straight between neighbours, else an arc above the row."""
    ends = sorted(zip(wire.ends, wire.devices, strict=True), key=lambda end: boxes[end[0]].left)
    (part, device), (part2, device2) = ends
    left, right = boxes[part], boxes[part2]
    is_next = not any(left.left < box.left < right.left and box.top == left.top for box in boxes.values())
    if is_next:
        y = left.top + left.height / 2
        path = f'<path class="{_class(graph, wire)}" d="M{left.right:g} {y:g}L{right.left:g} {y:g}"/>'
        at = ((left.right + 34, y - 6), (right.left - 34, y + 14))
    else:
        y, high = left.top, left.top - 44
        middle = (left.middle + right.middle) / 2
        path = (
            f'<path class="{_class(graph, wire)}" '
            f'd="M{left.middle:g} {y:g}Q{middle:g} {high - 20:g} {right.middle:g} {y:g}"/>'
        )
        at = ((left.middle + 40, y - 24), (right.middle - 40, y - 24))
    names = zip((f"{part}:{device}", f"{part2}:{device2}"), (device, device2), at, strict=True)
    return path + "".join(_device(graph, tap, name, x, y) for tap, name, (x, y) in names if name)


def _tunnels(graph: Graph, boxes: Mapping[str, _Box]) -> Iterator[str]:
    """One dashed line that all tunnelled nodes hang on: each has a tunnel to each other one."""
    tunnels = [wire for wire in graph.wires if wire.is_tunnel]
    nodes = list(dict.fromkeys(end for wire in tunnels for end in wire.ends))
    if not nodes:
        return
    ends = {name: boxes[name].left + min(26, boxes[name].width / 4) for name in nodes}
    level = boxes[nodes[0]].top - 24
    yield f'<path class="tunnel" d="{_bus(ends, boxes, level)}"/>'
    for wire in tunnels:
        if graph.is_passed(wire):
            of_two = {name: ends[name] for name in wire.ends}
            yield f'<path class="tunnel passed" d="{_bus(of_two, boxes, level)}"/>'
    first = min(ends.values())
    yield f'<text class="device" x="{first + 6:g}" y="{level - 5:g}">{escape(tunnels[0].says)}</text>'


def _bus(ends: Mapping[str, float], boxes: Mapping[str, _Box], level: float) -> str:
    stubs = "".join(f"M{x:g} {boxes[name].top:g}V{level:g}" for name, x in ends.items())
    return f"{stubs}M{min(ends.values()):g} {level:g}H{max(ends.values()):g}"


def _place(graph: Graph, place: Place, box: _Box) -> str:
    lines = "".join(
        f'<text class="{"name" if not number else "fact"}" x="{box.middle:g}" y="{box.top + 18 + _LINE * number:g}" '
        f'text-anchor="middle">{escape(text)}</text>'
        for number, text in enumerate((place.name, *place.facts))
    )
    chips = []
    y = box.top + (1 + len(place.facts)) * _LINE + 10
    for row in _device_rows(place):
        names = [_named(graph, f"{place.name}:{device}", device) for device in row]
        widths = [_chip_width(text) for _, text in names]
        x = box.middle - (sum(widths) + 6 * (len(row) - 1)) / 2
        for (style, text), width in zip(names, widths, strict=True):
            chips.append(
                f'<rect class="chip{" seen" if "seen" in style else ""}" x="{x:g}" y="{y:g}" width="{width:g}" '
                f'height="17" rx="4"/><text class="{style}" x="{x + width / 2:g}" y="{y + 12:g}" '
                f'text-anchor="middle">{escape(text)}</text>'
            )
            x += width + 6
        y += 22
    return (
        f'<g class="{escape(place.kind)}"><rect class="box" x="{box.left:g}" y="{box.top:g}" width="{box.width:g}" '
        f'height="{box.height:g}" rx="6"/>{lines}{"".join(chips)}</g>'
    )


def _class(graph: Graph, wire: Wire) -> str:
    return " ".join(("line", *(("passed",) if graph.is_passed(wire) else ())))
