"""What a running lab testifies: the mode in force in every cell, and a fault that gives itself away."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from netns_building import needs_root, ping, running

from labctl.model.evidence import Evidence
from labctl.model.lab import POD_PLACEMENTS, Encapsulation, Fault, HostRouting, Lab, Masquerade, Pair, Placement
from labctl.model.signature import Role
from labctl.providers.base import OpenLab, TargetKind
from labctl.providers.netns.provider import NetnsProvider
from labctl.testing.labs import sample_lab

pytestmark = [pytest.mark.root, needs_root]
PROVIDER = NetnsProvider()


def sending(opened: OpenLab, pair: Pair) -> Callable[[], None]:
    def send() -> None:
        address = str(opened.lab.pod(pair.server).address)
        done = opened.target(pair.client).run(("ping", "-c", "3", "-i", "0.01", "-W", "1", address), timeout_s=120)
        assert done.returncode == 0, done.text

    return send


def heard(lab: Lab, placement: Placement) -> tuple[Evidence, ...]:
    pair = next(pair for pair in lab.pairs if pair.placement is placement)
    with PROVIDER.open(lab) as opened:
        return opened.testimony(pair, sending(opened, pair))


@pytest.mark.parametrize("placement", POD_PLACEMENTS)
@pytest.mark.parametrize(
    "encapsulation", [Encapsulation.VXLAN, pytest.param(Encapsulation.NATIVE, marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_every_witness_agrees_with_what_was_built(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation, placement: Placement
) -> None:
    lab = sample_lab(host_as_found, host_routing=host_routing, encapsulation=encapsulation)
    with running(lab):
        evidence = heard(lab, placement)
    assert not [piece for piece in evidence if piece.supports is False]
    helpers = [piece for piece in evidence if piece.witness == "helpers"]
    assert len(helpers) == (1 if placement is Placement.SAME_NODE else 2)
    for piece in helpers:
        assert piece.supports
        assert piece.found is not None
        assert piece.found["hostRouting"] == str(host_routing)
    assert {piece.supports for piece in evidence if piece.witness == "lxc-counters"} == {True}
    is_telling = placement is Placement.CROSS_NODE and encapsulation is Encapsulation.NATIVE
    assert {piece.supports for piece in evidence if piece.witness == "netfilter"} == {True if is_telling else None}
    # That conntrack has no entry proves nothing.
    has_entries = is_telling and host_routing is HostRouting.LEGACY
    assert {piece.supports for piece in evidence if piece.witness == "conntrack"} == {True if has_entries else None}
    assert all(piece.command for piece in evidence)


def test_a_datapath_that_does_not_use_redirect_peer_is_found_out(host_as_found: str) -> None:
    lab = sample_lab(host_as_found, faults=(Fault.NO_REDIRECT_PEER,))
    with running(lab):
        evidence = heard(lab, Placement.CROSS_NODE)
    against = [piece for piece in evidence if piece.supports is False]
    assert {piece.witness for piece in against} == {"helpers", "lxc-counters"}
    assert all(piece.found and piece.found["hostRouting"] == "legacy" for piece in against)


def test_a_missing_neighbour_stops_cross_node_traffic_only(host_as_found: str) -> None:
    lab = sample_lab(host_as_found, encapsulation=Encapsulation.NATIVE, faults=(Fault.MISSING_NEIGHBOUR,))
    with running(lab):
        assert ping(lab, "client", lab.pod("neighbour").address).returncode == 0
        assert ping(lab, "client", lab.pod("server").address, count=1).returncode == 1


@pytest.mark.parametrize(("host_routing", "passes"), [(HostRouting.LEGACY, False), (HostRouting.BPF, True)])
def test_a_netfilter_drop_stops_what_the_stack_forwards_and_bpf_goes_round_it(
    host_as_found: str, host_routing: HostRouting, passes: bool
) -> None:
    lab = sample_lab(
        host_as_found,
        host_routing=host_routing,
        encapsulation=Encapsulation.NATIVE,
        faults=(Fault.NETFILTER_DROP,),
    )
    with running(lab):
        assert (ping(lab, "client", lab.pod("server").address, count=1).returncode == 0) is passes
        assert ping(lab, "client", lab.pod("neighbour").address).returncode == 0


def test_the_extra_rules_are_there_and_counted(host_as_found: str) -> None:
    lab = sample_lab(
        host_as_found,
        host_routing=HostRouting.LEGACY,
        encapsulation=Encapsulation.NATIVE,
        masquerade=Masquerade.IPTABLES,
        extra_iptables_rules=300,
    )
    with running(lab):
        evidence = heard(lab, Placement.CROSS_NODE)
    # 24 of Cilium's, 4 of the kubelet's, 300 extra, one MASQUERADE, one exception for each of the three nodes
    burden = {piece.finding for piece in evidence if piece.witness == "netfilter-rules"}
    assert burden == {"332 iptables rules are installed, and connections are tracked"}
    assert PROVIDER.statements(lab)[1].startswith("Each node carries 332 iptables rules, 300 of them extra ones")


def test_taps_and_devices_are_in_the_order_of_the_way(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    with running(lab), PROVIDER.open(lab) as opened:
        cross = next(pair for pair in lab.pairs if pair.placement is Placement.CROSS_NODE)
        taps = opened.taps(cross)
        roles = [tap.role for tap in taps]
        assert roles == [role for role in Role if role in roles]
        assert {str(role).removeprefix("client-").removeprefix("server-") for role in roles} == {
            "eth0", "lxc", "node-cilium_host", "node-cilium_net", "node-cilium_vxlan", "node-uplink",
            "node-bridge-port", "node-lo",
        }  # fmt: skip
        assert taps[0].name == "client:eth0"
        assert taps[1].name == f"node1:{lab.pod('client').lxc}"
        macs = {device.role: device.mac for device in opened.devices(cross)}
        assert macs["client-eth0"] == lab.pod("client").mac
        assert macs["server-lxc"] == lab.pod("server").lxc_mac
        assert macs["server-node-uplink"] == lab.node("node2").mac
        assert {target.kind for target in opened.targets()} == {TargetKind.POD, TargetKind.NODE, TargetKind.UNDERLAY}


def test_the_command_of_a_target_can_be_pasted(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    with running(lab), PROVIDER.open(lab) as opened:
        command = opened.target("client").command(("ip", "-br", "address"))
        assert command[:2] == ("nsenter", f"--net=/run/netns/labctl.{lab.name}.client")
        assert f"{lab.pod('client').address}/32" in opened.target("client").run(("ip", "address"), timeout_s=60).text
