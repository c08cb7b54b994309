"""Text that leaves labctl. JSON and files are UTF-8 whatever the locale; a stream that cannot show a character gets the
nearest that it can, so that no figure is lost and nothing stops. Knows no streams and no files.

A path may hold bytes that are no text. Python keeps each as a lone surrogate (PEP 383), which no codec writes: JSON
gets it as the escape `\\udcfc`, which is valid and which Python's `json` reads back as the same path; anything else
gets it as `\\xfc`.

A terminal obeys some characters instead of showing them: what is shown to people goes through `visible`.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import unicodedata

NEAREST = "labctl-nearest"
"""The name of the error handler `nearest`, once `register` has been called."""
PLAIN_ASCII = "labctl_ascii"
"""ASCII under another name: click replaces streams that are called ascii by streams of its own in UTF-8."""

_SIGNS = {
    "→": "->", "←": "<-", "↔": "<->", "⇣": "v", "▶": ">", "◀": "<", "─": "-", "┃": "|", "┊": ":", "│": "|", "├": "|",
    "└": "`", "╰": "`", "╯": "'", "●": "*", "○": "o", "✗": "x", "✓": "ok", "–": "-", "—": "-", "−": "-", "…": "...",
    "·": ".", "±": "+-", "≥": ">=", "≤": "<=", "≠": "!=", "≈": "~", "×": "x", "µ": "u", "μ": "u", "“": '"', "”": '"',
    "„": '"', "‘": "'", "’": "'", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
}  # fmt: skip
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal obeys: C0 but newline and tab, DEL, C1, the controls of the bidirectional algorithm (Unicode
Standard Annex 9, table 1) and the two separators that some take for the end of a line."""
_WIDE = "\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60"
_CLOSING = "，。；：？！、）》」』】％"
_BREAKABLE = re.compile(f"[（《「『【]*(?:[{_WIDE}]|[^ {_WIDE}]+)[{_CLOSING}]* *| +")
"""A word, or one Chinese character, with the marks and spaces after it."""
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF
"""The surrogates that stand for the bytes 0x80 to 0xff."""


def json_bytes(document: object, *, indent: int | None = 1, is_compact: bool = False) -> bytes:
    """The document in UTF-8, without a newline at its end. Raises ValueError for numbers that JSON does not know."""
    separators = (",", ":") if is_compact else None
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)
    if _OBEYED.search(text):  # inside a string: json itself writes none of them
        text = _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text.encode("utf-8", "backslashreplace")  # which writes a surrogate as JSON does


def visible(text: str) -> str:
    """The text with every character that a terminal would obey as an escape in ASCII (`\\x1b`, `\\u202e`); newlines and
    tabs stay, and a line may end in CR LF. Doing it twice changes nothing."""
    if not _OBEYED.search(text):
        return text
    return _OBEYED.sub(lambda found: escaped(found[0]), text.replace("\r\n", "\n"))


def cells(text: str) -> int:
    """Columns that a terminal needs for the text: two for each character that East Asian Width calls wide or full."""
    return len(text) + sum(map(_is_wide, text))


def filled(text: str, width: int, *, indent: str = "", more: str = "") -> str:
    """The text in lines of that many columns, broken where `breakable` says. The first line begins with `indent`, the
    others with `more`. A longer word keeps its line."""
    lines, line = [], indent
    for piece in breakable(text.replace("\n", " ")):
        bare = piece.rstrip(" ")
        begins = line in (indent, more) and not line.strip()
        if not begins and cells(line) + cells(bare) > width:
            lines.append(line.rstrip(" "))
            line = more
        line += piece
    return "\n".join((*lines, line.rstrip(" "))) if line.strip() else "\n".join(lines)


def breakable(text: str) -> list[str]:
    """The pieces of one line between which it may be broken: words with the spaces after them, and Chinese characters,
    never before a closing mark."""
    return _BREAKABLE.findall(text)


def breaks(line: str, width: int) -> list[int]:
    """Where to cut a line, as indices, so that no part needs more columns; a longer word is a part of its own."""
    found: list[int] = []
    used, at = 0, 0
    for piece in breakable(line):
        if used and used + cells(piece.rstrip(" ")) > width:
            found.append(at)
            used = 0
        used += cells(piece)
        at += len(piece)
    return found


def _is_wide(sign: str) -> bool:
    return sign > "\u10ff" and unicodedata.east_asian_width(sign) in "WF"


def utf8(text: str) -> bytes:
    """The text as a file holds it."""
    register()
    return text.encode("utf-8", NEAREST)


def register() -> None:
    """Makes `NEAREST` and `PLAIN_ASCII` known to Python's codecs. Doing it twice changes nothing."""
    codecs.register_error(NEAREST, nearest)
    try:
        codecs.lookup(PLAIN_ASCII)
    except LookupError:
        codecs.register(_plain_ascii)


def nearest(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler for encoding: `µs` as `us`, `−21 %` as `-21 %`, `→` as `->`; any other character as an escape
    (`\\xfc`, `\\u7cbe`). Bytes of a path that are text in the stream's own codec, and that no terminal would obey, are
    written as they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    end = error.end
    if _is_byte(error.object[error.start]):
        while end < len(error.object) and _is_byte(error.object[end]):
            end += 1  # some codecs refuse one sign at a time, and a character may be two bytes
    refused = error.object[error.start : end]
    if all(map(_is_byte, refused)):
        as_bytes = bytes(ord(sign) & 0xFF for sign in refused)
        with contextlib.suppress(UnicodeDecodeError):
            if not _OBEYED.search(as_bytes.decode(error.encoding)):
                return as_bytes, end
    return "".join(_SIGNS.get(sign) or escaped(sign) for sign in refused), end


def escaped(sign: str) -> str:
    """One character as an escape in ASCII: `\\n`, `\\u7cbe`; `\\xfc` also for a byte that is no text."""
    return f"\\x{ord(sign) & 0xFF:02x}" if _is_byte(sign) else sign.encode("unicode_escape").decode("ascii")


def _is_byte(sign: str) -> bool:
    return _FIRST_BYTE <= ord(sign) <= _LAST_BYTE


def _plain_ascii(name: str) -> codecs.CodecInfo | None:
    if name != PLAIN_ASCII:
        return None
    ascii_codec = codecs.lookup("ascii")
    return codecs.CodecInfo(
        name=PLAIN_ASCII,
        encode=ascii_codec.encode,
        decode=ascii_codec.decode,
        streamreader=ascii_codec.streamreader,
        streamwriter=ascii_codec.streamwriter,
        incrementalencoder=ascii_codec.incrementalencoder,
        incrementaldecoder=ascii_codec.incrementaldecoder,
    )
