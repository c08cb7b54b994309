"""Values of the model as plain JSON and back: the keys, the marks, the views, and what is refused in which words."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from annotated_types import Ge, Le

from labctl.codec import (
    NULL,
    OMITTED,
    UNWRITTEN,
    ChosenBy,
    Fits,
    Key,
    Rest,
    View,
    exact,
    json_document,
    json_line,
    plain,
    typed,
    viewed,
)
from labctl.errors import UsageError


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
        "byColour": {"red": 1},
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


class Point(NamedTuple):
    x: int
    y: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    radius_mm: Annotated[int, Ge(1), Le(9)] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    is_tilted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: Annotated[str, Fits(str.isalpha, "a word")]
    kind: Annotated[str, Key("shape")]
    form: Annotated[Round | Square, ChosenBy("kind", {"round": Round, "square": Square})]
    pod_cidr: Annotated[IPv4Network, Key("podCIDR")]
    weight_g: float
    place: Annotated[int, UNWRITTEN] = 0
    said: Annotated[str, NULL] = ""
    times: Annotated[int, NULL] = 0
    spares: Annotated[tuple[str, ...], OMITTED] = ()
    at: Point | None = None
    side: Literal["a", "b"] = "a"
    facts: dict[str, str | int | float] | None = None


PART = Part(
    name="bolt", kind="round", form=Round(radius_mm=3), pod_cidr=IPv4Network("10.0.0.0/8"), weight_g=1.0, at=Point(1, 2)
)
WRITTEN: dict[str, Any] = {
    "name": "bolt", "shape": "round", "form": {"radiusMm": 3}, "podCIDR": "10.0.0.0/8", "weightG": 1.0, "said": None,
    "times": None, "at": [1, 2], "side": "a", "facts": None,
}  # fmt: skip


def test_keys_and_marks_make_the_shape() -> None:
    assert json.dumps(plain(PART)) == json.dumps(WRITTEN)


def test_what_was_written_is_the_value_again() -> None:
    assert typed(Part, WRITTEN, where="x") == exact(Part, {**WRITTEN, "place": 0}) == PART


def test_the_fields_own_names_are_read_too() -> None:
    old = {**WRITTEN, "pod_cidr": "10.0.0.0/8", "weight_g": 1.0, "kind": "round", "form": {"radius_mm": 3}}
    assert typed(Part, {key: old[key] for key in old if key not in ("podCIDR", "weightG", "shape")}, where="x") == PART


def test_a_whole_number_of_a_journal_is_a_float_again_and_that_of_a_digest_stays() -> None:
    whole = {**WRITTEN, "weightG": 1, "place": 0}
    assert type(typed(Part, whole, where="x").weight_g) is float
    assert type(exact(Part, whole).weight_g) is int


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "b-1"}, "name: 'b-1' is not a word"),
        ({"name": None}, "name: text was expected, not None"),
        ({"shape": "oval"}, "Part: it has a shape of the unknown kind 'oval'"),
        ({"shape": []}, "shape: text was expected, not []"),
        ({"form": {"radiusMm": 10}}, "form.radiusMm: 10 is not 9 or less"),
        ({"form": {"radiusMm": True}}, "form.radiusMm: a whole number was expected, not True"),
        ({"form": [1]}, "form: an object was expected, not [1]"),
        ({"podCIDR": "10.0.0.1/8"}, "podCIDR: 10.0.0.1/8 has host bits set"),
        ({"podCIDR": 167772160}, "podCIDR: text was expected, not 167772160"),
        ({"weightG": "1.0"}, "weightG: a number was expected, not '1.0'"),
        ({"weightG": 10**400}, "Part: int too large to convert to float"),
        ({"said": 1}, "said: text was expected, not 1"),
        ({"spares": "x"}, "spares: a list was expected, not 'x'"),
        ({"spares": ["x", 1]}, "spares.1: text was expected, not 1"),
        ({"at": [1]}, "at: 2 items were expected, not 1"),
        ({"side": "c"}, "side: 'c' is not one of a, b"),
        ({"facts": {"x": []}}, "facts.x: a number was expected, not []"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_reported_with_its_place(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError) as refused:
        typed(Part, {**WRITTEN, **change}, where="run.json")
    assert refused.value.what == "run.json cannot be read"
    assert refused.value.cause == complaint


@pytest.mark.parametrize("key", WRITTEN)
def test_what_has_a_digest_lacks_no_key(key: str) -> None:
    data = {name: value for name, value in {**WRITTEN, "place": 0}.items() if name != key}
    with pytest.raises(ValueError, match="missing"):
        exact(Part, data)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"colour": 1}, "it has unknown keys: colour"),
        ({"form": {"radiusMm": 3, "colour": 1}}, "it has unknown form: colour"),
    ],
)
def test_what_has_a_digest_has_no_key_too_many(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^{complaint}$"):
        exact(Part, {**WRITTEN, "place": 0, **more})
    typed(Part, {**WRITTEN, **more}, where="x")


def test_a_view_lists_what_is_shown_and_what_is_made() -> None:
    view: View = {
        Part: (
            ("big", lambda part: part.weight_g > 9),
            "place",
            ("", lambda part: part.form),
            Rest("place", "form", "at"),
        )
    }
    shown = viewed(PART, view)
    assert list(shown) == [
        "big", "place", "radiusMm", "name", "shape", "podCIDR", "weightG", "said", "times", "side", "facts",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_document_has_null_where_json_has_no_such_number(number: float) -> None:
    part = Part(name="a", kind="square", form=Square(), pod_cidr=IPv4Network("10.0.0.0/8"), weight_g=number)
    assert viewed(part, {})["weightG"] is None
    again = typed(Part, json.loads(json_line(part)), where="x").weight_g
    assert again == number or (math.isnan(again) and math.isnan(number))
