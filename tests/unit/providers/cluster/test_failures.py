"""Every way in which kubectl fails, by its recorded words."""

from __future__ import annotations

import pytest

from cluster_world import completed, error
from labctl.errors import MeasureFailed, StepFailed, UsageError
from labctl.providers.cluster.failures import (
    ClusterWords,
    failed_kubectl,
    is_admission,
    is_forbidden,
    is_gone,
    said_by,
    stuck_namespace,
)

ARGV = ("kubectl", "--context", "work", "get", "nodes")
WORDS = ClusterWords(context="work", contexts=("home", "work"))
RIGHTS = "labctl plan bpf --provider cluster --rbac"

CASES = {
    "no-context": (UsageError, "the kubeconfig has no context nope", "home, work"),
    "no-kubeconfig": (UsageError, "there is no kubeconfig that kubectl can read", "/nope"),
    "refused": (MeasureFailed, "the API server of context work does not answer", "was refused"),
    "no-such-host": (MeasureFailed, "the API server of context work does not answer", "no such host"),
    "certificate": (MeasureFailed, "the API server of context work is not trusted", "unknown authority"),
    "unauthorized": (MeasureFailed, "does not accept these credentials", "Unauthorized"),
    "forbidden": (MeasureFailed, "user nobody may not list nodes", "cannot list resource"),
    "forbidden-in-namespace": (MeasureFailed, "user nobody may not list pods in namespace kube-system", "kube-system"),
    "forbidden-create": (MeasureFailed, "user nobody may not create namespaces", "cannot create"),
    "pod-security": (MeasureFailed, "the cluster's policy refuses it", "violates PodSecurity"),
    "pod-security-policy": (MeasureFailed, "the cluster's policy refuses it", "PodSecurityPolicy"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_failure_is_told_as_what_it_is(name: str) -> None:
    kind, what, cause = CASES[name]
    done = completed(ARGV, err=error(name), code=1)
    failure = failed_kubectl(done, WORDS, what="the nodes cannot be listed", rights=RIGHTS)
    assert type(failure) is kind
    assert what in failure.what
    assert cause in failure.cause
    assert failure.remedy
    assert "memcache" not in failure.cause, "klog's lines are not what happened"


def test_what_is_part_of_building_is_a_failed_step() -> None:
    done = completed(ARGV, err=error("forbidden-create"), code=1)
    failure = failed_kubectl(done, WORDS, what="namespace x cannot be made", acts=True, rights=RIGHTS)
    assert isinstance(failure, StepFailed)
    assert failure.remedy.startswith(RIGHTS)


def test_a_kubectl_that_was_killed_at_its_deadline_was_not_answered() -> None:
    done = completed(ARGV, timed_out=True, code=-9)
    failure = failed_kubectl(done, WORDS, what="the nodes cannot be listed")
    assert "does not answer" in failure.what
    assert failure.cause.startswith("no answer within")
    assert failure.remedy.startswith("kubectl --context work cluster-info")


def test_words_that_are_not_known_are_quoted() -> None:
    done = completed(ARGV, err="error: the moon is full\n", code=1)
    failure = failed_kubectl(done, WORDS, what="the nodes cannot be listed")
    assert (failure.what, failure.cause) == ("the nodes cannot be listed", "error: the moon is full")
    assert said_by(completed(ARGV, code=1)) == "it printed nothing"


def test_only_the_api_servers_own_answer_says_that_something_is_not_there() -> None:
    assert is_gone(completed(ARGV, err=error("not-found"), code=1))
    assert not is_gone(completed(ARGV, err=error("no-context"), code=1)), "a context that is not found is no namespace"
    assert not is_gone(completed(ARGV, err=error("not-found"), code=0))


def test_policy_and_rights_are_told_apart() -> None:
    assert is_admission(error("pod-security"))
    assert is_admission(error("pod-security-policy"))
    assert not is_admission(error("forbidden"))
    assert is_forbidden(error("forbidden"))
    assert not is_forbidden(error("refused"))


def test_a_namespace_that_does_not_go_is_told_with_kubernetes_own_reason() -> None:
    conditions = (
        ("NamespaceContentRemaining", "True", "Some resources are remaining: widgets.example.com has 1 instances"),
        ("NamespaceDeletionDiscoveryFailure", "False", "All resources successfully discovered"),
    )
    failure = stuck_namespace("labctl-bpf", conditions, 120.0, "kubectl --context work")
    assert failure.what == "namespace labctl-bpf is still Terminating after 120 s"
    assert failure.cause == "Some resources are remaining: widgets.example.com has 1 instances"
    assert "kubectl --context work get namespace labctl-bpf" in failure.remedy
