"""What FRR's daemons are told, and who speaks with whom."""

from __future__ import annotations

from pathlib import Path

from labctl.fabrics.frr import node_daemons, router_daemons, speaks
from labctl.loading import load_scenario
from labctl.model.fabric import Routing
from labctl.model.lab import Lab
from labctl.planning.resolve import resolve

CHECKOUT = Path(__file__).resolve().parents[3]


def lab_of(name: str, *overrides: str) -> Lab:
    return resolve(load_scenario(name, overrides=overrides, start=CHECKOUT))


def statements(lab: Lab, router: str) -> list[str]:
    found = next(one for one in lab.routers if one.name == router)
    return [line.strip() for line in router_daemons(lab, found)[-1].configuration.splitlines()]


def test_a_leaf_speaks_with_every_spine_and_with_its_node() -> None:
    lab = lab_of("clos-bgp")
    said = statements(lab, "leaf1")
    assert "router bgp 65101" in said
    assert [line for line in said if line.endswith("remote-as external")] == [
        "neighbor 10.254.0.0 remote-as external",
        "neighbor 10.254.0.2 remote-as external",
        "neighbor 10.254.0.13 remote-as external",
    ]


def test_nodes_announce_their_pods_only_where_packets_cross_as_they_are() -> None:
    lab = lab_of("clos-bgp")
    assert "  network 10.244.0.0/24" in node_daemons(lab, lab.nodes[0])[-1].configuration.splitlines()
    tunnelled = lab_of("clos-bgp", "podNetwork={type: flannel, backend: vxlan}")
    assert node_daemons(tunnelled, tunnelled.nodes[0]) == ()
    assert "network 172.30.0.2/32" in statements(tunnelled, "leaf1")
    assert not [line for line in statements(tunnelled, "leaf1") if "10.254.0.13 " in line]


def test_ospf_announces_ones_own_networks_and_touches_no_neighbours() -> None:
    said = statements(lab_of("clos-ospf"), "leaf1")
    assert "ip ospf network point-to-point" in said
    assert "no proactive-arp" in said
    assert "redistribute connected route-map LOCAL" in said


def test_every_neighbour_is_counted_from_both_ends() -> None:
    assert speaks(lab_of("clos-bgp"), Routing.BGP) == {
        "spine1": 3, "spine2": 3, "leaf1": 3, "leaf2": 3, "leaf3": 3, "node1": 1, "node2": 1, "node3": 1,
    }  # fmt: skip
    assert speaks(lab_of("clos-bgp"), Routing.OSPF) == {}
    assert speaks(lab_of("evpn"), Routing.BGP) == {"rr1": 3, "node1": 1, "node2": 1, "node3": 1}
    assert speaks(lab_of("calico-bgp"), Routing.BGP) == {"node1": 2, "node2": 2, "node3": 2}
    assert speaks(lab_of("flannel-vxlan"), Routing.BGP) == {}
