"""What every tap sees of three echo requests, against what real Cilium showed in the same eight cells."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from datapath_frames import Frame, parse_frame
from datapath_topology import Cluster, capturing, cluster, make_lab

from labctl.model.interfaces import CILIUM_HOST, CILIUM_NET, CILIUM_VXLAN, UPLINK
from labctl.model.lab import Encapsulation, HostRouting
from labctl.testing.labs import RECORDED

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: eBPF programs and namespaces"),
    pytest.mark.skipif(shutil.which("ping") is None, reason="needs ping (iputils-ping)"),
]

CELLS = Path(__file__).resolve().parents[2] / "fixtures" / "datapath" / "cells.json"
MODES = [(routing, encapsulation) for routing in HostRouting for encapsulation in RECORDED]


@cache
def recorded() -> dict[tuple[str, str, str], Any]:
    cells = json.loads(CELLS.read_text(encoding="utf-8"))["cells"]
    return {(cell["hostRouting"], cell["encapsulation"], cell["placement"]): cell for cell in cells}


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: "-".join(mode))
def built(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    host_routing, encapsulation = request.param
    with cluster(make_lab(host_routing, encapsulation)) as built:
        for pod in ("b", "c"):  # neighbour entries first, as on a cluster that has been up for a while
            assert built.ping("a", built.lab.pod(pod).address).returncode == 0
        yield built


def tap_of(cluster: Cluster, role: str, server: str) -> tuple[str, str]:
    lab = cluster.lab
    pod = lab.pod("a" if role.startswith("client") else server)
    if role.endswith("-lxc"):
        return pod.node, pod.lxc
    if role.endswith("-node-uplink"):
        return pod.node, UPLINK
    if "-node-" in role:
        return pod.node, role.split("-node-")[1]
    return pod.name, "eth0"


def roles_of_macs(cluster: Cluster, server: str) -> dict[str, str]:
    lab = cluster.lab
    roles = {}
    for side, name in (("client", "a"), ("server", server)):
        pod = lab.pod(name)
        roles[pod.mac] = f"{side}-eth0"
        roles[pod.lxc_mac] = f"{side}-lxc"
        roles.setdefault(lab.node(pod.node).mac, f"{side}-node-uplink")
    return roles


def seen_at(frames: list[Frame], roles: dict[str, str], names: dict[str, str]) -> Any:
    """What a tap saw of one direction, in the shape of the recorded cells; every frame must be like the others."""
    if not frames:
        return None
    shapes = []
    for frame in frames:
        shape: dict[str, Any] = {
            "ttl": frame.ttl,
            "srcMac": roles.get(frame.source_mac, frame.source_mac),
            "dstMac": roles.get(frame.destination_mac, frame.destination_mac),
        }
        if frame.outer is not None:
            assert frame.vni is not None
            shape["outer"] = {
                "src": names[str(frame.outer.source)],
                "dstPort": frame.outer.destination_port,
                "ttl": frame.outer.ttl,
                "vni": frame.vni,
                "srcMac": roles.get(frame.outer.source_mac, frame.outer.source_mac),
                "dstMac": roles.get(frame.outer.destination_mac, frame.outer.destination_mac),
            }
        shapes.append(shape)
    assert all(shape == shapes[0] for shape in shapes), shapes
    return {"packets": len(frames), **shapes[0]}


@pytest.mark.parametrize("placement", ["same-node", "cross-node"])
def test_every_tap_sees_what_it_saw_on_real_cilium(built: Cluster, placement: str) -> None:
    lab = built.lab
    cell = recorded()[lab.datapath.host_routing, lab.datapath.encapsulation, placement]
    server = "b" if placement == "same-node" else "c"
    taps = [(tap["tap"], tap_of(built, tap["tap"], server)) for tap in cell["taps"]]
    client, target = lab.pod("a").address, lab.pod(server).address

    with capturing(built, [tap for _, tap in taps]) as captured:
        printed = built.ping("a", target).stdout
        frames = {tap: [f for f in map(parse_frame, captured[tap]()) if f is not None] for _, tap in taps}

    roles = roles_of_macs(built, server)
    # The recording's identities are the test lab's, on purpose: 16843 is the client's, 23579 the server's.
    names = {str(lab.node(lab.pod("a").node).address.ip): "client-node"}
    names.setdefault(str(lab.node(lab.pod(server).node).address.ip), "server-node")
    found = []
    for role, tap in taps:
        requests = [f for f in frames[tap] if f.icmp_type == 8 and (f.source, f.destination) == (client, target)]
        replies = [f for f in frames[tap] if f.icmp_type == 0 and (f.source, f.destination) == (target, client)]
        found.append(
            {
                "tap": role,
                "request": seen_at(requests, roles, names),
                "reply": seen_at(replies, roles, names),
            }
        )
    assert found == cell["taps"]
    assert set(re.findall(r"ttl=(\d+)", printed)) == {str(cell["pingTtl"])}


def test_all_eight_recorded_cells_are_tested() -> None:
    assert set(recorded()) == {
        (routing, encapsulation, placement)
        for routing, encapsulation in MODES
        for placement in ("same-node", "cross-node")
    }


def test_native_routing_has_no_overlay_device(built: Cluster) -> None:
    links = built.run("node1", "ip", "-o", "link").stdout
    assert CILIUM_HOST in links
    assert CILIUM_NET in links
    assert (CILIUM_VXLAN in links) == (built.lab.datapath.encapsulation is Encapsulation.VXLAN)
