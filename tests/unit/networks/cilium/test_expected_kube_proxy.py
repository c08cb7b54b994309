"""The taps of Services that kube-proxy's rules translate; tests/integration/trace holds them against real labs."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from services.service_labs import lab_with_services

from labctl.model.lab import Encapsulation, Lab, Outside, Pair, Placement
from labctl.model.signature import BACKEND, CLIENT, CLIENT_ROUTER, SERVER, Role, Seen
from labctl.names import stable_mac
from labctl.networks.cilium.network import CiliumNetwork

NETWORK = CiliumNetwork()


def lab_of(encapsulation: Encapsulation, backends: tuple[str, ...] = ("server",)) -> Lab:
    lab = lab_with_services(encapsulation=encapsulation)
    world = Outside(name="world", address=IPv4Address("172.30.0.200"), mac=stable_mac("world", "eth0"))
    web, *others = lab.services
    return replace(lab, services=(replace(web, backends=backends), *others), outside=(world,))


def at(lab: Lab, client: str, server: str, role: Role) -> tuple[Seen | None, Seen | None]:
    pair = Pair.between(client, server, Placement.CROSS_NODE)
    sights = NETWORK.expected(lab, pair, packets=1).signature.taps
    (sight,) = (one for one in sights if one.role is role)
    return sight.request, sight.reply


def ttls(seen: tuple[Seen | None, Seen | None]) -> tuple[int | None, int | None]:
    request, reply = seen
    return (request.ttl if request else None, reply.ttl if reply else None)


@pytest.mark.parametrize(
    ("encapsulation", "backend", "at_client", "at_backend"),
    [
        (Encapsulation.VXLAN, "neighbour", (64, 61), (61, 64)),
        (Encapsulation.NATIVE, "neighbour", (64, 61), (61, 64)),
        (Encapsulation.VXLAN, "server", (64, 62), (61, 64)),
        (Encapsulation.NATIVE, "server", (64, 60), (60, 64)),
    ],
)
def test_a_pods_packet_has_two_hops_more_on_its_own_node_and_keeps_its_address(
    encapsulation: Encapsulation, backend: str, at_client: tuple[int, int], at_backend: tuple[int, int]
) -> None:
    lab = lab_of(encapsulation, (backend,))
    for role in (Role.CLIENT_ETH0, Role.CLIENT_LXC):
        assert ttls(at(lab, "client", "web", role)) == at_client
    request, _ = at(lab, "client", "web", Role.CLIENT_ETH0)
    assert request is not None
    assert (request.src, request.dst) == (CLIENT, SERVER)
    request, reply = at(lab, "client", "web", Role.SERVER_ETH0)
    assert ttls((request, reply)) == at_backend
    assert request is not None
    assert (request.src, request.dst) == (CLIENT, BACKEND)


def test_what_comes_to_a_node_port_is_masqueraded_but_for_policy_local() -> None:
    lab = lab_of(Encapsulation.VXLAN)
    request, _ = at(lab, "world", "web@node1", Role.SERVER_ETH0)
    assert request is not None
    assert (request.ttl, request.src) == (62, CLIENT_ROUTER)
    uplink, _ = at(lab, "world", "web@node1", Role.CLIENT_UPLINK)
    assert uplink is not None
    assert uplink.packets == 2
    request, _ = at(lab, "world", "local@node2", Role.SERVER_ETH0)
    assert request is not None
    assert (request.ttl, request.src) == (62, CLIENT)
    native, _ = at(lab_of(Encapsulation.NATIVE), "world", "web@node1", Role.SERVER_ETH0)
    assert native is not None
    assert (native.ttl, native.src) == (61, SERVER)


def test_the_envelope_has_the_identity_of_whoever_sends() -> None:
    lab = lab_of(Encapsulation.VXLAN)
    request, reply = at(lab, "client", "web", Role.SERVER_UPLINK)
    assert request is not None
    assert reply is not None
    assert request.outer is not None
    assert reply.outer is not None
    assert (request.outer.vni, reply.outer.vni) == (lab.pod("client").identity, lab.pod("server").identity)
    request, _ = at(lab, "world", "web@node1", Role.SERVER_UPLINK)
    assert request is not None
    assert request.outer is not None
    assert request.outer.vni == 6


@pytest.mark.parametrize(("client", "server"), [("client", "none"), ("server", "local"), ("client", "web@node1")])
def test_what_has_no_table_is_said_to_have_none(client: str, server: str) -> None:
    with pytest.raises(KeyError):
        at(lab_of(Encapsulation.VXLAN), client, server, Role.CLIENT_ETH0)
