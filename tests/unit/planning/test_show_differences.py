"""What differs between two labs is said in words that name the scenario's own keys."""

from __future__ import annotations

from pathlib import Path

from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.planning.resolve import resolve
from labctl.planning.show import differences

START = Path(__file__).resolve().parents[3]


def _lab(*overrides: str, scenario: str = "legacy", name: str | None = None) -> Lab:
    return resolve(load_scenario(scenario, overrides=overrides, start=START), name=name)


def _said(*overrides: str) -> tuple[str, ...]:
    return differences(_lab(), _lab(*overrides))


def test_equal_labs_do_not_differ_whatever_they_are_called() -> None:
    assert differences(_lab(), _lab(name="other")) == ()


def test_another_datapath_is_named_key_by_key() -> None:
    assert differences(_lab(), _lab(scenario="bpf-native")) == (
        "datapath.hostRouting is bpf, was legacy",
        "datapath.encapsulation is native, was vxlan",
        "network.routeMtu is 1500, was 1450",
    )


def test_a_pod_that_moved_is_listed_once_and_so_is_its_pair() -> None:
    assert _said("pods.server.node=node1", "pairs[1].placement=same-node") == (
        "pod server is on node1, was on node2",
        "pair client→server is same-node, was cross-node",
    )


def test_pods_and_nodes_that_were_added_and_removed_are_listed() -> None:
    said = _said(
        "nodes=2",
        "pods=[{name: client, node: node1}, {name: web, node: node2}]",
        "pairs=[{client: client, server: web}]",
    )
    assert said == (
        "node node3 is gone",
        "pod neighbour is gone",
        "pod server is gone",
        "pod web is new on node2",
        "pair client→neighbour is gone",
        "pair client→server is gone",
        "pair client→web (cross-node) is new",
    )


def test_a_parameter_is_listed_with_its_check() -> None:
    assert _said("checks.ping.count=7", "compare.rounds=20") == (
        "check ping: parameters.count is 7, was 50",
        "compare.rounds is 20, was 10",
    )


def test_labels_and_faults_are_listed() -> None:
    assert _said("pods.client.labels.app=server", "datapath.faults=[wrong-vni]") == (
        "datapath.faults is wrong-vni, was none",
        f"pod client: identity is {_lab().pod('server').identity}, was {_lab().pod('client').identity}",
        "pod client: labels.app is server, was client",
    )


def test_another_order_is_a_difference() -> None:
    pods = "pods=[{name: neighbour, node: node1}, {name: client, node: node1}, {name: server, node: node2}]"
    assert "the pods are in another order" in _said(pods)


def test_any_two_labs_with_different_digests_differ_in_words() -> None:
    for override in ("network.mtu=1400", "datapath.extraDelayNs=5", "compare.margins.cpu=0.5", "provider=kind"):
        assert _said(override)
