"""Model values as plain JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from labctl.store.codec import json_document, json_line, plain


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    address: IPv4Address
    colour: Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    inner: tuple[Inner, ...]
    cidr: IPv4Network
    interface: IPv4Interface
    file: Path
    names: frozenset[str]
    by_colour: dict[Colour, int]
    nothing: None = None
    yes: bool = True


def test_a_nested_model_value_becomes_objects_lists_and_text() -> None:
    value = Outer(
        inner=(Inner(address=IPv4Address("10.0.0.1"), colour=Colour.RED),),
        cidr=IPv4Network("10.0.0.0/8"),
        interface=IPv4Interface("10.0.0.1/24"),
        file=Path("a/b"),
        names=frozenset({"z", "a"}),
        by_colour={Colour.RED: 1},
    )
    assert json.loads(json_line(value)) == {
        "inner": [{"address": "10.0.0.1", "colour": "red"}],
        "cidr": "10.0.0.0/8",
        "interface": "10.0.0.1/24",
        "file": "a/b",
        "names": ["a", "z"],
        "by_colour": {"red": 1},
        "nothing": None,
        "yes": True,
    }


@pytest.mark.parametrize("number", [math.inf, -math.inf, 0.1, 1e-300, 123456789.123456789])
def test_every_number_comes_back_bit_for_bit(number: float) -> None:
    assert float(json.loads(json_line([number]))[0]) == number


def test_what_is_not_a_number_comes_back_as_not_a_number() -> None:
    assert math.isnan(float(json.loads(json_line([math.nan]))[0]))


def test_a_line_is_one_line_and_a_document_ends_with_a_newline() -> None:
    assert json_line({"text": "two\nlines"}).count(b"\n") == 1
    assert json_document({"a": 1}) == b'{\n  "a": 1\n}\n'


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="bytes has no plain JSON form"):
        plain({"raw": b"x"})
