"""Every reader of foreign text or bytes stands in one table, and gives a value or an error in words for any input."""

from __future__ import annotations

import ast
import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.datapath import masquerading, service_maps
from labctl.errors import LabError
from labctl.lessons.answers import parse_answer
from labctl.model.fact import FactKind, FactSource, FactType

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests" / "fuzz"))
from parsers import ELSEWHERE, PARSERS, READERS, read, samples  # isort: skip  # noqa: E402

SOURCES = TREE / "src" / "labctl"
PIECES = (
    "",
    "\0",
    "9" * 5000,
    "[" * 3000,
    "null",
    "1e999",
    "NaN",
    "\u202e",
    "-1",
    "\n",
    "{}",
    "[1]",
    "true",
    "'",
    '"',
    "\t",
)
KEYS = st.sampled_from(
    [
        "name",
        "id",
        "status",
        "items",
        "metadata",
        "end",
        "spec",
        "ifname",
        "addr_info",
        "data",
        "encap",
        "policy",
        "ports",
        "neighbors",
        "peers",
        "nbrState",
        "containers",
        "env",
        "kind",
        "Id",
        "RepoDigests",
        "namespace",
        "nodes",
        "slices",
        "summary",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def readers() -> set[str]:
    """Every function of a module that is named as a reader, and takes something."""
    found = set()
    for path in SOURCES.rglob("*.py"):
        module = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and READERS.match(node.name) and node.args.args:
                found.add(f"{module}.{node.name}")
    return found


def test_every_reader_is_in_the_table() -> None:
    wanted = readers()
    assert wanted - set(PARSERS) - set(ELSEWHERE) == set(), "add it to tests/fuzz/parsers.py"
    assert set(ELSEWHERE) - wanted == set(), "it is gone"
    assert not set(ELSEWHERE) & set(PARSERS)


@st.composite
def texts(draw: st.DrawFn, real: str) -> str:
    """Noise, JSON of any shape, or a recorded answer that is cut, doubled, or has a hostile piece in it."""
    how = draw(st.integers(0, 5))
    if how == 0:
        return draw(st.text(max_size=200))
    if how in (1, 2):
        return json.dumps(draw(JSON))
    start = draw(st.integers(0, len(real)))
    end = draw(st.integers(start, min(len(real), start + 40)))
    piece = draw(st.sampled_from(PIECES) | st.text(max_size=10))
    return {3: real[:start], 4: real[:start] + piece + real[end:], 5: real + real[start:end] + piece}[how]


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_any_input_is_a_value_or_an_error_in_words(name: str) -> None:
    real = samples(name)[0]
    if PARSERS[name].of_bytes:
        data: st.SearchStrategy[Any] = st.binary(max_size=200) | texts(real.decode(errors="replace")).map(str.encode)
    else:
        data = texts(real.decode(errors="replace"))

    @settings(max_examples=15)
    @given(data)
    def holds(given_data: Any) -> None:
        read(name, given_data)

    holds()


@settings(max_examples=60)
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_map_entries_of_any_bytes_are_a_value_or_a_struct_error(key: bytes, value: bytes) -> None:
    for unpack in (
        masquerading.unpack_masqueraded,
        service_maps.unpack_backend,
        service_maps.unpack_flow,
        service_maps.unpack_service,
        service_maps.unpack_socket,
    ):
        try:
            unpack(key, value)
        except (struct.error, ValueError) as told:
            assert str(told)  # noqa: PT017


@pytest.mark.parametrize("kind", list(FactType))
def test_an_answer_of_any_kind(kind: FactType) -> None:
    asked = FactKind(name="asked", type=kind, source=FactSource.LAB, what="what is asked for", command="labctl facts")

    @settings(max_examples=60)
    @given(st.text(max_size=60) | st.sampled_from(PIECES))
    def holds(text: str) -> None:
        try:
            parse_answer(asked, text)
        except LabError as told:
            assert told.what  # noqa: PT017

    holds()


def test_a_number_that_is_a_dot_alone_is_no_number() -> None:
    """Found by `make fuzz`."""
    real = samples("checks.latency.parse_sockperf")[0].decode()
    read("checks.latency.parse_sockperf", re.sub(r"= +[0-9.]+$", "= .", real, flags=re.MULTILINE))
