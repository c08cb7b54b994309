"""The nodes of a cluster as its API lists them, and which of them become the nodes of a scenario. Pure.

A list of a thousand nodes in full is tens of megabytes (each names its images), so kubectl is asked for single fields,
tab-separated, a line each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from labctl.errors import MeasureFailed, StepFailed
from labctl.model.sections import KUBERNETES_NAME_PATTERN
from labctl.providers.cluster.settings import ClusterSettings
from labctl.values import dataclass

_PATHS = (
    "{.metadata.name}",
    '{.status.addresses[?(@.type=="InternalIP")].address}',
    '{.status.conditions[?(@.type=="Ready")].status}',
    "{.spec.unschedulable}",
    "{range .spec.taints[*]}{.key}={.value}:{.effect} {end}",
    "{.metadata.labels.topology\\.kubernetes\\.io/zone}",
    "{.spec.podCIDR}",
    "{.status.nodeInfo.kernelVersion}",
    "{.status.nodeInfo.kubeletVersion}",
    "{.status.nodeInfo.containerRuntimeVersion}",
    "{.status.nodeInfo.osImage}",
    "{.status.nodeInfo.architecture}",
)
_NAME = re.compile(KUBERNETES_NAME_PATTERN)
_KEEPS_OUT = ("NoSchedule", "NoExecute")
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """One node. `addresses` are its internal ones, of either family; `taints` as kubectl writes them."""

    name: str
    addresses: tuple[str, ...]
    is_ready: bool
    is_cordoned: bool
    taints: tuple[str, ...]
    zone: str
    pod_cidr: str
    kernel: str
    kubelet: str
    runtime: str
    os_image: str
    architecture: str

    @property
    def address(self) -> str:
        """Its internal IPv4 address; empty where it has none."""
        return next((address for address in self.addresses if ":" not in address), "")

    def why_not(self, *, tolerates: bool = False) -> str:
        """Why no pod of a lab goes there, as half a sentence; empty where it can."""
        if not self.is_ready:
            return "it is not Ready"
        if self.is_cordoned:
            return "it is cordoned"
        kept_out = [taint for taint in self.taints if taint.rpartition(":")[2] in _KEEPS_OUT]
        return f"it has the taint {kept_out[0]}" if kept_out and not tolerates else ""


def argv_nodes(selector: str = "") -> tuple[str, ...]:
    """What follows kubectl's own options."""
    fields = "{'\\t'}".join(_PATHS).replace("'", '"')
    chosen = ("-l", selector) if selector else ()
    return ("get", "nodes", *chosen, "-o", "jsonpath={range .items[*]}" + fields + '{"\\n"}{end}')


def parse_nodes(text: str) -> tuple[ClusterNode, ...]:
    """In the order of their names. Raises MeasureFailed for a line of another form, and for a name that none can
    have: it goes to kubectl as it is."""
    nodes = []
    for line in text.splitlines():
        if not line.strip():
            continue
        parts = line.split("\t")
        if len(parts) != len(_PATHS) or not is_node_name(parts[0]):
            raise MeasureFailed(
                what="kubectl's list of nodes does not have the form that labctl knows", cause=line[:200]
            )
        nodes.append(
            ClusterNode(
                name=parts[0],
                addresses=tuple(parts[1].split()),
                is_ready=parts[2] == "True",
                is_cordoned=parts[3] == "true",
                taints=tuple(taint.replace("=:", ":") for taint in parts[4].split()),
                zone=parts[5],
                pod_cidr=parts[6],
                kernel=parts[7],
                kubelet=parts[8],
                runtime=parts[9],
                os_image=parts[10],
                architecture=parts[11],
            )
        )
    return tuple(sorted(nodes, key=lambda node: node.name))


def is_node_name(name: str) -> bool:
    """True for a DNS subdomain, which the name of a node is."""
    return _NAME.fullmatch(name) is not None


def choose(settings: ClusterSettings, nodes: Sequence[ClusterNode]) -> dict[str, str]:
    """A node of the cluster for each node of the scenario that has pods: those that `cluster.nodes` names, the others
    spread over the zones in the order of names, so that the same cluster gives the same choice.

    Raises StepFailed with the reason of each node that cannot be chosen.
    """
    asked, tolerates = settings.section.nodes, settings.section.tolerate_taints
    by_name = {node.name: node for node in nodes}
    chosen: dict[str, str] = {}
    for node in settings.needed_nodes:
        if (name := asked.get(node)) is None:
            continue
        if name not in by_name:
            raise StepFailed(
                what=f"cluster.nodes places {node} on {name}, and there is no such node",
                cause=f"there are: {_named(by_name)}",
                remedy="kubectl get nodes  # and cluster.nodes, or cluster.nodeSelector, in lab.yaml",
            )
        if why := by_name[name].why_not(tolerates=tolerates):
            raise StepFailed(
                what=f"node {name}, which cluster.nodes names for {node}, cannot be used: {why}",
                remedy=f"kubectl describe node {name}  # or cluster.tolerateTaints: true",
            )
        chosen[node] = name
    fit = [one for one in nodes if not one.why_not(tolerates=tolerates) and one.name not in asked.values()]
    spread = _over_zones(fit)
    left = [node for node in settings.needed_nodes if node not in chosen]
    if len(spread) < len(left):
        raise _too_few(settings, nodes, len(chosen) + len(spread))
    chosen |= dict(zip(left, (one.name for one in spread), strict=False))
    return {node: chosen[node] for node in settings.needed_nodes}


def _over_zones(nodes: Iterable[ClusterNode]) -> list[ClusterNode]:
    """One of each zone, then a second of each, …; nodes without a zone are one zone."""
    by_zone: dict[str, list[ClusterNode]] = {}
    for node in nodes:
        by_zone.setdefault(node.zone, []).append(node)
    ranked = [(number, zone, node) for zone, those in by_zone.items() for number, node in enumerate(those)]
    return [node for _, _, node in sorted(ranked, key=lambda one: (one[0], one[1]))]


def _too_few(settings: ClusterSettings, nodes: Sequence[ClusterNode], count: int) -> StepFailed:
    needed = len(settings.needed_nodes)
    tolerates = settings.section.tolerate_taints
    reasons = [f"{node.name}: {why}" for node in nodes if (why := node.why_not(tolerates=tolerates))]
    selector = settings.section.node_selector
    those = f"with labels {selector} " if selector else ""
    more = f"; and {len(reasons) - _MOST_NAMED} more" if len(reasons) > _MOST_NAMED else ""
    return StepFailed(
        what=f"lab {settings.lab.name} has pods on {needed} nodes, and {count} of the cluster's {those}can be used",
        cause="; ".join(reasons[:_MOST_NAMED]) + more or f"there are {len(nodes)} {those}in all",
        remedy="another cluster.nodeSelector; cluster.tolerateTaints: true; or a scenario with pods on fewer nodes",
    )


def _named(nodes: Mapping[str, ClusterNode]) -> str:
    names = list(nodes)
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )
