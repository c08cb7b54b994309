"""The picture of a trace as one SVG: nodes, pods and devices as boxes, request and reply as two ways through them.

Where things stand is `drawing`'s; colours and fonts come from the page's style by class. The request is a solid line
with round numbers, the reply a dashed one with square numbers: nothing depends on colour.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape, unescape

from markupsafe import Markup

from labctl.model.signature import Role
from labctl.model.trace import Carriage, Hop, Movement, Mover, PacketPath, Trace, Way
from labctl.report.drawing.topology import (
    LANE,
    Box,
    BoxKind,
    Leg,
    PictureHalf,
    Topology,
    legs,
    passes_kernel,
    topology_of,
)
from labctl.report.trace_words import HELPERS

_TEXT = re.compile(">([^<>]+)<")
_LINE = 17.0
_GAP = 9.0
_BADGE = 11.0
_HEAD = 11.0


def trace_drawing(trace: Trace, said: Callable[[str], str] = str) -> str:
    """The first request and the first reply of the trace, on the topology of its pair; `said` translates a text."""
    topology = topology_of(trace)
    paths = first_paths(trace)
    ways = [(path, legs(path, topology)) for path in paths]
    title = said(f"The path of {trace.client} → {trace.server} and back")
    parts = [
        *(_place(box) for box in topology.places),
        *(_tunnel(leg) for _, found in ways for leg in found),
        *(_leg(leg) for _, found in ways for leg in found),
        *(_box(box, paths, trace) for box in topology.boxes()),
        *(label for path, found in ways for leg in found for label in _labels(leg, topology)),
        *_envelopes(topology, paths),
        *(_badges(path, topology) for path in paths),
        *(_lost(path, topology) for path in paths if path.lost),
    ]
    drawn = _TEXT.sub(lambda text: f">{escape(said(unescape(text[1])))}<", "".join(parts))
    return Markup(  # nosec B704  # every text in it was escaped, the rest are numbers
        f'<svg class="way" viewBox="0 0 {topology.width:g} {topology.height:g}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{drawn}</svg>'
    )


def first_paths(trace: Trace) -> tuple[PacketPath, ...]:
    """The packet of each way that is drawn: the one that went wrong where one did, else the first."""
    found = []
    for way in Way:
        candidates = trace.of(way)
        wrong = trace.wrong
        chosen = [path for path in candidates if wrong and wrong.way is way and path.number == wrong.number]
        found += (chosen or list(candidates))[:1]
    return tuple(found)


def _place(box: Box) -> str:
    note = f'<tspan class="note" dx="10">{escape(box.note)}</tspan>' if box.note else ""
    return (
        f'<rect class="place {box.side}" x="{box.left:g}" y="{box.top:g}" width="{box.width:g}" '
        f'height="{box.height:g}" rx="10"/>'
        f'<text class="title" x="{box.left + 14:g}" y="{box.top + 24:g}">{escape(box.name)}{note}</text>'
    )


def _box(box: Box, paths: Sequence[PacketPath], trace: Trace) -> str:
    if box.kind is BoxKind.KERNEL:
        is_used = any(passes_kernel(hop) and _side(hop.role) is box.side for path in paths for hop in path.hops)
        is_used |= any(_ended_in(box, path) for path in paths)
        style, second = ("box kernel" if is_used else "box kernel unseen"), box.note if is_used else "not passed"
    else:
        seen = [(path, [hop for hop in path.hops if hop.role is box.role]) for path in paths]
        style = "box" if any(hops for _, hops in seen) else "box unseen"
        second = "   ".join(_ttl(path.way, hops) for path, hops in seen) if style == "box" else "saw nothing"
        # A port of the bridge is small, and changes nothing: the table has its TTL.
        second = "" if box.side is PictureHalf.WIRE else second
        if trace.wrong is not None and trace.wrong.role == str(box.role):
            style += " wrong"
    return (
        f'<rect class="{style}" x="{box.left:g}" y="{box.top:g}" width="{box.width:g}" height="{box.height:g}" rx="6"/>'
        f'<text class="name{" unseen" if "unseen" in style else ""}" x="{box.x:g}" y="{box.y - 4:g}">'
        f'{escape(box.name)}</text><text class="ttl" x="{box.x:g}" y="{box.y + 16:g}">{escape(second)}</text>'
    )


def _ended_in(kernel: Box, path: PacketPath) -> bool:
    """Whether netfilter was the last to see the packet on that side."""
    is_here = bool(path.hops) and _side(path.hops[-1].role) is kernel.side
    return is_here and any(act.mover is Mover.NETFILTER for act in path.after)


def _side(role: Role) -> PictureHalf:
    return PictureHalf.SERVER if role.value.startswith("server") else PictureHalf.CLIENT


def _ttl(way: Way, hops: Sequence[Hop]) -> str:
    """`→ ttl 64`, or a dash for a packet that the device did not see."""
    arrow = "→" if way is Way.REQUEST else "←"
    return f"{arrow} ttl {hops[0].ttl}" if hops else f"{arrow} –"


def _leg(leg: Leg) -> str:
    points = _trimmed(leg)
    (x0, y0), (x1, y1) = points[-2], points[-1]
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    back, half = _HEAD, _HEAD * 0.55
    base = (x1 - dx * back, y1 - dy * back)
    corners = ((x1, y1), (base[0] - dy * half, base[1] - dx * half), (base[0] + dy * half, base[1] + dx * half))
    head = f"{_path(corners)}Z"
    line = [*points[:-1], (x1 - dx * back * 0.7, y1 - dy * back * 0.7)]
    return f'<path class="leg {leg.way}" d="{_path(line)}"/><path class="head {leg.way}" d="{head}"/>'


def _tunnel(leg: Leg) -> str:
    """The envelope around the way, as long as it is on the wire side of the vxlan devices."""
    if leg.hop.envelope is None or leg.hop.carriage is Carriage.TUNNEL:
        return ""
    return f'<path class="tunnel" d="{_path(leg.points)}"/>'


def _trimmed(leg: Leg) -> list[tuple[float, float]]:
    """The leg without what the boxes at its ends cover."""
    points = list(leg.points)
    points[0] = _at_edge(points[0], points[1], leg.start)
    points[-1] = _at_edge(points[-1], points[-2], leg.end)
    return points


def _at_edge(inside: tuple[float, float], towards: tuple[float, float], box: Box) -> tuple[float, float]:
    (x, y), (to_x, to_y) = inside, towards
    if x == to_x:
        return x, (box.bottom + 1 if to_y > y else box.top - 1)
    return (box.right + 1 if to_x > x else box.left - 1), y


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _labels(leg: Leg, topology: Topology) -> Iterator[str]:
    """What moved the packet, beside the leg: the program and its helper, and the netfilter hooks beside the stack."""
    acts = leg.hop.moved_by
    stack = [number for number, act in enumerate(acts) if act.mover is Mover.NETFILTER]
    outer = leg.way is Way.REQUEST
    before, after = (acts[: stack[0]], acts[stack[-1] + 1 :]) if stack else (acts, ())
    if leg.start.side is PictureHalf.WIRE and leg.end.side is PictureHalf.WIRE:
        yield from _through(leg, topology)
        return
    for part, is_end in ((before, False), (after, True)):
        lines = [line for act in part for line in _act_lines(act)]
        if lines:
            yield _beside(leg, topology, lines, outer=outer, is_end=is_end)
    hooks = list(dict.fromkeys(act.what for act in leg.hop.moved_by if act.mover is Mover.NETFILTER))
    kernel = topology.kernels.get(leg.start.side)
    if hooks and kernel is not None and passes_kernel(leg.hop):
        away = _away(leg.start.side, outer=outer)
        lines = [*hooks, *(["outer packet only"] if leg.hop.carriage is Carriage.TUNNEL else [])]
        yield _text_block(kernel.x + away * (kernel.width / 2 + _BADGE), kernel.y, lines, away, leg.way)


def _through(leg: Leg, topology: Topology) -> Iterator[str]:
    """A packet that came from port to port by way of a node that is not in the picture."""
    nodes = list(dict.fromkeys(act.node for act in leg.hop.moved_by))
    wire = next(box for box in topology.places if box.side is PictureHalf.WIRE)
    if nodes:
        y = wire.bottom - 12 - (0 if leg.way is Way.REQUEST else _LINE)
        yield _text_block(wire.x, y, [f"through {', '.join(nodes)}"], 0, leg.way)


def _act_lines(act: Movement) -> tuple[str, ...]:
    """The program, then what it did; nothing for one that let the packet pass."""
    if act.mover is not Mover.PROGRAM or act.helper in ("", "pass"):
        return ()
    return (act.what, *HELPERS.get(act.helper, act.helper).split(", "))


def _beside(leg: Leg, topology: Topology, lines: Sequence[str], *, outer: bool, is_end: bool) -> str:
    """Lines at the beginning of the leg, or at its end; at what it goes round where it does."""
    points = _trimmed(leg)[::-1] if is_end else _trimmed(leg)
    longest = max(itertools.pairwise(points), key=lambda pair: _length(*pair))
    is_across = leg.start.side is not leg.end.side and longest[0][1] == longest[1][1] and PictureHalf.WIRE not in (
        leg.start.side, leg.end.side
    )  # fmt: skip
    if is_across:
        y = topology.across_y + (LANE + _LINE if outer else -LANE - _LINE * (len(lines) - 1) - 14)
        return _text_block((points[0][0] + points[-1][0]) / 2, y + _LINE * (len(lines) - 1) / 2, lines, 0, leg.way)
    side = leg.end.side if leg.is_around or is_end else leg.start.side
    away = _away(side, outer=outer)
    if leg.is_around:
        vertical = [pair for pair in itertools.pairwise(points) if pair[0][0] == pair[1][0]]
        (x, y0), (_, y1) = max(vertical, key=lambda pair: away * pair[0][0])
        return _text_block(x + away * _GAP, (y0 + y1) / 2, lines, away, leg.way)
    (x, y0), (_, y1) = points[0], points[1]
    reach = 68.0
    y1 = y0 + (reach if y1 > y0 else -reach) if abs(y1 - y0) > reach else y1
    return _text_block(x + away * _GAP, (y0 + y1) / 2, lines, away, leg.way)


def _length(start: tuple[float, float], end: tuple[float, float]) -> float:
    return abs(start[0] - end[0]) + abs(start[1] - end[1])


def _away(side: PictureHalf, *, outer: bool) -> int:
    """-1: to the left of the column, 1: to the right."""
    return (-1 if side is PictureHalf.CLIENT else 1) * (1 if outer else -1)


def _text_block(x: float, y: float, lines: Sequence[str], away: int, way: Way) -> str:
    """Lines of text around the height `y`; beginning, ending or centred at `x`."""
    anchor = {-1: "end", 0: "middle", 1: "start"}[away]
    first = y - _LINE * (len(lines) - 1) / 2 + 5
    spans = "".join(
        f'<tspan x="{x:g}" y="{first + _LINE * number:g}">{escape(line)}</tspan>' for number, line in enumerate(lines)
    )
    return f'<text class="act {way}" text-anchor="{anchor}">{spans}</text>'


def _envelopes(topology: Topology, paths: Iterable[PacketPath]) -> Iterator[str]:
    wire = next((box for box in topology.places if box.side is PictureHalf.WIRE), None)
    if wire is None:
        return
    for number, path in enumerate(paths):
        envelope = next((hop.envelope for hop in path.hops if hop.envelope is not None), None)
        if envelope is not None:
            arrow = "→" if path.way is Way.REQUEST else "←"
            pods = f" ({', '.join(envelope.identity_pods)})" if envelope.identity_pods else ""
            text = f"{arrow} VNI {envelope.vni}{pods}"
            yield (
                f'<text class="act {path.way}" x="{wire.left + 14:g}" y="{wire.top + 46 + _LINE * number:g}">'
                f"{escape(text)}</text>"
            )


def _badges(path: PacketPath, topology: Topology) -> str:
    """The number of each sighting at the edge of its box: at the outer side for the request, at the inner for the
    reply. The same numbers stand in the table."""
    found = []
    placed: dict[Role, int] = {}
    for number, hop in enumerate(path.hops, start=1):
        box = topology.devices.get(hop.role)
        if box is None:
            continue
        repeat = placed[hop.role] = placed.get(hop.role, -1) + 1
        is_request = path.way is Way.REQUEST
        if box.side is PictureHalf.WIRE:
            x, y = box.x + repeat * 26, box.bottom if is_request else box.top
        else:
            away = _away(box.side, outer=is_request)
            x, y = (box.right if away > 0 else box.left) + away * repeat * 26, box.y
        mark = (
            f'<circle class="badge {path.way}" cx="{x:g}" cy="{y:g}" r="{_BADGE:g}"/>'
            if is_request
            else f'<rect class="badge {path.way}" x="{x - _BADGE + 1:g}" y="{y - _BADGE + 1:g}" '
            f'width="{2 * _BADGE - 2:g}" height="{2 * _BADGE - 2:g}" rx="3"/>'
        )
        found.append(f'{mark}<text class="number" x="{x:g}" y="{y + 4.5:g}">{number}</text>')
    return "".join(found)


def _lost(path: PacketPath, topology: Topology) -> str:
    """A cross where the packet was last seen."""
    box = next((topology.devices[hop.role] for hop in reversed(path.hops) if hop.role in topology.devices), None)
    box = box or topology.devices[Role.CLIENT_ETH0 if path.way is Way.REQUEST else Role.SERVER_ETH0]
    x, y, size = box.x, box.bottom + 30, 9
    cross = f"M{x - size:g} {y - size:g}l{2 * size} {2 * size}M{x + size:g} {y - size:g}l-{2 * size} {2 * size}"
    said = "lost after here" if path.is_sent else "not sent from here"
    if path.after:
        last = path.after[-1]
        said += f": {last.what} {HELPERS.get(last.helper, last.helper)}".rstrip()
    return f'<path class="lost" d="{cross}"/><text class="lost" x="{x + 18:g}" y="{y + 5:g}">{escape(said)}</text>'
