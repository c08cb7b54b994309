"""What a lab looks like: its parts, what joins them, and where a packet went. As text, Mermaid and JSON. Pure.

The picture of the same graph is `graph_svg`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from labctl.model import interfaces
from labctl.model.fabric import FabricType
from labctl.model.lab import Lab, Node
from labctl.model.trace import Way
from labctl.names import UNDERLAY
from labctl.report.trace_words import path_title
from labctl.values import dataclass

if TYPE_CHECKING:  # typing only: a graph as JSON needs no rich
    from rich.tree import Tree

    from labctl.model.trace import PacketPath, Trace

_MOST_TUNNELLED = 6
"""With more nodes the tunnels of all pairs would hide everything else."""


class Tier(IntEnum):
    """The rows of the picture, from above."""

    OUTSIDE = 0
    SPINE = 1
    EDGE = 2
    WIRE = 3
    """The bridge that all nodes are on."""
    NODE = 4
    POD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A part of the lab: its kind in a word (`node`, `pod`, `router`, …), and what is known of it in a few. `devices`
    are those of a node that join nothing in the picture: its bridge, its tunnel's, Cilium's own."""

    name: str
    kind: str
    tier: Tier
    facts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What joins two parts: each end is a part and its device, with an address where it has one. A tunnel has no
    devices of its own in the picture."""

    ends: tuple[str, str]
    devices: tuple[str, str] = ("", "")
    addresses: tuple[str, str] = ("", "")
    is_tunnel: bool = False
    says: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A lab's parts and wires. `passed` are the devices (`node1:eth0`) that a traced packet was seen at, `request`
    those of the first request in the order of its way; `ways` says in a line each where a packet went."""

    title: str
    places: tuple[Place, ...]
    wires: tuple[Wire, ...]
    passed: frozenset[str] = field(default_factory=frozenset)
    request: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()

    def numbers(self, tap: str) -> tuple[int, ...]:
        """Which steps of the request's way, counted from 1, that device is."""
        return tuple(number for number, seen in enumerate(self.request, start=1) if seen == tap)

    def is_passed(self, wire: Wire) -> bool:
        """Whether the packet was seen at both ends; of a tunnel, at its device on both nodes."""
        if wire.is_tunnel:
            own = {place.name: place.devices for place in self.places}
            return all(
                any(f"{end}:{device}" in self.passed for device in wire.devices if device in own[end])
                for end in wire.ends
            )
        return all(f"{part}:{device}" in self.passed for part, device in zip(wire.ends, wire.devices, strict=True))


def graph_of(lab: Lab, trace: Trace | None = None, devices: Mapping[str, Sequence[str]] | None = None) -> Graph:
    """The lab as it was asked for, with the `devices` of each node; with `trace`, the way that its packets went."""
    paths = () if trace is None else trace.paths
    between = devices or {}
    network = ", ".join(str(value) for value in lab.asked().values() if not isinstance(value, bool))
    return Graph(
        title=f"{lab.name}: fabric {lab.fabric.type}, {network}",
        places=tuple(_places(lab, between)),
        wires=(*_fabric_wires(lab), *_pod_wires(lab), *_tunnels(lab, between)),
        passed=frozenset(hop.tap for path in paths for hop in path.hops),
        request=next((_taps(path) for path in paths if path.way is Way.REQUEST), ()),
        ways=tuple(f"{path_title(path)}: {' → '.join(_taps(path))}" for path in paths),
    )


def _taps(path: PacketPath) -> tuple[str, ...]:
    return tuple(hop.tap for hop in path.hops)


def _places(lab: Lab, devices: Mapping[str, Sequence[str]]) -> Iterator[Place]:
    for host in lab.outside:
        yield Place(name=host.name, kind="outside", tier=Tier.OUTSIDE, facts=(str(host.address),))
    is_ring = lab.fabric.type is FabricType.SWITCHED
    spines = {end.part for link in lab.links for end in link.ends if end.part.startswith("spine")}
    for router in lab.routers:
        facts = (f"AS {router.asn}",) if router.asn else ()
        kind = "switch" if is_ring else "router"
        tier = Tier.SPINE if router.name in spines else Tier.EDGE
        own = () if is_ring else (str(router.router_id),)
        yield Place(name=router.name, kind=kind, tier=tier, facts=(*own, *facts))
    if lab.fabric.type is FabricType.BRIDGE:
        yield Place(name=UNDERLAY, kind="wire", tier=Tier.WIRE, facts=(str(lab.network.underlay_cidr),))
    for node in lab.nodes:
        yield Place(
            name=node.name,
            kind="node",
            tier=Tier.NODE,
            facts=(str(node.address.ip), f"pods {node.pod_cidr}"),
            devices=tuple(devices.get(node.name, ())),
        )
    for pod in lab.pods:
        yield Place(name=pod.name, kind="pod", tier=Tier.POD, facts=(str(pod.address),))


def _fabric_wires(lab: Lab) -> Iterator[Wire]:
    for link in lab.links:
        one, other = link.ends
        yield Wire(
            ends=(one.part, other.part),
            devices=(one.device, other.device),
            addresses=(_text(one.address), _text(other.address)),
        )
    if lab.fabric.type is not FabricType.BRIDGE:
        return
    for node in lab.nodes:
        yield _to_underlay(node.name, interfaces.UPLINK, str(node.address.ip), interfaces.bridge_port(node.index))
    for number, router in enumerate(lab.routers):
        yield _to_underlay(router.name, interfaces.UPLINK, "", interfaces.router_port(number))
    for number, host in enumerate(lab.outside):
        yield _to_underlay(host.name, interfaces.POD_DEVICE, str(host.address), interfaces.outside_port(number))


def _text(address: object) -> str:
    return "" if address is None else str(address).partition("/")[0]


def _to_underlay(part: str, device: str, address: str, port: str) -> Wire:
    return Wire(ends=(UNDERLAY, part), devices=(port, device), addresses=("", address))


def _pod_wires(lab: Lab) -> Iterator[Wire]:
    for pod in lab.pods:
        yield Wire(
            ends=(pod.node, pod.name), devices=(pod.lxc, interfaces.POD_DEVICE), addresses=("", str(pod.address))
        )


def _tunnels(lab: Lab, devices: Mapping[str, Sequence[str]]) -> Iterator[Wire]:
    if not lab.datapath.encapsulation.is_tunnel or len(lab.nodes) > _MOST_TUNNELLED:
        return
    vni = lab.pod_network.vni
    kind = str(lab.datapath.encapsulation).upper()
    says = kind if vni is None else f"{kind}, VNI {vni}"
    nodes: list[Node] = [*lab.nodes]
    for number, node in enumerate(nodes):
        for other in nodes[number + 1 :]:
            ends = (node.name, other.name)
            by = [next(filter(_is_tunnel, devices.get(end, ())), "") for end in ends]
            yield Wire(ends=ends, devices=(by[0], by[1]), is_tunnel=True, says=says)


def _is_tunnel(device: str) -> bool:
    """By the names that networks give to theirs."""
    return any(part in device for part in ("vxlan", "geneve", "flannel"))


def as_json(graph: Graph) -> dict[str, Any]:
    return {
        "apiVersion": "labctl/v1",
        "kind": "Graph",
        "title": graph.title,
        "places": [
            {
                "name": place.name,
                "kind": place.kind,
                "tier": place.tier.name.lower(),
                "facts": list(place.facts),
                "devices": list(place.devices),
            }
            for place in graph.places
        ],
        "wires": [
            {
                "ends": list(wire.ends),
                "devices": list(wire.devices),
                "addresses": list(wire.addresses),
                "tunnel": wire.is_tunnel,
                "passed": graph.is_passed(wire),
            }
            for wire in graph.wires
        ],
        "way": list(graph.request),
    }


_MARKS = {True: "●", False: "─"}


def as_tree(graph: Graph) -> Tree:
    """Every part with its devices and what is at their other ends; what a packet passed has a mark."""
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(graph.title))
    wires: Mapping[str, list[tuple[Wire, int]]] = _by_part(graph.wires)
    for place in graph.places:
        if place.tier is Tier.POD:
            continue
        branch = tree.add(Text(f"{place.name}  {', '.join(place.facts)}"))
        for device in place.devices:
            is_seen = f"{place.name}:{device}" in graph.passed
            branch.add(Text(f"{device} {_MARKS[True]}" if is_seen else device))
        for wire, end in wires.get(place.name, ()):
            branch.add(Text(_wire_line(graph, wire, end)))
    for way in graph.ways:
        tree.add(Text(way))
    return tree


def _by_part(wires: Iterable[Wire]) -> dict[str, list[tuple[Wire, int]]]:
    found: dict[str, list[tuple[Wire, int]]] = {}
    for wire in wires:
        for end in (0, 1):
            found.setdefault(wire.ends[end], []).append((wire, end))
    return found


def _wire_line(graph: Graph, wire: Wire, end: int) -> str:
    away = 1 - end
    if wire.is_tunnel:
        mark = f" {_MARKS[True]}" if graph.is_passed(wire) else ""
        return f"╌╌ {wire.says} to {wire.ends[away]}{mark}"
    here = " ".join(filter(None, (wire.devices[end], wire.addresses[end])))
    there = " ".join(filter(None, (f"{wire.ends[away]}:{wire.devices[away]}", wire.addresses[away])))
    return f"{here} {_MARKS[graph.is_passed(wire)] * 2} {there}"


def as_mermaid(graph: Graph) -> str:
    """A flowchart of Mermaid, which Markdown viewers draw."""
    lines = ["flowchart TD"]
    ids = {place.name: f"n{number}" for number, place in enumerate(graph.places)}
    for place in graph.places:
        words = "<br/>".join(map(_quoted, (place.name, *place.facts, *place.devices)))
        shape = ("([", "])") if place.kind == "pod" else ("[", "]") if place.kind == "node" else ("{{", "}}")
        lines.append(f'  {ids[place.name]}{shape[0]}"{words}"{shape[1]}')
    passed = []
    for number, wire in enumerate(graph.wires):
        one, other = (ids[end] for end in wire.ends)
        if wire.is_tunnel:
            lines.append(f'  {one} -. "{_quoted(wire.says)}" .- {other}')
        else:
            lines.append(f'  {one} -- "{_quoted(" – ".join(wire.devices))}" --- {other}')
        if graph.is_passed(wire):
            passed.append(str(number))
    if passed:
        lines.append(f"  linkStyle {','.join(passed)} stroke-width:4px")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Without what ends a text of Mermaid's, or begins a tag."""
    return re.sub(r'["<>`]', "'", text)
