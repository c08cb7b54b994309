"""What a survey found of a cluster: each node as its API and its agent describe it, and pairs of nodes as measured.

A node of which something could not be asked says so (`unasked`); nothing is filled in for it. Pure data, with the one
question that is asked of all of it: which nodes differ from the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from labctl.codec import NULL, OMITTED
from labctl.values import dataclass

NOT_SHOWN = "not shown"
"""What stands for a mode that no witness shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyedNode:
    """One node. `mode` is what is in force on it by its agent's word (`hostRouting`, `encapsulation`, `masquerade`,
    `kubeProxyReplacement`); empty where no agent was asked, and `unasked` says why. Texts are empty where the API
    server has none."""

    name: str
    is_ready: bool
    zone: Annotated[str, NULL]
    address: Annotated[str, NULL]
    kernel: Annotated[str, NULL]
    kubelet: Annotated[str, NULL]
    runtime: Annotated[str, NULL]
    os: Annotated[str, NULL]
    architecture: Annotated[str, NULL]
    taints: tuple[str, ...] = ()
    agent: Annotated[str, NULL] = ""
    mode: Mapping[str, object]
    kube_proxy: bool | None = None
    """Whether a kube-proxy runs on it; None where that could not be asked."""
    unasked: Annotated[str, NULL] = ""

    def traits(self) -> dict[str, str]:
        """What nodes of one cluster usually have in common, in words."""
        known = {
            "ready": "yes" if self.is_ready else "no",
            "kernel": self.kernel,
            "kubelet": self.kubelet,
            "runtime": self.runtime,
            "os": self.os,
            "architecture": self.architecture,
            "agent": self.agent,
            **{key: _word(value) for key, value in self.mode.items()},
        }
        if self.kube_proxy is not None:
            known["kube-proxy"] = "yes" if self.kube_proxy else "no"
        return {key: value for key, value in known.items() if value}


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyedPair:
    """A pair of nodes, measured from a pod on `a` to a pod on `b`: `sent` echo requests and how many were answered,
    round trips in seconds. Where it could not be measured the times are None, and `failed` says why."""

    a: str
    b: str
    sent: int
    received: int
    rtt_min_s: float | None = None
    rtt_p50_s: float | None = None
    rtt_max_s: float | None = None
    failed: Annotated[str, NULL] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A node that has another value of a trait than most of those that have one."""

    node: str
    trait: str
    value: str
    most: str
    count: int
    """How many nodes have what most have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """`cni` is what connects the pods as far as it is known (`cilium`, or `not known`), `cluster` the context. `seed`
    chose the pairs; `interrupted` means that a person stopped it: what is there is what was asked until then."""

    cluster: str
    version: Annotated[str, NULL]
    cni: str
    nodes: tuple[SurveyedNode, ...]
    pairs: tuple[SurveyedPair, ...]
    seed: int
    sample: int
    interrupted: bool = False
    notes: Annotated[tuple[str, ...], OMITTED] = ()

    @property
    def differences(self) -> tuple[Difference, ...]:
        return tuple(differing(self.nodes))

    @property
    def unasked(self) -> tuple[SurveyedNode, ...]:
        return tuple(node for node in self.nodes if node.unasked)

    @property
    def unmeasured(self) -> tuple[SurveyedPair, ...]:
        return tuple(pair for pair in self.pairs if pair.failed)

    @property
    def is_complete(self) -> bool:
        """True when every node and pair that was to be asked has answered."""
        return not (self.unasked or self.unmeasured or self.interrupted)


def differing(nodes: Sequence[SurveyedNode]) -> Iterator[Difference]:
    """Trait by trait, the nodes in their order. A trait of which no value is more frequent than every other one has no
    rest to differ from."""
    traits = [node.traits() for node in nodes]
    for trait in dict.fromkeys(key for each in traits for key in each):
        counted = Counter(each[trait] for each in traits if trait in each).most_common(2)
        if len(counted) < 2 or counted[0][1] == counted[1][1]:
            continue
        most, count = counted[0]
        for node, each in zip(nodes, traits, strict=True):
            if each.get(trait, most) != most:
                yield Difference(node=node.name, trait=trait, value=each[trait], most=most, count=count)
