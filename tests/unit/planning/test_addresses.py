"""Capacity and addresses agree: the last node and pod that fit have an address, and no two are the same."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from labctl.planning import resolve


def test_nodes_begin_at_the_second_address() -> None:
    underlay = IPv4Network("172.30.0.0/24")
    assert [str(resolve.node_address(underlay, index)) for index in (0, 1, 2)] == [
        "172.30.0.2/24",
        "172.30.0.3/24",
        "172.30.0.4/24",
    ]


@pytest.mark.parametrize(
    ("cidr", "capacity"),
    [("10.0.0.0/24", 253), ("10.0.0.0/29", 5), ("10.0.0.0/30", 1), ("10.0.0.0/31", 0), ("10.0.0.0/32", 0)],
)
def test_the_underlay_has_room_for_all_but_network_first_and_broadcast(cidr: str, capacity: int) -> None:
    underlay = IPv4Network(cidr)
    assert resolve.node_capacity(underlay) == capacity
    if capacity:
        last = resolve.node_address(underlay, capacity - 1)
        assert last.ip == underlay.broadcast_address - 1


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 6, 13, 14, 29, 30, 250])
def test_the_prefix_that_is_recommended_is_the_smallest_network_that_has_room(nodes: int) -> None:
    underlay = resolve.underlay_prefix_for(nodes)
    assert resolve.node_capacity(IPv4Network((0, underlay))) >= nodes
    assert resolve.node_capacity(IPv4Network((0, underlay + 1))) < nodes
    pods = resolve.pod_prefix_for(nodes)
    assert resolve.pod_network_capacity(IPv4Network((0, pods))) >= nodes
    assert resolve.pod_network_capacity(IPv4Network((0, pods + 1))) < nodes


def test_each_node_has_a_24_of_the_pods_range() -> None:
    pods = IPv4Network("10.244.0.0/16")
    assert resolve.pod_network_capacity(pods) == 256
    assert str(resolve.pod_network(pods, 0)) == "10.244.0.0/24"
    assert resolve.pod_network(pods, 255) == IPv4Network("10.244.255.0/24")
    assert resolve.pod_network_capacity(IPv4Network("10.0.0.0/25")) == 0


def test_the_last_pod_of_a_full_node_has_the_last_address() -> None:
    network = IPv4Network("10.244.7.0/24")
    assert resolve.router_address(network) == IPv4Address("10.244.7.1")
    assert resolve.pod_address(network, 0) == IPv4Address("10.244.7.10")
    assert resolve.pod_address(network, resolve.PODS_PER_NODE - 1) == IPv4Address("10.244.7.254")


def test_an_address_keeps_the_length_of_its_network() -> None:
    assert resolve.node_address(IPv4Network("10.0.0.0/22"), 300) == IPv4Interface("10.0.1.46/22")
