"""The objects of a lab on a cluster: how pods get to their nodes, and what they may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from cluster_world import lab_of
from labctl.providers.cluster.manifests import helpers_text, namespace_text, workloads_text
from labctl.providers.cluster.settings import ClusterSettings, read_settings


def settings_of(tmp_path: Path, **keys: Any) -> ClusterSettings:
    return replace(read_settings(lab_of(**keys), tmp_path), nodes={"node1": "worker-a", "node2": "worker-b"})


def pods(text: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in yaml.safe_load_all(text) if one["kind"] == "Pod"}


def node_of(pod: dict[str, Any]) -> str:
    (term,) = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    (field,) = term["matchFields"]
    assert (field["key"], field["operator"]) == ("metadata.name", "In")
    (name,) = field["values"]
    return str(name)


def test_the_scheduler_brings_each_pod_to_its_node(tmp_path: Path) -> None:
    made = pods(workloads_text(settings_of(tmp_path)))
    assert {name: node_of(pod) for name, pod in made.items()} == {
        "client": "worker-a", "neighbour": "worker-a", "server": "worker-b",
    }  # fmt: skip
    assert all("nodeName" not in pod["spec"] for pod in made.values()), "it would go past the scheduler"
    assert all("tolerations" not in pod["spec"] for pod in made.values())


def test_a_helper_has_its_nodes_network_and_an_end(tmp_path: Path) -> None:
    made = pods(helpers_text(settings_of(tmp_path, helperImage="mirror/tools:2"), ["node2"]))
    ((name, helper),) = made.items()
    spec = helper["spec"]
    assert (name, node_of(helper)) == ("labctl-helper-node2", "worker-b")
    assert (spec["hostNetwork"], spec["activeDeadlineSeconds"], spec["restartPolicy"]) == (True, 3600, "Never")
    assert spec["containers"][0]["image"] == "mirror/tools:2"
    assert spec["containers"][0]["securityContext"]["privileged"] is True
    assert spec["automountServiceAccountToken"] is False
    assert "hostPID" not in spec, "no check needs the node's processes"


def test_without_helpers_a_pod_asks_for_nothing_that_the_level_baseline_refuses(tmp_path: Path) -> None:
    for pod in pods(workloads_text(settings_of(tmp_path, helpers="never"))).values():
        assert pod["spec"]["containers"][0]["securityContext"] == {"runAsUser": 0}
        assert not {"hostNetwork", "hostPID", "volumes"} & set(pod["spec"])


def test_images_that_are_there_are_not_fetched(tmp_path: Path) -> None:
    (first, *_) = pods(workloads_text(settings_of(tmp_path, pull=False, image="local/tools:1"))).values()
    container = first["spec"]["containers"][0]
    assert (container["image"], container["imagePullPolicy"]) == ("local/tools:1", "Never")


def test_the_namespace_carries_the_mark(tmp_path: Path) -> None:
    made = yaml.safe_load(namespace_text(settings_of(tmp_path), lab_id="1f", made_by="me@here"))
    assert made["metadata"]["name"] == "labctl-bpf"
    assert made["metadata"]["labels"]["labctl.io/lab"] == "bpf"
    assert made["metadata"]["annotations"]["labctl.io/id"] == "1f"
    assert made["metadata"]["annotations"]["labctl.io/made-by"] == "me@here"
