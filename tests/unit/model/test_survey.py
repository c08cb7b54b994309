"""Which nodes differ from the rest, and when a survey is complete."""

from __future__ import annotations

from dataclasses import replace

from labctl.model.survey import Survey, SurveyedNode, SurveyedPair, differing

NODE = SurveyedNode(
    name="a", is_ready=True, zone="", address="192.0.2.1", kernel="6.1", kubelet="v1.30.0", runtime="containerd",
    os="Debian", architecture="amd64", mode={"hostRouting": "bpf", "kubeProxyReplacement": True},
)  # fmt: skip
PAIR = SurveyedPair(a="a", b="b", sent=3, received=3, rtt_min_s=0.1, rtt_p50_s=0.1, rtt_max_s=0.1)
SURVEY = Survey(cluster="c", version="v1.30.0", cni="cilium", nodes=(NODE,), pairs=(PAIR,), seed=1, sample=1)


def test_a_node_differs_in_what_most_have_otherwise() -> None:
    odd = replace(NODE, name="c", kernel="5.4", mode={"hostRouting": "legacy", "kubeProxyReplacement": True})
    found = list(differing((NODE, replace(NODE, name="b"), odd)))
    assert [(one.node, one.trait, one.value, one.most, one.count) for one in found] == [
        ("c", "kernel", "5.4", "6.1", 2),
        ("c", "hostRouting", "legacy", "bpf", 2),
    ]


def test_a_node_that_was_not_asked_does_not_differ_in_what_it_did_not_say() -> None:
    silent = replace(NODE, name="c", mode={}, unasked="it does not answer")
    assert list(differing((NODE, replace(NODE, name="b"), silent))) == []


def test_a_switch_is_told_as_a_scenario_writes_it() -> None:
    assert NODE.traits()["kubeProxyReplacement"] == "true"
    assert replace(NODE, kube_proxy=False).traits()["kube-proxy"] == "no"
    assert "kube-proxy" not in NODE.traits()


def test_it_is_complete_when_everybody_has_answered() -> None:
    assert SURVEY.is_complete
    assert not replace(SURVEY, nodes=(replace(NODE, unasked="why"),)).is_complete
    assert not replace(SURVEY, pairs=(replace(PAIR, failed="why"),)).is_complete
    assert not replace(SURVEY, interrupted=True).is_complete
