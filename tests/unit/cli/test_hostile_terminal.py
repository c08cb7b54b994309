"""No character of what others wrote is obeyed by the terminal of the person who reads it."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from labctl.cli import output
from labctl.cli.progress import Progress
from labctl.cli.streams import ShownStream, write_drawn
from labctl.engine.events import Note, StepStarted, Undoing, Working
from labctl.errors import LabError
from labctl.report.terminal import plain_text
from labctl.text import NEAREST, json_bytes, register, utf8, visible

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
HOSTILE = {
    "a colour": "\x1b[31mred",
    "hidden text": "\x1b[8mhidden",
    "a window title": "\x1b]0;owned\x07",
    "a link": "\x1b]8;;https://example.org\x1b\\here\x1b]8;;\x1b\\",
    "a screen that is cleared": "\x1b[2J\x1b[H",
    "the clipboard": "\x1b]52;c;cm0=\x07",
    "C1": "\x9b31m\x9d0;owned\x9c",
    "a return": "harmless\rother",
    "backspaces": "fail\x08\x08\x08\x08pass",
    "bidi": "user\u202enimda\u202c",
    "isolates": "\u2066a\u2069 \u200e\u200f\u061c",
    "a device that answers": "\x05\x1b[c\x1b[6n",
    "DEL and NUL": "\x7f\x00",
    "bytes of a path that are C1 in UTF-8": "\udcc2\udc9b31m",
    "bytes of a path that turn the text round": "\udce2\udc80\udcae",
    "separators": "a\u2028b\u2029c",
}
Streams = Callable[[], tuple[ShownStream, ShownStream]]
each = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def _bytes_of(stream: ShownStream) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


@pytest.fixture
def streams() -> Iterator[Streams]:
    """Puts stdout and stderr in place as the process has them: called by the test, since pytest puts its own there
    before each."""
    register()
    with pytest.MonkeyPatch.context() as patch:

        def put() -> tuple[ShownStream, ShownStream]:
            out, err = (ShownStream(io.BytesIO(), encoding="utf-8", errors=NEAREST) for _ in range(2))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            return out, err

        yield put


@each
def test_no_way_to_stdout_or_stderr_passes_it_on(text: str, streams: Streams) -> None:
    out, err = streams()
    output.emit(text)
    output.say(text)
    output.pass_on(text)
    output.emit_json({"name": text, text: 1})
    output.show(Text(text), text, Table(text, title=text))
    output.tell(text)
    output.progress(text)
    with Progress() as progress:
        progress(Undoing(lab="a", steps=1, because=text))
        progress(Note(text=text))
        progress(StepStarted(lab="a", id="a", number=1, steps=1, title=text))
    for line in LabError(text, text, text).lines():
        output.tell(line)

    for written in map(_bytes_of, (out, err)):
        assert written
        assert not OBEYED.search(written)


@each
def test_what_python_itself_writes_is_shown_too(text: str, streams: Streams) -> None:
    _, err = streams()
    sys.stderr.write(warnings.formatwarning(text, UserWarning, "x.py", 1, line=""))  # pytest keeps warnings to itself
    logging.StreamHandler(sys.stderr).handle(logging.LogRecord("x", logging.ERROR, "x.py", 1, text, (), None))
    sys.excepthook(ValueError, ValueError(text), None)
    written = _bytes_of(err)

    assert "UserWarning" in written
    assert "ValueError" in written
    assert not OBEYED.search(written)


def test_the_line_that_is_rewritten_moves_the_cursor_by_labctl_s_own_codes_only(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, err = streams()
    monkeypatch.setattr(err, "isatty", lambda: True)
    with Progress() as progress:
        for text in HOSTILE.values():
            progress(StepStarted(lab="a", id="a", number=1, steps=1, title=text))
            progress(Working(lab="a", text=f"one\ntwo {text}", duration_s=None))
    written = _bytes_of(err)

    assert written.count("\r\x1b[K") > 2 * len(HOSTILE)
    assert not OBEYED.search(written.replace("\r\x1b[K", ""))
    assert "\n" not in written


@each
def test_a_table_in_colours_has_labctl_s_own_only(text: str, streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = streams()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    output.show(Text(f"before {text} after", style="red"))
    written = _bytes_of(out)

    assert written.startswith("\x1b[31m")
    assert not OBEYED.search(re.sub(r"\x1b\[(31|0)m", "", written, count=2))


def test_markup_and_signs_of_rich_in_data_are_text(streams: Streams) -> None:
    out, _ = streams()
    marked = "[red]a[/red] [link=https://example.org]b[/link] :smiley:"
    table = Table(marked)
    table.add_row(marked)
    output.show(marked, table)

    assert _bytes_of(out).count(marked) == 3
    assert marked in plain_text(marked, width=100)


def test_text_stays_as_it_is() -> None:
    for text in ("é 精 → µ 👩\u200d👩 \u00ad", "one\n\ttwo\n", "C:\\x1b", ""):
        assert visible(text) == text
    assert visible("one\r\ntwo\x07\r\n") == "one\ntwo\\x07\n"  # as tools on machines end their lines


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_shown_and_shown_the_same_again(text: str) -> None:
    shown = visible(text)

    assert not OBEYED.search(shown)
    assert visible(shown) == shown
    assert not OBEYED.search(utf8(shown).decode())


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_says_the_same_and_has_nothing_to_obey(document: object) -> None:
    written = json_bytes(document)

    assert json.loads(written) == document
    assert not OBEYED.search(written.decode())


def test_a_stream_passes_on_what_was_drawn_for_it(streams: Streams) -> None:
    out, _ = streams()
    write_drawn(out, "\x1b[31mred\x1b[0m")

    assert _bytes_of(out) == "\x1b[31mred\x1b[0m"


@pytest.mark.parametrize(
    "argv",
    [
        ("status", "\x1b[31m\x9d\u202e"),
        ("validate", "\x1b]0;x\x07.yaml"),
        ("\x1b[2J",),
        ("runs", "--\x1b[5m"),
        ("runs", "--runs-dir", "\x1b[31m\x9b5m"),
    ],
)
def test_on_a_terminal_a_command_line_is_answered_without_its_escapes(argv: tuple[str, ...], tmp_path: Path) -> None:
    main, other = pty.openpty()
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-m", "labctl", *argv]
    done = subprocess.Popen(command, stdout=other, stderr=other, cwd=tmp_path, env=environment)
    os.close(other)
    written = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(main)

    assert done.wait(30) in (0, 2, 4)
    assert written
    assert not OBEYED.search(written.decode().replace("\r\n", "\n"))
