"""The trace page: one file that needs nothing else, and a picture whose lines go where the packets went."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from labctl.model.lab import POD_PLACEMENTS, Encapsulation, HostRouting, Placement
from labctl.model.signature import Role
from labctl.model.trace import Trace
from labctl.report.drawing.topology import Box, BoxKind, Leg, Topology, legs, topology_of
from labctl.report.trace_html import trace_page
from labctl.report.trace_svg import trace_drawing
from labctl.testing.labs import RECORDED

from .trace_example import BPF, CELLS, CROSS, LEGACY, NATIVE, SAME, VXLAN, example_trace, lost_trace

each_cell = pytest.mark.parametrize(("mode", "how", "where"), CELLS)


def drawn(trace: Trace) -> ET.Element:
    return ET.fromstring(trace_drawing(trace))


def all_legs(trace: Trace) -> tuple[Topology, list[Leg]]:
    topology = topology_of(trace)
    return topology, [leg for path in trace.paths for leg in legs(path, topology)]


@each_cell
def test_the_page_is_whole_small_and_needs_nothing_else(
    mode: HostRouting, how: Encapsulation, where: Placement
) -> None:
    page = trace_page(example_trace(mode, how, where))
    assert len(page.encode()) < 1_000_000
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(|javascript", page)
    assert page.startswith("<!doctype html>")
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "labctl&#39;s own, not Cilium" in page
    ET.fromstring(re.sub(r"<meta [^>]*>", "", page.partition("\n")[2].replace("&nbsp;", " ")))


@each_cell
def test_every_sighting_has_its_number_in_the_picture_and_in_the_table(
    mode: HostRouting, how: Encapsulation, where: Placement
) -> None:
    trace = example_trace(mode, how, where)
    numbers = sorted(int(text.text or "") for text in drawn(trace).iter("text") if text.get("class") == "number")
    expected = sorted(number for path in trace.paths for number in range(1, len(path.hops) + 1))
    assert numbers == expected
    page = trace_page(trace)
    for path in trace.paths:
        assert page.count(f'<span class="mark {path.way}">') == len(path.hops)


def overlap(one: Box, other: Box) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


@each_cell
def test_no_box_lies_on_another_and_all_lie_in_the_picture(
    mode: HostRouting, how: Encapsulation, where: Placement
) -> None:
    topology = topology_of(example_trace(mode, how, where))
    boxes = list(topology.boxes())
    assert len(boxes) == len(example_trace(mode, how, where).taps) + len(topology.kernels)
    for one, other in itertools.combinations(boxes, 2):
        assert not overlap(one, other), (one.name, other.name)
    for box in (*boxes, *topology.places):
        assert box.left >= 0
        assert box.top >= 0
        assert box.right <= topology.width
        assert box.bottom <= topology.height


def crosses(leg: Leg, box: Box) -> bool:
    for (x0, y0), (x1, y1) in itertools.pairwise(leg.points):
        if min(x0, x1) < box.right and max(x0, x1) > box.left and min(y0, y1) < box.bottom and max(y0, y1) > box.top:
            return True
    return False


@each_cell
def test_lines_touch_only_the_boxes_that_the_packet_was_at(
    mode: HostRouting, how: Encapsulation, where: Placement
) -> None:
    topology, found = all_legs(example_trace(mode, how, where))
    assert found
    for leg in found:
        for box in topology.devices.values():
            if box not in (leg.start, leg.end):
                assert not crosses(leg, box), (leg.way, leg.hop.tap, box.name)


@each_cell
def test_all_legs_run_along_the_picture_in_right_angles(
    mode: HostRouting, how: Encapsulation, where: Placement
) -> None:
    topology, found = all_legs(example_trace(mode, how, where))
    for leg in found:
        for (x0, y0), (x1, y1) in itertools.pairwise(leg.points):
            assert x0 == x1 or y0 == y1
            assert 0 <= x1 <= topology.width
            assert 0 <= y1 <= topology.height


@pytest.mark.parametrize("how", RECORDED)
@pytest.mark.parametrize("where", POD_PLACEMENTS)
def test_bpf_goes_round_the_lxc_that_it_delivers_past(how: Encapsulation, where: Placement) -> None:
    _, found = all_legs(example_trace(BPF, how, where))
    delivering = [
        leg for leg in found if leg.end.name == "eth0" and leg.end.role in (Role.CLIENT_ETH0, Role.SERVER_ETH0)
    ]
    assert [leg.is_around for leg in delivering] == [True, True]
    _, legacy = all_legs(example_trace(LEGACY, how, where))
    assert not any(leg.is_around for leg in legacy if leg.end.role in (Role.CLIENT_ETH0, Role.SERVER_ETH0))


def kernels_crossed(trace: Trace) -> int:
    topology, found = all_legs(trace)
    return sum(crosses(leg, kernel) for leg in found for kernel in topology.kernels.values())


def test_only_what_the_kernel_carried_goes_through_its_box() -> None:
    assert kernels_crossed(example_trace(BPF, NATIVE, CROSS)) == 0
    assert kernels_crossed(example_trace(LEGACY, NATIVE, CROSS)) == 2  # both senders' nodes, in the example
    assert kernels_crossed(example_trace(BPF, VXLAN, CROSS)) == 4  # the envelope, on both nodes, both ways
    assert kernels_crossed(example_trace(LEGACY, VXLAN, SAME)) == 0


def test_devices_that_saw_nothing_are_said_to_have_seen_nothing() -> None:
    svg = drawn(example_trace(BPF, VXLAN, CROSS))
    unseen = [text.text for text in svg.iter("text") if text.get("class") == "name unseen"]
    assert sorted(str(name) for name in unseen) == sorted(["cilium_host", "cilium_net", "lo"] * 2)
    assert sum(text.text == "saw nothing" for text in svg.iter("text")) == 6


def test_the_two_ways_differ_in_more_than_colour() -> None:
    page = trace_page(example_trace(BPF, VXLAN, CROSS))
    assert re.search(r"path\.leg\.reply \{[^}]*stroke-dasharray", page)
    svg = drawn(example_trace(BPF, VXLAN, CROSS))
    shapes = {(badge.tag, badge.get("class")) for badge in svg.iter() if (badge.get("class") or "").startswith("badge")}
    assert shapes == {("circle", "badge request"), ("rect", "badge reply")}


def test_where_a_packet_is_lost_there_is_a_cross_and_the_box_is_marked() -> None:
    svg = drawn(lost_trace())
    assert [text.text for text in svg.iter("text") if text.get("class") == "lost"] == ["lost after here"]
    wrong = [box for box in svg.iter("rect") if "wrong" in (box.get("class") or "").split()]
    assert len(wrong) == 1
    assert "lost: the tunnel entry names another node" in trace_page(lost_trace())


def test_a_packet_that_nobody_saw_still_makes_a_picture() -> None:
    trace = lost_trace()
    nowhere = replace(trace, paths=(replace(trace.paths[0], hops=(), lost="it was never seen", lost_tap=""),))
    assert "not sent from here" in trace_drawing(nowhere)
    assert "it was never seen" in trace_page(nowhere)
    assert trace_drawing(replace(trace, paths=()))


def test_a_lab_without_bridge_ports_has_a_wire_all_the_same() -> None:
    """A real cluster's underlay has no taps."""
    trace = example_trace(BPF, VXLAN, CROSS)
    ports = (Role.CLIENT_BRIDGE_PORT, Role.SERVER_BRIDGE_PORT)
    paths = tuple(replace(path, hops=tuple(hop for hop in path.hops if hop.role not in ports)) for path in trace.paths)
    without = replace(trace, taps=tuple(tap for tap in trace.taps if tap.role not in ports), paths=paths)
    topology, found = all_legs(without)
    assert any(place.name == "wire" for place in topology.places)
    across = [leg for leg in found if {leg.start.role, leg.end.role} == {Role.CLIENT_UPLINK, Role.SERVER_UPLINK}]
    assert len(across) == 2
    assert not any(crosses(leg, box) for leg in across for box in topology.boxes() if box not in (leg.start, leg.end))


def test_names_are_escaped() -> None:
    trace = replace(example_trace(BPF, VXLAN, SAME), client="<script>x</script>", statement='"&<b>', notes=("<i>",))
    page = trace_page(trace)
    assert "<script>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page


def test_kernel_boxes_are_no_taps() -> None:
    assert {box.kind for box in topology_of(example_trace(BPF, VXLAN, SAME)).kernels.values()} == {BoxKind.KERNEL}
