"""The door to stdout and stderr: one JSON document, tables, sentences; nothing else in labctl writes to them.

tests/unit/test_doors.py holds that. Names, reasons and tools' words may hold anything, and no character of them is
obeyed (`text.visible`). What is for people is translated here, into the language that `speak` chose
(`labctl.language`); bytes, which are for programs, are not. A reader that goes away (`labctl list | true`) changes no
verdict.
"""

from __future__ import annotations

import contextlib
import io
import locale
import os
import select
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO, cast

import click

from labctl.cli.streams import can_write, line_width, reader_gone, write_drawn
from labctl.errors import LabError
from labctl.language import Language, translator
from labctl.text import filled, json_bytes, visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 100
_SAMPLE = {Language.ENGLISH: "a", Language.CHINESE: "中"}

_spoken = _written = Language.ENGLISH
_doing = ""


def work_on(text: str) -> None:
    """Remembers what is being done or waited for, whether or not it is shown."""
    global _doing
    _doing = text


def worked_on() -> str:
    """What was being done or waited for last; empty before anything was."""
    return _doing


def speak(asked: str | None) -> None:
    """From here on people are spoken to in the language asked for, else in that of the locale, as far as stdout has its
    characters."""
    global _spoken, _written
    _spoken = _written = Language(asked) if asked in list(Language) else locale_language()
    if asked is None and not can_write(_SAMPLE[_spoken]):
        _spoken = Language.ENGLISH


def spoken(*, in_files: bool = False) -> Language:
    """The language that people are spoken to in. Files are UTF-8: they have it also where stdout lacks its signs."""
    return _written if in_files else _spoken


def locale_language() -> Language:
    """Chinese in a Chinese locale, else English."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return Language.CHINESE if locale.normalize(value).lower().startswith("zh") else Language.ENGLISH
    return Language.ENGLISH


def translated(text: str) -> str:
    """The text in the language that people are spoken to in."""
    return translator(_spoken).translated(text)


def emit_json(document: object) -> None:
    """Exactly one JSON document on stdout, in UTF-8."""
    emit(json_bytes(document))


def emit(text: str | bytes, *, nl: bool = True, as_it_is: bool = False) -> None:
    """Text in the lines that it has: what a person may paste or a program may read is never wrapped. `as_it_is`: it is
    in the right language already. Bytes are for programs, and are written in any locale as they are; on a terminal no
    character of them is obeyed either."""
    with _to_stdout():
        if isinstance(text, str):
            text = visible(text if as_it_is else translated(text))
        elif sys.stdout.isatty():
            text = visible(text.decode("utf-8", "backslashreplace")).encode()
        click.echo(text, file=sys.stdout, nl=nl)


def pass_on(text: str) -> None:
    """Text on stdout at once, as it comes. Raises BrokenPipeError when its reader went away."""
    sys.stdout.write(visible(translated(text)))
    sys.stdout.flush()


def tell(text: str) -> None:
    """A line on stderr: an error, a note, progress. A missing reader changes nothing."""
    try:
        click.echo(visible(translated(text)), file=sys.stderr)
    except OSError:
        reader_gone(sys.stderr)


def progress(text: str, *, before: str = "", end: str = "\n") -> bool:
    """A line on stderr behind `before`, which moves the cursor. False when its reader has gone."""
    try:
        write_drawn(sys.stderr, f"{before}{visible(translated(text))}{end}")
        sys.stderr.flush()
    except OSError:
        reader_gone(sys.stderr)
        return False
    return True


@contextlib.contextmanager
def _to_stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        reader_gone()
    except OSError as refused:
        raise _unwritable(refused) from refused


def say(text: str) -> None:
    """A sentence for people, wrapped between words where there is a terminal to wrap for."""
    emit(wrapped(text, sys.stdout))


def wrapped(text: str, stream: TextIO) -> str:
    """The text as it is said on that stream: in lines of its width, as it is where it has none."""
    width = line_width(stream)
    return filled(translated(text), width) if width else translated(text)


def show(*parts: RenderableType) -> None:
    """Tables and other renderables. Commands in them are whole, however long, and no line ends with spaces."""
    from rich.console import Group
    from rich.segment import Segment, Segments

    for part in parts if _spoken is Language.ENGLISH else map(_in_language, parts):
        drawn = io.StringIO()
        terminal = console(drawn)
        pieces = terminal.render(Group(part))  # in a Group a Text keeps what it says about wrapping
        shown = [Segment(visible(piece.text), piece.style) for piece in pieces if not piece.control]
        terminal.print(Segments(shown), crop=False, end="")
        lines = "".join(line.rstrip(" ") + "\n" for line in drawn.getvalue().splitlines())
        with _to_stdout():
            write_drawn(sys.stdout, lines)
            sys.stdout.flush()


def drawn_lines(*parts: RenderableType) -> list[Text]:
    """As `show` would, line by line, for a `Screen`."""
    from rich.text import Text

    lines = []
    for part in parts if _spoken is Language.ENGLISH else map(_in_language, parts):
        drawn = io.StringIO()
        console(drawn).print(part)
        lines += [Text.from_ansi(line.rstrip(" ")) for line in drawn.getvalue().splitlines()]
    return lines


class Screen:
    """A whole terminal that is drawn again and again; `q` on the keyboard ends it."""

    patience_s = 0.5
    """How long a key may wait to be seen."""

    @property
    def width(self) -> int:
        return shutil.get_terminal_size().columns

    @property
    def height(self) -> int:
        return shutil.get_terminal_size().lines

    def draw(self, lines: Sequence[Text]) -> None:
        """Each on a line of its own, cut where the screen ends."""
        from rich.segment import Segment, Segments

        drawn = io.StringIO()
        terminal = console(drawn)
        frame = []
        for line in lines[: self.height]:
            said = line if _spoken is Language.ENGLISH else _text_in_language(line)
            said.truncate(self.width)
            said.no_wrap, said.end = True, ""
            pieces = [Segment(visible(piece.text), piece.style) for piece in terminal.render(said) if not piece.control]
            terminal.print(Segments(pieces), crop=False, end="")
            frame.append(drawn.getvalue().rstrip("\n"))
            drawn.seek(0)
            drawn.truncate()
        write_drawn(sys.stdout, _HOME + f"{_LINE_END}\r\n".join(frame) + _LINE_END + _REST)
        sys.stdout.flush()

    def has_ended(self) -> bool:
        """Whether q was pressed, or the keyboard is gone."""
        if not select.select([sys.stdin], [], [], 0)[0]:
            return False
        keys = os.read(sys.stdin.fileno(), 64)
        return not keys or b"q" in keys.lower()


_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The terminal's other screen without a cursor, and back."""
_HOME, _LINE_END, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


@contextlib.contextmanager
def live_screen() -> Iterator[Screen]:
    """The terminal as one screen, without echo of keys; afterwards it is as it was before."""
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard, termios.TCSANOW)
        write_drawn(sys.stdout, _ENTER)
        yield Screen()
    finally:
        with contextlib.suppress(OSError):
            write_drawn(sys.stdout, _LEAVE)
            sys.stdout.flush()
        termios.tcsetattr(keyboard, termios.TCSANOW, before)


def _in_language(part: RenderableType) -> RenderableType:
    """A renderable with its texts translated. A text whose translation differs keeps the styles of what both have."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from labctl.report.prose import Prose

    if isinstance(part, str):
        return Prose(translated(part))
    if isinstance(part, Text):
        return _text_in_language(part)
    if isinstance(part, Group):
        return Group(*map(_in_language, part.renderables))
    if isinstance(part, Padding):
        part.renderable = _in_language(part.renderable)
    elif isinstance(part, Table):
        for column in part.columns:
            column.header, column.footer = _in_language(column.header), _in_language(column.footer)
            column._cells = [_in_language(cell) for cell in column._cells]
    elif hasattr(part, "in_language"):
        return cast("RenderableType", part.in_language(_text_in_language))  # a Grid
    return part


def _text_in_language(text: Text) -> Text:
    from labctl.report.prose import Prose

    said = translated(text.plain)
    if said == text.plain:
        return Prose.of(text)
    new = Prose(said, style=text.style, justify=text.justify, overflow=text.overflow, no_wrap=text.no_wrap)
    for span in text.spans:
        words = text.plain[span.start : span.end]
        for shown in (words, translated(words)):
            if (start := said.find(shown)) >= 0 and shown:
                new.stylize(span.style, start, start + len(shown))
                break
    return new


def console(drawn: TextIO | None = None) -> Console:
    """A terminal for tables: as wide as the window, 100 columns where there is none.

    What it draws goes into `drawn`, in the colours that stdout has.

    Behind a pipe (`labctl report last | less`) the window is still there, and nothing is wider than it.
    """
    from rich.console import Console

    width = shutil.get_terminal_size((min(WIDTH_WITHOUT_TERMINAL, _window_columns()), 24)).columns
    return Console(
        file=drawn,
        force_terminal=True if sys.stdout.isatty() else None,  # None leaves it to FORCE_COLOR
        width=width,
        highlight=False,
        soft_wrap=False,
        markup=False,
        emoji=False,
    )


def _window_columns() -> int:
    """The width of the window that stderr goes to; without one, as wide as anything."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or WIDTH_WITHOUT_TERMINAL
    except (OSError, ValueError):  # no terminal, or no file at all as under a test's capture
        return WIDTH_WITHOUT_TERMINAL


def _unwritable(refused: OSError) -> LabError:
    """A full disk behind `labctl plan bpf > FILE`. What is still buffered would fail again when the process ends."""
    reader_gone()
    return LabError(
        what="cannot write to stdout",
        cause=refused.strerror or str(refused),
        remedy="df -h .  # or send it elsewhere: labctl … > FILE",
    )
