"""The routers of a fabric and their links: names, numbers and addresses."""

from __future__ import annotations

from collections import Counter

from labctl.model.fabric import FabricChoice, FabricType, Routing
from labctl.model.pod_network import CILIUM, Flooding, NetworkType, PodNetworkChoice
from labctl.planning.topology import LINKS, links_of, routers_of
from labctl.testing.labs import make_node

MACS = {node.name: node.mac for node in map(make_node, range(4))}


def clos(spines: int, leaves: int) -> FabricChoice:
    return FabricChoice(type=FabricType.CLOS, routing=Routing.BGP, spines=spines, leaves=leaves)


def test_every_spine_is_joined_to_every_leaf_and_every_node_to_one_leaf() -> None:
    choice = clos(spines=2, leaves=3)
    routers = routers_of(choice, CILIUM)
    links = links_of(choice, routers, MACS)
    ends = {frozenset(end.part for end in link.ends) for link in links}
    assert {frozenset({f"spine{s}", f"leaf{leaf}"}) for s in (1, 2) for leaf in (1, 2, 3)} <= ends
    assert [next(link.ends[0].part for link in links if link.ends[1].part == node) for node in MACS] == [
        "leaf1",
        "leaf2",
        "leaf3",
        "leaf1",
    ]
    assert len(links) == 6 + 4


def test_every_address_is_used_once_and_both_ends_are_on_one_link() -> None:
    choice = clos(spines=3, leaves=4)
    links = links_of(choice, routers_of(choice, CILIUM), MACS)
    addresses = [end.address for link in links for end in link.ends]
    assert all(address is not None and address.ip in LINKS for address in addresses)
    assert max(Counter(addresses).values()) == 1
    assert all(link.ends[0].address.network == link.ends[1].address.network for link in links)  # type: ignore[union-attr]


def test_leaves_are_systems_of_their_own_and_spines_are_one() -> None:
    asns = {router.name: router.asn for router in routers_of(clos(spines=2, leaves=2), CILIUM)}
    assert asns["spine1"] == asns["spine2"]
    assert len({asns["spine1"], asns["leaf1"], asns["leaf2"]}) == 3
    of_ospf = FabricChoice(type=FabricType.CLOS, routing=Routing.OSPF)
    assert {router.asn for router in routers_of(of_ospf, CILIUM)} == {0}


def test_a_ring_of_switches_closes() -> None:
    choice = FabricChoice(type=FabricType.SWITCHED, switches=4)
    links = links_of(choice, routers_of(choice, CILIUM), MACS)
    ring = [link for link in links if all(end.part.startswith("switch") for end in link.ends)]
    assert Counter(end.part for link in ring for end in link.ends) == {f"switch{n}": 2 for n in (1, 2, 3, 4)}
    assert all(end.address is None for link in ring for end in link.ends)


def test_on_one_bridge_there_is_a_router_only_for_evpn() -> None:
    evpn = PodNetworkChoice(type=NetworkType.VXLAN, mode=Flooding.EVPN)
    assert routers_of(FabricChoice(), CILIUM) == ()
    assert [router.name for router in routers_of(FabricChoice(), evpn)] == ["rr1"]


def test_a_device_has_the_name_of_what_it_leads_to_where_that_fits() -> None:
    choice = FabricChoice(type=FabricType.ROUTED, routing=Routing.STATIC)
    nodes = dict(list(MACS.items())[:2])
    devices = [link.ends[0].device for link in links_of(choice, routers_of(choice, CILIUM), nodes)]
    assert devices == ["to-node1", "to-node2"]
