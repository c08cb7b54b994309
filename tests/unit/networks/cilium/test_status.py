"""A node of labctl's own datapath in the lines of `cilium status --verbose`: all, in order, each with its proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from labctl.datapath.bpf import MapInfo, MapType
from labctl.model.evidence import AttachedProgram, Evidence, ModeInForce
from labctl.model.lab import (
    Encapsulation,
    Fallback,
    HostRouting,
    Lab,
    Masquerade,
    Service,
    ServiceProtocol,
    ServiceType,
)
from labctl.model.node_status import NodeStatus, Shown, StatusLine
from labctl.networks.base import StatusReading, WatchedObjects
from labctl.networks.cilium.contents import map_contents
from labctl.networks.cilium.network import attachments
from labctl.networks.cilium.status import NOT_HERE, node_status
from labctl.providers.cilium.verbose import parse_verbose
from labctl.providers.netns.counters import Unread
from labctl.testing.labs import sample_lab

RECORDED = Path(__file__).resolve().parents[3] / "fixtures" / "cilium"
CLEAN = {"iptables-legacy-save": "*nat\nCOMMIT\n", "iptables-nft-save": "", "nft list tables": ""}
MASQUERADED = "-A CILIUM_POST_nat -s 10.244.0.0/24 ! -d 10.244.0.0/16 ! -o cilium_+ -j MASQUERADE"
IS_TABLE = frozenset({"Allocated addresses", "Controller Status", "Cluster health", "Modules Health"})
"""Heads whose lines below are of the cluster: names of pods, nodes and loops."""


def reading(
    lab: Lab,
    node: str = "node1",
    *,
    rules: Mapping[str, str | Unread] = CLEAN,
    elsewhere: Sequence[AttachedProgram] = (),
    watched: tuple[WatchedObjects, ...] = (WatchedObjects(name="devices", count=9),),
    tags: str = "aa",
) -> StatusReading:
    programs = [
        AttachedProgram(device=one.device, hook=one.hook, attach="tc clsact", name=one.program, program_id=7, tag=tags)
        for one in attachments(lab, node)
    ]
    contents = map_contents(lab, node)
    maps = {
        name: (
            MapInfo(id=number, name=name, type=MapType.HASH, key_size=4, value_size=4, max_entries=1024),
            tuple((key, (value,)) for key, value in entries),
        )
        for number, (name, entries) in enumerate(contents.items(), start=40)
    }
    return StatusReading(
        node=node,
        namespace=f"labctl.{lab.name}.{node}",
        programs=tuple(programs),
        maps=maps,
        addresses={"cilium_host": (lab.node(node).router,), "eth0": (lab.node(node).address.ip,)},
        rules=rules,
        watched=watched,
        elsewhere=tuple(elsewhere),
    )


def mode_of(lab: Lab, where: str = "node1", **found: object) -> ModeInForce:
    claims = found or {"hostRouting": str(lab.in_force.host_routing), "encapsulation": str(lab.datapath.encapsulation)}
    piece = Evidence(witness="helpers", where=where, finding="8 packets", supports=True, found=claims)
    return ModeInForce(
        lab=lab.name, asked=lab.datapath.asked(), found=claims, evidence=(piece,), proven=True, fallback=lab.fallback
    )


def line(status: NodeStatus, label: str) -> StatusLine:
    (found,) = [line for line in status.lines if line.label == label]
    return found


def skeleton(lines: Sequence[StatusLine]) -> list[tuple[int, str]]:
    """Depth and label of every line that is of Cilium and not of one cluster."""
    kept, head = [], ""
    for each in lines:
        head = each.label if each.depth == 0 else head
        if each.depth == 0 or head not in IS_TABLE:
            kept.append((each.depth, each.label))
    return kept


@pytest.mark.parametrize("recording", ["status-verbose-bpf-vxlan.txt", "status-verbose-v1.16-bpf-vxlan.txt"])
def test_every_line_of_a_recorded_status_is_there_in_its_order(recording: str) -> None:
    lab = sample_lab("demo")
    recorded = skeleton(parse_verbose((RECORDED / recording).read_text(encoding="utf-8")))
    ours = iter(skeleton(node_status(lab, reading(lab), mode_of(lab)).lines))
    assert len(recorded) > 60
    lost = [each for each in recorded if each not in ours]  # `in` moves the iterator on: order counts
    assert lost == []


def test_every_line_says_what_shows_it_or_that_it_is_not_there() -> None:
    lab = sample_lab("demo")
    for each in node_status(lab, reading(lab), mode_of(lab)).lines:
        if each.shown is Shown.ABSENT:
            assert each.value == NOT_HERE
        elif each.depth == 0:
            assert each.because, each.label


@pytest.mark.parametrize(
    ("host_routing", "encapsulation", "host", "routing"),
    [
        (HostRouting.BPF, Encapsulation.VXLAN, "BPF", "Network: Tunnel [vxlan]   Host: BPF"),
        (HostRouting.LEGACY, Encapsulation.NATIVE, "Legacy", "Network: Native   Host: Legacy"),
    ],
)
def test_the_mode_is_in_both_vocabularies(
    host_routing: HostRouting, encapsulation: Encapsulation, host: str, routing: str
) -> None:
    lab = sample_lab("demo", host_routing=host_routing, encapsulation=encapsulation)
    status = node_status(lab, reading(lab), mode_of(lab))
    assert (line(status, "Host Routing").value, line(status, "Host Routing").shown) == (host, Shown.PROVEN)
    assert (line(status, "Routing").value, line(status, "Routing").shown) == (routing, Shown.PROVEN)


def test_what_was_asked_is_not_proven_by_asking() -> None:
    lab = sample_lab("demo")
    status = node_status(lab, reading(lab), None)
    assert line(status, "Host Routing").shown is Shown.UNPROVEN
    assert line(status, "Host Routing").because == "asked for; no packets were sent to see it"


def test_a_node_without_packets_is_proven_by_the_tags_of_its_programs_alone() -> None:
    lab = sample_lab("demo")
    witness = reading(lab).programs
    same = node_status(lab, reading(lab, "node3", elsewhere=witness), mode_of(lab))
    assert line(same, "Host Routing").shown is Shown.PROVEN
    other = node_status(lab, reading(lab, "node3", elsewhere=witness, tags="bb"), mode_of(lab))
    assert line(other, "Host Routing").shown is Shown.UNPROVEN


def test_a_fallback_is_shown_as_asked_against_in_force() -> None:
    asked = sample_lab("demo", masquerade=Masquerade.IPTABLES)
    lab = replace(asked, fallback=Fallback(reason="masquerading is done by iptables", remedy="", version="1.18.12"))
    status = node_status(lab, reading(lab, rules={"iptables-legacy-save": MASQUERADED}), mode_of(lab))
    assert line(status, "Host Routing").value == "Legacy"
    assert line(status, "Host Routing").because.startswith("asked bpf, fell back: masquerading is done by iptables")
    assert line(status, "Masquerading").value == "IPTables [IPv4: Enabled, IPv6: Disabled]"
    assert line(status, "Masquerading").because == MASQUERADED


def test_masquerading_names_device_and_range_and_is_read_from_the_node() -> None:
    lab = sample_lab("demo")
    masquerading = line(node_status(lab, reading(lab), mode_of(lab)), "Masquerading")
    assert masquerading.value == "BPF   [eth0]   10.244.0.0/16 [IPv4: Enabled, IPv6: Disabled]"
    assert masquerading.command == "bpftool map dump id 40"
    neither = sample_lab("demo", masquerade=Masquerade.IPTABLES)
    assert line(node_status(neither, reading(neither), mode_of(neither)), "Masquerading").value == "Disabled"


def test_kube_proxys_rules_on_the_node_show_that_it_is_not_replaced() -> None:
    lab = sample_lab("demo")
    saved = "*nat\n:PREROUTING ACCEPT [3:180]\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"
    rules = {**CLEAN, "iptables-legacy-save": saved, "nft list tables": "table ip kube-proxy"}
    replacement = line(node_status(lab, reading(lab, rules=rules), mode_of(lab)), "KubeProxyReplacement")
    assert (replacement.value, replacement.shown) == ("False", Shown.PROVEN)
    assert replacement.because == (
        "kube-proxy's rules are on the node: iptables-legacy-save: KUBE-SERVICES; nft list tables: kube-proxy"
    )
    clean = line(node_status(lab, reading(lab), mode_of(lab)), "KubeProxyReplacement")
    assert clean.value == "True   [eth0   172.30.0.2 (Direct Routing)]"
    unread = dict.fromkeys(CLEAN, Unread(why="no such program"))
    unknown = line(node_status(lab, reading(lab, rules=unread), mode_of(lab)), "KubeProxyReplacement")
    assert unknown.shown is Shown.UNPROVEN


def test_ipam_counts_the_pods_that_the_node_has_and_its_own_address() -> None:
    lab = sample_lab("demo")
    status = node_status(lab, reading(lab), mode_of(lab))
    assert line(status, "IPAM").value == "IPv4: 3/254 allocated from 10.244.0.0/24, "
    at = [each.label for each in status.lines].index("Allocated addresses")
    assert [each.label for each in status.lines[at + 1 : at + 4]] == [
        "10.244.0.1 (router)", "10.244.0.2 (client)", "10.244.0.3 (neighbour)",
    ]  # fmt: skip
    assert status.ranges is not None
    assert (status.ranges.allocated, status.ranges.free, status.ranges.agrees) == (3, 251, True)
    assert [(one.name, one.identity, one.state) for one in status.endpoints] == [
        ("client", 1000, "ready"), ("neighbour", 1001, "ready"),
    ]  # fmt: skip
    assert status.endpoints[0].address == IPv4Address("10.244.0.2")


def test_what_is_missing_makes_a_controller_unhealthy() -> None:
    lab = sample_lab("demo")
    gone = WatchedObjects(name="devices", count=9, missing=("node1: eth0",))
    whole = reading(lab, watched=(gone,))
    info, entries = whole.maps["ipcache"]
    cut = replace(whole, maps={**whole.maps, "ipcache": (info, entries[1:])})
    status = node_status(lab, cut, mode_of(lab))
    assert line(status, "Controller Status").value == "2/4 healthy"
    assert "node1: eth0" in line(status, "devices").value
    assert line(status, "map-sync-ipcache").value.endswith("1 missing")
    assert line(status, "map-sync-tunnel").value.endswith("no error")


def test_a_lab_with_services_has_its_sockets_and_maps_in_the_details() -> None:
    service = Service(
        name="web", address=IPv4Address("10.96.0.11"), port=80, target_port=5205, protocol=ServiceProtocol.TCP,
        backends=("server",), selector={"app": "server"}, type=ServiceType.CLUSTER_IP,
    )  # fmt: skip
    lab = replace(sample_lab("demo"), services=(service,))
    at_sockets = tuple(
        AttachedProgram(device=f"labctl.demo/node1/{part}", hook="connect4", attach="cgroup", name="cil_sock4_conne",
                        program_id=9)
        for part in ("node", "pods")
    )  # fmt: skip
    bare = reading(lab)
    status = node_status(lab, replace(bare, programs=(*bare.programs, *at_sockets)), mode_of(lab))
    assert line(status, "Socket LB").value == "Enabled"
    assert line(status, "Socket LB Coverage").value == "Full"
    assert line(status, "- ClusterIP").value == "Enabled"
    assert line(status, "IPv4 service").value == "1024"
    of_nodes = node_status(lab, replace(bare, programs=(*bare.programs, at_sockets[0])), mode_of(lab))
    assert line(of_nodes, "Socket LB Coverage").value == "Hostns-only"
