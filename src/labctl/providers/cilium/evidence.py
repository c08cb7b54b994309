"""What real Cilium proves about the mode in force: from agents, counters and monitor lines to `Evidence`. Pure.

Each function takes what was observed and what was asked, and says what the observation claims, whether it agrees,
and the command that shows the same by hand.

The witnesses on a running cluster: agents, configuration, counters, conntrack, monitor.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from labctl.errors import LabError, MeasureFailed
from labctl.json_text import parse_json
from labctl.model.evidence import Evidence, Silence
from labctl.model.lab import Fallback, HostRouting, Lab, Masquerade, Pair, Placement, Pod
from labctl.model.tools import require_success, why
from labctl.providers.base import Running
from labctl.providers.cilium.cluster_facts import (
    COUNTERS_SCRIPT,
    ClusterFacts,
    argv_tunnels,
    endpoint_of,
    parse_tunnels,
)
from labctl.providers.cilium.commands import must, with_kubeconfig
from labctl.providers.cilium.monitor import (
    READY,
    MonitorTrace,
    argv_monitor,
    host_routing_of,
    lost_by_monitor,
    parse_monitor,
)
from labctl.providers.cilium.rendered import CONFIG_MAP
from labctl.providers.cilium.settings import Cluster, ClusterAccess
from labctl.providers.cilium.status import AgentStatus, argv_status, explain, network_of_config, parse_status
from labctl.providers.cilium.targets import DoorTarget
from labctl.providers.cilium.values import Wanted, config_differences, expected_config
from labctl.system import netfilter
from labctl.values import dataclass

_MIN_PACKETS = 3
"""Fewer packets than this on a device say nothing: ARP alone makes one or two."""


def found_by_agent(status: AgentStatus, config: Mapping[str, str]) -> dict[str, object]:
    """The agent's claims in the scenario's words. The network mode of agents up to 1.15 comes from their config."""
    found: dict[str, object] = {}
    if status.host_routing:
        found["hostRouting"] = status.host_routing
    if network := status.network or network_of_config(config):
        found["encapsulation"] = network
    if status.masquerade:
        found["masquerade"] = status.masquerade
    if status.kube_proxy_replacement:
        found["kubeProxyReplacement"] = status.replaces_kube_proxy
    return found


def agent_evidence(
    node: str,
    status: AgentStatus,
    config: Mapping[str, str],
    asked: Mapping[str, object],
    fallback: Fallback | None,
    command: Sequence[str],
) -> Evidence:
    """One agent's account. Where it fell back to Legacy the finding carries the reason and the remedy."""
    found = found_by_agent(status, config)
    differing = [f"{key} {found[key]} (asked {want})" for key, want in asked.items() if found.get(key, want) != want]
    said = ", ".join(f"{key} {value}" for key, value in found.items())
    finding, remedy = f"the agent ({status.version}) says: {said}", ""
    if differing:
        finding = f"the agent ({status.version}) says {', '.join(differing)}"
        if fallback is not None and asked.get("hostRouting") == HostRouting.BPF:
            because = f"{fallback.reason} (“{fallback.line}”)" if fallback.line else fallback.reason
            finding = f"{finding}: {because}; remedy: {fallback.remedy}"
            remedy = fallback.remedy
    if not status.host_routing:
        return Evidence(
            witness="agent-status",
            where=node,
            command=shlex.join(command),
            found=found,
            supports=None,
            finding="the agent's status has no host routing mode",
        )
    return Evidence(
        witness="agent-status",
        where=node,
        finding=finding,
        supports=not differing,
        command=shlex.join(command),
        found=found,
        remedy=remedy,
    )


def unread_evidence(witness: str, where: str, why: str, command: Sequence[str] = ()) -> Evidence:
    """A witness that could not be read: it neither supports the mode nor contradicts it."""
    return Evidence(
        witness=witness,
        where=where,
        finding=f"could not be read: {why}",
        supports=None,
        command=shlex.join(command),
        silence=Silence.UNREAD,
    )


def config_evidence(
    config: Mapping[str, str], wanted: Wanted, user: Mapping[str, object], command: Sequence[str]
) -> Evidence:
    """The agents' configuration. Agreement proves nothing (so `supports` is None); a difference explains much."""
    differing = [
        f"{key} is {'not there' if there is None else there} (meant {'absent' if meant is None else meant})"
        for key, meant, there in config_differences(config, expected_config(wanted, user))
    ]
    return Evidence(
        witness="cilium-config",
        where="kube-system/cilium-config",
        command=shlex.join(command),
        finding="; ".join(differing) or "says what was asked (which does not prove that it is in force)",
        supports=False if differing else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCounters:
    """A device's packet counters, seen from the node: `transmitted` goes towards the pod, `received` comes from it."""

    transmitted: int
    received: int

    def since(self, before: LinkCounters) -> LinkCounters:
        return LinkCounters(transmitted=self.transmitted - before.transmitted, received=self.received - before.received)


def lxc_evidence(
    pod: str,
    node: str,
    lxc: str,
    delta: LinkCounters,
    asked: Mapping[str, object],
    command: Sequence[str],
    arrived: int | None = None,
) -> Evidence:
    """In Legacy what a pod gets is transmitted on its lxc; `bpf_redirect_peer` never transmits there.

    Both directions of an exchange have about as many packets, so their proportion tells, also with a few ARP
    frames among them. That an lxc transmitted nothing shows BPF only where packets are known to have come to the pod:
    `arrived` is how many its IP stack counted, None where that is not known.
    """
    where = f"{node}:{lxc}"
    counted = f"pod {pod} sent {delta.received} packets through {lxc}, and {delta.transmitted} were transmitted to it"
    if delta.received < _MIN_PACKETS:
        return Evidence(
            witness="lxc-counters",
            where=where,
            command=shlex.join(command),
            supports=None,
            finding=f"{counted}: too few to tell",
        )
    if delta.transmitted * 2 > delta.received:
        mode, meaning = "legacy", "as with Legacy"
    elif arrived is not None and arrived > 2 * delta.transmitted:
        mode, meaning = "bpf", f"{arrived} reached it without passing the lxc, as with bpf_redirect_peer"
    else:
        came = "how many reached the pod is not known" if arrived is None else f"{arrived} reached the pod"
        return Evidence(
            witness="lxc-counters",
            where=where,
            command=shlex.join(command),
            supports=None,
            finding=f"{counted}; {came}, so neither mode is shown",
        )
    return Evidence(
        witness="lxc-counters",
        where=where,
        finding=f"{counted}: {meaning}",
        command=shlex.join(command),
        supports=mode == asked.get("hostRouting"),
        found={"hostRouting": mode},
    )


def netfilter_evidence(
    node: str, packets: int, client: str, server: str, asked: Mapping[str, object], command: Sequence[str]
) -> Evidence:
    """Conntrack entries of the pods' own addresses on a node: only Legacy with native routing makes them."""
    if asked.get("encapsulation") != "native":
        return Evidence(
            witness="conntrack",
            where=node,
            command=shlex.join(command),
            supports=None,
            finding="with a tunnel, the node's conntrack sees no pod addresses in either mode",
        )
    mode = "legacy" if packets else "bpf"
    return Evidence(
        witness="conntrack",
        where=node,
        command=shlex.join(command),
        finding=f"{packets} conntrack entries of {client} → {server} on the node",
        # No entry does not prove BPF: NOTRACK rules or an idle flow look the same.
        supports=None if not packets else mode == asked.get("hostRouting"),
        found={"hostRouting": "legacy"} if packets else None,
    )


def monitor_evidence(
    node: str,
    traces: Iterable[MonitorTrace],
    source: str,
    destination: str,
    asked: Mapping[str, object],
    command: Sequence[str],
) -> Evidence:
    """What the programs themselves reported of the packets as they passed."""
    seen = tuple(traces)
    mode = host_routing_of(seen, source, destination)
    points = ", ".join(dict.fromkeys(t.point for t in seen if source in t.source and destination in t.destination))
    if mode is None:
        return Evidence(
            witness="monitor",
            where=node,
            command=shlex.join(command),
            supports=None,
            finding=f"the programs saw the packets at: {points or 'nowhere'}; that is the same in both modes",
        )
    return Evidence(
        witness="monitor",
        where=node,
        command=shlex.join(command),
        supports=mode == asked.get("hostRouting"),
        finding=f"the programs passed the packets to: {points}",
        found={"hostRouting": mode},
    )


_ASK_S = 60.0
_MONITOR_START_S = 20.0
_LOG_LINES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """One reading of a pod: its lxc's counters, and how many packets came to its IP stack (None: not known)."""

    link: LinkCounters
    arrived: int | None


def _why(failed: LabError) -> str:
    return ": ".join(filter(None, (failed.what, failed.cause)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnesses:
    """Asks them; the functions above judge. `agents` and `nodes` are by the scenario's node names."""

    settings: ClusterAccess
    lab: Lab
    agents: Mapping[str, DoorTarget]
    nodes: Mapping[str, DoorTarget]
    facts: ClusterFacts

    def testimony(self, pair: Pair, send: Callable[[], None]) -> tuple[Evidence, ...]:
        """Everything that can be asked, before, during and after the traffic that `send` makes."""
        client, server = self.lab.pod(pair.client), self.lab.pod(pair.server)
        before = {pod.name: self._counters(pod) for pod in (client, server)}
        traces: list[MonitorTrace] = []
        with self.monitored(client.node, (client,), traces) as trouble:
            send()
        after = {pod.name: self._counters(pod) for pod in (client, server)}
        evidence = [*self.agents_evidence(), *self._config_evidence()]
        evidence += [self._lxc_evidence(pod, before[pod.name], after[pod.name]) for pod in (client, server)]
        if pair.placement is Placement.CROSS_NODE:
            evidence.append(self._conntrack_evidence(client, server))
            evidence.append(self._monitor_evidence(client, server, traces, trouble))
        return tuple(evidence)

    def agents_evidence(self) -> tuple[Evidence, ...]:
        """One piece of evidence per node, from its agent; a fallback carries its reason and remedy. An agent without
        a status counts as one that could not be read."""
        asked = self.lab.in_force.mode()
        pieces = []
        try:
            config = self.config()
        except LabError:
            config = {}  # `_config_evidence` reports it; newer agents' status needs no config
        for node, agent in self.agents.items():
            try:
                status = self.status(node)
            except MeasureFailed as failed:
                command = agent.command(argv_status())
                pieces.append(unread_evidence("agent-status", node, _why(failed), command))
                continue
            fallback = self._fallback(node, config, status) if asked["hostRouting"] == "bpf" else None
            if fallback is not None:
                there = with_kubeconfig(fallback.remedy, agent.commands, self.settings.kubectl())
                fallback = replace(fallback, remedy=there)
            pieces.append(agent_evidence(node, status, config, asked, fallback, agent.command(argv_status())))
        return tuple(pieces)

    def _fallback(self, node: str, config: Mapping[str, str], status: AgentStatus) -> Fallback | None:
        """Why the agent is in Legacy; where its log cannot be read, that is the reason given."""
        try:
            return explain(self._log(node), config, status)
        except LabError as failed:
            if status.host_routing == "bpf":
                return None
            why_not = f"the agent's log, which could say why, cannot be read: {failed.cause or failed.what}"
            return Fallback(reason=why_not, remedy=failed.remedy)

    def fallback(self) -> Fallback | None:
        """What all agents have fallen back to; None where one of them has BPF host routing, or cannot be asked."""
        config = self.config()
        if config.get("enable-host-legacy-routing") == "true":
            return None  # nobody asks the agents for BPF host routing: they have not fallen back
        found = []
        for node in self.agents:
            status = self.status(node)
            reason = self._fallback(node, config, status)
            if reason is None or status.host_routing != HostRouting.LEGACY:
                return None
            masquerade = next((one for one in Masquerade if one == status.masquerade), None)
            found.append(replace(reason, version=status.version, masquerade=masquerade))
        return next((one for one in found if one.line), found[0]) if found else None

    def status(self, node: str) -> AgentStatus:
        """The account of the agent on that node. Raises MeasureFailed."""
        agent = self.agents[node]
        done = agent.run(argv_status(), timeout_s=_ASK_S)
        if not done.stdout:
            raise MeasureFailed(
                what=f"the agent on {node} gives no status",
                cause=why(done),
                remedy=agent.shown(argv_status()),
            )
        return parse_status(done.text)

    def config(self) -> dict[str, str]:
        """`cilium-config` as the cluster has it."""
        argv = self.settings.kubectl("-n", "kube-system", "get", "configmap", CONFIG_MAP, "-o", "json")
        commands = next(iter(self.agents.values())).commands
        data = parse_json(must(commands, argv, timeout_s=_ASK_S).text).get("data") or {}
        return {str(key): str(value) for key, value in data.items()}

    def tunnels(self, node: str) -> tuple[str, ...]:
        """`bpf tunnel list` as lines `prefix via node`. In native mode entries can remain; they prove no tunnel."""
        done = require_success(self.agents[node].run(argv_tunnels(), timeout_s=_ASK_S))
        return tuple(f"{tunnel.prefix} via {tunnel.endpoint}" for tunnel in parse_tunnels(done.text))

    @contextlib.contextmanager
    def monitored(self, node: str, pods: tuple[Pod, ...], into: list[MonitorTrace]) -> Iterator[list[str]]:
        """`cilium monitor` on that node for those pods while the context lasts; its lines go to `into`, and what went
        wrong, as sentences, to the list that it gives. A monitor that fails never stops the traffic."""
        trouble: list[str] = []
        ids = self._endpoint_ids(pods)
        with contextlib.ExitStack() as stack:
            running: Running | None = None
            try:
                running = stack.enter_context(self.agents[node].start(argv_monitor(ids)))
                running.wait_for_output(READY, timeout_s=_MONITOR_START_S)
            except LabError as failed:
                trouble.append(f"{failed.what}: {failed.cause}")
                running = None
            yield trouble
            if running is not None:
                ended_early = not running.is_alive()
                try:
                    done = running.stop(sig=signal.SIGTERM, timeout_s=10.0)
                except LabError as failed:
                    trouble.append(f"{failed.what}: {failed.cause}")
                    return
                if ended_early:
                    trouble.append(f"monitor ended by itself before the packets had gone through; {why(done)}")
                elif lost := lost_by_monitor(done.text + done.error_text):
                    trouble.append(f"monitor lost {lost} events, of these packets or of others")
                else:
                    into += parse_monitor(done.text)

    def _endpoint_ids(self, pods: tuple[Pod, ...]) -> tuple[int, ...]:
        found = (endpoint_of(self.facts.endpoints[pod.node], f"{self.settings.namespace}/{pod.name}") for pod in pods)
        return tuple(endpoint.id for endpoint in found if endpoint is not None)

    def _log(self, node: str) -> list[str]:
        name = self.agents[node].name.split()[0]
        argv = self.settings.kubectl(
            "-n", "kube-system", "logs", name, "-c", "cilium-agent", f"--limit-bytes={_LOG_LINES * 400}"
        )
        return must(self.agents[node].commands, argv, timeout_s=_ASK_S).text.splitlines()

    def _config_evidence(self) -> tuple[Evidence, ...]:
        """Of a cluster that labctl made: of another one no configuration was meant."""
        if not isinstance(self.settings, Cluster):
            return ()
        argv = self.settings.kubectl("-n", "kube-system", "get", "configmap", CONFIG_MAP, "-o", "yaml")
        try:
            config = self.config()
        except LabError as failed:
            return (unread_evidence("cilium-config", "kube-system/cilium-config", _why(failed), argv),)
        return (config_evidence(config, self.settings.wanted, self.settings.user_values, argv),)

    def _counters(self, pod: Pod) -> _Counted | LabError:
        """Of the pod's lxc, and of what came to its IP stack; what went wrong where the lxc's cannot be read."""
        try:
            done = self.nodes[pod.node].run(("sh", "-c", COUNTERS_SCRIPT, pod.lxc), timeout_s=_ASK_S)
            words = done.text.split()
            if len(words) != 2 or not all(word.isdigit() for word in words):
                raise MeasureFailed(
                    what=f"cannot read the counters of {pod.lxc} on {pod.node}", cause=done.error_text.strip()[-200:]
                )
        except LabError as failed:
            return failed
        link = LinkCounters(transmitted=int(words[0]), received=int(words[1]))
        try:
            arrived = netfilter.parse_arrivals(self.nodes[pod.name].run(netfilter.ARGV, timeout_s=_ASK_S).text)
        except (LabError, OSError):
            return _Counted(link=link, arrived=None)
        return _Counted(link=link, arrived=arrived)

    def _lxc_evidence(self, pod: Pod, before: _Counted | LabError, after: _Counted | LabError) -> Evidence:
        command = self.nodes[pod.node].command(("ip", "-s", "link", "show", pod.lxc))
        if isinstance(before, LabError):
            return unread_evidence("lxc-counters", f"{pod.node}:{pod.lxc}", _why(before), command)
        if isinstance(after, LabError):
            return unread_evidence("lxc-counters", f"{pod.node}:{pod.lxc}", _why(after), command)
        arrived = None if before.arrived is None or after.arrived is None else after.arrived - before.arrived
        delta = after.link.since(before.link)
        return lxc_evidence(pod.name, pod.node, pod.lxc, delta, self.lab.in_force.mode(), command, arrived)

    def conntrack_evidence(self, pair: Pair) -> tuple[Evidence, ...]:
        """Connections of the pair that its client's node tracks now; nothing to ask on one node."""
        if pair.placement is not Placement.CROSS_NODE:
            return ()
        return (self._conntrack_evidence(self.lab.pod(pair.client), self.lab.pod(pair.server)),)

    def _conntrack_evidence(self, client: Pod, server: Pod) -> Evidence:
        argv = ("conntrack", "-L", "-s", str(client.address), "-d", str(server.address))
        node = self.nodes[client.node]
        command = node.command(argv)
        try:
            done = node.run(argv, timeout_s=_ASK_S)
        except MeasureFailed as failed:
            return unread_evidence("conntrack", client.node, _why(failed), command)
        if done.returncode:
            said = " ".join(done.error_text.split())[-200:] or f"conntrack ended with status {done.returncode}"
            return unread_evidence("conntrack", client.node, said, command)
        entries = [line for line in done.text.splitlines() if f"src={client.address}" in line]
        return netfilter_evidence(
            client.node, len(entries), client.name, server.name, self.lab.in_force.mode(), command
        )

    def _monitor_evidence(self, client: Pod, server: Pod, traces: list[MonitorTrace], trouble: list[str]) -> Evidence:
        ids = self._endpoint_ids((client,))
        command = self.agents[client.node].command(argv_monitor(ids) if ids else ())
        if trouble:
            return unread_evidence("monitor", client.node, "; ".join(trouble), command)
        return monitor_evidence(
            client.node, traces, str(client.address), str(server.address), self.lab.in_force.mode(), command
        )
