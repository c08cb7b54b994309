"""Which nodes of a cluster become those of a scenario."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster_world import FIXTURES, lab_of
from labctl.errors import MeasureFailed, StepFailed
from labctl.providers.cluster.nodes import ClusterNode, argv_nodes, choose, parse_nodes
from labctl.providers.cluster.settings import read_settings

RECORDED = (FIXTURES / "nodes.txt").read_text()


def node(name: str, **more: object) -> ClusterNode:
    (one,) = parse_nodes(RECORDED.splitlines()[0])
    return replace(one, name=name, **more)  # type: ignore[arg-type]


def chosen(nodes: list[ClusterNode], tmp_path: Path) -> dict[str, str]:
    return choose(read_settings(lab_of(), tmp_path), nodes)


def test_a_recorded_list_is_read() -> None:
    first, *rest = parse_nodes(RECORDED)
    assert (first.name, first.address, first.is_ready, first.is_cordoned) == ("node1", "10.203.0.11", True, False)
    assert (first.kernel, first.kubelet, first.pod_cidr) == ("6.18.44-fc-v857", "v1.20.2", "10.244.0.0/24")
    assert [one.name for one in rest] == ["node2", "node3"]


def test_a_node_with_addresses_of_both_families_and_taints_is_read() -> None:
    line = (
        "w1\tfd00::5 192.0.2.5\tTrue\ttrue\tgpu=yes:NoSchedule node.kubernetes.io/x=:NoExecute \teu-a\t\tk\tv\tr\to\ta"
    )
    (one,) = parse_nodes(line)
    assert one.address == "192.0.2.5"
    assert one.taints == ("gpu=yes:NoSchedule", "node.kubernetes.io/x:NoExecute")
    assert one.why_not() == "it is cordoned"
    assert replace(one, is_cordoned=False).why_not() == "it has the taint gpu=yes:NoSchedule"
    assert replace(one, is_cordoned=False).why_not(tolerates=True) == ""


@pytest.mark.parametrize("line", ["error: something else", "--all\t1\tTrue" + "\t" * 9, "a;b\t1\tTrue" + "\t" * 9])
def test_a_list_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(MeasureFailed, match="list of nodes"):
        parse_nodes(line)


def test_only_fields_are_asked_for() -> None:
    words = argv_nodes("pool=lab")
    assert words[:4] == ("get", "nodes", "-l", "pool=lab")
    assert "images" not in words[-1]
    assert "'" not in words[-1], "jsonpath in double quotes alone, as kubectl of every version reads it"


def test_nodes_without_pods_need_no_node_of_the_cluster(tmp_path: Path) -> None:
    assert choose(read_settings(lab_of(nodes=("node1", "node2", "node3")), tmp_path), [node("a"), node("b")]) == {
        "node1": "a",
        "node2": "b",
    }


def test_pods_are_spread_over_zones_and_the_same_cluster_gives_the_same_choice(tmp_path: Path) -> None:
    nodes = [node("a", zone="x"), node("b", zone="x"), node("c", zone="y")]
    assert chosen(nodes, tmp_path) == {"node1": "a", "node2": "c"} == chosen(nodes, tmp_path)


def test_nodes_that_were_asked_for_are_taken_and_the_others_spread(tmp_path: Path) -> None:
    nodes = [node("a"), node("b"), node("c")]
    settings = read_settings(lab_of(nodes=("node1", "node2")), tmp_path)
    section = settings.section.model_copy(update={"nodes": {"node1": "c"}})
    assert choose(replace(settings, section=section), nodes) == {"node1": "c", "node2": "a"}


def test_a_node_that_was_asked_for_and_cannot_be_used_is_told_with_its_reason(tmp_path: Path) -> None:
    settings = read_settings(lab_of(), tmp_path)
    asked = replace(settings, section=settings.section.model_copy(update={"nodes": {"node1": "c"}}))
    with pytest.raises(StepFailed, match="there is no such node"):
        choose(asked, [node("a"), node("b")])
    with pytest.raises(StepFailed, match="cannot be used: it is not Ready"):
        choose(asked, [node("a"), node("b"), node("c", is_ready=False)])


def test_too_few_nodes_are_told_with_the_reason_of_each(tmp_path: Path) -> None:
    with pytest.raises(StepFailed) as few:
        chosen([node("a"), node("b", taints=("x:NoSchedule",)), node("c", is_ready=False)], tmp_path)
    assert "has pods on 2 nodes, and 1 of the cluster's can be used" in few.value.what
    assert few.value.cause == "b: it has the taint x:NoSchedule; c: it is not Ready"


def test_of_a_thousand_nodes_the_first_reasons_are_told(tmp_path: Path) -> None:
    with pytest.raises(StepFailed) as few:
        chosen([node(f"n{number:04}", is_ready=False) for number in range(1000)], tmp_path)
    assert few.value.cause.endswith("and 994 more")
