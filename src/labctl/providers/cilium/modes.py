"""What real Cilium proves about the mode in force: from agents, counters and monitor lines to `Evidence`. Pure.

Each function takes what was observed and what was asked, and says what the observation claims, whether it agrees,
and the command that shows the same by hand.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from labctl.model.datapath import HostRouting
from labctl.model.proof import Evidence, Silence
from labctl.providers.cilium.monitor import Trace, host_routing_of
from labctl.providers.cilium.status import AgentStatus, Fallback, network_of_config
from labctl.providers.cilium.values import Wanted, expected_config

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
            finding += f": {fallback.reason}" + (f" (“{fallback.line}”)" if fallback.line else "")
            finding += f"; remedy: {fallback.remedy}"
            remedy = fallback.remedy
    if not status.host_routing:
        return Evidence(
            witness="agent-status",
            where=node,
            command=shlex.join(command),
            found=found,
            supports=None,
            finding="the agent's status tells no host routing mode",
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
    """A witness that could not be read: nothing for the mode, and nothing against it."""
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
    """What the agents were told. Agreement proves nothing (so `supports` is None); a difference explains much."""
    differing = [
        f"{key} is {config.get(key, 'not there')} (meant {'absent' if meant is None else meant})"
        for key, meant in expected_config(wanted, user).items()
        if config.get(key) != meant and not (meant == "false" and key not in config)
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
        mode, meaning = "legacy", "the way of Legacy"
    elif arrived is not None and arrived > 2 * delta.transmitted:
        mode, meaning = "bpf", f"{arrived} came to it past the lxc, the way of bpf_redirect_peer"
    else:
        came = "what came to the pod is not known" if arrived is None else f"{arrived} came to the pod"
        return Evidence(
            witness="lxc-counters",
            where=where,
            command=shlex.join(command),
            supports=None,
            finding=f"{counted}; {came}, so neither way is shown",
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
            finding="with a tunnel no mode shows pod addresses to the node's conntrack",
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
    traces: Iterable[Trace],
    source: str,
    destination: str,
    asked: Mapping[str, object],
    command: Sequence[str],
) -> Evidence:
    """What the programs themselves said of the packets while they went through."""
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
