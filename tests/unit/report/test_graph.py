"""The graph of a lab as text, Mermaid, JSON and SVG."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.networks import node_devices
from labctl.planning.resolve import resolve
from labctl.report.graph import Graph, Place, Tier, Wire, as_json, as_mermaid, as_tree, graph_of
from labctl.report.graph_svg import graph_drawing, graph_file, graph_page

CHECKOUT = Path(__file__).resolve().parents[3]
SCENARIOS = ("bpf", "clos-bgp", "evpn", "stp-loop", "masquerade", "macvlan", "triangle", "cni-chain", "nodeport")
SVG = "{http://www.w3.org/2000/svg}"


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


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_two_parts_and_no_two_names_of_devices_lie_on_each_other(name: str) -> None:
    lab = lab_of(name)
    root = ElementTree.fromstring(graph_file(graph_of(lab, devices=node_devices(lab))))
    boxes = [
        tuple(float(box.attrib[key]) for key in ("x", "y", "width", "height"))
        for box in root.iter(f"{SVG}rect")
        if box.attrib["class"] == "box"
    ]
    names = [
        (float(text.attrib["x"]) - width / 2, float(text.attrib["y"]) - 9, width, 10.0)
        for text in root.iter(f"{SVG}text")
        if text.attrib["class"] == "device" and "text-anchor" in text.attrib
        for width in [5.2 * len(text.text or "")]
    ]
    for shapes in (boxes, names):
        for number, (x, y, width, height) in enumerate(shapes):
            for x2, y2, width2, height2 in shapes[number + 1 :]:
                assert x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_pod_stands_below_its_node(name: str) -> None:
    lab = lab_of(name)
    root = ElementTree.fromstring(graph_file(graph_of(lab)))
    at = {}
    for group in root.iter(f"{SVG}g"):
        box = group.find(f"{SVG}rect")
        text = group.find(f"{SVG}text")
        assert box is not None
        assert text is not None
        at[text.text] = (float(box.attrib["x"]), float(box.attrib["x"]) + float(box.attrib["width"]))
    for pod in lab.pods:
        assert at[pod.node][0] <= at[pod.name][0] < at[pod.name][1] <= at[pod.node][1]


def test_a_node_shows_its_devices_in_the_order_of_the_way_out() -> None:
    assert node_devices(lab_of("flannel-vxlan")) == dict.fromkeys(("node1", "node2", "node3"), ("cni0", "flannel.1"))
    assert node_devices(lab_of("bpf-native"))["node3"] == ("cilium_host", "cilium_net")
    assert node_devices(lab_of("cni-chain")) == {"node1": (), "node2": (), "node3": ()}


def test_the_way_of_a_packet_is_numbered_and_its_tunnel_marked() -> None:
    nodes = tuple(Place(name=name, kind="node", tier=Tier.NODE, devices=("vxlan5",)) for name in ("n1", "n2", "n3"))
    tunnels = tuple(
        Wire(ends=ends, devices=("vxlan5", "vxlan5"), is_tunnel=True, says="VXLAN")
        for ends in (("n1", "n2"), ("n1", "n3"), ("n2", "n3"))
    )
    way = ("n1:vxlan5", "n2:vxlan5")
    graph = Graph(title="", places=nodes, wires=tunnels, passed=frozenset(way), request=way)
    assert [graph.is_passed(wire) for wire in tunnels] == [True, False, False]
    drawing = graph_drawing(graph)
    assert drawing.count('class="tunnel passed"') == 1
    assert "1 · vxlan5" in drawing
    assert "2 · vxlan5" in drawing
