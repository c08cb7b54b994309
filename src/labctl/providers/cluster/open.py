"""A lab on a cluster, opened: its pods and helpers as targets, and Cilium's agents where they are and may be asked.

Which of the two kinds of open lab it is follows from what is found: Cilium's agents on every node of the lab, else
whatever the pods' and nodes' devices show (`observed.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from labctl.errors import LabError, MeasureFailed
from labctl.model.evidence import Evidence
from labctl.model.lab import Datapath, Encapsulation, HostRouting, Masquerade, Pair
from labctl.path.observed import CILIUM
from labctl.providers.base import ClockOffset, OpenLab, Tap, Target, TargetKind
from labctl.providers.cilium import node_facts
from labctl.providers.cilium.evidence import found_by_agent
from labctl.providers.cilium.observed import (
    OWN_TRAFFIC,
    Found,
    OpenObservedLab,
    Seen,
    ask_json,
    clock_of,
    helper_evidence,
    lacking,
    read_node_facts,
    read_pod_device,
)
from labctl.providers.cilium.open import AGENT_CONTAINER, AGENTS, OpenCiliumLab, open_lab
from labctl.providers.cilium.targets import DoorTarget, pod_door
from labctl.providers.cilium.workloads import CONTAINER, PodState, helper_name
from labctl.providers.cluster import helpers
from labctl.providers.cluster.access import Access, Say, said
from labctl.providers.cluster.failures import is_forbidden
from labctl.providers.cluster.helpers import Helpers, NodeWithoutHelper
from labctl.providers.cluster.nodes import ClusterNode, is_node_name
from labctl.providers.cluster.rights import SYSTEM
from labctl.values import dataclass

_AT_ONCE = 8
_AGENT_FIELDS = (
    "jsonpath={range .items[*]}{.spec.nodeName}{'\\t'}{.metadata.name}{'\\t'}"
    "{.status.conditions[?(@.type==\"Ready\")].status}{'\\n'}{end}"
).replace("'", '"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Agents:
    """Cilium's agents by node of the cluster, those that are ready. `refused` says why they are not known."""

    pods: Mapping[str, str]
    refused: str = ""


def find_agents(access: Access) -> Agents:
    """A thousand pods in full are tens of megabytes, so single fields are asked for. Raises what keeps the cluster from
    being asked at all."""
    done = access.ask("-n", SYSTEM, "get", "pods", "-l", AGENTS, "-o", _AGENT_FIELDS)
    if done.returncode != 0 and is_forbidden(done.error_text):
        return Agents(pods={}, refused=said(done))
    if done.timed_out or done.returncode != 0:
        raise access.failed(done, "Cilium's agents cannot be looked for")
    found = {}
    for line in done.text.splitlines():
        node, _, rest = line.partition("\t")
        pod, _, ready = rest.partition("\t")
        if ready.strip() == "True" and is_node_name(node) and is_node_name(pod):
            found[node] = pod
    return Agents(pods=found)


def opened(access: Access, say: Say) -> OpenLab:
    """The lab as it is now. Raises MeasureFailed with what is missing."""
    settings = access.settings
    pods = access.pods()
    missing = [pod.name for pod in settings.lab.pods if pod.name not in pods or not pods[pod.name].is_ready]
    if missing:
        raise MeasureFailed(
            what=f"lab {settings.lab.name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not ready",
            cause="; ".join(f"{name}: {pods[name].reason if name in pods else 'not there'}" for name in missing)
            + gone_nodes(access, missing, pods),
            remedy=f"labctl down {settings.lab.name}, then labctl up again",
        )
    access = access.placed(pods)
    settings = access.settings
    found = helpers.ensure(access, pods, say)
    agents = find_agents(access)
    nodes = {node.name: node for node in access.nodes()}
    targets: dict[str, Target] = {pod.name: _pod_target(access, pod.name) for pod in settings.lab.pods}
    targets |= {node: _node_target(access, node, found) for node in settings.nodes}
    if agents.pods and set(settings.nodes.values()) <= set(agents.pods):
        return _with_agents(access, found, agents, nodes, targets)
    return _observed(access, found, agents, nodes, pods, targets)


def gone_nodes(access: Access, names: Sequence[str], pods: Mapping[str, PodState]) -> str:
    """Which nodes of those pods are not there any more, or not Ready; as the end of a sentence."""
    try:
        nodes = {node.name: node for node in access.nodes()}
    except LabError:
        return ""
    wanted = dict.fromkeys(pods[name].node for name in names if name in pods and pods[name].node)
    told = [f"node {name} is not in the cluster any more" for name in wanted if name not in nodes]
    told += [f"node {name} is not Ready" for name in wanted if name in nodes and not nodes[name].is_ready]
    return f"; {'; '.join(told)}" if told else ""


def _pod_target(access: Access, name: str) -> DoorTarget:
    settings = access.settings
    door = pod_door(settings.kubectl(), settings.namespace, name, CONTAINER)
    return DoorTarget(name=name, kind=TargetKind.POD, door=door, commands=access.commands)


def _node_target(access: Access, node: str, found: Helpers) -> Target:
    settings = access.settings
    if node not in found.pods:
        return NodeWithoutHelper(node, found.refused)
    door = pod_door(settings.kubectl(), settings.namespace, helper_name(node), CONTAINER)
    return DoorTarget(name=node, kind=TargetKind.NODE, door=door, commands=access.commands)


def _observed(
    access: Access,
    found: Helpers,
    agents: Agents,
    nodes: Mapping[str, ClusterNode],
    pods: Mapping[str, PodState],
    targets: Mapping[str, Target],
) -> OpenObservedLab:
    settings = access.settings
    lab = settings.lab
    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="labctl-look") as pool:
        looks = {pod.name: pool.submit(read_pod_device, targets[pod.name]) for pod in lab.pods}
        asked = {
            node: pool.submit(read_node_facts, targets[node], nodes[there].address if there in nodes else "")
            for node, there in settings.nodes.items()
            if node in found.pods
        }
        seen = Seen(
            pods={name: one.result() for name, one in looks.items()},
            facts={node: one.result() for node, one in asked.items()},
            ranges={node: nodes[there].pod_cidr if there in nodes else "" for node, there in settings.nodes.items()},
            addresses={pod.name: pods[pod.name].address for pod in lab.pods},
        )
    cni = seen.cni(lab)
    if agents.pods or (agents.refused and cni == CILIUM):
        cni = CILIUM
    elif not seen.facts:
        cni = "not known"
    held = Found(
        nodes=settings.nodes,
        facts=seen.facts,
        ends=seen.ends(lab),
        refused=found.refused,
        agents_refused=agents.refused,
    )
    return OpenObservedLab(seen.lab(lab, cni), targets, held)


class OpenFoundCilium(OpenCiliumLab):
    """A lab on a Cilium that labctl did not install: as one that it did, but for what nodes without helpers lack."""

    def lacking_helpers(self, refused: str, nodes: Mapping[str, Target]) -> OpenFoundCilium:
        self._refused, self._user_nodes = refused, nodes
        return self

    def target(self, name: str) -> Target:
        return self._user_nodes[name] if name in self._user_nodes else super().target(name)

    def targets(self) -> tuple[Target, ...]:
        return tuple(self._user_nodes.get(one.name, one) for one in super().targets())

    def taps(self, pair: Pair) -> tuple[Tap, ...]:
        if self._refused:
            nodes = dict.fromkeys(self.lab.pod(name).node for name in (pair.client, pair.server))
            raise lacking(" and ".join(nodes), self._refused)
        return super().taps(pair)

    def testimony(self, pair: Pair, send: Callable[[], None]) -> tuple[Evidence, ...]:
        return (*helper_evidence(self.lab, self._refused), *super().testimony(pair, send))

    def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
        return tuple(clock_of(self._targets[node]) for node in nodes)


def _with_agents(
    access: Access,
    found: Helpers,
    agents: Agents,
    nodes: Mapping[str, ClusterNode],
    targets: Mapping[str, Target],
) -> OpenLab:
    settings = access.settings
    doors = {
        node: DoorTarget(
            name=f"{agents.pods[there]} ({node})", kind=TargetKind.NODE, commands=access.commands,
            door=pod_door(settings.kubectl(), SYSTEM, agents.pods[there], AGENT_CONTAINER),
        )
        for node, there in settings.nodes.items()
    }  # fmt: skip
    ways = FoundWays(access=access, agents=doors, targets=targets)
    uplinks = {}
    for node, there in settings.nodes.items():
        addresses = node_facts.parse_addresses(ask_json(ways.node(node), node_facts.ARGV_ADDRESSES))
        uplinks[node] = node_facts.uplink_of(addresses, nodes[there].address if there in nodes else "")
    known = replace(settings, uplinks=uplinks)
    running = open_lab(known, access.commands, ways, agents=doors)
    lab = replace(running.lab, nodes=tuple(node for node in running.lab.nodes if node.name in known.nodes))
    if lab.datapath.observed:
        lab = replace(lab, datapath=_as_agents_say(running, lab.datapath))
    cilium = OpenFoundCilium(
        known, lab, running._facts, running._targets, running._capture, running._agents, OWN_TRAFFIC
    )
    without = {node: target for node, target in targets.items() if isinstance(target, NodeWithoutHelper)}
    return cilium.lacking_helpers(found.refused, without)


def _as_agents_say(running: OpenCiliumLab, datapath: Datapath) -> Datapath:
    """The mode that the first agent claims: what the packets then have to show. Where an agent does not answer, the
    scenario's."""
    witnesses = running.witnesses
    try:
        config = witnesses.config()
        claims = found_by_agent(witnesses.status(next(iter(running._agents))), config)
    except LabError:
        return datapath
    return replace(
        datapath,
        host_routing=_one_of(HostRouting, claims.get("hostRouting"), datapath.host_routing),
        encapsulation=_one_of(Encapsulation, claims.get("encapsulation"), datapath.encapsulation),
        masquerade=_one_of(Masquerade, claims.get("masquerade"), datapath.masquerade),
        kube_proxy_replacement=claims.get("kubeProxyReplacement", datapath.kube_proxy_replacement) is True,
    )


M = TypeVar("M", HostRouting, Encapsulation, Masquerade)


def _one_of(kind: type[M], claim: object, otherwise: M) -> M:
    try:
        return kind(str(claim))
    except ValueError:
        return otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWays:
    """`Ways` of `providers/cilium/open.py`: into nodes by their helper, or where there is none by Cilium's agent, which
    has the node's network too (and no tcpdump)."""

    access: Access
    agents: Mapping[str, DoorTarget]
    targets: Mapping[str, Target]

    def node(self, node: str) -> DoorTarget:
        target = self.targets[node]
        return target if isinstance(target, DoorTarget) else replace(self.agents[node], name=node)

    def pod(self, pod: PodState, node: str) -> DoorTarget:
        return _pod_target(self.access, pod.name)

    def capture(self, node: DoorTarget) -> DoorTarget:
        return node
