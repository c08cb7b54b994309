"""The smallest rights for a lab on a cluster: what is printed for an administrator, and what is asked beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_world import lab_of
from labctl.errors import UsageError
from labctl.providers.cluster.rights import Subject, questions, rbac_text
from labctl.providers.cluster.settings import read_settings

ENGINEER = Subject.parse("user:engineer")


def printed(tmp_path: Path, *, with_agents: bool = True, **keys: Any) -> list[dict[str, Any]]:
    text = rbac_text(read_settings(lab_of(**keys), tmp_path), ENGINEER, with_agents=with_agents)
    return list(yaml.safe_load_all(text))


def rules(documents: list[dict[str, Any]], kind: str, namespace: str | None = None) -> set[tuple[str, str, str]]:
    return {
        (verb, resource, ",".join(rule.get("resourceNames", ())))
        for document in documents
        if document["kind"] == kind and document["metadata"].get("namespace") == namespace
        for rule in document["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_rights_are_exactly_these(tmp_path: Path) -> None:
    documents = printed(tmp_path)
    assert rules(documents, "Role", "labctl-bpf") == {
        ("create", "serviceaccounts", ""),
        ("create", "pods", ""), ("get", "pods", ""), ("list", "pods", ""), ("delete", "pods", ""),
        ("create", "pods/exec", ""), ("get", "pods/exec", ""),
        ("list", "events", ""), ("get", "pods/log", ""),
    }  # fmt: skip
    assert rules(documents, "ClusterRole") == {
        ("list", "nodes", ""), ("get", "namespaces", "labctl-bpf"), ("delete", "namespaces", "labctl-bpf"),
        ("list", "ciliumnodes", ""),
    }  # fmt: skip
    assert rules(documents, "Role", "kube-system") == {
        ("list", "pods", ""), ("create", "pods/exec", ""), ("get", "pods/exec", ""), ("get", "pods/log", ""),
        ("get", "configmaps", "cilium-config"),
    }  # fmt: skip


def test_no_right_is_for_everything(tmp_path: Path) -> None:
    for document in printed(tmp_path):
        for rule in document.get("rules", ()):
            assert "*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])


def test_a_lab_without_helpers_takes_less_and_its_namespace_is_no_privileged_one(tmp_path: Path) -> None:
    documents = printed(tmp_path, helpers="never", with_agents=False)
    assert ("delete", "pods", "") not in rules(documents, "Role", "labctl-bpf")
    assert rules(documents, "Role", "kube-system") == set()
    (namespace,) = [one for one in documents if one["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"] == {"labctl.io/lab": "bpf"}


def test_the_namespace_with_helpers_says_that_they_are_privileged(tmp_path: Path) -> None:
    (namespace,) = [one for one in printed(tmp_path) if one["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert "labctl.io/id" not in namespace["metadata"]["annotations"], "nobody's yet: the first up takes it"


def test_every_binding_is_for_the_subject(tmp_path: Path) -> None:
    bindings = [one for one in printed(tmp_path) if one["kind"].endswith("Binding")]
    assert len(bindings) == 3
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "User", "name": "engineer", "apiGroup": "rbac.authorization.k8s.io"}]


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("group:net", {"kind": "Group", "name": "net", "apiGroup": "rbac.authorization.k8s.io"}),
        ("serviceaccount:ci:labctl", {"kind": "ServiceAccount", "name": "labctl", "namespace": "ci"}),
        ("user:a:b", {"kind": "User", "name": "a:b", "apiGroup": "rbac.authorization.k8s.io"}),
    ],
)
def test_a_subject_is_a_user_a_group_or_an_account(text: str, document: dict[str, str]) -> None:
    assert Subject.parse(text).document() == document


@pytest.mark.parametrize("text", ["", "engineer", "user:", "serviceaccount:labctl", "role:x"])
def test_anything_else_is_no_subject(text: str) -> None:
    with pytest.raises(UsageError, match="no subject"):
        Subject.parse(text)


def test_everything_that_building_takes_is_asked_for_beforehand(tmp_path: Path) -> None:
    settings = read_settings(lab_of(), tmp_path)
    asked = {one.words() for one in questions(settings, namespace_is_there=False)}
    assert "create namespaces" in asked
    assert "create pods/exec in namespace labctl-bpf" in asked
    assert not {one for one in asked if "events" in one or "pods/log" in one}, "no lab needs what explains a failure"
    there = {one.words() for one in questions(settings, namespace_is_there=True)}
    assert asked - there == {"create namespaces"}, "one that an administrator has made needs no right to make any"


def test_a_question_is_a_command_of_kubectl(tmp_path: Path) -> None:
    settings = read_settings(lab_of(), tmp_path)
    argvs = {one.words(): one.argv() for one in questions(settings, namespace_is_there=False)}
    assert argvs["create pods/exec in namespace labctl-bpf"] == (
        "auth", "can-i", "create", "pods", "--subresource=exec", "-n", "labctl-bpf",
    )  # fmt: skip
    assert argvs["delete namespaces"] == ("auth", "can-i", "delete", "namespaces/labctl-bpf")
