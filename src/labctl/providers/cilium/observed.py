"""A lab on a cluster whose CNI is not Cilium, or is a Cilium whose agents may not be asked: what pods and nodes show.

Of every provider: of a cluster that was there, and of one that labctl made with another network (`foreign`).

Nothing is known of how such a network should look, so nothing is guessed: taps are found by following the pods' own
devices, and what they see is shown. Only what any network shows is claimed of the mode in force: whether packets
crossed inside a tunnel, and whether kube-proxy's rules are on the nodes.
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from labctl.errors import MeasureFailed, ToolMissing, UsageError
from labctl.model.evidence import DatapathState, Evidence, MapTable, ModeInForce, NodeDatapath, Silence
from labctl.model.impairment import ImpairedWay
from labctl.model.lab import Lab, Node, Pair, Placement, Pod
from labctl.model.node_status import NodeStatus
from labctl.model.service_lists import NodeServices
from labctl.model.signature import Role
from labctl.model.tools import require_success
from labctl.model.trace import Movement, PacketKey, Unshown
from labctl.path.observed import CILIUM, as_it_is
from labctl.providers.base import ClockOffset, OpenDevice, Tap, Target, Watch
from labctl.providers.cilium import node_facts
from labctl.providers.cilium.node_facts import NodeDevice, NodeFacts, PodDevice
from labctl.values import dataclass

_ASK_S = 30.0
_CLOCK_ROUNDS = 5
_CLOCK_S = 20.0
KUBE_PROXY = "kubeProxyReplacement"
OWN_TRAFFIC = "tcp port 10250 or tcp port 6443"
"""What `kubectl exec` sends past a node's uplink: the API server to the kubelet, and this host to the API server, at
the ports that both have by default. A capture there would else feed on itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was read of the cluster when the lab was opened. `ends` are the host's ends of pods' veth pairs, by pod;
    `facts` by the scenario's node, for nodes with a helper; `refused` is why others have none."""

    nodes: Mapping[str, str]
    facts: Mapping[str, NodeFacts]
    ends: Mapping[str, NodeDevice | None]
    refused: str = ""
    agents_refused: str = ""


class OpenObservedLab:
    """`OpenLab` of the seam."""

    def __init__(
        self, lab: Lab, targets: Mapping[str, Target], found: Found, capture: Mapping[str, Target] | None = None
    ) -> None:
        """`capture` are the targets of nodes whose tcpdump sees their devices, where those are others."""
        self._lab, self._targets, self._found = lab, dict(targets), found
        self._capture = dict(targets if capture is None else capture)
        self._own_traffic = OWN_TRAFFIC

    @property
    def lab(self) -> Lab:
        return self._lab

    def target(self, name: str) -> Target:
        return find_target(self._targets, name, self._lab.name)

    def targets(self) -> tuple[Target, ...]:
        return tuple(self._targets.values())

    def taps(self, pair: Pair) -> tuple[Tap, ...]:
        """The pods' eth0 and, of each node, the pod's device, its bridge, the tunnel and the uplink. Raises
        ToolMissing where there are no helpers."""
        client, server = self._lab.pod(pair.client), self._lab.pod(pair.server)
        if self._found.refused:
            raise lacking(" and ".join(dict.fromkeys((client.node, server.node))), self._found.refused)
        at_client = self._side(pair.client, client.node, _CLIENT)
        at_server = self._side(pair.server, server.node, _SERVER)
        if pair.placement is Placement.SAME_NODE:
            # Bridge, tunnel and uplink are there once.
            at_server = [tap for tap in at_server if tap.role is Role.SERVER_LXC]
        return (
            self._pod_tap(Role.CLIENT_ETH0, pair.client),
            *at_client,
            *reversed(at_server),
            self._pod_tap(Role.SERVER_ETH0, pair.server),
        )

    def _side(self, pod: str, node: str, roles: Mapping[str, Role]) -> list[Tap]:
        """From the pod to the wire."""
        facts, end = self._found.facts[node], self._found.ends.get(pod)
        named = {
            "end": end.name if end is not None else "",
            "bridge": end.master if end is not None and end.master in facts.devices else "",
            "tunnel": facts.tunnel.name if facts.tunnel is not None else "",
            "uplink": facts.uplink,
        }
        target = self._capture[node]
        return [
            Tap(
                name=f"{node}:{device}",
                role=roles[part],
                target=target,
                interface=device,
                own=self._own_traffic if part == "uplink" else "",
            )
            for part, device in named.items()
            if device
        ]

    def _pod_tap(self, role: Role, pod: str) -> Tap:
        return Tap(name=f"{pod}:eth0", role=role, target=self._targets[pod], interface="eth0")

    def devices(self, pair: Pair) -> tuple[OpenDevice, ...]:
        client, server = self._lab.pod(pair.client), self._lab.pod(pair.server)
        found = [OpenDevice(role=Role.CLIENT_ETH0, mac=client.mac), OpenDevice(role=Role.SERVER_ETH0, mac=server.mac)]
        if self._found.refused:
            return tuple(found)
        for tap in self.taps(pair):
            node = tap.name.rpartition(":")[0]
            if node in self._found.facts:
                device = self._found.facts[node].devices.get(tap.interface)
                if device is not None and device.mac:
                    found.append(OpenDevice(role=tap.role, mac=device.mac))
        return tuple(found)

    def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
        return tuple(clock_of(self._targets[node]) for node in nodes)

    def testimony(self, pair: Pair, send: Callable[[], None]) -> tuple[Evidence, ...]:
        send()
        nodes = tuple(dict.fromkeys(self._lab.pod(name).node for name in (pair.client, pair.server)))
        return (*helper_evidence(self._lab, self._found.refused), self._of_cni(pair), *map(self._of_proxy, nodes))

    def _of_cni(self, pair: Pair) -> Evidence:
        """What connects the pods; host routing is not among what it shows."""
        ends = [f"{pod} by {self._end_in_words(pod)}" for pod in (pair.client, pair.server)]
        finding = f"what connects the pods is {self._lab.cni} ({'; '.join(ends)})"
        if self._lab.cni == CILIUM:
            why = self._found.agents_refused or "its agents were not found"
            finding += f"; Cilium's own word about its mode is missing: {why}"
        else:
            finding += "; host routing is a choice of Cilium's, so none is shown"
        return Evidence(
            witness="cni",
            where=" and ".join(dict.fromkeys(self._lab.pod(name).node for name in (pair.client, pair.server))),
            finding=finding,
            supports=None,
            command=f"labctl exec {self._lab.name} {self._lab.pod(pair.client).node} -- ip -d link",
            found={"cni": self._lab.cni},
            silence=Silence.UNREAD,
            remedy=as_it_is(self._lab),
        )

    def _end_in_words(self, pod: str) -> str:
        if self._found.refused:
            return "a device that cannot be looked at"
        end = self._found.ends.get(pod)
        if end is None:
            return "a device without a veth peer on its node"
        return f"{end.name}{f' in {end.master}' if end.master else ''}"

    def _of_proxy(self, node: str) -> Evidence:
        """kube-proxy's rules on the node; that there are none shows nothing (ipvs, nftables, another kind of proxy)."""
        command = f"labctl exec {self._lab.name} {node} -- iptables-save -t nat"
        facts = self._found.facts.get(node)
        if facts is None:
            return Evidence(
                witness="kube-proxy", where=node, supports=None, command=command,
                finding=f"the node's rules cannot be read: {self._found.refused}", silence=Silence.UNREAD,
            )  # fmt: skip
        if not facts.kube_proxy_rules:
            return Evidence(
                witness="kube-proxy", where=node, supports=None, command=command,
                finding="no rule of kube-proxy in the nat tables of iptables, which shows nothing",
            )  # fmt: skip
        asked = self._lab.datapath.asked().get(KUBE_PROXY)
        return Evidence(
            witness="kube-proxy", where=node, command=command,
            finding=f"{facts.kube_proxy_rules} rules of kube-proxy in the nat tables of iptables",
            supports=False if asked is True else None, found={KUBE_PROXY: False}, remedy=as_it_is(self._lab),
        )  # fmt: skip

    def watching(self, pair: Pair) -> AbstractContextManager[Watch]:
        return contextlib.nullcontext(NoWatch(self._lab.cni))

    def node_statuses(self, nodes: Sequence[str], mode: ModeInForce | None) -> tuple[NodeStatus, ...]:
        return ()

    def services(self) -> tuple[NodeServices, ...]:
        raise self._unknown("what its nodes translate of Services")

    def has_daemon_set(self, name: str) -> bool | None:
        raise self._unknown(f"whether kube-system has the DaemonSet {name}")

    def _unknown(self, what: str) -> MeasureFailed:
        return MeasureFailed(
            what=f"{what} is not read on this cluster", cause=f"what connects its pods is {self._lab.cni}"
        )

    def impaired_ways(self) -> tuple[ImpairedWay, ...]:
        return ()

    def datapath_state(self) -> DatapathState:
        """No programs and maps, but the nodes' routes: what decides where a pod's packet goes."""
        if self._found.refused:
            raise lacking("the nodes", self._found.refused)
        return DatapathState(counts_runs=False, nodes=tuple(self._node_state(node) for node in self._found.facts))

    def _node_state(self, node: str) -> NodeDatapath:
        target, facts = self._targets[node], self._found.facts[node]
        command = shlex.join(target.command(("ip", "-4", "route", "show")))
        devices = MapTable(
            name="devices", kind="links", meaning="what packets of pods pass on this node",
            columns=("device", "kind", "master", "mac"),
            rows=tuple((one.name, one.kind, one.master, one.mac) for one in facts.devices.values()),
            command=shlex.join(target.command(("ip", "-d", "link", "show"))),
        )  # fmt: skip
        routes = MapTable(
            name="routes", kind="routing table main", meaning="by which device and gateway each range is reached",
            columns=("destination", "gateway", "device"), rows=facts.routes, command=command,
        )  # fmt: skip
        return NodeDatapath(node=node, programs=(), maps=(devices, routes), commands=(command,))


def ask_json(target: Target, argv: Sequence[str]) -> str:
    return require_success(target.run(argv, timeout_s=_ASK_S), f"{shlex.join(argv)} failed on {target.name}").text


def read_node_facts(target: Target, address: str) -> NodeFacts:
    """What a node shows that has that address. Raises MeasureFailed."""
    addresses = node_facts.parse_addresses(ask_json(target, node_facts.ARGV_ADDRESSES))
    rules = target.run(("sh", "-c", node_facts.KUBE_PROXY_SCRIPT), timeout_s=_ASK_S).text.strip()
    return NodeFacts(
        devices=node_facts.parse_devices(ask_json(target, node_facts.ARGV_LINKS)),
        addresses=addresses,
        routes=node_facts.parse_routes(ask_json(target, node_facts.ARGV_ROUTES)),
        uplink=node_facts.uplink_of(addresses, address),
        kube_proxy_rules=int(rules) if rules.isdigit() else 0,
    )


def read_pod_device(target: Target) -> PodDevice:
    """Raises MeasureFailed."""
    done = target.run(("sh", "-c", node_facts.POD_SCRIPT), timeout_s=_ASK_S)
    return node_facts.parse_pod_device(require_success(done, f"the devices of pod {target.name} cannot be read").text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was looked at: `pods` by name, `facts` by the scenario's node, `ranges` of pods that nodes have (empty where
    that is not known), `addresses` of pods."""

    pods: Mapping[str, PodDevice]
    facts: Mapping[str, NodeFacts]
    ranges: Mapping[str, str]
    addresses: Mapping[str, str]

    def ends(self, lab: Lab) -> dict[str, NodeDevice | None]:
        """The host's end of each pod's veth pair, of pods on nodes that were looked at."""
        pods = (pod for pod in lab.pods if pod.node in self.facts)
        return {pod.name: self.facts[pod.node].peer_of(self.pods[pod.name]) for pod in pods}

    def cni(self, lab: Lab) -> str:
        """What connects the pods, by the devices that there are."""
        devices = (one for node in self.facts.values() for one in node.devices.values())
        return node_facts.cni_of(devices, self.ends(lab).values())

    def lab(self, lab: Lab, cni: str) -> Lab:
        """The lab with what its pods and nodes have."""
        ends = self.ends(lab)

        def pod_of(pod: Pod) -> Pod:
            end = ends.get(pod.name)
            changed = replace(pod, address=IPv4Address(self.addresses[pod.name]), mac=self.pods[pod.name].mac)
            return replace(changed, lxc=end.name, lxc_mac=end.mac) if end is not None else changed

        nodes = tuple(self._node(lab, node) for node in lab.nodes if node.name in self.ranges)
        return replace(lab, nodes=nodes, pods=tuple(pod_of(pod) for pod in lab.pods), cni=cni)

    def _node(self, lab: Lab, node: Node) -> Node:
        pod_range, seen, changed = self.ranges[node.name], self.facts.get(node.name), node
        if pod_range and ":" not in pod_range:
            changed = replace(changed, pod_cidr=IPv4Network(pod_range))
        if seen is not None and seen.uplink:
            mac = seen.devices[seen.uplink].mac or node.mac
            changed = replace(changed, address=seen.addresses[seen.uplink], mac=mac)
        gateways = [gateway for pod in lab.pods_on(node.name) if (gateway := self.pods[pod.name].gateway)]
        return replace(changed, router=IPv4Address(gateways[0])) if gateways else changed


_CLIENT = {
    "end": Role.CLIENT_LXC,
    "bridge": Role.CLIENT_BRIDGE,
    "tunnel": Role.CLIENT_TUNNEL,
    "uplink": Role.CLIENT_UPLINK,
}
_SERVER = {
    "end": Role.SERVER_LXC,
    "bridge": Role.SERVER_BRIDGE,
    "tunnel": Role.SERVER_TUNNEL,
    "uplink": Role.SERVER_UPLINK,
}


class NoWatch:
    """`Watch` of the seam where no witness on the nodes reports single packets."""

    def __init__(self, cni: str) -> None:
        self._cni = cni

    def movements(self) -> tuple[Movement, ...]:
        return ()

    def evidence(self) -> tuple[Evidence, ...]:
        return ()

    def gaps(self) -> tuple[str, ...]:
        return (f"what moved packets from tap to tap was not observed: {self._cni} has no witness that labctl can ask",)

    def unshown(self) -> tuple[Unshown, ...]:
        return ()

    def act_before_tap(self, part: str, device: str, packet: PacketKey, frame: bytes) -> Movement | None:
        return None


def lacking(where: str, refused: str) -> ToolMissing:
    return ToolMissing(
        what=f"no command can be run on {where}: there is no helper pod, since {refused}",
        cause="captures on a node, and what else is looked at there, need a privileged pod on it",
        remedy="labctl plan SCENARIO --provider cluster --rbac  # the rights that it takes, for an administrator",
    )


def find_target(targets: Mapping[str, Target], name: str, lab: str) -> Target:
    """Raises UsageError with a suggestion."""
    found = targets.get(name)
    if found is None:
        near = difflib.get_close_matches(name, targets, n=1)
        raise UsageError(
            what=f"lab {lab} has no pod or node named {name}",
            cause=f"it has: {', '.join(targets)}",
            remedy=f"did you mean {near[0]}?" if near else "",
        )
    return found


def helper_evidence(lab: Lab, refused: str) -> Iterator[Evidence]:
    """That there are no helpers, as a witness that could not be heard."""
    if refused:
        yield Evidence(
            witness="helpers", where=f"namespace labctl-{lab.name}", supports=None, silence=Silence.UNREAD,
            finding=f"no captures on the nodes: {refused}",
            remedy=f"labctl plan {lab.source or lab.scenario} --provider cluster --name {lab.name} --rbac",
        )  # fmt: skip


def clock_of(target: Target) -> ClockOffset:
    """By Cristian's method: the answer's time stands for the middle of its round trip; the shortest errs least. A round
    trip through the API server takes tens of milliseconds, and the order of events of two nodes is not known better
    than that: a clock that may be this host's is taken for equal to it, as the clocks of a cluster usually are. Raises
    MeasureFailed."""
    best: tuple[float, float] | None = None
    for _ in range(_CLOCK_ROUNDS):
        sent_s = time.time()
        done = target.run(("date", "+%s.%N"), timeout_s=_CLOCK_S)
        trip_s = time.time() - sent_s
        try:
            told_s = float(done.text)
        except ValueError as failed:
            raise MeasureFailed(
                what=f"the time of {target.name} is not a number", cause=done.text.strip()[:80] or done.error_text[:80]
            ) from failed
        if best is None or trip_s < best[0]:
            best = trip_s, told_s - (sent_s + trip_s / 2)
    assert best is not None
    error_s = best[0] / 2
    return ClockOffset(node=target.name, offset_s=0.0 if abs(best[1]) <= error_s else best[1], error_s=error_s)
