from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.datapath.layout import Program, Verdict
from labctl.datapath.metrics import Metric
from labctl.model.datapath import Encapsulation, HostRouting
from labctl.model.lab import Lab, Placement
from labctl.model.proof import Evidence
from labctl.providers.netns import evidence
from labctl.providers.netns.datapath_actions import Direction
from labctl.providers.netns.evidence import Look
from labctl.providers.netns.readings import Netfilter, Reading
from labctl.system.conntrack import Connection
from labctl.system.rtnetlink import Filter, Link
from labctl.testing.sample_lab import sample_lab

LXC = "lxc948fe603f61d"
ATTACHED = {Direction.INGRESS: (Filter(name="cil_from_container-x", program_id=7, tag="ab12"),)}


def link(name: str, *, rx: int = 0, tx: int = 0) -> Link:
    return Link(index=10, name=name, mac="02:00:00:00:00:01", flags=1, alias="", rx_packets=rx, tx_packets=tx)


def reading(**changes: object) -> Reading:
    empty = Reading(
        node="node1",
        namespace="labctl.x.node1",
        links={LXC: link(LXC)},
        filters={LXC: ATTACHED},
        metrics=(),
        metrics_map=5,
        netfilter=Netfilter(forwarded=0, rules=28),
        connections=(),
    )
    return replace(empty, **changes)  # type: ignore[arg-type]


def metric(program: Program, verdict: Verdict, packets: int, *, ifindex: int = 10) -> Metric:
    return Metric(ifindex=ifindex, program=program, verdict=verdict, packets=packets, bytes=packets * 98)


def heard(lab: Lab, placement: Placement, after: Reading, before: Reading | None = None) -> Mapping[str, Evidence]:
    pair = next(pair for pair in lab.pairs if pair.placement is placement)
    look = Look(before=before or reading(filters=after.filters), after=after, lxc=LXC)
    return {piece.witness: piece for piece in evidence.testify(lab, pair, [look])}


def lab_of(host_routing: HostRouting, encapsulation: Encapsulation = Encapsulation.NATIVE) -> Lab:
    return sample_lab("judged", host_routing=host_routing, encapsulation=encapsulation)


@pytest.mark.parametrize(
    ("verdict", "mode"), [(Verdict.REDIRECT, HostRouting.LEGACY), (Verdict.REDIRECT_PEER, HostRouting.BPF)]
)
@pytest.mark.parametrize("asked", HostRouting)
def test_the_helper_that_delivered_tells_the_mode(asked: HostRouting, verdict: Verdict, mode: HostRouting) -> None:
    after = reading(metrics=(metric(Program.FROM_CONTAINER, verdict, 6),))
    found = heard(lab_of(asked), Placement.SAME_NODE, after)["helpers"]
    assert found.found == {"hostRouting": str(mode)}
    assert found.supports is (asked is mode)


def test_delivery_by_both_helpers_is_no_mode_and_contradicts() -> None:
    counted = (
        metric(Program.FROM_CONTAINER, Verdict.REDIRECT, 3),
        metric(Program.FROM_NETDEV, Verdict.REDIRECT_PEER, 3),
    )
    found = heard(lab_of(HostRouting.BPF), Placement.CROSS_NODE, reading(metrics=counted))["helpers"]
    assert found.found == {"encapsulation": "native"}
    assert found.supports is False
    assert found.finding.endswith("3 went by bpf_redirect_peer and 3 did not")


def test_programs_that_count_nothing_while_packets_go_through_contradict() -> None:
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, reading())["helpers"]
    assert (found.supports, found.finding) == (False, "the programs counted no packet")


def test_what_was_counted_before_does_not_count() -> None:
    old = (metric(Program.FROM_CONTAINER, Verdict.REDIRECT, 500),)
    new = (*old, metric(Program.FROM_CONTAINER, Verdict.REDIRECT_PEER, 6))
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, reading(metrics=new), reading(metrics=old))["helpers"]
    assert found.supports is True
    assert found.finding == "cil_from_container: 6 packets, bpf_redirect_peer"


def test_one_counter_is_told_for_all_devices_of_a_program() -> None:
    counted = tuple(metric(Program.FROM_CONTAINER, Verdict.REDIRECT, 3, ifindex=index) for index in (10, 11))
    found = heard(lab_of(HostRouting.LEGACY), Placement.SAME_NODE, reading(metrics=counted))["helpers"]
    assert found.finding == "cil_from_container: 6 packets, bpf_redirect"


def test_tunnelled_packets_contradict_native_routing() -> None:
    counted = (
        metric(Program.FROM_CONTAINER, Verdict.TUNNEL, 3),
        metric(Program.FROM_OVERLAY, Verdict.REDIRECT_PEER, 3),
    )
    found = heard(lab_of(HostRouting.BPF), Placement.CROSS_NODE, reading(metrics=counted))["helpers"]
    assert found.found == {"hostRouting": "bpf", "encapsulation": "vxlan"}
    assert found.supports is False


@pytest.mark.parametrize(("sent", "mode"), [(3, "legacy"), (0, "bpf")])
def test_an_lxc_that_sends_to_its_pod_is_legacy(sent: int, mode: str) -> None:
    after = reading(links={LXC: link(LXC, rx=3, tx=sent)})
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, after)["lxc-counters"]
    assert found.found == {"hostRouting": mode}
    assert found.supports is (mode == "bpf")


def test_an_arp_answer_out_of_the_lxc_is_not_taken_for_delivery() -> None:
    after = reading(links={LXC: link(LXC, rx=4, tx=1)}, metrics=(metric(Program.FROM_CONTAINER, Verdict.ARP_REPLY, 1),))
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, after)["lxc-counters"]
    assert found.found == {"hostRouting": "bpf"}


def test_a_pod_that_sent_nothing_tells_nothing() -> None:
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, reading())["lxc-counters"]
    assert (found.found, found.supports) == ({}, None)


@pytest.mark.parametrize(("forwarded", "mode"), [(6, "legacy"), (0, "bpf")])
def test_the_forward_hook_tells_the_mode_across_nodes_with_native_routing(forwarded: int, mode: str) -> None:
    after = reading(netfilter=Netfilter(forwarded=forwarded, rules=28))
    found = heard(lab_of(HostRouting.LEGACY), Placement.CROSS_NODE, after)["netfilter"]
    assert found.found == {"hostRouting": mode}
    assert found.supports is (mode == "legacy")


@pytest.mark.parametrize(("forwarded", "supports"), [(6, False), (0, None)])
def test_on_one_node_the_forward_hook_should_stay_still_in_both_modes(forwarded: int, supports: bool | None) -> None:
    after = reading(netfilter=Netfilter(forwarded=forwarded, rules=28))
    assert heard(lab_of(HostRouting.LEGACY), Placement.SAME_NODE, after)["netfilter"].supports is supports


def test_conntrack_knows_the_pair_or_does_not() -> None:
    lab = lab_of(HostRouting.LEGACY)
    of_pair = Connection(
        source=lab.pod("client").address, destination=lab.pod("server").address, protocol=1, is_answered=True
    )
    others = Connection(
        source=IPv4Address("172.30.0.2"), destination=IPv4Address("172.30.0.3"), protocol=17, is_answered=False
    )
    with_entry = heard(lab, Placement.CROSS_NODE, reading(connections=(of_pair, others)))["conntrack"]
    without = heard(lab, Placement.CROSS_NODE, reading(connections=(others,)))["conntrack"]
    assert (with_entry.supports, with_entry.finding) == (True, "conntrack has 1 entry of the pair")
    assert (without.supports, without.finding) == (False, "conntrack has no entries of the pair")


def test_a_node_without_programs_contradicts() -> None:
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, reading(filters={LXC: {}}))["programs"]
    assert (found.supports, found.finding) == (False, "no program is attached")


def test_programs_on_a_vxlan_device_are_the_encapsulation() -> None:
    after = reading(filters={LXC: ATTACHED, "cilium_vxlan": ATTACHED})
    asked_native = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, after)["programs"]
    asked_vxlan = heard(lab_of(HostRouting.BPF, Encapsulation.VXLAN), Placement.SAME_NODE, after)["programs"]
    assert asked_native.found == asked_vxlan.found == {"encapsulation": "vxlan"}
    assert (asked_native.supports, asked_vxlan.supports) == (False, True)


def test_nothing_that_testifies_reads_the_faults() -> None:
    from pathlib import Path

    import labctl.providers.netns as package

    directory = Path(package.__path__[0])
    for module in ("evidence.py", "readings.py", "open.py"):
        assert "faults" not in (directory / module).read_text()
