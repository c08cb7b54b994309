"""Routers and links as listed: numbers, routes, taps, and what FRR is told of systems, costs and timers."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from labctl.fabrics import fabric_of
from labctl.fabrics.frr import router_daemons
from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.model.signature import Role
from labctl.networks import expected_of
from labctl.planning.resolve import resolve
from labctl.providers.netns.kinds.routing import MultipathAdd, RouteAdd

CHECKOUT = Path(__file__).resolve().parents[3]


def lab_of(*overrides: str) -> Lab:
    return resolve(load_scenario("triangle", overrides=overrides, start=CHECKOUT))


def links(joined: str) -> str:
    listed = ", ".join(f"{{endpoints: [{', '.join(each.split('-'))}]}}" for each in joined.split())
    return f"fabric.links=[{listed}]"


def statements(lab: Lab, router: str) -> list[str]:
    found = next(one for one in lab.routers if one.name == router)
    return [line.strip() for line in router_daemons(lab, found)[-1].configuration.splitlines()]


def test_devices_are_named_as_listed_and_others_after_what_they_lead_to() -> None:
    lab = lab_of()
    assert [end.device for end in lab.links[0].ends] == ["eth1", "eth1"]
    assert [(end.part, end.device) for end in lab.links[3].ends] == [("r1", "to-node1"), ("node1", "eth0")]


def test_a_nodes_end_comes_last_wherever_it_is_written() -> None:
    lab = lab_of("fabric.links[3].endpoints=[node1, r1]")
    assert [end.part for end in lab.links[3].ends] == ["r1", "node1"]


def test_the_direct_way_is_expected_and_its_hops() -> None:
    lab = lab_of()
    there, back = fabric_of(lab).routes(lab, lab.pairs[-1])
    assert (there.part, [*map(str, there.next_hops)], back.part) == ("r1", ["10.254.0.1"], "r2")
    taps = [(role, part, device) for role, part, device in fabric_of(lab).taps(lab, lab.pairs[-1])]
    assert taps == [
        (Role.CLIENT_GATEWAY, "r1", "to-node1"),
        (Role.FABRIC, "r1", "eth1"),
        (Role.FABRIC, "r2", "eth1"),
        (Role.SERVER_GATEWAY, "r2", "to-node2"),
    ]


def test_by_another_cost_packets_pass_three_routers() -> None:
    lab = lab_of("fabric.links[0].cost=40")
    expected = expected_of(lab, lab.pairs[-1], packets=1)
    assert expected is not None
    assert expected.signature.ping_ttl == 64 - 2 - 3
    assert [part for _, part, _ in fabric_of(lab).taps(lab, lab.pairs[-1])] == ["r1", "r1", "r3", "r3", "r2", "r2"]


def test_without_a_protocol_every_router_is_told_all_its_ways() -> None:
    lab = lab_of("fabric.routing=static", "fabric.links[0].cost=50")
    told = [*fabric_of(lab).told(lab)]
    assert not [*fabric_of(lab).daemons(lab)]
    to_pods = [one for one in told if isinstance(one, RouteAdd) and one.destination == IPv4Network("10.244.1.0/24")]
    assert [(one.namespace.rpartition(".")[2], str(one.gateway)) for one in to_pods] == [
        ("r1", "10.254.0.3"),
        ("r3", "10.254.0.5"),
    ]


def test_equal_ways_are_one_route_by_several_next_hops() -> None:
    routers = "fabric.routers=[{name: r1}, {name: r2}, {name: r3}, {name: r4}]"
    lab = lab_of("fabric.routing=static", routers, links("r1-r2 r1-r3 r2-r4 r3-r4 r1-node1 r4-node2"))
    wide = [one for one in fabric_of(lab).told(lab) if isinstance(one, MultipathAdd)]
    assert {one.shell() for one in wide if one.destination == IPv4Network("10.244.1.0/24")} == {
        (
            "ip -n labctl.triangle.r1 route add 10.244.1.0/24 "
            "nexthop via 10.254.0.1 dev to-r2 nexthop via 10.254.0.3 dev to-r3"
        )
    }


def test_ospf_is_told_costs_and_timers() -> None:
    said = statements(lab_of("fabric.timers={helloS: 2, deadS: 8}"), "r2")
    assert said[said.index("interface eth2") :][:5] == [
        "interface eth2",
        "ip ospf network point-to-point",
        "ip ospf cost 20",
        "ip ospf hello-interval 2",
        "ip ospf dead-interval 8",
    ]


def test_numbers_that_nobody_wrote_are_the_next_free_ones() -> None:
    lab = lab_of(
        "fabric.routing=bgp",
        "fabric.routers=[{name: r1}, {name: r2, asn: 65101, routerID: 10.255.0.1}, {name: r3}]",
        links("r1-r2 r1-r3 r3-r2 r1-node1 r2-node2"),
    )
    assert [(one.asn, str(one.router_id)) for one in lab.routers] == [
        (65_102, "10.255.0.2"),
        (65_101, "10.255.0.1"),
        (65_103, "10.255.0.3"),
    ]


def test_within_a_system_routers_are_their_own_next_hop_and_a_reflector_has_clients() -> None:
    lab = lab_of(
        "fabric.routing=bgp",
        "fabric.timers={keepaliveS: 3, holdS: 9}",
        "fabric.routers=[{name: r1, asn: 65000}, {name: r2, asn: 65000}, {name: r3, asn: 65000, routeReflector: true}]",
        links("r1-r3 r3-r2 r1-node1 r2-node2"),
    )
    said = statements(lab, "r3")
    assert "timers bgp 3 9" in said
    assert "neighbor 10.254.0.0 remote-as internal" in said
    assert "neighbor 10.254.0.0 next-hop-self force" in said
    assert "neighbor 10.254.0.0 route-reflector-client" in said
    assert not [line for line in statements(lab, "r1") if "reflector" in line]
    assert [str(hop) for hop in fabric_of(lab).routes(lab, lab.pairs[-1])[0].next_hops] == ["10.254.0.1"]
