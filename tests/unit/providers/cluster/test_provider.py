"""A lab on a cluster from up to down, against a scripted kubectl: what is made, what is refused, what is said."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster_world import CONTEXT, KubeWorld, error, lab_of
from labctl.engine.build import BuildOutcome, build, remove, up
from labctl.engine.events import Event, StepStarted, Working, silent
from labctl.errors import HostLacks, Interrupted, LabError, MeasureFailed, StepFailed, UsageError
from labctl.model.lab import Fault
from labctl.providers.cilium.workloads import parse_pods
from labctl.providers.cluster import access as access_module
from labctl.providers.cluster import provider as provider_module
from labctl.providers.cluster.access import Access
from labctl.providers.cluster.provider import ClusterProvider


@pytest.fixture
def world() -> KubeWorld:
    return KubeWorld()


@pytest.fixture
def provider(world: KubeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterProvider:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(access_module, "_POLL_S", 0.0)
    return ClusterProvider(commands=world, root=tmp_path)


PULL = {
    "phase": "Pending",
    "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [tools]"}],
    "containerStatuses": [
        {"name": "tools", "state": {"waiting": {"reason": "ErrImagePull", "message": 'pull access denied for "x"'}}}
    ],
}
PENDING = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient cpu.",
        }
    ],
}


def test_all_that_is_made_is_in_one_marked_namespace(provider: ClusterProvider, world: KubeWorld) -> None:
    assert up(provider, lab_of(), silent) is BuildOutcome.BUILT
    ((name, namespace),) = world.namespaces.items()
    assert name == "labctl-bpf"
    assert namespace["metadata"]["labels"]["labctl.io/lab"] == "bpf"
    assert namespace["metadata"]["annotations"]["labctl.io/made-by"] == provider_module.made_by()
    assert set(world.pods) == {"labctl-bpf"}
    assert set(world.pods["labctl-bpf"]) == {
        "client", "neighbour", "server", "labctl-helper-node1", "labctl-helper-node2",
    }  # fmt: skip
    changing = [line for line in world.said if " create " in f"{line} " and "auth" not in line]
    assert all("-f" in line for line in changing)
    assert not [
        line for line in world.said if any(verb in line.split() for verb in ("apply", "patch", "label", "cordon"))
    ]


def test_the_context_that_was_current_is_kept_though_another_one_is_made_current(
    provider: ClusterProvider, world: KubeWorld
) -> None:
    up(provider, lab_of(), silent)
    before = len(world.said)
    assert provider.discover("bpf")[0].is_whole
    asked = [line for line in world.said[before:] if line.startswith("kubectl")]
    assert asked
    assert all(f"--context {CONTEXT}" in line for line in asked)


def test_which_node_is_which_is_shown_by_the_plan_and_kept(provider: ClusterProvider) -> None:
    plan = provider.plan(lab_of())
    assert "node1 is node1, node2 is node2" in plan.steps[0].title
    assert CONTEXT in plan.steps[0].title
    up(provider, lab_of(), silent)
    assert provider.placement("bpf") == {"node1": "node1", "node2": "node2"}
    assert "node1 is node1, node2 is node2" in provider.statements(lab_of())


def test_rights_that_are_missing_are_told_at_once_and_nothing_is_made(
    provider: ClusterProvider, world: KubeWorld
) -> None:
    world.cannot = {"create pods", "create pods/exec"}
    with pytest.raises(HostLacks) as refused:
        up(provider, lab_of(), silent)
    assert refused.value.cause == (
        "not allowed: create pods in namespace labctl-bpf; create pods/exec in namespace labctl-bpf"
    )
    assert "--rbac" in refused.value.remedy
    assert world.namespaces == {}
    assert provider.discover() == ()


def test_a_namespace_of_somebody_else_is_refused_and_stays(provider: ClusterProvider, world: KubeWorld) -> None:
    world.namespaces["labctl-bpf"] = {"metadata": {"name": "labctl-bpf"}, "status": {"phase": "Active"}}
    with pytest.raises(UsageError, match="labctl did not make it for lab bpf"):
        up(provider, lab_of(), silent)
    assert "labctl-bpf" in world.namespaces
    assert provider.discover() == ()


def test_a_lab_of_the_same_name_of_another_labctl_is_refused_and_stays(
    provider: ClusterProvider, world: KubeWorld, tmp_path: Path
) -> None:
    up(ClusterProvider(commands=world, root=tmp_path / "other"), lab_of(), silent)
    with pytest.raises(UsageError, match="belongs to a lab bpf of another labctl") as refused:
        up(provider, lab_of(), silent)
    assert provider_module.made_by() in refused.value.cause
    assert len(world.pods["labctl-bpf"]) == 5


def test_a_namespace_that_was_made_in_advance_is_taken_if_it_is_empty(
    provider: ClusterProvider, world: KubeWorld
) -> None:
    metadata = {"name": "labctl-bpf", "labels": {"labctl.io/lab": "bpf"}}
    world.namespaces["labctl-bpf"] = {"metadata": metadata, "status": {"phase": "Active"}}
    world.cannot = {"create namespaces"}
    up(provider, lab_of(), silent)
    assert provider.discover("bpf")[0].is_whole
    remove(provider, "bpf", silent)
    assert world.namespaces == {}


def test_one_that_was_made_in_advance_and_is_not_empty_is_refused_and_stays(
    provider: ClusterProvider, world: KubeWorld
) -> None:
    metadata = {"name": "labctl-bpf", "labels": {"labctl.io/lab": "bpf"}}
    world.namespaces["labctl-bpf"] = {"metadata": metadata, "status": {"phase": "Active"}}
    world.pods["labctl-bpf"] = {"mine": {"metadata": {"name": "mine", "namespace": "labctl-bpf"}}}
    with pytest.raises(UsageError, match="has pods in it"):
        up(provider, lab_of(), silent)
    assert set(world.pods["labctl-bpf"]) == {"mine"}


def test_an_image_that_cannot_be_pulled_is_told_in_seconds(
    provider: ClusterProvider, world: KubeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(access_module._HOPELESS_AFTER_S, "ErrImagePull", 0.0)
    world.unready = {"server": PULL}
    with pytest.raises(StepFailed) as failed:
        up(provider, lab_of(image="registry.example/none:1"), silent)
    assert "server is not ready" in failed.value.what
    assert "ErrImagePull" in failed.value.cause
    assert "registry.example/none:1" in failed.value.remedy
    assert world.namespaces == {}, "what was made is undone"


def test_a_pod_that_finds_no_place_is_told_in_the_schedulers_words(
    provider: ClusterProvider, world: KubeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(access_module._HOPELESS_AFTER_S, "nodes are available", 0.0)
    world.unready = {"client": PENDING}
    with pytest.raises(StepFailed) as failed:
        up(provider, lab_of(), silent)
    assert "0/3 nodes are available: 3 Insufficient cpu." in failed.value.cause
    assert "cluster.nodeSelector" in failed.value.remedy


def test_a_long_wait_says_what_it_last_saw(
    provider: ClusterProvider, world: KubeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(access_module._HOPELESS_AFTER_S, "nodes are available", 0.0)
    world.unready = {"client": PENDING}
    heard: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Working):
            heard.append(event.text)

    with pytest.raises(StepFailed):
        up(provider, lab_of(), hear)
    assert any("waiting for the pods: client: Unschedulable: 0/3 nodes are available" in text for text in heard)


@pytest.mark.parametrize("name", ["pod-security", "pod-security-policy", "forbidden-create"])
def test_where_helpers_are_refused_the_lab_is_there_without_them(
    provider: ClusterProvider, world: KubeWorld, name: str
) -> None:
    up(provider, lab_of(helpers="never"), silent)
    remove(provider, "bpf", silent)
    world.refuses(r"create --validate=false -f -$", error(name))
    metadata = {"name": "labctl-bpf", "labels": {"labctl.io/lab": "bpf"}}
    world.namespaces["labctl-bpf"] = {"metadata": metadata, "status": {"phase": "Active"}}
    up(provider, lab_of(), silent)
    assert set(world.pods["labctl-bpf"]) == {"client", "neighbour", "server"}
    assert provider.discover("bpf")[0].is_whole


def test_down_deletes_the_namespace_and_only_that(provider: ClusterProvider, world: KubeWorld, tmp_path: Path) -> None:
    world.namespaces["kube-system"] = {"metadata": {"name": "kube-system"}}
    up(provider, lab_of(), silent)
    before = len(world.said)
    remove(provider, "bpf", silent)
    deleted = [line for line in world.said[before:] if " delete " in line]
    assert len(deleted) == 2
    assert all("labctl-bpf" in line for line in deleted)
    assert set(world.namespaces) == {"kube-system"}
    assert list(tmp_path.iterdir()) == []
    remove(provider, "bpf", silent)


def test_down_leaves_a_namespace_that_is_another_labs_by_now(provider: ClusterProvider, world: KubeWorld) -> None:
    up(provider, lab_of(), silent)
    world.namespaces["labctl-bpf"]["metadata"]["annotations"]["labctl.io/id"] = "other"
    remove(provider, "bpf", silent)
    assert "labctl-bpf" in world.namespaces


def test_a_namespace_that_is_stuck_is_told_with_kubernetes_own_reason_and_the_record_stays(
    provider: ClusterProvider, world: KubeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Access.remove_namespace, "__kwdefaults__", {"timeout_s": 0.0})
    up(provider, lab_of(), silent)
    world.stuck_in_terminating = True
    with pytest.raises(StepFailed, match="still Terminating") as stuck:
        remove(provider, "bpf", silent)
    assert "widgets.example.com has 1 resource instances" in stuck.value.cause
    (found,) = provider.discover("bpf")
    assert found.missing == ("namespace labctl-bpf, which is being deleted",)


def test_a_namespace_whose_pods_go_one_by_one_is_waited_for(
    provider: ClusterProvider, world: KubeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty pods on a busy node take longer than the time in which nothing may go."""
    monkeypatch.setattr(Access.remove_namespace, "__kwdefaults__", {"timeout_s": 0.3})
    monkeypatch.setattr(access_module, "_POLL_S", 0.1)
    up(provider, lab_of(), silent)
    world.goes_in = 8
    begun_s = time.monotonic()
    remove(provider, "bpf", silent)
    assert time.monotonic() - begun_s > 0.6
    assert provider.discover("bpf") == ()


def test_a_cluster_that_does_not_answer_leaves_its_lab_unasked(provider: ClusterProvider, world: KubeWorld) -> None:
    up(provider, lab_of(), silent)
    world.refuses("get namespace", error("refused"))
    (found,) = provider.discover()
    assert found.unasked is not None
    assert "does not answer" in found.unasked.what
    assert not found.is_whole
    with pytest.raises(MeasureFailed):
        remove(provider, "bpf", silent)
    assert provider.discover()[0].name == "bpf", "what could not be removed is still on record"


def test_a_pod_that_is_gone_is_missing_and_up_builds_again(provider: ClusterProvider, world: KubeWorld) -> None:
    up(provider, lab_of(), silent)
    del world.pods["labctl-bpf"]["server"]
    (found,) = provider.discover("bpf")
    assert (found.is_whole, found.missing) == (False, ("pod server",))
    assert up(provider, lab_of(), silent) is BuildOutcome.BUILT
    assert provider.discover("bpf")[0].is_whole


def test_ctrl_c_in_every_phase_leaves_nothing(provider: ClusterProvider, world: KubeWorld, tmp_path: Path) -> None:
    for number in range(1, len(provider.plan(lab_of()).steps) + 1):

        def stop(event: Event, number: int = number) -> None:
            if isinstance(event, StepStarted) and event.number == number:
                raise Interrupted(what="Ctrl-C")

        with pytest.raises(Interrupted):
            build(provider, lab_of(), stop)
        assert world.namespaces == {}
        assert list(tmp_path.iterdir()) == []


def test_a_lab_whose_record_is_lost_is_found_by_its_mark_and_removed(
    provider: ClusterProvider, world: KubeWorld, tmp_path: Path
) -> None:
    up(provider, lab_of(), silent)
    forgetful = ClusterProvider(commands=world, root=tmp_path / "empty")
    assert forgetful.discover() == ()
    found = forgetful.seek("bpf")
    assert found is not None
    assert (found.name, found.is_whole) == ("bpf", False)
    remove(forgetful, "bpf", silent)
    assert world.namespaces == {}


def test_a_lab_of_another_person_is_not_removed_for_want_of_a_record(
    provider: ClusterProvider, world: KubeWorld, tmp_path: Path
) -> None:
    up(provider, lab_of(), silent)
    world.namespaces["labctl-bpf"]["metadata"]["annotations"]["labctl.io/made-by"] = "ann@elsewhere"
    forgetful = ClusterProvider(commands=world, root=tmp_path / "empty")
    with pytest.raises(UsageError, match="another labctl"):
        forgetful.seek("bpf")
    remove(forgetful, "bpf", silent)
    assert "labctl-bpf" in world.namespaces


def test_what_only_labctls_own_datapath_has_is_refused(provider: ClusterProvider) -> None:
    lab = lab_of()
    faulty = replace(lab, datapath=replace(lab.datapath, faults=(Fault.WRONG_VNI,)))
    with pytest.raises(UsageError, match="faults has no effect") as refused:
        provider.refuse(faulty)
    assert refused.value.key == "datapath.faults"


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ({"node9": "a"}, "which is no node of the scenario"),
        ({"node1": "a", "node2": "a"}, "names one node of the cluster twice"),
    ],
)
def test_a_placement_that_cannot_be_meant_is_refused(
    provider: ClusterProvider, nodes: dict[str, str], told: str
) -> None:
    lab = lab_of()
    with pytest.raises(UsageError, match=told):
        provider.refuse(replace(lab, settings={"cluster": {"nodes": nodes}}))


def test_a_host_without_kubectl_is_told_so(provider: ClusterProvider, world: KubeWorld) -> None:
    world.kubectl_is_there = False
    (probe,) = provider.probes()
    assert (probe.name, probe.present, probe.required) == ("kubectl", False, True)
    assert provider.seek("bpf") is None


def test_a_record_of_a_stranger_is_not_believed(provider: ClusterProvider, world: KubeWorld, tmp_path: Path) -> None:
    up(provider, lab_of(), silent)
    state = tmp_path / "bpf" / "cluster.json"
    content: dict[str, Any] = json.loads(state.read_text())
    assert content["context"] == CONTEXT
    state.chmod(0o666)
    assert provider.discover() == ()


def test_names_of_pods_that_could_be_options_are_refused() -> None:
    bad = {"items": [{"metadata": {"name": "--all", "namespace": "x"}, "spec": {}, "status": {}}]}
    with pytest.raises(LabError):
        parse_pods(json.dumps(bad))
