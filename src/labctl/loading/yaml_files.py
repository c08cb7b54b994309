"""A YAML file → a tree of values with places. Strict: YAML 1.2 core values, no tags, one document, no key twice.

The file may be anything: a link, a pipe, a device, 100 MB, binary, another encoding, or another user's. Before
anything is parsed it is judged whether root may trust it (docs/security.md, "Files that decide what root
does"), and whether it is labctl's at all: of one that is not, nothing is quoted, since it may hold
secrets.

PyYAML's C parser gives events with their marks; composing, and deciding what a plain scalar is, is done here, because
PyYAML's own rules are those of YAML 1.1 (where `no` is false) and forget places. Aliases are expanded by reference and
counted, so a file that would explode is refused before anything grows. What is wrong with a text that is not YAML
follows from the kind of the parser's error and by what stands at its marks, never by its words, which change from one
version to the next and from the C parser to the one in Python.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from labctl.errors import Problem, UsageError
from labctl.loading.messages import path_text, shown
from labctl.loading.tree import Block, Entry, KeyPath, Listing, Place, Plain, Scalar, Tree
from labctl.system.files import Folder, Untrusted, open_folder, why_untrusted_folder

DEEPEST = 32
MOST_VALUES = 100_000
MOST_PROBLEMS = 100

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# The core schema, https://yaml.org/spec/1.2.2/#1032-tag-resolution
_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LONGEST_NUMBER = 40
_NOT_ALWAYS_TEXT = frozenset("~nNtTfF+-.0123456789")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff]")

_OPENS = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken)
_CLOSES = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)


class _Stop(Exception):
    """The rest of the text cannot be trusted; what was found so far stands."""


class _TooMuch(_Stop):
    """The text goes beyond a limit of ours."""


@dataclass(slots=True)
class _Composer:
    """Builds the tree of one document. `start` is where the text stands, for a value given by `--set`."""

    start: Place
    is_one_line: bool = False
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, tuple[Tree, int]] = field(default_factory=dict)
    open_anchors: set[str] = field(default_factory=set)
    count: int = 0

    def place(self, mark: Any) -> Place:
        if self.is_one_line:
            return Place(self.start.file, self.start.line, self.start.column + mark.index)
        line, column = mark.line, mark.column
        return Place(self.start.file, self.start.line + line, column + (self.start.column if line == 0 else 1))

    def tell(self, place: Place, path: KeyPath, message: str, allowed: str = "") -> None:
        self.problems.append(
            Problem(
                file=place.file,
                line=place.line,
                column=place.column,
                path=path_text(path),
                message=message,
                allowed=allowed,
            )
        )
        if len(self.problems) >= MOST_PROBLEMS:
            raise _Stop

    def too_much(self, place: Place, message: str) -> _TooMuch:
        self.tell(place, (), message)
        return _TooMuch()

    def stop(self, place: Place, path: KeyPath, message: str, allowed: str = "") -> _Stop:
        self.tell(place, path, message, allowed)
        return _Stop()

    def document(self, events: Iterator[Any]) -> Tree | None:
        tree: Tree | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                place = self.place(event.start_mark)
                if tree is not None:
                    raise self.stop(place, (), "a second document begins here", "one document in a file")
                if event.version or event.tags:
                    self.tell(place, (), "directives (%YAML, %TAG) are not supported")
            elif isinstance(event, yaml.NodeEvent):
                tree = self.value(event, events, ())
        return tree

    def value(self, event: Any, events: Iterator[Any], path: KeyPath) -> Tree:
        place = self.place(event.start_mark)
        if len(path) > DEEPEST:
            raise self.too_much(place, f"values are nested more than {DEEPEST} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, place, path)
        anchor = event.anchor
        before = self.count
        self.grow(1, place)
        if event.tag is not None and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.tell(place, path, f"the tag {shown(tag)} is not supported", "values without tags")
        if anchor is not None:
            self.open_anchors.add(anchor)
        tree: Tree
        if isinstance(event, yaml.ScalarEvent):
            tree = self.scalar(event, place, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            tree = Listing(self.items(events, path), place)
        else:
            tree = Block(self.entries(events, path), place)
        if anchor is not None:
            self.open_anchors.discard(anchor)
            self.anchors[anchor] = tree, self.count - before
        return tree

    def grow(self, count: int, place: Place) -> None:
        self.count += count
        if self.count > MOST_VALUES:
            raise self.too_much(place, f"the file has more than {MOST_VALUES:,} values, aliases counted in full")

    def alias(self, name: str | None, place: Place, path: KeyPath) -> Tree:
        if name is None or name in self.open_anchors:
            raise self.stop(place, path, f"the alias {shown(name or '')} contains itself")
        if name not in self.anchors:
            raise self.stop(place, path, "the alias has no anchor before it")
        tree, count = self.anchors[name]
        self.grow(count, place)
        if len(path) + _depth(tree) > DEEPEST:
            raise self.too_much(place, f"values are nested more than {DEEPEST} levels deep")
        return tree

    def items(self, events: Iterator[Any], path: KeyPath) -> tuple[Tree, ...]:
        items: list[Tree] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self.value(event, events, (*path, len(items))))
        return tuple(items)

    def entries(self, events: Iterator[Any], path: KeyPath) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key_place = self.place(event.start_mark)
            key = self.value(event, events, (*path, "?"))
            value = self.value(next(events), events, (*path, key.text if isinstance(key, Scalar) else "?"))
            if not isinstance(key, Scalar):
                self.tell(key_place, path, "a key must be one word, not a list or a mapping", "text")
            elif not isinstance(key.value, str):
                self.tell(key_place, path, f"the key {key.text or '~'} is not text; put it in quotes", "text")
            elif key.value == "<<":
                self.tell(key_place, path, "'<<' merges nothing in YAML 1.2; use extends, or write the keys out")
            elif key.value in entries:
                first = entries[key.value].key_place
                self.tell(key_place, (*path, key.value), f"the key is written twice; the first is on line {first.line}")
            else:
                entries[key.value] = Entry(key_place, value)
        return entries

    def scalar(self, event: Any, place: Place, path: KeyPath) -> Scalar:
        text: str = event.value
        if _CONTROL.search(text):
            self.tell(place, path, f"{shown(text)} has a control character in it")
            return Scalar("", text, place)
        if not event.implicit[0]:
            return Scalar(text, text, place)
        try:
            return Scalar(plain_value(text), text, place)
        except ValueError as error:
            self.tell(place, path, str(error))
            return Scalar(text, text, place)


def plain_value(text: str) -> Plain:
    """What a plain (unquoted) scalar is by the core schema of YAML 1.2. Raises ValueError in words."""
    if text and text[0] not in _NOT_ALWAYS_TEXT:
        return text
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a number that can be used; put it in quotes if it is text")
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            digits = text.lstrip("+-").removeprefix("0o").removeprefix("0x")
            if len(digits) > _LONGEST_NUMBER or not -(2**63) <= int(text if base == 10 else digits, base) < 2**63:
                raise ValueError(f"{shown(text)} is too large for a number (64 bits); put it in quotes if it is text")
            return int(text if base == 10 else digits, base)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"{shown(text)} is too large for a number; put it in quotes if it is text")
        return number
    return text


def compose(text: str, start: Place, *, is_one_line: bool = False) -> tuple[Tree | None, tuple[Problem, ...]]:
    """The one document in `text`, which begins at `start`, and every problem found.

    With `is_one_line` all places are on the line of `start`, whatever the parser counts. The tree is None when there
    is none that could be looked at further.
    """
    text = text.removeprefix("\ufeff")  # the marks of the C parser do not count it
    composer = _Composer(start, is_one_line)
    try:
        tree = composer.document(iter(yaml.parse(text, Loader=_LOADER)))
    except _Stop:
        return None, tuple(composer.problems)
    except yaml.YAMLError as error:
        return None, _refused_before(error, text, start, is_one_line) or (
            *composer.problems,
            _syntax_problem(error, composer, text),
        )
    if tree is None:
        return None, (
            *composer.problems,
            Problem(file=start.file, line=0, column=0, path="", message="is empty", allowed="apiVersion: labctl/v1, …"),
        )
    return tree, tuple(composer.problems)


def _refused_before(error: yaml.YAMLError, text: str, start: Place, is_one_line: bool) -> tuple[Problem, ...]:
    """Which limit of ours the text breaks before the place where the parser gave up, or nothing.

    The parser reads ahead of its events, and has limits of its own (libyaml 0.2.6: a thousand levels). Ours are lower:
    they come first in what stands before that place.
    """
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ()
    composer = _Composer(start, is_one_line)
    try:
        composer.document(iter(yaml.parse(text[: mark.index], Loader=_LOADER)))
    except _TooMuch:
        return tuple(composer.problems)
    except (_Stop, yaml.YAMLError):
        pass  # we cut the text here
    return ()


def _syntax_problem(error: yaml.YAMLError, composer: _Composer, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = composer.place(mark) if mark else Place(composer.start.file, 0, 0)
    message = f"is not YAML: {_what_is_wrong(error, text) or _own_words(error)}"
    return Problem(file=place.file, line=place.line, column=place.column, path="", message=message)


def _own_words(error: yaml.YAMLError) -> str:
    told = (getattr(error, "context", None), getattr(error, "problem", None))
    return " ".join(part for part in told if part) or "the text cannot be parsed"


def _what_is_wrong(error: yaml.YAMLError, text: str) -> str:
    """In plain words, or "" where the kind of error and the text at its marks do not show it."""
    if isinstance(error, yaml.reader.ReaderError) and isinstance(error.character, int):
        return f"the character U+{error.character:04X} is not allowed"
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ""
    begun = getattr(error, "context_mark", None) or mark
    line, here, first = _line(text, mark.line), text[mark.index : mark.index + 1], text[begun.index : begun.index + 1]
    if here == "\t" or ("\t" in line[: mark.column] and not line[: mark.column].strip()):
        return "a tab cannot indent; use spaces"
    if isinstance(error, yaml.scanner.ScannerError):
        if first and first in "\"'" and begun.index < mark.index:
            is_escape = first == '"' and "\\" in text[mark.index - 2 : mark.index + 1] and not _is_end(text, mark)
            return "this escape sequence does not exist" if is_escape else "a quote is not closed"
        if here == ":":
            return "a ':' cannot stand here; check the indentation, or put the text in quotes"
        if begun.line < mark.line or (begun.index < mark.index and not _is_property(first)):
            return "" if _is_property(first) else "a ':' is missing after a key, or a quote is not closed"
        if here == "-":
            return "a '-' cannot stand here; check the indentation"
        if here and here in "@`%|>":
            return "a word cannot begin with this character; put the text in quotes"
        return ""
    if isinstance(error, yaml.parser.ParserError):
        if _open_brackets(text[: mark.index]) > 0:
            return "a bracket is not closed, or a ',' is missing"
        if here and here in ",]}":
            return f"a '{here}' cannot stand here"
        if getattr(error, "context_mark", None) is None:
            return "there is more text after the end of the document; check the indentation"
        return "the indentation does not fit"
    return ""


def _is_property(first: str) -> bool:
    """True where the text from here is no plain word: an anchor, an alias, a tag, a directive, a block of text."""
    return first != "" and first in "&*!%|>"


def _is_end(text: str, mark: Any) -> bool:
    return not text[mark.index :].strip() or _line(text, mark.line)[:3] in {"---", "..."}


def _line(text: str, number: int) -> str:
    return next(iter(text.splitlines()[number : number + 1]), "")


def _open_brackets(text: str) -> int:
    """How many [ and { are open where the text ends, or where it stops being YAML."""
    count = 0
    try:
        for token in yaml.scan(text, Loader=_LOADER):
            count += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
    except yaml.YAMLError:
        pass
    return count


def _depth(tree: Tree) -> int:
    """Levels below this value. Bounded, since no anchored tree is deeper than DEEPEST."""
    if isinstance(tree, Block):
        return 1 + max((_depth(entry.value) for entry in tree.entries.values()), default=0)
    if isinstance(tree, Listing):
        return 1 + max(map(_depth, tree.items), default=0)
    return 0


LARGEST_FILE_BYTE = 1024 * 1024

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_REGULAR = "a text file in UTF-8"
_OURS = re.compile(
    rb"""api[_-]?version["']?\s*:\s*["']?labctl"""
    rb"""|(?:^|[\s{,"'])kind["']?\s*:\s*["']?(?:scenario|site|matrix)\b""",
    re.IGNORECASE,
)
"""What shows that a file is meant for labctl, a misspelt one included."""
_NOTHING = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s|#[^\n]*(?:\n|$))*")


class UnreadableFile(Exception):
    """The file's text could not be read. `problem` says why, with the place where there is one."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def read_text(path: Path, shown: str, *, is_trusted: Callable[[Path, str], bool], is_yaml: bool = True) -> str:
    """The text of the file, which messages call `shown`; with `is_yaml` it must be one of labctl's own.

    Raises Unreadable, and UsageError when labctl is root and another user could have written the file or swapped it
    in its folder, unless `is_trusted` says of the folder (without links) and the name that it does not matter.
    """
    return decode(_read_bytes(path, shown, is_trusted=is_trusted), shown, is_yaml=is_yaml)


def decode(data: bytes, shown: str, *, is_yaml: bool = True) -> str:
    """UTF-8, with or without a byte order mark, and printable. Raises Unreadable."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            raise _wrong(Place(shown, 0, 0), f"is written in {encoding}, not in UTF-8")
    if is_yaml and not _OURS.search(data) and not _NOTHING.fullmatch(data):
        raise _wrong(Place(shown, 0, 0), "is not a labctl file: it has no apiVersion", "apiVersion: labctl/v1, …")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise _wrong(_place(shown, before), f"the byte 0x{data[error.start]:02x} is not UTF-8") from None
    return printable(text, shown)


def printable(text: str, shown: str) -> str:
    """The text itself. Raises Unreadable at the first control character."""
    found = _UNPRINTABLE.search(text)
    if found:
        place = _place(shown, text[: found.start()])
        raise _wrong(place, f"the control character U+{ord(found[0]):04X} is not allowed")
    return text


def _read_bytes(path: Path, shown: str, *, is_trusted: Callable[[Path, str], bool]) -> bytes:
    if "\x00" in str(path):
        raise _wrong(Place(shown, 0, 0), "the file's name has a NUL character in it", "a path")
    # What is checked and what is opened is the same path: a link on the way cannot be swapped in between.
    real = Path(os.path.realpath(path.parent))
    is_judged = os.geteuid() == 0 and not is_trusted(real, path.name)
    try:
        with open_folder(real) as folder:
            if is_judged and (why := why_untrusted_folder(folder.stat())):
                raise _refusal(path, shown, why, folder.path)
            try:
                return folder.read(path.name, most_byte=LARGEST_FILE_BYTE, owned=is_judged)
            except Untrusted as untrusted:
                raise _refusal(path, shown, str(untrusted.strerror), path) from None
            except OSError as error:
                raise _no_text(error, folder, path.name, shown) from None
    except OSError as error:
        raise _wrong(Place(shown, 0, 0), _open_failed(error), "") from None


def _no_text(error: OSError, folder: Folder, name: str, shown: str) -> UnreadableFile:
    """Why an entry of a folder has no text to read."""
    if error.errno == errno.EFBIG:
        return _wrong(Place(shown, 0, 0), "is larger than 1 MiB", "at most 1 MiB")
    kind = folder.kind(name)
    if kind == stat.S_IFLNK:
        return _wrong(Place(shown, 0, 0), "is a symbolic link, which can lead to any file", "the file itself")
    if kind in _KINDS:
        return _wrong(Place(shown, 0, 0), f"is {_KINDS[kind]}, not a file")
    return _wrong(Place(shown, 0, 0), _open_failed(error), "")


def _refusal(path: Path, shown: str, why: str, of: Path) -> UsageError:
    """`of` is what another user could have written: the file itself, or its folder."""
    is_writable = why.endswith("may write to it")
    mended = "chmod go-w" if is_writable else 'sudo chown "$(id -u):$(id -g)"'
    return UsageError(
        what=f"{shown} has dubious ownership: another user could have written it",
        cause=f"the file {of}: {why}, and labctl runs as root"
        if of == path
        else f"its folder {of}: {why}, and labctl runs as root",
        remedy=f"less {shlex.quote(str(path))}  # then the same command with --trust\n"
        f"{mended} {shlex.quote(str(of))}  # so that no other user can change it",
    )


def _open_failed(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file"
    if error.errno == errno.ELOOP:
        return "is a loop of symbolic links"
    return f"cannot be opened: {error.strerror}"


def _place(shown: str, before: str) -> Place:
    lines = before.split("\n")
    return Place(shown, len(lines), len(lines[-1]) + 1)


def _wrong(place: Place, message: str, allowed: str = _REGULAR) -> UnreadableFile:
    return UnreadableFile(
        Problem(file=place.file, line=place.line, column=place.column, path="", message=message, allowed=allowed)
    )
