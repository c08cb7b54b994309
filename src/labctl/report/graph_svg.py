"""The picture of a lab's graph as SVG, and the page that holds it. Positions only; what is there is `graph`'s.

Rows are the graph's tiers. A row too long for the picture makes the picture wider: a page scrolls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from labctl.language import Language
from labctl.report.graph import Graph, Place, Tier, Wire
from labctl.report.pages import language_tag, page, rendered

_BOX_WIDTH, _LINE, _GAP, _ROW_GAP, _MARGIN = 150, 15, 22, 70, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    left: float
    top: float
    height: float

    @property
    def middle(self) -> float:
        return self.left + _BOX_WIDTH / 2


def graph_file(graph: Graph) -> str:
    """The picture as a file that stands alone."""
    return rendered("graph.svg", drawing=graph_drawing(graph))


def graph_drawing(graph: Graph) -> str:
    """One SVG element."""
    rows = _rows(graph)
    width = max((len(row) * (_BOX_WIDTH + _GAP) + _GAP for row in rows.values()), default=0) + 2 * _MARGIN
    boxes = _placed(rows, width)
    height = max((box.top + box.height for box in boxes.values()), default=0) + _MARGIN
    parts = [f"<title>{escape(graph.title)}</title>"]
    parts += [_wire(graph, wire, boxes) for wire in graph.wires]
    parts += [_place(place, boxes[place.name]) for place in graph.places]
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
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
        drawing=graph_drawing(graph),
    )


def _rows(graph: Graph) -> Mapping[Tier, list[Place]]:
    """Pods in the order of their nodes, so that no wire crosses another one without need."""
    order = {place.name: number for number, place in enumerate(graph.places)}
    node_of = {wire.ends[1]: wire.ends[0] for wire in graph.wires if not wire.is_tunnel}
    rows: dict[Tier, list[Place]] = {}
    for place in graph.places:
        rows.setdefault(place.tier, []).append(place)
    if Tier.POD in rows:
        rows[Tier.POD].sort(key=lambda pod: (order.get(node_of.get(pod.name, ""), 0), order[pod.name]))
    return dict(sorted(rows.items()))


def _placed(rows: Mapping[Tier, list[Place]], width: float) -> dict[str, _Box]:
    boxes: dict[str, _Box] = {}
    top = float(_MARGIN)
    for row in rows.values():
        used = len(row) * (_BOX_WIDTH + _GAP) - _GAP
        left = (width - used) / 2
        height = max((1 + len(place.facts)) * _LINE + 12 for place in row)
        for number, place in enumerate(row):
            boxes[place.name] = _Box(left=left + number * (_BOX_WIDTH + _GAP), top=top, height=height)
        top += height + _ROW_GAP
    return boxes


def _place(place: Place, box: _Box) -> str:
    lines = "".join(
        f'<text class="{"name" if not number else "fact"}" x="{box.middle:g}" y="{box.top + 18 + _LINE * number:g}" '
        f'text-anchor="middle">{escape(text)}</text>'
        for number, text in enumerate((place.name, *place.facts))
    )
    return (
        f'<g class="{escape(place.kind)}"><rect class="box" x="{box.left:g}" y="{box.top:g}" width="{_BOX_WIDTH}" '
        f'height="{box.height:g}" rx="6"/>{lines}</g>'
    )


def _wire(graph: Graph, wire: Wire, boxes: Mapping[str, _Box]) -> str:
    one, other = (boxes[end] for end in wire.ends)
    if one.top == other.top:
        return _beside(graph, wire, one, other)
    above, below = (one, other) if one.top < other.top else (other, one)
    names = wire.devices if one is above else wire.devices[::-1]
    top, bottom = above.top + above.height, below.top
    shift = (below.middle - above.middle) * 0.18
    style = _class(graph, wire)
    path = f'<path class="{style}" d="M{above.middle:g} {top:g}L{below.middle:g} {bottom:g}"/>'
    labels = "".join(
        f'<text class="device" x="{x + 4:g}" y="{y:g}">{escape(name)}</text>'
        for name, x, y in (
            (names[0], above.middle + shift, top + 14),
            (names[1], below.middle - shift, bottom - 6),
        )
        if name
    )
    return path + labels


def _beside(graph: Graph, wire: Wire, one: _Box, other: _Box) -> str:
    """An arc below the row."""
    base = one.top + one.height
    low = base + 26 + abs(other.middle - one.middle) / 12
    middle = (one.middle + other.middle) / 2
    label = wire.says or " – ".join(wire.devices)
    return (
        f'<path class="{_class(graph, wire)}" '
        f'd="M{one.middle:g} {base:g}Q{middle:g} {low:g} {other.middle:g} {base:g}"/>'
        f'<text class="device" x="{middle:g}" y="{(base + low) / 2 + 10:g}" text-anchor="middle">{escape(label)}</text>'
    )


def _class(graph: Graph, wire: Wire) -> str:
    return " ".join(_classes(graph, wire))


def _classes(graph: Graph, wire: Wire) -> Iterator[str]:
    yield "tunnel" if wire.is_tunnel else "line"
    if graph.is_passed(wire):
        yield "passed"
