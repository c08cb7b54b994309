"""Expected taps of nodes and hosts outside: the numbers of the recording, written down a second time and compared."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.fabrics import fabric_of
from labctl.model.lab import Encapsulation, HostRouting, Lab, Outside, Pair, placement_of
from labctl.model.signature import Role, Seen
from labctl.names import stable_mac
from labctl.networks import network_of
from labctl.testing.labs import RECORDED, sample_lab

CELLS = [(mode, how) for mode in HostRouting for how in RECORDED]
each_cell = pytest.mark.parametrize(("mode", "how"), CELLS, ids=["-".join(cell) for cell in CELLS])
LEGACY, BPF = HostRouting.LEGACY, HostRouting.BPF
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE


def lab_of(mode: HostRouting, how: Encapsulation) -> Lab:
    hosts = (("world", "172.30.0.253"), ("far", "198.51.100.7"))
    outside = tuple(Outside(name=name, address=IPv4Address(at), mac=stable_mac(name)) for name, at in hosts)
    return replace(sample_lab("ends", host_routing=mode, encapsulation=how), outside=outside)


def expected(
    mode: HostRouting, how: Encapsulation, client: str, server: str
) -> tuple[dict[Role, tuple[Seen | None, Seen | None]], int | None]:
    """Request and reply by role, and what ping prints."""
    lab = lab_of(mode, how)
    placement = placement_of(lab.endpoint(client).node, [lab.endpoint(server).node])
    signature = (
        network_of(lab).expected(lab, Pair(client=client, server=server, placement=placement), packets=3).signature
    )
    return {sight.role: (sight.request, sight.reply) for sight in signature.taps}, signature.ping_ttl


def ttls(cell: tuple[Seen | None, Seen | None]) -> tuple[int | None, int | None]:
    request, reply = cell
    return request.ttl if request else None, reply.ttl if reply else None


@each_cell
def test_the_outside_sees_the_node_with_the_recorded_ttls(mode: HostRouting, how: Encapsulation) -> None:
    """The table of section 6: source, TTL at the host outside, TTL that ping prints, what the lxc shows."""
    recorded = {
        (BPF, VXLAN): (62, 63, None),
        (BPF, NATIVE): (63, 63, None),
        (LEGACY, NATIVE): (62, 62, 62),
        (LEGACY, VXLAN): (62, 62, 62),
    }
    at_outside, printed, on_lxc = recorded[mode, how]
    taps, ping_ttl = expected(mode, how, "client", "world")
    assert ping_ttl == printed
    assert ttls(taps[Role.SERVER_ETH0]) == (at_outside, 64)
    assert ttls(taps[Role.CLIENT_LXC]) == (64, on_lxc)
    request, reply = taps[Role.SERVER_ETH0]
    assert request is not None
    assert reply is not None
    assert (request.src, request.dst, reply.dst) == ("client-node", "server", "client-node")
    assert request.outer is None


@each_cell
def test_a_nodes_packets_to_a_remote_pod_are_as_recorded(mode: HostRouting, how: Encapsulation) -> None:
    """Section 7: from cilium_host's address with VNI 6 and home through cilium_net, or from the node's own."""
    printed = {(BPF, VXLAN): 63, (LEGACY, VXLAN): 63, (BPF, NATIVE): 63, (LEGACY, NATIVE): 62}
    taps, ping_ttl = expected(mode, how, "node1", "server")
    assert ping_ttl == printed[mode, how]
    request, reply = taps[Role.CLIENT_UPLINK]
    assert request is not None
    assert reply is not None
    assert request.src == ("client-node-router" if how is VXLAN else "client")
    if how is VXLAN:
        assert request.outer is not None
        assert reply.outer is not None
        lab = lab_of(mode, how)
        assert (request.outer.vni, reply.outer.vni) == (6, lab.pod("server").identity)
        assert ttls(taps[Role.CLIENT_CILIUM_HOST]) == ttls(taps[Role.CLIENT_CILIUM_NET]) == (None, 63)
    else:
        assert request.outer is None
        assert ttls(taps[Role.CLIENT_CILIUM_HOST]) == (None, None)
    assert taps[Role.SERVER_LXC][0] is None if mode is BPF else taps[Role.SERVER_LXC][0] is not None


@each_cell
def test_between_a_node_and_its_own_pod_the_lxc_shows_both_directions(mode: HostRouting, how: Encapsulation) -> None:
    taps, ping_ttl = expected(mode, how, "node1", "client")
    assert (ping_ttl, ttls(taps[Role.SERVER_LXC])) == (63, (63, 64))
    taps, ping_ttl = expected(mode, how, "client", "node1")
    assert (ping_ttl, ttls(taps[Role.CLIENT_LXC])) == (63, (64, 63))


@each_cell
def test_a_pod_is_masqueraded_towards_another_node_with_vxlan_alone(mode: HostRouting, how: Encapsulation) -> None:
    at_node = {(BPF, VXLAN): 62, (LEGACY, VXLAN): 62, (BPF, NATIVE): 63, (LEGACY, NATIVE): 62}
    printed = {(BPF, VXLAN): 63, (LEGACY, VXLAN): 62, (LEGACY, NATIVE): 62}
    taps, ping_ttl = expected(mode, how, "client", "node2")
    request, _ = taps[Role.SERVER_UPLINK]
    assert request is not None
    assert request.ttl == at_node[mode, how]
    assert request.src == ("client-node" if how is VXLAN else "client")
    assert request.outer is None
    assert ping_ttl == printed.get((mode, how), 63)


@each_cell
def test_the_gateway_takes_one_hop_each_way(mode: HostRouting, how: Encapsulation) -> None:
    near, near_ttl = expected(mode, how, "client", "world")
    far, far_ttl = expected(mode, how, "client", "far")
    assert near_ttl is not None
    assert far_ttl == near_ttl - 1
    (near_request, _), (far_request, far_reply) = near[Role.SERVER_ETH0], far[Role.SERVER_ETH0]
    assert near_request is not None
    assert far_request is not None
    assert far_request.ttl == near_request.ttl - 1
    assert far_request.src_mac == "server-node-bridge-port"
    at_uplink, from_uplink = far[Role.CLIENT_UPLINK]
    assert at_uplink is not None
    assert from_uplink is not None
    assert (at_uplink.dst_mac, from_uplink.src_mac, from_uplink.ttl) == ("gateway", "gateway", 63)
    assert far_reply is not None
    assert far_reply.ttl == 64


@each_cell
def test_the_outside_gets_no_answer_from_a_pods_own_address(mode: HostRouting, how: Encapsulation) -> None:
    taps, ping_ttl = expected(mode, how, "world", "client")
    assert ping_ttl is None
    seen = {role: cell for role, cell in taps.items() if cell != (None, None)}
    assert set(seen) == {Role.CLIENT_ETH0}
    assert ttls(seen[Role.CLIENT_ETH0]) == (64, None)


@each_cell
def test_the_taps_of_every_kind_of_pair_are_in_the_order_of_the_way(mode: HostRouting, how: Encapsulation) -> None:
    lab = lab_of(mode, how)
    network = network_of(lab)
    order = list(Role)
    ends = ("client", "server", "node1", "node2", "world", "far")
    for client in ends:
        for server in ends:
            one, other = lab.endpoint(client), lab.endpoint(server)
            if one.node is other.node is None or client == server:
                continue
            pair = Pair(client=client, server=server, placement=placement_of(one.node, [other.node]))
            at_client, at_server = network.taps(lab, pair)
            roles = [role for role, _, _ in (*at_client, *at_server)]
            assert roles == sorted(roles, key=order.index)
            assert roles == [sight.role for sight in network.expected(lab, pair, packets=1).signature.taps]
            ports = [device for _, _, device in fabric_of(lab).taps(lab, pair)]
            assert len(ports) == (0 if one.node == other.node else 2)
