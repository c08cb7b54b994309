"""A trace on the terminal: a sequence diagram, one lane per place, hop by hop down the page, request then reply.

Lanes are on the left, words on the right, so that the same picture holds on 80 and on 140 columns. Where there is no
room for words beside the lanes, one sign stands for them and the words name the place. Colours only repeat what the
words and signs say.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from labctl.model.signature import Role
from labctl.model.trace import Carriage, Hop, PacketPath, Trace, Way
from labctl.report.grid import command_line
from labctl.report.trace_words import (
    NotSeen,
    brought_words,
    different,
    direction_words,
    envelope_lines,
    headline,
    lane_of,
    lanes,
    mac_words,
    movement_words,
    path_title,
    seen_words,
    since_words,
    steps,
    translation_words,
    unshown_words,
    way_words,
)
from labctl.text import cells, filled

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_STYLES = {Way.REQUEST: "bold cyan", Way.REPLY: "bold yellow"}
_NARROW, _BROAD, _SIGN = 7, 14, 2
_NARROW_BELOW = 110
_LEAST_TEXT = 44
"""Columns beside the lanes for `10  lxcb3eacd33433b  out  ttl 63  +12.3 µs` and what moved it."""
_UNBROKEN = "\u00a0"
"""Stands for the spaces of a fact while lines are wrapped: `ttl 63` stays together."""


def trace_view(trace: Trace, *, width: int, said: Callable[[str], str] = str) -> RenderableType:
    """The whole trace, `width` columns wide; nothing is cut. Commands are lines of their own, unbroken. `said`
    translates a text before it is wrapped."""
    from rich.console import Group

    return Group(*_parts(trace, width, said))


def _parts(trace: Trace, width: int, said: Callable[[str], str]) -> Iterator[RenderableType]:
    yield _line(said(_sentence(headline(trace))), "bold red" if trace.wrong is not None else "bold", width)
    yield _line(
        said(
            f"{trace.client} {trace.client_address}{_on(trace, trace.client_node, Role.CLIENT_LXC)} → "
            f"{trace.server} {trace.server_address}{_on(trace, trace.server_node, Role.SERVER_LXC)}, "
            f"{trace.placement}, {trace.protocol}"
        ),
        "",
        width,
    )
    if seen := seen_words(trace):
        yield _line(said(seen), "", width)
    for one in trace.translations:
        yield _line(said(_sentence(translation_words(one))), "", width)
    for path, numbers in different(trace):
        picture = _Picture(trace, path, lane_width=_lane_width(trace, width), width=width, said=said)
        yield ""
        yield from picture.lines()
        if len(numbers) > 1:
            others = ", ".join(str(number) for number in numbers[1:])
            yield _line(said(f"{way_words(path.way)} {others}: the same path"), "dim", width)
    yield ""
    yield from _after(trace, width, said)


def _on(trace: Trace, node: str, lxc: Role) -> str:
    """Where a pod is; nothing of what is on no node, or is one."""
    return f" on {node}" if any(tap.role is lxc for tap in trace.taps) else ""


def _lane_width(trace: Trace, width: int) -> int:
    """Columns of a lane; `_SIGN` where words beside lanes would have no room."""
    if width >= _NARROW_BELOW:
        return _BROAD
    return _NARROW if width - _NARROW * len(lanes(trace)) - 1 >= _LEAST_TEXT else _SIGN


def _after(trace: Trace, width: int, said: Callable[[str], str]) -> Iterator[RenderableType]:
    for text in trace.differences:
        yield _line(said(f"differs: {text}"), "", width)
    if trace.expected_source and trace.differences:
        yield _line(said(f"expected: {trace.expected_source}"), "dim", width)
    for piece in trace.evidence:
        yield _line(said(f"{piece.witness}, {piece.where}: {piece.finding}"), "", width)
        if piece.command:
            yield command_line(piece.command, indent=2, style="dim")
    for note in trace.notes:
        yield _line(said(f"note: {note}"), "", width)
    for one in trace.unshown:
        yield _line(said(f"not shown: {unshown_words(one)}"), "", width)
    yield _line(said(trace.statement), "dim", width)
    if trace.command:
        yield _line(said("by hand:"), "dim", width)
        yield command_line(trace.command, indent=2, style="dim")


class _Picture:
    """One packet's way, as lines: a gutter with the lanes, and what happened there in words. With lanes as narrow as a
    sign all of them are one."""

    def __init__(
        self, trace: Trace, path: PacketPath, *, lane_width: int, width: int, said: Callable[[str], str]
    ) -> None:
        self._trace, self._path, self._said = trace, path, said
        self._is_stacked = lane_width == _SIGN
        self._lanes = () if self._is_stacked else lanes(trace)
        self._lane_width = lane_width
        self._gutter = lane_width * max(len(self._lanes), 1)
        self._text_width = max(width - self._gutter - 1, 1)
        self._style = _STYLES[path.way]

    def lines(self) -> Iterator[Text]:
        titles = "".join(self._title(lane.title) for lane in self._lanes)
        yield from self._block(titles, [path_title(self._path)], self._style, -1)
        kinds = "".join(self._title("" if lane.kind == lane.title else self._said(lane.kind)) for lane in self._lanes)
        if self._lane_width == _BROAD:
            yield self._row(kinds, "", "dim")
        # A packet that no tap has seen yet is nowhere.
        lane, last, number = -1, None, 0
        for step in steps(self._path):
            if isinstance(step, NotSeen):
                where = self._lane_of(step.roles[0])
                yield from self._block(self._idle(lane, {where: "○"}), [self._not_seen(step)], "dim", lane)
                continue
            number += 1
            if last is not None:
                yield from self._moved(step, lane)
            here = self._lane_of(step.role)
            yield from self._hop(step, last, lane, here, number)
            lane, last = here, step
        for movement in self._path.after:
            words = self._said(movement_words(movement, self._trace))
            yield from self._block(self._idle(lane), [f"⇣ {words}"], "", lane)
        if self._path.lost:
            said = f"{'LOST' if self._path.is_sent else 'NOT SENT'}: {self._path.lost}"
            yield from self._block(self._idle(lane, {max(lane, 0): "✗"}), [said], "bold red", -1)
        else:
            yield self._row(self._idle(-1), self._said("arrived"), "dim")

    def _lane_of(self, role: Role) -> int:
        return 0 if self._is_stacked else lane_of(role, self._trace)

    def _moved(self, hop: Hop, lane: int) -> Iterator[Text]:
        if hop.carriage is not Carriage.WIRE or hop.moved_by:
            for words in brought_words(hop, self._trace):
                yield from self._block(self._idle(lane), [f"⇣ {self._said(words)}"], "", lane)

    def _hop(self, hop: Hop, last: Hop | None, lane: int, here: int, number: int) -> Iterator[Text]:
        facts = [
            f"{number}  {self._name(hop.tap)}",
            self._said(direction_words(hop)),
            f"ttl {hop.ttl}",
            since_words(hop),
        ]
        details = []
        if last is not None and (hop.src, hop.dst) != (last.src, last.dst):
            details.append(f"   {hop.src} → {hop.dst}")
        if last is None or (hop.src_mac, hop.dst_mac) != (last.src_mac, last.dst_mac):
            details.append(f"   {mac_words(hop)}")
        if hop.envelope is not None and (last is None or hop.envelope != last.envelope):
            details += [f"   {text}" for text in envelope_lines(hop.envelope)]
        first = "  ".join(fact.replace(" ", _UNBROKEN) for fact in facts if fact)
        yield from self._block(self._arrow(lane, here), [first, *details], self._style, here)

    def _name(self, tap: str) -> str:
        """Narrow lanes leave no room to say again which node or pod it is where the lane says it."""
        part, colon, device = tap.partition(":")
        is_said = self._lane_width == _NARROW and part in {lane.title for lane in self._lanes}
        return device if colon and is_said else tap

    def _not_seen(self, step: NotSeen) -> str:
        return f"not seen at {', '.join(map(self._name, step.taps))}: {step.reason}"

    def _block(self, gutter: str, texts: list[str], style: str, lane: int) -> Iterator[Text]:
        """The first text beside `gutter`, what follows and what is wrapped beside idle lanes."""
        first = True
        for text in texts:
            indent = " " * (len(text) - len(text.lstrip()) + 2)
            for wrapped in _wrapped(self._said(text), self._text_width, indent):
                said = wrapped.replace(_UNBROKEN, " ")
                yield self._row(gutter if first else self._idle(lane), said, style if first else "")
                first = False

    def _row(self, gutter: str, text: str, style: str) -> Text:
        from rich.text import Text

        row = Text(no_wrap=True, overflow="crop")
        row.append(
            gutter + " " * (self._gutter - cells(gutter)), style=style if "●" in gutter or "▶" in gutter else "dim"
        )
        row.append(" ")
        row.append(text, style=style)
        return row

    def _title(self, text: str) -> str:
        room = self._lane_width - 1
        shown = text if cells(text) <= room else text[: room - 1] + "…"
        return shown.center(room - cells(shown) + len(shown)) + " "

    def _middle(self, lane: int) -> int:
        return lane * self._lane_width + (self._lane_width - 1) // 2

    def _idle(self, lane: int, signs: dict[int, str] | None = None) -> str:
        """Every lane's line; `lane` is where the packet is."""
        cells = [" "] * self._gutter
        for number in range(max(len(self._lanes), 1)):
            cells[self._middle(number)] = "┃" if number == lane else "┊"
        for number, sign in (signs or {}).items():
            cells[self._middle(number)] = sign
        return "".join(cells)

    def _arrow(self, start: int, end: int) -> str:
        """The packet comes to lane `end`, from another lane or from nowhere."""
        if start in (-1, end):
            return self._idle(-1, {end: "●"})
        cells = list(self._idle(-1))
        low, high = sorted((self._middle(start), self._middle(end)))
        for column in range(low + 1, high):
            cells[column] = "─"
        is_right = start < end
        cells[self._middle(start)] = "╰" if is_right else "╯"
        cells[self._middle(end)] = "●"
        cells[high - 1 if is_right else low + 1] = "▶" if is_right else "◀"
        return "".join(cells)


def _line(text: str, style: str, width: int) -> Text:
    from rich.text import Text

    wrapped = _wrapped(text, width, "  ", break_long_words=False)
    return Text("\n".join(wrapped), style=style, overflow="fold")


def _wrapped(text: str, width: int, indent: str, *, break_long_words: bool = True) -> list[str]:
    """Lines between words, in Chinese between characters; the second and later ones with the indent."""
    if cells(text) != len(text):
        begin = text[: len(text) - len(text.lstrip())]
        return filled(text.lstrip(), width, indent=begin, more=indent).split("\n")
    return textwrap.wrap(
        text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=break_long_words
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
