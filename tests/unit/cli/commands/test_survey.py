"""`labctl survey`, `plan --rbac` and `--context` on the command line, against a scripted kubectl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cluster_world import CONTEXT, KubeWorld, error
from labctl.cli import group
from labctl.providers.cluster import access, provider, survey


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> KubeWorld:
    world = KubeWorld()
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(access, "_POLL_S", 0.0)
    for module in (survey, provider):
        monkeypatch.setattr(module, "HostCommands", lambda name: world)
    return world


def test_a_survey_is_one_json_document_and_all_is_well(world: KubeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["survey", "--sample", "0", "--seed", "7", "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert (document["kind"], document["cluster"], document["seed"], document["complete"]) == (
        "Survey",
        CONTEXT,
        7,
        True,
    )
    assert "3 nodes" in printed.err


def test_a_survey_is_a_table(world: KubeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["survey", "--sample", "0"]) == 0
    assert "in force: not shown" in capsys.readouterr().out


def test_a_node_that_could_not_be_asked_is_exit_code_4(world: KubeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.agents = {"node1": "cilium-1"}
    world.refuses("exec cilium-1", error("refused"))
    assert group.run(["survey", "--sample", "0"]) == 4
    assert "could not be asked" in capsys.readouterr().out


def test_a_cluster_that_cannot_be_reached_is_an_error(world: KubeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.refuses("get nodes", error("refused"))
    assert group.run(["survey"]) == 4
    assert "does not answer" in capsys.readouterr().err
    world.refuses("get nodes", error("no-context"))


def test_the_context_of_the_command_line_is_the_one_that_is_asked(world: KubeWorld) -> None:
    assert group.run(["survey", "--sample", "0", "--context", "other", "--selector", "pool=lab", "--json"]) == 0
    (asked,) = [line for line in world.said if "get nodes" in line]
    assert "--context other" in asked
    assert "-l pool=lab" in asked


def test_an_option_that_kubectl_could_take_for_another_one_is_refused(
    world: KubeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert group.run(["survey", "--context", "--all"]) == 2
    assert group.run(["survey", "--selector", "--all-namespaces"]) == 2
    assert world.said == []
    capsys.readouterr()


def test_the_rights_are_printed_without_asking_a_cluster(world: KubeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", "bpf", "--provider", "cluster", "--name", "mine", "--rbac", "--subject", "group:net"]
    assert group.run(argv) == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [one["kind"] for one in documents] == [
        "Namespace", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
    ]  # fmt: skip
    assert documents[0]["metadata"]["name"] == "labctl-mine"
    assert world.said == []


def test_other_providers_have_no_rights_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["plan", "bpf", "--rbac"]) == 2
    assert "--provider cluster --rbac" in capsys.readouterr().err


def test_a_context_is_for_the_provider_cluster(world: KubeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["plan", "bpf", "--context", "work"]) == 2
    assert "--context work has no meaning with the provider netns" in capsys.readouterr().err
    assert group.run(["plan", "bpf", "--provider", "cluster", "--context", "work"]) == 0
    assert "context work: node1 is node1, node2 is node2" in capsys.readouterr().out


def test_the_script_of_a_plan_makes_the_same_objects(
    world: KubeWorld, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert group.run(["plan", "bpf", "--provider", "cluster", "--shell"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#!")
    assert "kubectl --context" in script
    assert "kind: Namespace" in script
    assert "activeDeadlineSeconds: 3600" in script
