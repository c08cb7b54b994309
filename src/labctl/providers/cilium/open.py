"""A running lab with real Cilium, opened: its targets, taps and devices, and the witnesses that Cilium has."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from labctl.errors import MeasureFailed, UsageError
from labctl.model.evidence import DatapathState, Evidence, ModeInForce
from labctl.model.impairment import ImpairedWay
from labctl.model.interfaces import cilium_tunnel
from labctl.model.lab import EndpointKind, HostRouting, Lab, Pair, Pod
from labctl.model.node_status import NodeStatus
from labctl.model.service_lists import NodeServices
from labctl.model.signature import Role
from labctl.model.tools import require_success
from labctl.providers.base import ClockOffset, OpenDevice, Tap, Target, TargetKind, Watch
from labctl.providers.cilium.cluster_facts import (
    LINKS_SCRIPT,
    CiliumEndpoint,
    ClusterFacts,
    NodeLink,
    argv_endpoints,
    parse_cilium_nodes,
    parse_endpoints,
    parse_links,
    with_facts,
)
from labctl.providers.cilium.commands import Commands, must, shown, with_kubeconfig
from labctl.providers.cilium.evidence import Witnesses
from labctl.providers.cilium.inspect_datapath import read_state
from labctl.providers.cilium.monitor import Devices
from labctl.providers.cilium.settings import ClusterAccess
from labctl.providers.cilium.targets import DoorTarget, pod_door
from labctl.providers.cilium.verbose import endpoints_of, node_status, parse_pod_ranges
from labctl.providers.cilium.watch import watching, wishes
from labctl.providers.cilium.workloads import LAB_LABEL, PodState, parse_pods

AGENTS = "k8s-app=cilium"
AGENT_CONTAINER = "cilium-agent"
UPLINK = "uplink"
"""Stands for the node's own uplink in the tables below."""
_ASK_S = 60.0
_CLIENT_SIDE = (
    (Role.CLIENT_CILIUM_HOST, "cilium_host"),
    (Role.CLIENT_CILIUM_NET, "cilium_net"),
    (Role.CLIENT_CILIUM_VXLAN, "cilium_vxlan"),
    (Role.CLIENT_CILIUM_GENEVE, "cilium_geneve"),
    (Role.CLIENT_UPLINK, UPLINK),
    (Role.CLIENT_LO, "lo"),
)
_SERVER_SIDE = (
    (Role.SERVER_LO, "lo"),
    (Role.SERVER_UPLINK, UPLINK),
    (Role.SERVER_CILIUM_VXLAN, "cilium_vxlan"),
    (Role.SERVER_CILIUM_GENEVE, "cilium_geneve"),
    (Role.SERVER_CILIUM_NET, "cilium_net"),
    (Role.SERVER_CILIUM_HOST, "cilium_host"),
)

_CARRIES_OWN = (Role.CLIENT_UPLINK, Role.SERVER_UPLINK, Role.CLIENT_LO, Role.SERVER_LO)


class OpenCiliumLab:
    """`OpenLab` of the seam. Made by `open_lab`, which reads the facts first."""

    def __init__(
        self,
        settings: ClusterAccess,
        lab: Lab,
        facts: ClusterFacts,
        targets: dict[str, DoorTarget],
        capture: dict[str, DoorTarget],
        agents: dict[str, DoorTarget],
        own_traffic: str = "",
    ) -> None:
        """`own_traffic` is what labctl itself sends past the nodes' devices (`Tap.own`)."""
        self._settings, self._lab, self._facts = settings, lab, facts
        self._targets, self._capture, self._agents = targets, capture, agents
        self._own_traffic = own_traffic

    @property
    def lab(self) -> Lab:
        return self._lab

    def target(self, name: str) -> Target:
        found = self._targets.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self._targets, n=1)
            raise UsageError(
                what=f"lab {self._lab.name} has no pod or node named {name}",
                cause=f"it has: {', '.join(self._targets)}",
                remedy=f"did you mean {near[0]}?" if near else "",
            )
        return found

    def targets(self) -> tuple[Target, ...]:
        return tuple(self._targets.values())

    def taps(self, pair: Pair) -> tuple[Tap, ...]:
        client, server = self._lab.client(pair), self._lab.server(pair)
        taps: list[Tap] = []
        if client.kind is EndpointKind.POD:
            pod = self._lab.pod(client.name)
            taps += [self._tap(Role.CLIENT_ETH0, pod.name, "eth0"), self._node_tap(Role.CLIENT_LXC, pod.node, pod.lxc)]
        elif client.kind is EndpointKind.OUTSIDE:
            taps.append(self._tap(Role.CLIENT_ETH0, client.name, "eth0"))
        for node, side in self._sides(pair):
            taps += [self._node_tap(role, node, name) for role, name in self._there(node, side)]
        for pod in self._answering(pair):
            taps += [self._node_tap(Role.SERVER_LXC, pod.node, pod.lxc), self._tap(Role.SERVER_ETH0, pod.name, "eth0")]
        if server.kind is EndpointKind.OUTSIDE:
            taps.append(self._tap(Role.SERVER_ETH0, server.name, "eth0"))
        return tuple(taps)

    def _answering(self, pair: Pair) -> tuple[Pod, ...]:
        """The pods that may answer, but for the client itself."""
        pods = self._lab.backends(pair) or tuple(pod for pod in self._lab.pods if pod.name == pair.server)
        return tuple(pod for pod in pods if pod.name != pair.client)

    def _sides(self, pair: Pair) -> Iterator[tuple[str, Sequence[tuple[Role, str]]]]:
        """The nodes on the way: the client's, or the one that is asked from outside, and those of what answers."""
        client, server = self._lab.client(pair), self._lab.server(pair)
        first = client.node or (server.node if server.kind is EndpointKind.SERVICE else None)
        if first is not None:
            yield first, _CLIENT_SIDE
        beyond = [server.node] if server.kind is EndpointKind.NODE else [pod.node for pod in self._answering(pair)]
        for node in dict.fromkeys(beyond):
            if node is not None and node != first:
                yield node, _SERVER_SIDE

    def _there(self, node: str, side: Sequence[tuple[Role, str]]) -> list[tuple[Role, str]]:
        """The devices of one side that this node has, under their names on it."""
        uplink = self._facts.uplinks.get(node, "")
        named = [(role, uplink if name is UPLINK else name) for role, name in side]
        return [(role, name) for role, name in named if name in self._facts.links[node]]

    def _tap(self, role: Role, pod: str, interface: str) -> Tap:
        return Tap(name=f"{pod}:{interface}", role=role, target=self._targets[pod], interface=interface)

    def _node_tap(self, role: Role, node: str, interface: str) -> Tap:
        return Tap(
            name=f"{node}:{interface}", role=role, target=self._capture[node], interface=interface,
            own=self._own_traffic if role in _CARRIES_OWN else "",
        )  # fmt: skip

    def devices(self, pair: Pair) -> tuple[OpenDevice, ...]:
        devices: list[OpenDevice] = []
        clients = [pod for pod in self._lab.pods if pod.name == pair.client]
        ends = (
            (Role.CLIENT_ETH0, Role.CLIENT_LXC, clients),
            (Role.SERVER_ETH0, Role.SERVER_LXC, self._answering(pair)),
        )
        for eth0, lxc, pods in ends:
            for pod in pods:
                devices += [OpenDevice(role=eth0, mac=pod.mac), OpenDevice(role=lxc, mac=pod.lxc_mac)]
        for eth0, name in ((Role.CLIENT_ETH0, pair.client), (Role.SERVER_ETH0, pair.server)):
            devices += [OpenDevice(role=eth0, mac=host.mac) for host in self._lab.outside if host.name == name]
        for node, roles in self._sides(pair):
            links = self._facts.links[node]
            devices += [
                OpenDevice(role=role, mac=links[name].mac) for role, name in self._there(node, roles) if name != "lo"
            ]
        return tuple(devices)

    def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
        return ()

    def testimony(self, pair: Pair, send: Callable[[], None]) -> tuple[Evidence, ...]:
        return self.witnesses.testimony(pair, send)

    def watching(self, pair: Pair) -> AbstractContextManager[Watch]:
        devices = {
            node: Devices(
                lxcs={one.id: one.lxc for one in self._facts.endpoints[node] if one.pod and one.lxc},
                uplink=self._facts.uplinks.get(node, ""),
                overlay=cilium_tunnel(self._lab.datapath.encapsulation),
            )
            for node in self._lab.nodes_of(pair)
        }
        witnesses = self.witnesses
        config = witnesses.config()
        others = wishes(
            self._lab, pair, namespace=self._settings.namespace, agents=self._agents, targets=self._targets,
            config=config, values=self._settings.user_values,
        )  # fmt: skip
        return watching(
            self._lab, pair, self._agents, devices, config.get("monitor-aggregation", ""),
            lambda: witnesses.conntrack_evidence(pair), others,
        )  # fmt: skip

    def node_statuses(self, nodes: Sequence[str], mode: ModeInForce | None) -> tuple[NodeStatus, ...]:
        commands = next(iter(self._agents.values())).commands
        listed = must(commands, self._settings.kubectl("get", "nodes", "-o", "json"), timeout_s=_ASK_S)
        of_kubernetes, version = parse_pod_ranges(listed.text), self._settings.shown_version
        labels = {f"{self._settings.namespace}/{pod.name}": pod.labels for pod in self._lab.pods}
        asked = self._settings.lab.network.pod_cidr

        def status(node: str) -> NodeStatus:
            name = self._settings.nodes[node]
            ranges = asked, of_kubernetes.get(name), self._lab.node(node).pod_cidr
            endpoints = endpoints_of(self._facts.endpoints[node], labels)
            return node_status(node, self._agents[node], version, mode, endpoints, ranges)

        with ThreadPoolExecutor(max_workers=8) as pool:
            return tuple(pool.map(status, nodes))

    def services(self) -> tuple[NodeServices, ...]:
        from labctl.providers.cilium.service_lists import read_services

        return read_services(self.lab, {node: self._agents[node] for node in self._settings.nodes})

    def has_daemon_set(self, name: str) -> bool | None:
        argv = self._settings.kubectl("-n", "kube-system", "get", "daemonset", name, "--ignore-not-found", "-o", "name")
        commands = next(iter(self._targets.values())).commands
        return bool(must(commands, argv, timeout_s=_ASK_S).text.strip())

    def impaired_ways(self) -> tuple[ImpairedWay, ...]:
        return ()

    def datapath_state(self) -> DatapathState:
        return read_state({node: self._agents[node] for node in self._settings.nodes})

    @property
    def witnesses(self) -> Witnesses:
        """What only Cilium has: agents' status and log, monitor, endpoint and tunnel lists."""
        return Witnesses(
            settings=self._settings, lab=self._lab, agents=self._agents, nodes=self._targets, facts=self._facts
        )


class Ways(Protocol):
    """How a provider gets into nodes and pods."""

    def node(self, node: str) -> DoorTarget: ...

    def pod(self, pod: PodState, node: str) -> DoorTarget:
        """Into the lab's pod, which is on the scenario's node `node`."""
        ...

    def capture(self, node: DoorTarget) -> DoorTarget:
        """Where tcpdump sees that node's devices."""
        ...


def open_lab(
    settings: ClusterAccess,
    commands: Commands,
    ways: Ways,
    agents: Mapping[str, DoorTarget] | None = None,
    outside: Mapping[str, DoorTarget] = MappingProxyType({}),
) -> OpenCiliumLab:
    """Reads the cluster's facts and returns the lab as it is; `agents`, by node, where they are known already;
    `outside` are the ways into its hosts outside. Raises
    MeasureFailed with what is missing."""
    namespace = settings.namespace
    pods = {pod.name: pod for pod in list_pods(settings, commands, namespace, LAB_LABEL)}
    missing = [pod.name for pod in settings.lab.pods if pod.name not in pods or not pods[pod.name].is_ready]
    if missing:
        raise MeasureFailed(
            what=f"lab {settings.lab.name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not ready",
            cause="; ".join(f"{name}: {pods[name].reason}" for name in missing if name in pods) or "not there",
            remedy=f"labctl down {settings.lab.name}, then labctl up again",
        )
    known = dict(agents) if agents is not None else _agents(settings, commands)
    targets: dict[str, DoorTarget] = {pod.name: ways.pod(pods[pod.name], pod.node) for pod in settings.lab.pods}
    targets |= {node: ways.node(node) for node in settings.nodes}
    targets |= outside
    capture = {node: ways.capture(targets[node]) for node in settings.nodes}

    def look(node: str) -> tuple[tuple[CiliumEndpoint, ...], dict[str, NodeLink]]:
        listed = known[node].run(argv_endpoints(), timeout_s=_ASK_S)
        require_success(listed, f"the agent's endpoints on {node} cannot be read")
        return parse_endpoints(listed.text), parse_links(targets[node].read(LINKS_SCRIPT))

    with ThreadPoolExecutor(max_workers=8) as pool:
        looked = dict(zip(settings.nodes, pool.map(look, settings.nodes), strict=True))
    ciliums = parse_cilium_nodes(
        must(commands, settings.kubectl("get", "ciliumnodes.cilium.io", "-o", "json"), timeout_s=_ASK_S).text
    )
    facts = ClusterFacts(
        pods=pods,
        endpoints={node: seen[0] for node, seen in looked.items()},
        links={node: seen[1] for node, seen in looked.items()},
        cilium_nodes={node: ciliums[name] for node, name in settings.nodes.items() if name in ciliums},
        uplinks={node: settings.uplink(node) for node in settings.nodes},
    )
    try:
        lab = with_facts(settings.lab, facts, namespace)
    except MeasureFailed as failed:
        failed.remedy = with_kubeconfig(failed.remedy, commands, settings.kubectl())
        raise
    opened = OpenCiliumLab(settings, lab, facts, targets, capture, known)
    if lab.datapath.allow_fallback and lab.datapath.host_routing is HostRouting.BPF:
        opened._lab = replace(lab, fallback=opened.witnesses.fallback())
    return opened


def list_pods(settings: ClusterAccess, commands: Commands, namespace: str, selector: str) -> tuple[PodState, ...]:
    argv = settings.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
    return parse_pods(must(commands, argv, timeout_s=_ASK_S).text)


def _agents(settings: ClusterAccess, commands: Commands) -> dict[str, DoorTarget]:
    """The agent's container on each node; a control plane of its own goes by its Kubernetes name."""
    running = {pod.node: pod for pod in list_pods(settings, commands, "kube-system", AGENTS) if pod.is_ready}
    names = dict(settings.nodes)
    names |= {name: name for name in settings.control_planes if name not in names.values()}
    without = [node for node, name in names.items() if name not in running]
    if without:
        raise MeasureFailed(
            what=f"no Cilium agent is ready on {', '.join(without)}",
            remedy=shown(commands, settings.kubectl("-n", "kube-system", "get", "pods", "-o", "wide")),
        )
    return {
        node: DoorTarget(
            name=f"{running[name].name} ({node})", kind=TargetKind.NODE, commands=commands,
            door=pod_door(settings.kubectl(), "kube-system", running[name].name, AGENT_CONTAINER),
        )
        for node, name in names.items()
    }  # fmt: skip
