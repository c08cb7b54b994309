"""What two nodes see of each other across routers: hops, MACs, next hops."""

from __future__ import annotations

from pathlib import Path

from labctl.fabrics import fabric_of
from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.model.signature import Role, TapSight
from labctl.networks import expected_of
from labctl.planning.resolve import resolve

CHECKOUT = Path(__file__).resolve().parents[3]


def lab_of(name: str, *overrides: str) -> Lab:
    return resolve(load_scenario(name, overrides=overrides, start=CHECKOUT))


def expected_taps(lab: Lab) -> dict[Role, TapSight]:
    expected = expected_of(lab, lab.pairs[-1], packets=1)
    assert expected is not None
    return {tap.role: tap for tap in expected.signature.taps}


def seen(lab: Lab, role: Role) -> tuple[int, str, str]:
    request = expected_taps(lab)[role].request
    assert request is not None
    return request.ttl, request.src_mac, request.dst_mac


def test_each_router_between_the_uplinks_counts_a_hop() -> None:
    lab = lab_of("clos-bgp")
    assert seen(lab, Role.CLIENT_UPLINK) == (63, "client-node-uplink", "client-gateway")
    assert seen(lab, Role.SERVER_UPLINK) == (60, "server-gateway", "server-node-uplink")
    assert seen(lab, Role.SERVER_ETH0)[0] == 59


def test_nodes_on_one_leaf_are_one_hop_apart() -> None:
    lab = lab_of("clos-bgp", "fabric.leaves=1")
    assert seen(lab, Role.SERVER_UPLINK)[0] == 62


def test_through_a_tunnel_only_the_envelope_loses_hops() -> None:
    lab = lab_of("clos-bgp", "podNetwork={type: flannel, backend: vxlan}")
    assert seen(lab, Role.SERVER_UPLINK)[0] == 63
    request = expected_taps(lab)[Role.SERVER_UPLINK].request
    assert request is not None
    assert request.outer is not None
    assert (request.outer.ttl, request.outer.src_mac) == (61, "server-gateway")


def test_a_leaf_reaches_the_other_ends_pods_by_every_spine() -> None:
    lab = lab_of("clos-bgp")
    first, last = fabric_of(lab).routes(lab, lab.pairs[-1])
    assert (first.part, str(first.destination)) == ("leaf1", "10.244.1.0/24")
    assert sorted(map(str, first.next_hops)) == ["10.254.0.0", "10.254.0.2"]
    assert last.part == "leaf2"


def test_one_router_without_a_protocol_is_told_where_everything_is() -> None:
    lab = lab_of("docker-host-routes", "fabric={type: routed, routing: static}")
    assert [router.name for router in lab.routers] == ["router1"]
    assert str(fabric_of(lab).next_hop(lab, lab.nodes[0], lab.nodes[1])) == "10.254.0.0"
    assert [*fabric_of(lab).daemons(lab)] == []
