"""The standard streams: that they are open, in which codec they write, and readers that go away.

A process runs in Python's UTF-8 mode, so that every path, argument and environment variable is the bytes that it was,
whatever the locale; what a person reads is in the locale's codec. A character that this codec lacks becomes the nearest
that it has (`labctl.text`). JSON and files do not come by here: they are UTF-8.

Nothing that a person reads is obeyed by the terminal: whatever writes to stdout or stderr, even Python itself with a
warning or a traceback, the stream shows control characters as escapes. Colours and the movements of the progress line,
which are labctl's own, go through `write_drawn`. `labctl exec` becomes the program that it runs, whose output is that
program's own.
"""

from __future__ import annotations

import codecs
import io
import locale
import os
import shutil
import sys
from pathlib import Path
from typing import TextIO

from labctl.text import NEAREST, PLAIN_ASCII, register, visible


class ShownStream(io.TextIOWrapper):
    """A text stream that shows every character, and obeys none. Bytes for programs go to its `buffer`."""

    def write(self, text: str) -> int:
        return super().write(visible(text))

    def write_drawn(self, text: str) -> int:
        return super().write(text)


def write_drawn(stream: TextIO, text: str) -> None:
    """Writes text whose control characters are labctl's own: everything from elsewhere in it went through `visible`."""
    if isinstance(stream, ShownStream):
        stream.write_drawn(text)
    else:
        stream.write(text)


def enter_utf8_mode() -> None:
    """Starts this process again where Python took another codec for paths and arguments (`zh_CN.GBK`; `LC_ALL=C` with
    PYTHONUTF8=0): it cannot be changed in a process that runs. The launcher says so from the beginning."""
    if sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    argv = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]  # as they are: not every codec gives them back
    os.execv(sys.executable, [os.fsencode(sys.executable), b"-X", b"utf8", *argv[1:]])


def open_standard_streams() -> None:
    """Puts /dev/null where the caller closed stdin, stdout or stderr (`labctl up bpf 2>&-`), so that no socket of ours
    gets that number and with it another library's output; then has stdout and stderr write any text."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            assert opened == number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    register()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # Python's own, and not what a test put in its place
            codec, by_line = _codec(stream.encoding), stream.line_buffering
            shown = ShownStream(stream.detach(), encoding=codec, errors=NEAREST, line_buffering=by_line)
            setattr(sys, name, shown)
            setattr(sys, f"__{name}__", shown)


def _codec(given: str) -> str:
    """What PYTHONIOENCODING says, else the locale's codec. In the locale C (and one that does not exist) that is UTF-8,
    as in all of Python (PEP 540), unless PYTHONUTF8=0 says otherwise."""
    wanted, encoding = os.environ.get("PYTHONUTF8"), given
    if not os.environ.get("PYTHONIOENCODING", "").partition(":")[0] and wanted != "1":
        is_c = locale.setlocale(locale.LC_CTYPE) in ("C", "POSIX")
        encoding = "utf-8" if is_c and wanted != "0" else locale.getencoding()
    try:
        name = codecs.lookup(encoding).name
    except LookupError:  # a codec that the C library has and Python has not
        name = "ascii"
    return PLAIN_ASCII if name == "ascii" else name


def line_width(stream: TextIO) -> int:
    """Columns of a sentence on that stream: the terminal's, or COLUMNS. 0 where there is none: what a
    program reads is a line each."""
    return shutil.get_terminal_size().columns if stream.isatty() else 0


def can_write(text: str) -> bool:
    """Whether stdout shows the text as it is."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def reader_gone(stream: TextIO | None = None) -> None:
    """From here on what is written to stdout (or the stream) goes nowhere; the command continues to its exit
    code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())
