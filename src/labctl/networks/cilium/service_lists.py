"""The Services of a node as Cilium lists them, from the maps of its programs. Pure.

`cilium service list` has a line for each frontend with its backends, `cilium bpf lb list` one for each entry of the map.
Nothing in here reads what the maps should hold: the lab gives names alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

from labctl.datapath.bpf import Entry
from labctl.datapath.service_maps import (
    PROTOCOLS,
    BackendEntry,
    BackendFlag,
    ServiceFlag,
    ServiceScope,
    ServiceSlot,
    unpack_backend,
    unpack_service,
)
from labctl.model.lab import Lab
from labctl.model.service_lists import LoadBalancerEntry, NodeServices, ServiceBackend, ServiceFrontend
from labctl.networks.cilium.services import ANY_NODE

MAPS = ("services", "backends", "alive")
"""Those that the lists are made from."""


def service_lists(lab: Lab, node: str, entries: Mapping[str, Iterable[Entry]], command: str) -> NodeServices:
    """`entries` are those of each of `MAPS` that the node has; `command` dumps the map by hand. A node without the
    maps translates no Service in eBPF."""
    slots = [unpack_service(key, values[0]) for key, values in entries.get("services", ())]
    backends = {one.id: one for one in (unpack_backend(key, values[0]) for key, values in entries.get("backends", ()))}
    alive = {IPv4Address(key) for key, _ in entries.get("alive", ())}
    heads = sorted((slot for slot in slots if slot.slot == 0), key=lambda head: (head.id, head.scope))
    members: dict[tuple[IPv4Address, int, int, int], list[ServiceSlot]] = {}
    for slot in sorted(slots, key=lambda slot: slot.slot):
        if slot.slot:
            members.setdefault(_place(slot), []).append(slot)
    return NodeServices(
        node=node,
        by=_who(lab) if slots else "no Service is in the maps of this node",
        frontends=tuple(_frontend(lab, head, members.get(_place(head), ()), backends, alive) for head in heads),
        entries=tuple(line for head in heads for line in _lines(head, members.get(_place(head), ()), backends)),
        service_command=command,
        entries_command=command,
    )


def _who(lab: Lab) -> str:
    if lab.datapath.socket_lb:
        return "labctl's eBPF programs: at the sockets of pods and of the node, and in packets to node ports"
    return "labctl's eBPF programs: in the packets of pods and to node ports, and at the node's own sockets"


def _place(slot: ServiceSlot) -> tuple[IPv4Address, int, int, int]:
    return (slot.address, slot.port, slot.protocol, slot.scope)


def _frontend(
    lab: Lab,
    head: ServiceSlot,
    members: Iterable[ServiceSlot],
    backends: Mapping[int, BackendEntry],
    alive: set[IPv4Address],
) -> ServiceFrontend:
    return ServiceFrontend(
        id=head.id,
        service=_name(lab, head),
        frontend=f"{head.address}:{head.port}",
        protocol=PROTOCOLS.get(head.protocol, str(head.protocol)),
        type=_type(head),
        scope=str(head.scope.name.lower()) if ServiceFlag.TWO_SCOPES in head.flags else "",
        backends=tuple(
            _backend(lab, slot, backends[slot.backend], alive) for slot in members if slot.backend in backends
        ),
    )


def _backend(lab: Lab, slot: ServiceSlot, found: BackendEntry, alive: set[IPv4Address]) -> ServiceBackend:
    return ServiceBackend(
        number=slot.slot,
        address=f"{found.address}:{found.port}",
        pod=next((pod.name for pod in lab.pods if pod.address == found.address), ""),
        active=BackendFlag.WATCHED not in found.flags or found.address in alive,
    )


def _type(head: ServiceSlot) -> str:
    return "NodePort" if ServiceFlag.NODEPORT in head.flags else "ClusterIP"


def _name(lab: Lab, head: ServiceSlot) -> str:
    """By what the lab gave it: its address, or the port at the nodes."""
    nodes = {ANY_NODE, *(node.address.ip for node in lab.nodes)}
    for service in lab.services:
        at_node = head.address in nodes and head.port == service.node_port
        if at_node or (head.address, head.port) == (service.address, service.port):
            if PROTOCOLS.get(head.protocol) == service.protocol:
                return service.name
    return ""


def _lines(
    head: ServiceSlot, members: Iterable[ServiceSlot], backends: Mapping[int, BackendEntry]
) -> Iterator[LoadBalancerEntry]:
    """As `cilium bpf lb list` writes them: `10.96.0.11:80 (0)`, `0.0.0.0:0 (1) (0) [ClusterIP, non-routable]`."""
    place = f"{head.address}:{head.port}{'/i' if head.scope is ServiceScope.INTERNAL else ''}"
    words = [_type(head)]
    if ServiceFlag.NODEPORT not in head.flags:
        words.append("non-routable")
    if ServiceFlag.TWO_SCOPES in head.flags:
        words += ["Local", "two-scopes"]
    yield LoadBalancerEntry(service=f"{place} (0)", backend=f"0.0.0.0:0 ({head.id}) (0) [{', '.join(words)}]")
    for slot in members:
        if (found := backends.get(slot.backend)) is not None:
            yield LoadBalancerEntry(
                service=f"{place} ({slot.slot})", backend=f"{found.address}:{found.port} ({head.id}) ({slot.slot})"
            )
