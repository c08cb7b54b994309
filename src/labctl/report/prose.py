"""Text that wraps between Chinese characters too; Rich takes a Chinese sentence for one long word."""

from __future__ import annotations

from typing import Self

from rich.console import Console, JustifyMethod, OverflowMethod
from rich.containers import Lines
from rich.text import Text

from labctl.text import breaks


class Prose(Text):
    """A Text whose lines end where `labctl.text.breaks` says: between words and between Chinese characters."""

    @classmethod
    def of(cls, text: Text) -> Self:
        """The same text with its styles."""
        prose = cls(text.plain, style=text.style, justify=text.justify, overflow=text.overflow, no_wrap=text.no_wrap)
        prose.end = text.end
        prose.spans = list(text.spans)
        return prose

    def wrap(
        self,
        console: Console,
        width: int,
        *,
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        tab_size: int = 8,
        no_wrap: bool | None = None,
    ) -> Lines:
        """As of any Text: lines of at most that many columns, each with what it is styled with."""
        is_whole = (self.no_wrap if no_wrap is None else no_wrap) or overflow == "ignore"
        justify = justify or self.justify
        lines = Lines()
        for line in self.split(allow_blank=True):
            for part in [line] if is_whole else line.divide(breaks(line.plain, width)):
                if not is_whole:
                    part.rstrip_end(width)
                wrapped = part.wrap(
                    console, width, justify=justify, overflow=overflow, tab_size=tab_size, no_wrap=no_wrap
                )
                lines.extend(wrapped)
        return lines
