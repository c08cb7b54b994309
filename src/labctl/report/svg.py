"""The drawings of the HTML report as SVG: samples, paired changes, and the interval of one row. Positions only.

Colours come from the page's style by class, so that light, dark and print each have their own. Side A is a round mark
and side B a square one: nothing depends on colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from labctl import units
from labctl.values import dataclass

WIDTH, HEIGHT = 360, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 18, 24
_LETTER = 6.5
"""Pixels of a letter of a name, about."""
_FOREST_WIDTH, _FOREST_HEIGHT, _AXIS_HEIGHT = 220, 22, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A mark: `x` in blocks (a fraction tells the order inside a block), `y` in the unit of the drawing."""

    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """Maps a range of values to a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        clipped = min(max(value, self.low), self.high)
        return round(self.start + (clipped - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def samples_drawing(
    a: Sequence[Point],
    b: Sequence[Point],
    medians: tuple[float, float],
    unit: str,
    title: str,
    block_word: str = "block",
) -> str:
    """Both sides' samples in the order of the runs, with a line at each median. Values in the base unit `unit`."""
    values = [point.y for point in (*a, *b)]
    axis = _vertical(values)
    blocks = _horizontal([point.x for point in (*a, *b)])
    scale = units.scale_for(unit, values)
    return _svg(
        title,
        *_value_ticks(axis, scale.size, scale.symbol),
        *_block_ticks(blocks, block_word),
        _line("median a", blocks.start, axis.at(medians[0]), blocks.end, axis.at(medians[0])),
        _line("median b", blocks.start, axis.at(medians[1]), blocks.end, axis.at(medians[1])),
        _marks("a", a, blocks, axis),
        _marks("b", b, blocks, axis),
    )


def changes_drawing(
    changes: Sequence[Point],
    estimate: float,
    interval: tuple[float, float],
    margin: float | None,
    title: str,
    block_word: str = "block",
) -> str:
    """The change of each block (relative) with the estimate, its interval, zero, and the margin as a shaded band
    between dotted lines."""
    ends = (-margin / (1 + margin), margin) if margin is not None else (0.0, 0.0)
    axis = _vertical([*(point.y for point in changes), *interval, *ends, 0.0])
    blocks = _horizontal([point.x for point in changes])
    parts = []
    if margin is not None:
        parts.append(_band("margin", blocks, axis.at(ends[1]), axis.at(ends[0])))
    parts.append(_band("interval", blocks, axis.at(interval[1]), axis.at(interval[0])))
    return _svg(
        title,
        *parts,
        *_value_ticks(axis, units.PERCENT, "%", signed=True),
        *_block_ticks(blocks, block_word),
        *(_line("edge", blocks.start, axis.at(end), blocks.end, axis.at(end)) for end in ends if margin is not None),
        _line("zero", blocks.start, axis.at(0.0), blocks.end, axis.at(0.0)),
        _line("estimate", blocks.start, axis.at(estimate), blocks.end, axis.at(estimate)),
        _marks("d", changes, blocks, axis),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One place of a curve: what it is called, and the change there with its interval (relative); None: none was
    found."""

    name: str
    change: tuple[float, float, float] | None


def curve_drawing(stations: Sequence[Station], margin: float | None, title: str) -> str:
    """The changes at every station, in their order and equally far apart, with intervals, zero and the margin. A line
    joins neighbours that both have one."""
    found = [one.change for one in stations if one.change is not None]
    ends = (-margin / (1 + margin), margin) if margin is not None else (0.0, 0.0)
    axis = _vertical([*(value for change in found for value in change), *ends, 0.0])
    along = _Axis(low=-0.5, high=len(stations) - 0.5, start=_LEFT, end=WIDTH - _RIGHT)
    parts = [_band("margin", along, axis.at(ends[1]), axis.at(ends[0]))] if margin is not None else []
    parts += _value_ticks(axis, units.PERCENT, "%", signed=True)
    parts.append(_line("zero", along.start, axis.at(0.0), along.end, axis.at(0.0)))
    room = max(4, round((along.end - along.start) / len(stations) / _LETTER))
    before: tuple[float, float] | None = None
    for number, one in enumerate(stations):
        x = along.at(number)
        short = one.name if len(one.name) <= room else f"{one.name[: room - 1]}…"
        parts.append(f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="middle">{escape(short)}</text>')
        at = None
        if one.change is not None:
            estimate, low, high = one.change
            at = x, axis.at(estimate)
            parts.append(_line("whisker", x, axis.at(low), x, axis.at(high)))
            parts += [_line("whisker", x - 4, axis.at(end), x + 4, axis.at(end)) for end in (low, high)]
            parts.append(f'<circle class="centre" cx="{x}" cy="{at[1]}" r="4"/>')
            if before is not None:
                parts.append(_line("estimate", *before, *at))
        before = at
    return _svg(title, *parts)


def axis_drawing(reach: float, lower: str, higher: str) -> str:
    """The axis of a forest plot from −reach to +reach (relative), with what its two directions mean."""
    axis = _forest_axis(reach)
    rough = reach * 0.8
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(factor * power for factor in (1, 2, 5) if factor * power <= rough)
    parts = [
        f'<text x="2" y="11">{escape(lower)}</text>',
        f'<text x="{_FOREST_WIDTH - 2}" y="11" text-anchor="end">{escape(higher)}</text>',
    ]
    for value in (-step, 0.0, step):
        text = units.percent(value, signed=True) if value else "0"
        parts.append(f'<text x="{axis.at(value)}" y="25" text-anchor="middle">{escape(text)}</text>')
        parts.append(_line("zero" if value == 0 else "tick", axis.at(value), 28, axis.at(value), _AXIS_HEIGHT))
    return Markup(  # nosec B704  # every text in it was escaped, the rest are numbers
        f'<svg class="forest axis" viewBox="0 0 {_FOREST_WIDTH} {_AXIS_HEIGHT}" role="img">'
        f"<title>{escape(f'{lower} · {higher}')}</title>{''.join(parts)}</svg>"
    )


def interval_drawing(
    estimate: float, low: float, high: float, margin: float | None, reach: float, title: str, style: str = ""
) -> str:
    """One row of a forest plot from −reach to +reach (relative): estimate, interval, zero and margin.

    An end beyond the axis is an arrow. `style` is the verdict's word, for the colour.
    """
    axis = _forest_axis(reach)
    middle = _FOREST_HEIGHT / 2
    parts = []
    if margin is not None:
        left, right = axis.at(-margin / (1 + margin)), axis.at(margin)
        parts.append(
            f'<rect class="margin" x="{left}" y="0" width="{round(right - left, 1)}" height="{_FOREST_HEIGHT}"/>'
        )
    parts.append(_line("zero", axis.at(0), 0, axis.at(0), _FOREST_HEIGHT))
    parts.append(_line("whisker", axis.at(low), middle, axis.at(high), middle))
    for end in (low, high):
        x = axis.at(end)
        if abs(end) <= reach:
            parts.append(_line("whisker", x, middle - 4, x, middle + 4))
        else:
            back = 5 if end < 0 else -5
            parts.append(f'<path class="whisker" d="M{x + back} {middle - 4}L{x} {middle}L{x + back} {middle + 4}"/>')
    if abs(estimate) <= reach:
        parts.append(f'<circle class="centre" cx="{axis.at(estimate)}" cy="{middle}" r="4"/>')
    return Markup(  # nosec B704  # every text in it was escaped, the rest are numbers
        f'<svg class="forest {escape(style)}" viewBox="0 0 {_FOREST_WIDTH} {_FOREST_HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _forest_axis(reach: float) -> _Axis:
    return _Axis(low=-reach, high=reach, start=8, end=_FOREST_WIDTH - 8)


def _svg(title: str, *parts: str) -> str:
    drawn = "".join(parts)
    return Markup(  # nosec B704  # every text in it was escaped, the rest are numbers
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>{drawn}</svg>'
    )


def _vertical(values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    bottom = max(0.0, low - room) if low >= 0 else low - room
    return _Axis(low=bottom, high=high + room, start=HEIGHT - _BOTTOM, end=_TOP)


def _horizontal(blocks: Sequence[float]) -> _Axis:
    return _Axis(low=min(blocks) - 0.5, high=max(blocks) + 0.5, start=_LEFT, end=WIDTH - _RIGHT)


def _value_ticks(axis: _Axis, size: float, symbol: str, *, signed: bool = False) -> list[str]:
    """Round values of the unit that is `size` of the base unit, with its symbol once, at the top."""
    values = _round_values(axis.low / size, axis.high / size)
    step = values[1] - values[0] if len(values) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    parts = [f'<text x="2" y="{_TOP - 7}">{escape(symbol)}</text>']
    for value in values:
        y = axis.at(value * size)
        number = f"{value:{'+' if signed and value else ''}.{decimals}f}".replace("-", "−")
        parts.append(_line("grid", _LEFT, y, WIDTH - _RIGHT, y))
        parts.append(f'<text x="{_LEFT - 5}" y="{round(y + 3.5, 1)}" text-anchor="end">{number}</text>')
    return parts


def _block_ticks(axis: _Axis, word: str) -> list[str]:
    first, last = math.ceil(axis.low), math.floor(axis.high)
    step = max(1, math.ceil((last - first + 1) / 10))
    y = HEIGHT - 8
    return [
        f'<text x="2" y="{y}">{escape(word)}</text>',
        *_numbers(first, last, step, axis, y),
    ]


def _numbers(first: int, last: int, step: int, axis: _Axis, y: int) -> list[str]:
    return [
        f'<text x="{axis.at(block)}" y="{y}" text-anchor="middle">{block}</text>'
        for block in range(first, last + 1)
        if (block - first) % step == 0
    ]


def _round_values(low: float, high: float) -> list[float]:
    """Three to six round values (1, 2 or 5 times a power of ten apart) inside the range."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 15) for number in range(first, math.floor(high / step) + 1)]


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="{name}" d="M{x1} {y1}L{x2} {y2}"/>'


def _band(name: str, blocks: _Axis, top: float, bottom: float) -> str:
    width, height = round(blocks.end - blocks.start, 1), round(bottom - top, 1)
    return f'<rect class="{name}" x="{blocks.start}" y="{top}" width="{width}" height="{height}"/>'


def _marks(name: str, points: Sequence[Point], blocks: _Axis, axis: _Axis) -> str:
    """All marks as one path of very short strokes: a few bytes a sample; the line's cap makes them round or square.

    Not of length zero: a square cap has no direction then, and printers leave the mark out.
    """
    path = "".join(f"M{blocks.at(point.x)} {axis.at(point.y)}h.01" for point in points)
    return f'<path class="mark {name}" d="{path}"/>'
