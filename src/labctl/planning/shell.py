"""Text for a POSIX shell: the one place where values become part of it. Pure.

Whatever is in a value, the shell gets it as one word, as lines of a file, or as a remark, and runs nothing of it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def word(value: object) -> str:
    """One word."""
    return shlex.quote(str(value))


def quoted(argv: Sequence[str]) -> str:
    """One command."""
    program, *words = argv
    # Unquoted, a first word with = in it sets a variable.
    first = f"'{program}'" if "=" in program and word(program) == program else word(program)
    return " ".join((first, *map(word, words)))


def with_environment(environment: Mapping[str, str], argv: Sequence[str]) -> str:
    """One command with variables of its own. Raises ValueError for a name that is none."""
    for name in environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} cannot be a variable's name")
    return " ".join((*(f"{name}={word(value)}" for name, value in environment.items()), quoted(argv)))


def fed(command: str, text: str, *, end: str = "EOF") -> str:
    """The command (text of a shell) with this text on its standard input, to the last byte. The word that ends it is
    none of its lines."""
    if not text.endswith("\n"):
        return f"printf %s {word(text)} | {command}"
    lines = set(text.split("\n"))
    while end in lines:
        end += "_"
    return f"{command} <<'{end}'\n{text}{end}"


def written(path: object, text: str) -> str:
    """Puts the text into a file."""
    return fed(f"cat > {word(path)}", text)


def remark(text: str) -> str:
    """A comment of one line."""
    return f"# {_NOT_SHOWN.sub(' ', text)}"


def through(ssh: str, argv: Sequence[str]) -> str:
    """One command behind ssh, where a second shell reads the words. `ssh` is shell text: `ssh -p 2222 me@machine`."""
    there = quoted(argv)
    return f"{ssh} {there if there == ' '.join(argv) else word(there)}"


def substitute(key: str, value: str) -> str:
    """An expression of sed that gives `key = …` another value, as one word of a shell. `key` is a constant."""
    return word(f"s#{key} = .*#{key} = " + re.sub(r"([\\&#\n])", r"\\\1", value) + "#")
