"""Scenario → Lab: every number decided, the same everywhere, and nothing given out twice; identities depend on labels
alone, and are never the same for two sets of labels."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from labctl.errors import UsageError
from labctl.model.lab import (
    FIRST_IDENTITY,
    LAST_IDENTITY,
    CheckSpec,
    Datapath,
    Encapsulation,
    HostRouting,
    Lab,
    Masquerade,
    Pair,
    Placement,
    Scenario,
    ScenarioPod,
)
from labctl.model.parameters import CompareParameters, PingParameters
from labctl.names import lxc_name, stable_mac
from labctl.planning.resolve import identities, label_key, resolve

NATIVE = Datapath(
    host_routing=HostRouting.BPF,
    encapsulation=Encapsulation.NATIVE,
    masquerade=Masquerade.BPF,
    kube_proxy_replacement=True,
)
VXLAN = replace(NATIVE, encapsulation=Encapsulation.VXLAN)


def _pod(name: str, node: str, **labels: str) -> ScenarioPod:
    return ScenarioPod(name=name, node=node, labels=labels or {"app": name})


SCENARIO = Scenario(
    name="small",
    source="/somewhere/small.yaml",
    provider="netns",
    nodes=("node1", "node2", "node3"),
    pods=(_pod("client", "node1"), _pod("server", "node2"), _pod("neighbour", "node1")),
    pairs=(Pair(client="client", server="server", placement=Placement.CROSS_NODE),),
    datapath=VXLAN,
    underlay_cidr=IPv4Network("172.30.0.0/24"),
    pod_cidr=IPv4Network("10.244.0.0/16"),
    service_cidr=IPv4Network("10.96.0.0/16"),
    mtu=1500,
    checks=(CheckSpec(name="ping", kind="ping", parameters=PingParameters()),),
    compare=CompareParameters(checks=("ping",)),
)


def test_nodes_and_pods_have_the_addresses_of_a_small_cluster() -> None:
    lab = resolve(SCENARIO)
    assert [(node.name, node.index, str(node.address), str(node.pod_cidr), str(node.router)) for node in lab.nodes] == [
        ("node1", 0, "172.30.0.2/24", "10.244.0.0/24", "10.244.0.1"),
        ("node2", 1, "172.30.0.3/24", "10.244.1.0/24", "10.244.1.1"),
        ("node3", 2, "172.30.0.4/24", "10.244.2.0/24", "10.244.2.1"),
    ]
    assert [(pod.name, pod.node, str(pod.address)) for pod in lab.pods] == [
        ("client", "node1", "10.244.0.10"),
        ("server", "node2", "10.244.1.10"),
        ("neighbour", "node1", "10.244.0.11"),
    ]


def test_names_and_macs_are_those_that_names_gives() -> None:
    lab = resolve(SCENARIO)
    client = lab.pod("client")
    assert client.lxc == lxc_name("client")
    assert (client.mac, client.lxc_mac) == (stable_mac("pod", "client"), stable_mac("lxc", "client"))
    assert lab.node("node1").mac == stable_mac("node", "node1")
    macs = [node.mac for node in lab.nodes] + [mac for pod in lab.pods for mac in (pod.mac, pod.lxc_mac)]
    assert len(set(macs)) == len(macs)


@pytest.mark.parametrize(("datapath", "route_mtu"), [(VXLAN, 1450), (NATIVE, 1500)])
def test_with_vxlan_pods_may_send_fifty_bytes_less(datapath: Datapath, route_mtu: int) -> None:
    network = resolve(replace(SCENARIO, datapath=datapath)).network
    assert (network.mtu, network.route_mtu) == (1500, route_mtu)


def test_the_lab_is_called_as_asked_or_as_its_scenario() -> None:
    assert resolve(SCENARIO).name == "small"
    lab = resolve(SCENARIO, name="mine")
    assert (lab.name, lab.scenario, lab.source) == ("mine", "small", "/somewhere/small.yaml")


@pytest.mark.parametrize("name", ["", "Mine", "a/b", "a;b", "-a", "a" * 41, "a\n", "..", "a.b"])
def test_a_lab_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(SCENARIO, name=name)
    assert caught.value.exit_code == 2
    assert "not a lab's name" in caught.value.what


def test_equal_labs_have_equal_digests_whatever_they_are_called() -> None:
    again = replace(SCENARIO, name="copy", source="/elsewhere/copy.yaml")
    assert resolve(SCENARIO).digest == resolve(again, name="other").digest


@pytest.mark.parametrize(
    "changed",
    [
        replace(SCENARIO, datapath=NATIVE),
        replace(SCENARIO, mtu=1400),
        replace(SCENARIO, nodes=("node1", "node2")),
        replace(SCENARIO, service_cidr=IPv4Network("10.97.0.0/16")),
        replace(SCENARIO, pods=SCENARIO.pods[:2]),
        replace(SCENARIO, checks=()),
        replace(SCENARIO, compare=CompareParameters(rounds=11, checks=("ping",))),
        replace(SCENARIO, provider="kind"),
        replace(SCENARIO, settings={"cilium": {"version": "1.13.12"}}),
    ],
    ids=["datapath", "mtu", "nodes", "services", "pods", "checks", "compare", "provider", "settings"],
)
def test_whatever_is_changed_changes_the_digest(changed: Scenario) -> None:
    assert resolve(changed).digest != resolve(SCENARIO).digest


def test_pods_with_equal_labels_share_an_identity() -> None:
    lab = resolve(
        replace(SCENARIO, pods=(_pod("a", "node1", app="x"), _pod("b", "node2", app="x"), _pod("c", "node1")))
    )
    a, b, c = (pod.identity for pod in lab.pods)
    assert a == b != c
    assert min(a, c) >= 256


def _large(pods: int, nodes: int) -> Lab:
    names = tuple(f"node{number}" for number in range(1, nodes + 1))
    placed = tuple(_pod(f"pod{number}", names[number % nodes]) for number in range(pods))
    return resolve(replace(SCENARIO, nodes=names, pods=placed, pairs=()))


def test_a_thousand_pods_have_everything_of_their_own() -> None:
    lab = _large(1_000, 10)
    for unique in (
        {pod.address for pod in lab.pods},
        {pod.identity for pod in lab.pods},
        {pod.lxc for pod in lab.pods},
        {mac for pod in lab.pods for mac in (pod.mac, pod.lxc_mac)} - {node.mac for node in lab.nodes},
    ):
        assert len(unique) in (1_000, 2_000)
    pod_networks = {node.name: node.pod_cidr for node in lab.nodes}
    assert all(pod.address in pod_networks[pod.node] for pod in lab.pods)
    taken = {node.router for node in lab.nodes} | {node.address.ip for node in lab.nodes}
    assert taken.isdisjoint(pod.address for pod in lab.pods)


def test_time_grows_with_the_number_of_pods_and_not_with_its_square() -> None:
    def cpu_s(pods: int) -> float:
        start = time.process_time()
        _large(pods, 10)
        return time.process_time() - start

    small = min(cpu_s(200) for _ in range(3))
    large = min(cpu_s(2_000) for _ in range(3))
    assert large < 40 * small + 0.05


def test_equal_labels_have_one_identity_whatever_their_order() -> None:
    found = identities([{"app": "web", "tier": "front"}, {"tier": "front", "app": "web"}])
    assert len(found) == 1


def test_an_identity_is_the_same_in_every_lab() -> None:
    alone = identities([{"app": "client"}])
    among = identities([{"app": "server"}, {"app": "client"}, {"app": "neighbour"}])
    key = label_key({"app": "client"})
    assert alone[key] == among[key] == 51130


def test_ten_thousand_sets_of_labels_have_ten_thousand_identities_within_the_range() -> None:
    found = identities({"app": f"pod{number}"} for number in range(10_000))
    assert len(set(found.values())) == 10_000
    assert min(found.values()) >= FIRST_IDENTITY
    assert max(found.values()) <= LAST_IDENTITY


def test_identities_do_not_depend_on_the_order_of_pods_even_where_numbers_collide() -> None:
    labels = [{"app": f"pod{number}"} for number in range(5_000)]
    assert identities(labels) == identities(reversed(labels))


def test_every_identity_can_be_given_out_and_not_one_more() -> None:
    room = LAST_IDENTITY - FIRST_IDENTITY + 1
    with pytest.raises(ValueError, match="65281 different sets of labels, but only 65280 identities"):
        identities({"n": str(number)} for number in range(room + 1))
