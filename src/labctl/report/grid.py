"""A table that loses nothing on a narrow terminal: where its columns do not fit, a block per row, a fact after the
other.

The console's own width decides, so that views need not know it. No cell is cut, and no word is broken that fits a line.
A command on a line of its own is never wrapped: a terminal breaks it for the eye, and a person copies it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from labctl.text import breakable
from labctl.values import dataclass

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

_ROOM_FOR_TEXT = 24
"""Columns of a sentence below which it is better read under its row than beside it."""
_INDENT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`is_text` cells are sentences, which wrap between words; any other stands on one line. `note` is what the table's
    head says under the title."""

    title: str = ""
    is_text: bool = False
    is_right: bool = False
    note: str = ""
    note_style: str = ""


class Grid:
    """Rows of as many cells as there are columns; a row of one cell is the title of those after it.

    In the narrow form the first `heads` cells of a row are its head line.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str | Text]],
        *,
        heads: int = 1,
        gap: int = 2,
        has_head: bool = True,
    ) -> None:
        from rich.text import Text

        self._columns = tuple(columns)
        self._rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
        self._heads = heads
        self._gap = gap
        self._has_head = has_head

    def in_language(self, said: Callable[[Text], Text]) -> Grid:
        """The same table with every text in it as `said` gives it."""
        from rich.text import Text

        def word(text: str) -> str:
            return said(Text(text)).plain if text else text

        columns = [replace(one, title=word(one.title), note=word(one.note)) for one in self._columns]
        rows = [[said(cell) for cell in row] for row in self._rows]
        return Grid(columns, rows, heads=self._heads, gap=self._gap, has_head=self._has_head)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        least = [self._least(number) for number in range(len(self._columns))]
        spare = options.max_width - sum(least) - self._gap * (len(least) - 1)
        if spare >= 0:
            yield self._table(self._widths(least, spare))
        else:
            yield from self._stacked(console, options.max_width)

    def _texts(self, number: int) -> Iterator[Text]:
        from rich.text import Text

        column = self._columns[number]
        if self._has_head:
            yield Text("\n".join(part for part in (column.title, column.note) if part))
        yield from (row[number] for row in self._rows if number < len(row))

    def _lines(self, number: int) -> list[str]:
        return [line for text in self._texts(number) for line in text.plain.split("\n")]

    def _whole(self, number: int) -> int:
        """Cells that the column's longest line takes."""
        return max(map(_width, self._lines(number)), default=0)

    def _least(self, number: int) -> int:
        """Cells that the column needs at least."""
        lines = self._lines(number)
        whole = self._whole(number)
        if not self._columns[number].is_text:
            return whole
        words = (word.strip() for line in lines for word in breakable(line))
        return max(min(whole, _ROOM_FOR_TEXT), max(map(_width, words), default=0))

    def _widths(self, least: Sequence[int], spare: int) -> list[int]:
        """What is spare goes to the sentences, in equal parts as far as they can use it."""
        widths = list(least)
        wanted = {number: self._whole(number) - least[number] for number in range(len(least))}
        for left, number in enumerate(sorted(wanted, key=lambda number: wanted[number])):
            more = min(wanted[number], spare // (len(wanted) - left))
            widths[number] += more
            spare -= more
        return widths

    def _table(self, widths: Sequence[int]) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, self._gap, 0, 0), show_header=self._has_head)
        for column, width in zip(self._columns, widths, strict=True):
            head = Text(column.title)
            if column.note:
                head.append(f"\n{column.note}", style=column.note_style)
            table.add_column(
                head,
                justify="right" if column.is_right else "left",
                no_wrap=not column.is_text,
                width=width,
                overflow="fold",
            )
        for row in self._rows:
            table.add_row(*row)
        return table

    def _stacked(self, console: Console, width: int) -> Iterator[RenderableType]:
        yield from self._head(width)
        for row in self._rows:
            if len(row) == 1:
                yield from _lines(console, row[0], width, 0)
                continue
            head = _joined([cell for cell in row[: self._heads] if cell.plain], "  ")
            if " " in head.plain.strip():
                yield from _lines(console, head, width, 0)
            else:  # a name that can be pasted
                head.no_wrap, head.overflow = True, "ignore"
                yield head
            yield from self._facts(console, row, width)

    def _head(self, width: int) -> Iterator[RenderableType]:
        """What the narrow form would have to say again in every block."""
        from rich.text import Text

        if not self._has_head:
            return
        heads = "  ".join(column.title for column in self._columns[: self._heads] if column.title)
        if heads:
            yield Text(heads, overflow="fold")
        for column in self._columns:
            if column.note:
                yield Text(f"{column.title}: {column.note}", style=column.note_style, overflow="fold")

    def _facts(self, console: Console, row: Sequence[Text], width: int) -> Iterator[RenderableType]:
        """`title: value`, as many on a line as fit whole; sentences on lines of their own."""
        from rich.text import Text

        indent = _leading(row[0]) + _INDENT
        line: list[Text] = []
        for column, cell in zip(self._columns[self._heads :], row[self._heads :], strict=True):
            if not cell.plain:
                continue
            title = f"{column.title}: " if column.title and self._has_head else ""
            fact = Text.assemble((title, ""), cell)
            if column.is_text or "\n" in cell.plain:
                yield from _line(console, line, width, indent)
                line = []
                yield from _lines(console, fact, width, indent)
                continue
            if line and _width(_joined([*line, fact], "  ").plain) > width - indent:
                yield from _line(console, line, width, indent)
                line = []
            line.append(fact)
        yield from _line(console, line, width, indent)


def _line(console: Console, facts: Sequence[Text], width: int, indent: int) -> Iterator[RenderableType]:
    if facts:
        yield from _lines(console, _joined(facts, "  "), width, indent)


def _lines(console: Console, text: Text, width: int, indent: int) -> Iterator[RenderableType]:
    """The text wrapped between words, a word that is too long folded; every line with the indent, the second and later
    ones with more."""
    from rich.padding import Padding

    from labctl.report.prose import Prose

    more = indent + _INDENT
    for part in text.split("\n", allow_blank=True):
        part.rstrip()
        own = indent if _width(part.plain) <= width - indent else more
        for number, line in enumerate(Prose.of(part).wrap(console, max(width - own, 1), overflow="fold")):
            line.rstrip()
            yield Padding(line, (0, 0, 0, own if number else indent))


def _joined(texts: Sequence[Text], between: str) -> Text:
    from rich.text import Text

    return Text(between).join(texts)


def _leading(text: Text) -> int:
    return len(text.plain) - len(text.plain.lstrip())


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def command_line(command: str, *, indent: int = 0, prompt: str = "$ ", style: str = "") -> Text:
    """To be printed as it is, not inside a table or a padding: those cut what is wider than the screen."""
    from rich.text import Text

    return Text(f"{' ' * indent}{prompt}{command}", style=style, no_wrap=True, overflow="ignore")
