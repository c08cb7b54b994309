"""JSON of any make, just below what is read of a stream: little memory, or refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import labctl
from labctl.json_text import parse_json

MOST_BYTE = 256 * 1024 * 1024
MEASURED = """
import sys
from labctl.json_text import parse_json
most = 32 << 20
data = eval(sys.argv[1])
assert len(data) <= most
try:
    value = parse_json(data)
except ValueError:
    value = None
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""
"""VmHWM is the program's own; ru_maxrss would be its parent's size at the fork, if that was larger."""
MADE = {
    "brackets": "b'[' * most",
    "mappings in one another": """b'{"a":' * (most // 5)""",
    "numbers": "b'[' + b'0,' * (most // 2 - 2) + b'0]'",
    "empty lists": "b'[' + b'[],' * (most // 3 - 2) + b'0]'",
    "empty mappings, as many as may be": "b'[' + b'{},' * 499_999 + b'0]'",
    "mappings of one key, as many as may be": """b'[' + b'{"a":1.5},' * 499_999 + b'0]'""",
    "lists of one number, as many as may be": "b'[' + b'[1.5],' * 499_999 + b'0]'",
    "texts, as many as may be": "b'[' + b'\"abcd\",' * 999_998 + b'0]'",
    "one text": "b'\"' + b'a' * (most - 2) + b'\"'",
    "one text of wide characters": "b'\"' + b'a' * (most - 8) + chr(0x1F600).encode() + b'\"'",
    "one text of Chinese": "b'\"' + b'a' * (most - 8) + chr(0x4E00).encode() + b'\"'",
    "in UTF-32": "('\"' + 'a' * (most // 4 - 4) + '\"').encode('utf-32')",
    "one number": "b'1' * most",
    "nothing at all": "b' ' * most",
}


@pytest.mark.parametrize("kind", MADE)
def test_it_takes_less_than_256_mb(kind: str) -> None:
    ended = subprocess.run((sys.executable, "-c", MEASURED, MADE[kind]), capture_output=True, text=True, check=True)
    assert int(ended.stdout) < MOST_BYTE, f"{int(ended.stdout) >> 20} MiB"


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"a":' * 5_000, "[" + "0," * 1_000_001 + "0]", "[1", "{'a': 1}"])
def test_what_is_refused_is_one_kind_of_error(text: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(json.JSONDecodeError):
            parse_json(data)
    with pytest.raises(json.JSONDecodeError):
        parse_json(b'"\xff"')


def test_everything_else_is_what_json_says() -> None:
    for text in ('{"a": [1, 2.5, null, true, "x"]}', "[[[]]]", "NaN", '"[{,"'):
        assert repr(parse_json(text)) == repr(parse_json(text.encode())) == repr(json.loads(text))


def test_no_other_module_reads_json() -> None:
    source = Path(labctl.__file__).parent
    readers = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if re.search(r"\bjson\.loads?\(", path.read_text(encoding="utf-8"))
    }
    # The scripts that build what labctl ships read what they wrote.
    assert readers == {"json_text.py", "datapath/source/rebuild.py", "load/source/rebuild.py"}
