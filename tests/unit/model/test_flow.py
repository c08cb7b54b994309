"""Ends of pairs: what they are, where they are to each other, and under which addresses their packets can show."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from labctl.model.flow import client_node_of, flows_of, seen_flows, server_node_of
from labctl.model.lab import (
    EndpointKind,
    Lab,
    Outside,
    Pair,
    Placement,
    Service,
    ServiceProtocol,
    ServiceType,
    placement_of,
)
from labctl.names import stable_mac
from labctl.testing.labs import sample_lab

NODE1, NODE2, WORLD, CLIENT, SERVER = (
    IPv4Address(text) for text in ("172.30.0.2", "172.30.0.3", "172.30.0.253", "10.244.0.2", "10.244.1.2")
)
ROUTER1, CLUSTER_IP = IPv4Address("10.244.0.1"), IPv4Address("10.96.0.11")


def world_lab() -> Lab:
    web = Service(
        name="web",
        address=CLUSTER_IP,
        port=80,
        target_port=5205,
        protocol=ServiceProtocol.TCP,
        backends=("server",),
        selector={"app": "server"},
        type=ServiceType.NODE_PORT,
        node_port=30080,
    )
    world = Outside(name="world", address=WORLD, mac=stable_mac("outside", "world"))
    return replace(sample_lab("ends"), services=(web,), outside=(world,))


def pair(client: str, server: str, via: str | None = None) -> Pair:
    return Pair(client=client, server=server, placement=Placement.OUTSIDE, via=via)


@pytest.mark.parametrize(
    ("client", "servers", "placement"),
    [
        ("node1", ["node1"], Placement.SAME_NODE),
        ("node1", ["node2"], Placement.CROSS_NODE),
        ("node1", ["node1", "node2"], Placement.MIXED),
        ("node1", ["node2", "node3"], Placement.CROSS_NODE),
        ("node1", [], Placement.SAME_NODE),
        (None, ["node1"], Placement.OUTSIDE),
        ("node1", [None], Placement.OUTSIDE),
    ],
)
def test_the_placement_follows_from_the_nodes_of_both_ends(
    client: str | None, servers: list[str | None], placement: Placement
) -> None:
    assert placement_of(client, servers) is placement


@pytest.mark.parametrize(
    ("name", "via", "kind", "address", "node"),
    [
        ("client", None, EndpointKind.POD, CLIENT, "node1"),
        ("node2", None, EndpointKind.NODE, NODE2, "node2"),
        ("world", None, EndpointKind.OUTSIDE, WORLD, None),
        ("web", None, EndpointKind.SERVICE, CLUSTER_IP, None),
        ("web", "node1", EndpointKind.SERVICE, NODE1, "node1"),
    ],
)
def test_every_name_is_an_endpoint(
    name: str, via: str | None, kind: EndpointKind, address: IPv4Address, node: str | None
) -> None:
    found = world_lab().endpoint(name, via)
    assert (found.kind, found.address, found.node) == (kind, address, node)


def test_a_pod_hides_the_service_that_is_called_like_it() -> None:
    lab = world_lab()
    hidden = replace(lab, services=(replace(lab.services[0], name="client"),))
    assert hidden.endpoint("client").kind is EndpointKind.POD
    with pytest.raises(KeyError):
        lab.endpoint("nobody")


def test_a_pair_says_its_server_and_the_node_that_is_asked_in_one_word_and_is_read_from_it() -> None:
    asked = pair("world", "web", "node1")
    assert (asked.name, asked.destination) == ("world→web@node1", "web@node1")
    assert Pair.between("world", asked.destination, asked.placement) == asked
    assert Pair.between("client", "server", Placement.CROSS_NODE).via is None


@pytest.mark.parametrize(
    ("ends", "flows"),
    [
        (pair("client", "server"), {(CLIENT, SERVER)}),
        (pair("client", "world"), {(CLIENT, WORLD), (NODE1, WORLD)}),
        (pair("client", "node1"), {(CLIENT, NODE1)}),
        (pair("client", "node2"), {(CLIENT, NODE2), (NODE1, NODE2)}),
        (pair("node1", "server"), {(NODE1, SERVER), (ROUTER1, SERVER)}),
        (pair("world", "node1"), {(WORLD, NODE1)}),
        (
            pair("world", "web", "node1"),
            {(WORLD, NODE1), (WORLD, SERVER), (NODE1, SERVER), (ROUTER1, SERVER)},
        ),
    ],
)
def test_the_flows_are_all_addresses_that_a_request_may_show(
    ends: Pair, flows: set[tuple[IPv4Address, IPv4Address]]
) -> None:
    lab = world_lab()
    found = flows_of(lab, ends)
    assert set(found) == flows
    assert len(found) == len(flows)
    assert found[0] == (lab.client(ends).address, lab.server(ends).address)


def test_a_trace_sees_pods_packets_also_where_they_are_masqueraded_though_nobody_asked_for_it() -> None:
    lab, ends = world_lab(), pair("client", "server")
    assert seen_flows(lab, ends) == ((CLIENT, SERVER), (NODE1, SERVER))
    assert seen_flows(lab, pair("client", "world")) == flows_of(lab, pair("client", "world"))


def test_pods_may_be_masqueraded_towards_each_other_where_the_range_says_less_than_all_of_them() -> None:
    lab = world_lab()
    narrow = replace(lab, datapath=replace(lab.datapath, ipv4_native_routing_cidr=IPv4Network("10.244.0.0/24")))
    assert set(flows_of(narrow, pair("client", "server"))) == {(CLIENT, SERVER), (NODE1, SERVER)}


@pytest.mark.parametrize(
    ("ends", "nodes"),
    [
        (pair("client", "server"), ("node1", "node2")),
        (pair("client", "neighbour"), ("node1", "node1")),
        (pair("client", "world"), ("node1", "node1")),
        (pair("world", "web", "node1"), ("node1", "node2")),
        (pair("world", "node2"), ("node2", "node2")),
        (pair("client", "web"), ("node1", "node2")),
    ],
)
def test_each_side_of_the_way_has_a_node(ends: Pair, nodes: tuple[str, str]) -> None:
    lab = world_lab()
    assert (client_node_of(lab, ends), server_node_of(lab, ends)) == nodes
