from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.datapath.layout import PacketVerdict, Program, ProgramCounter
from labctl.model.evidence import Evidence, Silence
from labctl.model.lab import Encapsulation, HostRouting, Lab, Placement
from labctl.networks.base import NodeReadings
from labctl.networks.cilium import evidence
from labctl.providers.netns.counters import Netfilter, Reading, Unread
from labctl.providers.netns.kinds.program import Direction
from labctl.system.netfilter import Connection
from labctl.system.rtnetlink import Filter, Link
from labctl.testing.labs import RECORDED, sample_lab

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


def metric(program: Program, verdict: PacketVerdict, packets: int, *, ifindex: int = 10) -> ProgramCounter:
    return ProgramCounter(ifindex=ifindex, program=program, verdict=verdict, packets=packets, bytes=packets * 98)


def heard(
    lab: Lab, placement: Placement, after: Reading, before: Reading | None = None, *, arrived: int | Unread = 6
) -> Mapping[str, Evidence]:
    pair = next(pair for pair in lab.pairs if pair.placement is placement)
    pod = replace(lab.pod(pair.client), lxc=LXC)
    look = NodeReadings(before=before or reading(filters=after.filters), after=after, pod=pod, arrived=arrived)
    return {piece.witness: piece for piece in evidence.testify(lab, pair, [look])}


def lab_of(host_routing: HostRouting, encapsulation: Encapsulation = Encapsulation.NATIVE) -> Lab:
    return sample_lab("judged", host_routing=host_routing, encapsulation=encapsulation)


@pytest.mark.parametrize(
    ("verdict", "mode"), [(PacketVerdict.REDIRECT, HostRouting.LEGACY), (PacketVerdict.REDIRECT_PEER, HostRouting.BPF)]
)
@pytest.mark.parametrize("asked", HostRouting)
def test_the_helper_that_delivered_shows_the_mode(
    asked: HostRouting, verdict: PacketVerdict, mode: HostRouting
) -> None:
    after = reading(metrics=(metric(Program.FROM_CONTAINER, verdict, 6),))
    found = heard(lab_of(asked), Placement.SAME_NODE, after)["helpers"]
    assert found.found == {"hostRouting": str(mode)}
    assert found.supports is (asked is mode)


def test_delivery_by_both_helpers_is_no_mode_and_contradicts() -> None:
    counted = (
        metric(Program.FROM_CONTAINER, PacketVerdict.REDIRECT, 3),
        metric(Program.FROM_NETDEV, PacketVerdict.REDIRECT_PEER, 3),
    )
    found = heard(lab_of(HostRouting.BPF), Placement.CROSS_NODE, reading(metrics=counted))["helpers"]
    assert found.found == {"hostRouting": "unclear", "encapsulation": "native"}
    assert found.supports is False
    assert found.finding.endswith("3 went by bpf_redirect_peer and 3 did not")


def test_programs_that_counted_nothing_show_nothing() -> None:
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, reading())["helpers"]
    assert (found.supports, found.finding) == (None, "the programs counted no packet")


def test_what_was_counted_before_does_not_count() -> None:
    old = (metric(Program.FROM_CONTAINER, PacketVerdict.REDIRECT, 500),)
    new = (*old, metric(Program.FROM_CONTAINER, PacketVerdict.REDIRECT_PEER, 6))
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, reading(metrics=new), reading(metrics=old))["helpers"]
    assert found.supports is True
    assert found.finding == "cil_from_container: 6 packets, bpf_redirect_peer"


def test_one_counter_is_reported_for_all_devices_of_a_program() -> None:
    counted = tuple(metric(Program.FROM_CONTAINER, PacketVerdict.REDIRECT, 3, ifindex=index) for index in (10, 11))
    found = heard(lab_of(HostRouting.LEGACY), Placement.SAME_NODE, reading(metrics=counted))["helpers"]
    assert found.finding == "cil_from_container: 6 packets, bpf_redirect"


def test_tunnelled_packets_contradict_native_routing() -> None:
    counted = (
        metric(Program.FROM_CONTAINER, PacketVerdict.TUNNEL, 3),
        metric(Program.FROM_OVERLAY, PacketVerdict.REDIRECT_PEER, 3),
    )
    found = heard(lab_of(HostRouting.BPF), Placement.CROSS_NODE, reading(metrics=counted))["helpers"]
    assert found.found == {"hostRouting": "bpf", "encapsulation": "vxlan"}
    assert found.supports is False


@pytest.mark.parametrize(("sent", "mode"), [(3, "legacy"), (0, "bpf")])
def test_an_lxc_that_sends_to_its_pod_is_legacy(sent: int, mode: str) -> None:
    after = reading(links={LXC: link(LXC, rx=3, tx=sent)})
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, after, arrived=3)["lxc-counters"]
    assert found.found == {"hostRouting": mode}
    assert found.supports is (mode == "bpf")


def test_an_arp_answer_out_of_the_lxc_is_not_taken_for_delivery() -> None:
    after = reading(
        links={LXC: link(LXC, rx=4, tx=1)}, metrics=(metric(Program.FROM_CONTAINER, PacketVerdict.ARP_REPLY, 1),)
    )
    found = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, after)["lxc-counters"]
    assert found.found == {"hostRouting": "bpf"}


@pytest.mark.parametrize("sent", [0, 1, 4])
@pytest.mark.parametrize("asked", HostRouting)
def test_a_pod_that_received_nothing_shows_no_mode_whatever_its_lxc_sent(asked: HostRouting, sent: int) -> None:
    """The wire is cut, or the pod's own end of it is down: replies are missing in both modes."""
    after = reading(links={LXC: link(LXC, rx=5, tx=sent)})
    found = heard(lab_of(asked), Placement.CROSS_NODE, after, arrived=0)["lxc-counters"]
    assert (found.found, found.supports) == ({}, None)


@pytest.mark.parametrize(("arrived", "sent"), [(1, 1), (2, 1), (4, 3)])
def test_too_few_packets_to_distinguish_them_from_the_lxcs_own_arp_show_no_mode(arrived: int, sent: int) -> None:
    after = reading(links={LXC: link(LXC, rx=5, tx=sent)})
    found = heard(lab_of(HostRouting.LEGACY), Placement.CROSS_NODE, after, arrived=arrived)["lxc-counters"]
    assert (found.found, found.supports) == ({}, None)


def test_an_lxc_that_is_gone_or_recreated_shows_nothing() -> None:
    gone = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, reading(links={}, filters={"eth0": ATTACHED}))
    assert (gone["lxc-counters"].supports, gone["lxc-counters"].silence) == (None, Silence.ABSENT)
    assert (gone["programs"].finding, gone["programs"].silence) == (f"{LXC} is gone", Silence.ABSENT)
    other = replace(link(LXC, tx=9), index=99)
    anew = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, reading(links={LXC: other}))["lxc-counters"]
    assert (anew.supports, anew.finding) == (None, f"{LXC} was recreated meanwhile")


@pytest.mark.parametrize(("forwarded", "mode"), [(6, "legacy"), (0, "bpf")])
def test_the_forward_hook_shows_the_mode_across_nodes_with_native_routing(forwarded: int, mode: str) -> None:
    after = reading(netfilter=Netfilter(forwarded=forwarded, rules=28))
    found = heard(lab_of(HostRouting.LEGACY), Placement.CROSS_NODE, after)["netfilter"]
    assert found.found == {"hostRouting": mode}
    assert found.supports is (mode == "legacy")


@pytest.mark.parametrize(("forwarded", "supports"), [(6, False), (0, None)])
def test_on_one_node_the_forward_hook_should_stay_still_in_both_modes(forwarded: int, supports: bool | None) -> None:
    after = reading(netfilter=Netfilter(forwarded=forwarded, rules=28))
    assert heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, after)["netfilter"].supports is supports


@pytest.mark.parametrize("asked", HostRouting)
def test_a_forward_hook_that_passed_nothing_shows_nothing_when_nothing_came(asked: HostRouting) -> None:
    found = heard(lab_of(asked), Placement.CROSS_NODE, reading(), arrived=0)["netfilter"]
    assert (found.found, found.supports) == ({}, None)


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
    assert (without.supports, without.finding) == (None, "conntrack has no entries of the pair")
    of_old = reading(connections=(of_pair,))
    before = heard(lab, Placement.CROSS_NODE, of_old, of_old)["conntrack"]
    assert (before.supports, before.finding) == (None, "conntrack has 1 entry of the pair, 1 of them from before")


@pytest.mark.parametrize("asked", HostRouting)
def test_a_node_without_programs_shows_no_mode_and_says_what_is_missing(asked: HostRouting) -> None:
    for filters, missing in (
        ({LXC: {}}, "no program is attached"),
        (
            {"eth0": ATTACHED},
            f"no program is attached to {LXC}, so that the datapath does not see what its pod sends",
        ),
    ):
        found = heard(lab_of(asked), Placement.SAME_NODE, reading(filters=filters))["programs"]
        assert (found.supports, found.finding, found.silence) == (None, missing, Silence.ABSENT)


@pytest.mark.parametrize("encapsulation", RECORDED)
def test_a_vxlan_device_whose_program_is_gone_is_not_native_routing(encapsulation: Encapsulation) -> None:
    links = {LXC: link(LXC), "cilium_vxlan": link("cilium_vxlan")}
    found = heard(lab_of(HostRouting.BPF, encapsulation), Placement.CROSS_NODE, reading(links=links))["programs"]
    assert (found.supports, found.found, found.silence) == (None, {}, Silence.ABSENT)


REFUSED = Unread(why="bpf(PROG_GET_FD_BY_ID): Operation not permitted (EPERM)")


@pytest.mark.parametrize(
    ("witness", "changes"),
    [
        ("helpers", {"metrics": REFUSED}),
        ("netfilter", {"netfilter": REFUSED}),
        ("netfilter-rules", {"netfilter": REFUSED}),
        ("conntrack", {"connections": REFUSED}),
    ],
)
@pytest.mark.parametrize("asked", HostRouting)
def test_a_witness_that_cannot_be_read_says_so_with_the_error_and_is_never_against(
    asked: HostRouting, witness: str, changes: dict[str, object]
) -> None:
    for before, after in ((reading(), reading(**changes)), (reading(**changes), reading(**changes))):
        found = heard(lab_of(asked), Placement.CROSS_NODE, after, before)[witness]
        assert (found.supports, found.found, found.silence) == (None, None, Silence.UNREAD)
        assert found.finding.endswith("could not be read: bpf(PROG_GET_FD_BY_ID): Operation not permitted (EPERM)")


def test_a_counter_that_is_not_there_or_was_set_back_could_not_be_read() -> None:
    lab = lab_of(HostRouting.LEGACY)
    no_table = heard(lab, Placement.CROSS_NODE, reading(netfilter=Netfilter(forwarded=None, rules=3)))["netfilter"]
    assert no_table.finding.endswith("could not be read: iptables-save shows no FORWARD chain in the table mangle")
    before = reading(netfilter=Netfilter(forwarded=9, rules=3))
    assert heard(lab, Placement.CROSS_NODE, reading(), before)["netfilter"].silence is Silence.UNREAD
    no_arrivals = heard(lab, Placement.CROSS_NODE, reading(), arrived=REFUSED)
    assert no_arrivals["lxc-counters"].silence is Silence.UNREAD
    assert no_arrivals["netfilter"].supports is None


@pytest.mark.parametrize(
    ("counted", "placement"),
    [
        ((Program.FROM_NETDEV, PacketVerdict.TO_STACK), Placement.CROSS_NODE),
        ((Program.FROM_CONTAINER, PacketVerdict.TO_STACK), Placement.CROSS_NODE),
        ((Program.FROM_HOST, PacketVerdict.REDIRECT), Placement.CROSS_NODE),
    ],
)
def test_packets_that_may_be_envelopes_are_no_native_routing(
    counted: tuple[Program, PacketVerdict], placement: Placement
) -> None:
    """An envelope whose way ends before the overlay's program is only seen to go to the stack."""
    after = reading(metrics=(metric(*counted, 4),))
    found = heard(lab_of(HostRouting.LEGACY, Encapsulation.VXLAN), placement, after)["helpers"]
    assert "encapsulation" not in (found.found or {})
    assert found.supports is not False


def test_programs_on_a_vxlan_device_are_the_encapsulation() -> None:
    after = reading(filters={LXC: ATTACHED, "cilium_vxlan": ATTACHED})
    asked_native = heard(lab_of(HostRouting.BPF), Placement.SAME_NODE, after)["programs"]
    asked_vxlan = heard(lab_of(HostRouting.BPF, Encapsulation.VXLAN), Placement.SAME_NODE, after)["programs"]
    assert asked_native.found == asked_vxlan.found == {"encapsulation": "vxlan"}
    assert (asked_native.supports, asked_vxlan.supports) == (False, True)


def test_nothing_that_testifies_reads_the_faults() -> None:
    from pathlib import Path

    import labctl

    directory = Path(labctl.__path__[0])
    for module in ("networks/cilium/evidence.py", "providers/netns/counters.py", "providers/netns/open.py"):
        assert "faults" not in (directory / module).read_text()
