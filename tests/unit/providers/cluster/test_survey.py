"""`labctl survey` against a scripted cluster: every node asked, partial results kept, pairs measured and cleaned up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster_world import CONTEXT, KubeWorld, error
from labctl.errors import Interrupted, LabError
from labctl.model.sections import ExistingCluster
from labctl.model.survey import Survey
from labctl.providers.cluster import access as access_module
from labctl.providers.cluster.survey import SurveyRequest, sampled, survey

CILIUM = Path(__file__).parents[3] / "fixtures" / "cilium"
PING = """PING 10.244.0.12 (10.244.0.12) 56(84) bytes of data.
64 bytes from 10.244.0.12: icmp_seq=1 ttl=62 time=0.120 ms
64 bytes from 10.244.0.12: icmp_seq=2 ttl=62 time=0.080 ms
64 bytes from 10.244.0.12: icmp_seq=3 ttl=62 time=0.100 ms

--- 10.244.0.12 ping statistics ---
3 packets transmitted, 3 received, 0% packet loss, time 402ms
"""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> KubeWorld:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(access_module, "_POLL_S", 0.0)
    world = KubeWorld()
    world.inside = {"-- .*ping -n": PING}
    return world


def of_cilium(world: KubeWorld) -> None:
    world.agents = {f"node{number}": f"cilium-{number}" for number in (1, 2, 3)}
    world.agent_status = (CILIUM / "status-bpf-vxlan.json").read_text()


def asked(world: KubeWorld, *, sample: int = 0, seed: int = 7, say: Any = lambda text: None) -> Survey:
    return survey(ExistingCluster(), SurveyRequest(sample=sample, seed=seed, parallel=4), say, world)


def test_without_cilium_a_mode_is_not_shown_and_the_rest_is(world: KubeWorld) -> None:
    found = asked(world)
    assert (found.cluster, found.version, found.cni) == (CONTEXT, "v1.20.2", "not known")
    assert [node.name for node in found.nodes] == ["node1", "node2", "node3"]
    assert all(node.mode == {} and node.kube_proxy for node in found.nodes)
    assert found.is_complete
    assert not [line for line in world.said if " create " in line], "with a sample of 0 nothing is made"


def test_every_agent_is_asked_for_its_mode(world: KubeWorld) -> None:
    of_cilium(world)
    found = asked(world)
    assert found.cni == "cilium"
    for node in found.nodes:
        assert node.mode["hostRouting"] == "bpf"
        assert node.mode["kubeProxyReplacement"] is True
        assert node.mode["masquerade"] == "bpf"
        assert node.agent


def test_a_node_that_does_not_answer_costs_nobody_elses_answer(world: KubeWorld) -> None:
    of_cilium(world)
    world.refuses("exec cilium-2", error("refused"))
    found = asked(world)
    (silent,) = found.unasked
    assert silent.name == "node2"
    assert silent.unasked
    assert [bool(node.mode) for node in found.nodes] == [True, False, True]
    assert not found.is_complete


def test_nodes_that_differ_from_the_rest_are_named(world: KubeWorld) -> None:
    of_cilium(world)
    legacy = (CILIUM / "status-legacy-vxlan.json").read_text()
    world.inside["exec cilium-3"] = legacy
    world.inside["cilium-3 -c"] = legacy
    world.nodes = world.nodes.replace("node2\t10.203.0.12\tTrue", "node2\t10.203.0.12\tFalse")
    differing = {(one.node, one.trait): (one.value, one.most) for one in asked(world).differences}
    assert differing[("node3", "hostRouting")] == ("legacy", "bpf")
    assert differing[("node2", "ready")] == ("no", "yes")


def test_where_two_values_are_as_frequent_there_is_no_rest(world: KubeWorld) -> None:
    world.nodes = "".join(world.nodes.splitlines(keepends=True)[:2]).replace("6.18.44-fc-v857", "5.10.0", 1)
    assert asked(world).differences == ()


def test_agents_that_may_not_be_asked_are_told_and_the_rest_is_there(world: KubeWorld) -> None:
    world.refuses("kube-system get pods", error("forbidden-in-namespace"))
    found = asked(world)
    assert len(found.notes) == 2
    assert all("cannot list resource" in note for note in found.notes)
    assert all(node.kube_proxy is None and node.unasked for node in found.nodes)


def test_a_cluster_that_does_not_answer_is_an_error(world: KubeWorld) -> None:
    world.refuses("get nodes", error("refused"))
    with pytest.raises(LabError, match="does not answer"):
        asked(world)


def test_pairs_are_measured_from_pod_to_pod_and_nothing_is_left(world: KubeWorld) -> None:
    found = asked(world, sample=2)
    assert len(found.pairs) == 2
    for pair in found.pairs:
        assert (pair.sent, pair.received) == (3, 3)
        assert (pair.rtt_min_s, pair.rtt_p50_s, pair.rtt_max_s) == pytest.approx((0.00008, 0.0001, 0.00012))
    assert world.namespaces == {}
    assert found.is_complete


def test_pods_that_measure_have_no_powers(world: KubeWorld) -> None:
    made: list[dict[str, Any]] = []
    create = world._create

    def remember(document: dict[str, Any]) -> None:
        made.append(document)
        create(document)

    world._create = remember  # type: ignore[method-assign]
    asked(world, sample=3)
    pods = [one for one in made if one["kind"] == "Pod"]
    assert len(pods) == 3
    for pod in pods:
        assert "hostNetwork" not in pod["spec"]
        assert pod["spec"]["containers"][0]["securityContext"] == {"runAsUser": 0}
    (namespace,) = [one for one in made if one["kind"] == "Namespace"]
    assert "pod-security.kubernetes.io/enforce" not in namespace["metadata"]["labels"]


def test_a_node_on_which_no_pod_starts_costs_only_its_own_pairs(
    world: KubeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(access_module._HOPELESS_AFTER_S, "ErrImagePull", 0.0)
    world.unready = {
        "n2": {
            "phase": "Pending",
            "containerStatuses": [{"name": "tools", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}],
        }
    }
    found = asked(world, sample=3)
    failed = {(pair.a, pair.b) for pair in found.unmeasured}
    assert len(found.pairs) == 3
    assert len(failed) == 2
    assert all("node3" in pair for pair in failed)
    assert "ErrImagePull" in found.unmeasured[0].failed
    assert world.namespaces == {}


def test_without_the_right_to_make_pods_what_was_asked_stays(world: KubeWorld) -> None:
    of_cilium(world)
    world.refuses(r"create --validate=false", error("forbidden-create"))
    found = asked(world, sample=1)
    assert all(node.mode for node in found.nodes)
    assert len(found.unmeasured) == 1
    assert any("may not create namespaces" in note for note in found.notes)


def test_ctrl_c_keeps_what_was_asked_and_leaves_nothing(world: KubeWorld) -> None:
    def stop(text: str) -> None:
        if text.startswith("1 of 3 pairs"):
            raise Interrupted(what="Ctrl-C")

    found = asked(world, sample=3, say=stop)
    assert (found.interrupted, found.is_complete) == (True, False)
    assert len(found.nodes) == 3
    assert world.namespaces == {}


def test_a_namespace_that_stays_is_told_with_what_removes_it(world: KubeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.refuses("delete namespace", error("forbidden"))
    found = asked(world, sample=1)
    assert any("is left" in note and "delete namespace labctl-survey-" in note for note in found.notes)


@pytest.mark.parametrize(("nodes", "sample"), [(2, 50), (3, 3), (10, 5), (1000, 50), (1, 10), (0, 10)])
def test_a_sample_is_of_different_pairs_and_the_same_for_one_seed(nodes: int, sample: int) -> None:
    names = [f"n{number}" for number in range(nodes)]
    pairs = sampled(names, sample, 42)
    assert pairs == sampled(names, sample, 42)
    assert len(pairs) == min(sample, nodes * (nodes - 1) // 2)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(a != b for a, b in pairs)


def test_a_thousand_nodes_are_asked_a_few_at_a_time(world: KubeWorld) -> None:
    line = world.nodes.splitlines()[0]
    world.nodes = "".join(line.replace("node1", f"n{number:04}") + "\n" for number in range(1000))
    of_cilium(world)
    world.agents = {f"n{number:04}": f"cilium-{number:04}" for number in range(1000)}
    found = asked(world)
    assert len(found.nodes) == 1000
    assert found.is_complete
