"""What the networks that the kernel carries have in common: their plans, taps, ways and refusals, for each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.networks import expected_of, network_of
from labctl.planning.resolve import resolve
from labctl.providers.netns.plan import plan
from toy_network import ToyNetwork

CHECKOUT = Path(__file__).resolve().parents[3]
NETWORKS = (
    "docker-host-routes", "docker-snat", "vxlan-p2p", "vxlan-multicast", "evpn", "macvlan", "ipvlan", "cni-chain",
    "flannel-vxlan", "flannel-host-gw", "calico-vxlan", "calico-bgp", "clos-bgp", "clos-ospf", "stp-loop",
)  # fmt: skip


TOY = "toy"
"""A network that was made from CONTRIBUTING.md alone (tests/toy_network.py), in the place of that of a scenario."""


@pytest.fixture(autouse=True)
def toys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "name" in request.fixturenames and request.getfixturevalue("name") == TOY:
        monkeypatch.setattr("labctl.networks.docker.DockerNetwork", ToyNetwork)


def lab_of(name: str, *overrides: str) -> Lab:
    name = "docker-host-routes" if name == TOY else name
    return resolve(load_scenario(name, overrides=overrides, start=CHECKOUT))


@pytest.mark.parametrize("name", [*NETWORKS, TOY])
def test_every_tap_of_the_way_has_an_expectation_and_the_other_way_round(name: str) -> None:
    lab = lab_of(name)
    for pair in lab.pairs:
        at_client, at_server = network_of(lab).taps(lab, pair)
        taps = [role for role, _, _ in (*at_client, *at_server)]
        expected = expected_of(lab, pair, packets=1)
        assert expected is not None
        assert [sight.role for sight in expected.signature.taps] == taps


@pytest.mark.parametrize("name", [*NETWORKS, TOY])
def test_the_client_sends_and_the_server_gets_what_was_sent(name: str) -> None:
    lab = lab_of(name)
    for pair in lab.pairs:
        expected = expected_of(lab, pair, packets=3)
        assert expected is not None
        taps = expected.signature.taps
        assert taps[0].request is not None
        assert taps[0].reply is not None
        assert taps[-1].request is not None
        assert taps[-1].reply is not None
        assert taps[0].request.ttl == taps[-1].reply.ttl == 64


@pytest.mark.parametrize("name", [*NETWORKS, TOY])
def test_the_plan_can_be_typed_and_read_back(name: str) -> None:
    steps = plan(lab_of(name)).steps
    for action in (action for step in steps for action in step.actions):
        assert action.shell().strip()
        assert action.record()["kind"]


def test_another_network_gives_another_lab() -> None:
    digests = {lab_of(name).digest for name in NETWORKS}
    assert len(digests) == len(NETWORKS)


def test_what_such_a_network_does_not_have_is_refused_at_its_key() -> None:
    with pytest.raises(UsageError) as refused:
        plan(lab_of("flannel-vxlan", "services=[{name: web, port: 80, backends: [server]}]"))
    assert refused.value.key == "services"
    with pytest.raises(UsageError) as refused:
        plan(lab_of("flannel-vxlan", "datapath.faults=[wrong-vni]"))
    assert refused.value.key == "datapath.faults"


def test_the_other_nodes_ways_are_those_of_the_network() -> None:
    lab = lab_of("flannel-vxlan")
    pair = lab.pairs[-1]
    routes = network_of(lab).routes(lab, pair)
    assert [(route.part, str(route.destination), route.device) for route in routes] == [
        ("node1", "10.244.1.0/24", "flannel.1"),
        ("node2", "10.244.0.0/24", "flannel.1"),
    ]
    assert [str(tunnel.node) for tunnel in network_of(lab).tunnels(lab, pair)] == ["172.30.0.3", "172.30.0.2"]
    assert network_of(lab).routes(lab, lab.pairs[0]) == ()


@pytest.mark.parametrize("scenario", ["services", "masquerade", "nodeport"])
def test_of_a_pair_with_another_end_than_pods_no_route_of_the_nodes_is_expected(scenario: str) -> None:
    lab = lab_of(scenario)
    others = [pair for pair in lab.pairs if not lab.is_between_pods(pair)]
    assert others
    assert not [route for pair in others for route in network_of(lab).routes(lab, pair)]
