"""Text that leaves labctl: no figure is lost in a poorer codec, and JSON is valid whatever a path's bytes are."""

from __future__ import annotations

import io
import json
import os

import click
import pytest

from labctl.text import NEAREST, PLAIN_ASCII, escaped, json_bytes, register, utf8

LATIN_NAME = os.fsdecode(b"lat\xfc")


def written(text: str, encoding: str) -> bytes:
    register()
    file = io.BytesIO()
    stream = io.TextIOWrapper(file, encoding=encoding, errors=NEAREST)
    stream.write(text)
    stream.flush()
    return file.getvalue()


@pytest.mark.parametrize(
    ("text", "in_ascii"),
    [
        ("21.4 µs ± 3", b"21.4 us +- 3"),
        ("−21 % (−24 to −19)", b"-21 % (-24 to -19)"),
        ("~ ≥ 4.1\u00a0%", b"~ >= 4.1 %"),
        ("client→server ttl 64 → 63", b"client->server ttl 64 -> 63"),
        ("┊  ╰──▶●", b":  `-->*"),
        ("2 × 10, a ≠ b, … and 3 more", b"2 x 10, a != b, ... and 3 more"),
        ("a folder Übung", b"a folder \\xdcbung"),
        ("精确", b"\\u7cbe\\u786e"),
    ],
)
def test_ascii_keeps_every_figure_and_names_what_it_lacks(text: str, in_ascii: bytes) -> None:
    assert written(text, "ascii") == in_ascii
    assert written(text, PLAIN_ASCII) == in_ascii


def test_a_codec_writes_what_it_has_and_only_the_rest_is_replaced() -> None:
    assert written("µ ± Ü → …", "latin-1") == b"\xb5 \xb1 \xdc -> ..."
    assert written("精确 → µ", "gbk") == "精确 → ".encode("gbk") + b"u"
    assert written("精确 → µ", "utf-8") == "精确 → µ".encode()


def test_bytes_that_are_no_text_are_shown_and_valid_in_every_codec() -> None:
    assert written(f"in {LATIN_NAME}/runs", "utf-8") == rb"in lat\xfc/runs"
    assert written(f"in {LATIN_NAME}/runs", PLAIN_ASCII) == rb"in lat\xfc/runs"


def test_a_name_in_the_bytes_of_the_persons_own_codec_is_shown_as_it_is() -> None:
    name = "测试"
    assert written(os.fsdecode(name.encode("gbk")), "gbk") == name.encode("gbk")
    assert written(LATIN_NAME, "latin-1") == b"lat\xfc"


def test_click_leaves_the_ascii_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    file = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(file, encoding=PLAIN_ASCII, errors=NEAREST))
    click.echo("usage: [TAP…]")
    assert file.getvalue() == b"usage: [TAP...]\n"


def test_json_is_utf8_and_gives_the_path_back_that_it_was() -> None:
    data = json_bytes({"path": LATIN_NAME, "said": "精确 µs"})
    assert data.decode("utf-8").count("精确 µs") == 1
    read = json.loads(data)
    assert os.fsencode(read["path"]) == b"lat\xfc"


def test_json_has_no_numbers_that_json_lacks() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_bytes(float("nan"))


def test_a_file_is_utf8_whatever_it_says() -> None:
    assert utf8(f"精确 {LATIN_NAME}") == "精确 ".encode() + rb"lat\xfc"


def test_one_sign_as_an_escape() -> None:
    signs = ("\n", "\x1b", "精", os.fsdecode(b"\xfc"))
    assert [escaped(sign) for sign in signs] == [r"\n", r"\x1b", r"\u7cbe", r"\xfc"]
