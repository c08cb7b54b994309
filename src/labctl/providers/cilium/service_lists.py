"""The Services of a cluster's nodes, as Cilium's agents list them. Parsing is pure.

`cilium-dbg service list` puts the first backend beside its frontend and the others below; newer versions add the
protocol to each address (`10.96.0.1:443/TCP`). With kube-proxy in place the lists have what Cilium still translates
(ClusterIPs of pods), and `by` says so.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

from labctl.errors import MeasureFailed
from labctl.model.lab import Lab, Service
from labctl.model.service_lists import LoadBalancerEntry, NodeServices, ServiceBackend, ServiceFrontend
from labctl.providers.base import Target
from labctl.providers.cilium.status import IN_AGENT

_ASK_S = 60.0
_SERVICE = ("service", "list")
_ENTRIES = ("bpf", "lb", "list")
_BACKEND = r"(?:(?P<number>\d+) => (?P<backend>[0-9.]+:\d+)(?:/(?:TCP|UDP|SCTP))?(?: \((?P<state>[a-z-]+)\))?)"
_FIRST = re.compile(
    rf"^(?P<id>\d+)\s+(?P<frontend>[0-9.]+:\d+)(?:/(?P<protocol>TCP|UDP|SCTP))?(?P<scope>/i)?\s+(?P<type>\w+)"
    rf"(?:\s+{_BACKEND})?\s*$"
)
_MORE = re.compile(rf"^\s+{_BACKEND}\s*$")
_ENTRY = re.compile(r"^(?P<service>[0-9.]+:\d+\S*(?: \(\d+\))?)\s+(?P<backend>[0-9.]+:\d+.*\S)\s*$")


def read_services(lab: Lab, agents: Mapping[str, Target]) -> tuple[NodeServices, ...]:
    """Asks the agent of every node. Raises MeasureFailed with the words of the first one that failed."""
    return tuple(
        NodeServices(
            node=node,
            by="Cilium's agent programs the eBPF maps"
            if lab.datapath.kube_proxy_replacement
            else "kube-proxy, but for what Cilium translates in the packets of pods",
            frontends=parse_service_list(_ask(node, agent, _SERVICE), lab),
            entries=parse_lb_list(_ask(node, agent, _ENTRIES)),
            service_command=shlex.join(agent.command(("cilium", *_SERVICE))),
            entries_command=shlex.join(agent.command(("cilium", *_ENTRIES))),
        )
        for node, agent in agents.items()
    )


def _ask(node: str, agent: Target, argv: tuple[str, ...]) -> str:
    done = agent.run((*IN_AGENT, *argv), timeout_s=_ASK_S)
    if done.returncode:
        raise MeasureFailed(
            what=f"the Services of node {node} cannot be read",
            cause=done.error_text.strip()[-300:] or f"cilium ended with status {done.returncode}",
            remedy=shlex.join(agent.command(("cilium", *argv))),
        )
    return done.text


def parse_service_list(text: str, lab: Lab) -> tuple[ServiceFrontend, ...]:
    """From `cilium-dbg service list` (IPv4 alone); names come from the lab."""
    found: list[tuple[re.Match[str], list[ServiceBackend]]] = []
    for line in text.splitlines():
        if (first := _FIRST.match(line)) is not None:
            found.append((first, list(_backends(first, lab))))
        elif (more := _MORE.match(line)) is not None and found:
            found[-1][1].extend(_backends(more, lab))
    return tuple(_frontend(first, tuple(backends), lab) for first, backends in found)


def _frontend(first: re.Match[str], backends: tuple[ServiceBackend, ...], lab: Lab) -> ServiceFrontend:
    service = _service(first["frontend"], lab)
    return ServiceFrontend(
        id=int(first["id"]),
        service=service.name if service is not None else "",
        frontend=first["frontend"],
        protocol=(first["protocol"] or (service.protocol if service is not None else "")).lower(),
        type=first["type"],
        scope="internal" if first["scope"] else "",
        backends=backends,
    )


def _service(frontend: str, lab: Lab) -> Service | None:
    address, _, port = frontend.rpartition(":")
    for service in lab.services:
        if (address, port) == (str(service.address), str(service.port)) or port == str(service.node_port):
            return service
    return None


def _backends(match: re.Match[str], lab: Lab) -> Iterator[ServiceBackend]:
    if match["backend"] is not None:
        address = match["backend"].rpartition(":")[0]
        yield ServiceBackend(
            number=int(match["number"]),
            address=match["backend"],
            pod=next((pod.name for pod in lab.pods if str(pod.address) == address), ""),
            active=match["state"] in (None, "active"),
        )


def parse_lb_list(text: str) -> tuple[LoadBalancerEntry, ...]:
    """From `cilium-dbg bpf lb list` (IPv4 alone)."""
    found = (_ENTRY.match(line) for line in text.splitlines())
    return tuple(LoadBalancerEntry(service=one["service"], backend=one["backend"]) for one in found if one is not None)
