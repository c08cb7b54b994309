"""A survey on a screen and as a document."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from labctl.model.survey import Survey, SurveyedNode, SurveyedPair
from labctl.report.survey import survey_document, survey_view

NODE = SurveyedNode(
    name="node1", is_ready=True, zone="", address="192.0.2.1", kernel="6.1", kubelet="v1.30.0", runtime="containerd",
    os="Debian", architecture="amd64", mode={"hostRouting": "bpf", "encapsulation": "vxlan"}, kube_proxy=False,
)  # fmt: skip
ODD = replace(NODE, name="node3", mode={"hostRouting": "legacy", "encapsulation": "vxlan"})
PAIRS = (
    SurveyedPair(a="node1", b="node2", sent=10, received=10, rtt_min_s=0.0001, rtt_p50_s=0.0002, rtt_max_s=0.0003),
    SurveyedPair(a="node1", b="node3", sent=10, received=7, rtt_min_s=0.0001, rtt_p50_s=0.0002, rtt_max_s=0.0003),
    SurveyedPair(a="node2", b="node3", sent=0, received=0, failed="no pod is ready on node3"),
)
SURVEY = Survey(
    cluster="work", version="v1.30.0", cni="cilium", nodes=(NODE, replace(NODE, name="node2"), ODD), pairs=PAIRS,
    seed=7, sample=3,
)  # fmt: skip


def shown(survey: Survey) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(*survey_view(survey), sep="\n")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_most_say_and_who_differs() -> None:
    text = shown(SURVEY)
    assert "context work: 3 nodes, Kubernetes v1.30.0" in text
    assert "in force: hostRouting bpf on 2, legacy on 1, encapsulation vxlan" in text
    assert "1 nodes differ from the rest:" in text
    assert "node3" in text


def test_pairs_the_worst_first_with_what_was_lost() -> None:
    text = shown(SURVEY)
    assert "2 of 3 sampled pairs measured, pod to pod (seed 7)" in text
    assert "packets were lost on 1" in " ".join(text.split())
    assert text.index("no pod is ready on node3") < text.index("7/10") < text.index("10/10")


def test_without_cilium_no_mode_is_shown() -> None:
    bare = replace(SURVEY, cni="not known", nodes=(replace(NODE, mode={}),), pairs=())
    assert "in force: not shown: no Cilium agent is there" in shown(bare)


def test_nodes_that_could_not_be_asked_and_an_interruption_are_told() -> None:
    text = shown(
        replace(SURVEY, nodes=(replace(NODE, mode={}, unasked="no answer"),), interrupted=True, notes=("x is left",))
    )
    assert "1 nodes could not be asked" in text
    assert "no answer" in text
    assert "note: x is left" in text
    assert "interrupted" in text


def test_the_document_has_everything() -> None:
    document = survey_document(SURVEY)
    assert (document["apiVersion"], document["kind"], document["complete"]) == ("labctl/v1", "Survey", False)
    nodes, pairs, differences = document["nodes"], document["pairs"], document["differences"]
    assert isinstance(nodes, list)
    assert isinstance(pairs, list)
    assert isinstance(differences, list)
    assert nodes[0]["kubeProxy"] is False
    assert nodes[0]["unasked"] is None
    assert pairs[0]["rttP50S"] == 0.0002
    assert differences == [{"node": "node3", "trait": "hostRouting", "value": "legacy", "most": "bpf", "count": 2}]
