"""A resolved lab: every name, address and number decided, nothing left to look up.

`planning.resolve` makes these from a scenario; every provider and check reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.model.datapath import Datapath
from labctl.model.parameters import CheckParameters, CompareParameters
from labctl.model.service import Service


class Placement(StrEnum):
    """Where the two pods of a pair are."""

    SAME_NODE = "same-node"
    CROSS_NODE = "cross-node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node. `index` counts from 0 in the scenario's order. Which of them runs Kubernetes itself is the provider's
    to say: one without pods or none of them (kind), the host with that role (kubeadm).

    `address` is on the underlay; `router` is the address of `cilium_host`, the pods' gateway, inside `pod_cidr`.
    """

    name: str
    index: int
    address: IPv4Interface
    mac: str
    pod_cidr: IPv4Network
    router: IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod. `lxc` is the name of the host's end of its veth pair; `identity` is the security identity
    that its labels have (≥ 256), which is the VNI of what it sends over vxlan."""

    name: str
    node: str
    address: IPv4Address
    mac: str
    lxc: str
    lxc_mac: str
    identity: int
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A client pod, a server pod, and where they are to each other."""

    client: str
    server: str
    placement: Placement

    @property
    def name(self) -> str:
        return f"{self.client}→{self.server}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSpec:
    """One check of the scenario: `name` is the scenario's, `kind` says which check it is."""

    name: str
    kind: str
    parameters: CheckParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The address ranges. `mtu` is the device MTU in bytes; `route_mtu` is what pods may send (less 50 with vxlan)."""

    underlay_cidr: IPv4Network
    pod_cidr: IPv4Network
    service_cidr: IPv4Network
    mtu: int
    route_mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """Everything a provider needs to build, and everything a check needs to look.

    `name` is the lab's (unique on the host), `scenario` the name it was made from, `source` that file's path;
    `digest` is the SHA-256 of the resolved content, so that equal labs have equal digests wherever they are.
    `settings` is the provider's own section of the scenario, already validated (`kind:`, `kubeadm:`, `cilium:`).
    """

    name: str
    scenario: str
    source: str
    provider: str
    datapath: Datapath
    network: Network
    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    pairs: tuple[Pair, ...]
    checks: tuple[CheckSpec, ...]
    compare: CompareParameters
    digest: str
    settings: Mapping[str, object] = field(default_factory=dict)
    services: tuple[Service, ...] = ()

    def node(self, name: str) -> Node:
        """The node of that name. Raises KeyError."""
        return {node.name: node for node in self.nodes}[name]

    def pod(self, name: str) -> Pod:
        """The pod of that name. Raises KeyError."""
        return {pod.name: pod for pod in self.pods}[name]

    def pods_on(self, node: str) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if pod.node == node)
