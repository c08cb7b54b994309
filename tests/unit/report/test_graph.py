"""The graph of a lab as text, Mermaid, JSON and SVG."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.planning.resolve import resolve
from labctl.report.graph import Graph, Wire, as_json, as_mermaid, as_tree, graph_of
from labctl.report.graph_svg import graph_file, graph_page

CHECKOUT = Path(__file__).resolve().parents[3]
SCENARIOS = ("bpf", "clos-bgp", "evpn", "stp-loop", "masquerade", "macvlan")


def lab_of(name: str) -> Lab:
    return resolve(load_scenario(name, start=CHECKOUT))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_wire_joins_parts_that_are_there(name: str) -> None:
    graph = graph_of(lab_of(name))
    places = {place.name for place in graph.places}
    assert all(set(wire.ends) <= places for wire in graph.wires)
    assert {end for wire in graph.wires for end in wire.ends} == places


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_text_fits_80_columns(name: str) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(as_tree(graph_of(lab_of(name))))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("node1" in line for line in lines)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_picture_is_one_whole_svg(name: str) -> None:
    graph = graph_of(lab_of(name))
    root = ElementTree.fromstring(graph_file(graph))  # our own text
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {place.name for place in graph.places} <= texts
    assert "<svg" in graph_page(graph)


def test_mermaid_names_every_part_and_ends_no_text_early() -> None:
    text = as_mermaid(graph_of(lab_of("clos-bgp")))
    assert text.startswith("flowchart TD\n")
    assert all(line.count('"') in (0, 2) for line in text.splitlines())


def test_what_a_packet_passed_is_marked_where_both_ends_saw_it() -> None:
    wire = Wire(ends=("node1", "client"), devices=("lxc1", "eth0"))
    half = Graph(title="", places=(), wires=(wire,), passed=frozenset({"client:eth0"}))
    both = Graph(title="", places=(), wires=(wire,), passed=frozenset({"client:eth0", "node1:lxc1"}))
    assert not half.is_passed(wire)
    assert both.is_passed(wire)
    assert as_json(both)["wires"][0]["passed"]
