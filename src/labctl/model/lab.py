"""What a lab is: the scenario (what to build and check) and the resolved lab (nothing left to look up). Pure data.

A scenario is complete and valid before any address is decided: `loading` makes it, and what may stand in its file is
`model/document.py`. `planning.resolve` turns it into a `Lab`, every name, address and number decided, which every
provider and check reads.

What scenarios choose from are closed sets: how packets between pods are carried, how a client's choice of a Service's
backend is asked for (a Service is one address in front of several pods), how the sides of a comparison stand to each
other. A matrix says which scenarios, checks and placements are measured together, complete and valid too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.model.parameters import CheckParameters, CompareParameters


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioPod:
    """A pod by name, the node it is on, and its labels (pods with equal labels share one security identity)."""

    name: str
    node: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario after site defaults, parents and overrides were merged and every rule was checked.

    `source` is the path of its file. `nodes` are names in order. `mtu` is the device MTU in bytes. `settings` holds
    the sections that the scenario's provider reads (`cilium:`, …), as JSON-ready data.
    """

    name: str
    source: str
    provider: str
    nodes: tuple[str, ...]
    pods: tuple[ScenarioPod, ...]
    pairs: tuple[Pair, ...]
    datapath: Datapath
    underlay_cidr: IPv4Network
    pod_cidr: IPv4Network
    service_cidr: IPv4Network
    mtu: int
    checks: tuple[CheckSpec, ...]
    compare: CompareParameters
    settings: Mapping[str, object] = field(default_factory=dict)
    services: tuple[ScenarioService, ...] = ()


class HostRouting(StrEnum):
    """Who moves a packet through the node: the kernel's stack (legacy) or eBPF redirects (bpf)."""

    LEGACY = "legacy"
    BPF = "bpf"


class Encapsulation(StrEnum):
    """How a packet crosses from node to node."""

    VXLAN = "vxlan"
    NATIVE = "native"


class Masquerade(StrEnum):
    """Who rewrites the source address of what leaves the cluster."""

    IPTABLES = "iptables"
    BPF = "bpf"


class Fault(StrEnum):
    """A defect put into the lab on purpose, for lessons and for labctl's own tests.

    Nothing that proves or judges a lab may read this: a fault has to be found by looking.
    """

    NO_REDIRECT_PEER = "no-redirect-peer"
    WRONG_VTEP = "wrong-vtep"
    WRONG_VNI = "wrong-vni"
    MISSING_NEIGHBOUR = "missing-neighbour"
    NETFILTER_DROP = "netfilter-drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Datapath:
    """The datapath that a scenario asks for.

    `extra_iptables_rules` is a count of rules per node beyond those that a Cilium node carries; no packet
    matches them, but every packet that crosses the host's netfilter walks past them.
    `extra_delay_ns` is a busy-wait per packet in the eBPF programs, the known slowdown that the
    comparison is tested with.
    """

    host_routing: HostRouting
    encapsulation: Encapsulation
    masquerade: Masquerade
    kube_proxy_replacement: bool
    extra_iptables_rules: int = 0
    extra_delay_ns: int = 0
    faults: tuple[Fault, ...] = ()

    def asked(self) -> dict[str, object]:
        """The mode as the scenario's own words, for reports (`modeInForce[].asked`)."""
        return {
            "hostRouting": str(self.host_routing),
            "encapsulation": str(self.encapsulation),
            "masquerade": str(self.masquerade),
            "kubeProxyReplacement": self.kube_proxy_replacement,
        }


class ServiceType(StrEnum):
    """Where a Service can be reached: inside the cluster, or also at a port of every node."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"


class ServiceProtocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioService:
    """A Service as a scenario has it. `selector` are the labels that exactly the `backends` have."""

    name: str
    port: int
    target_port: int
    protocol: ServiceProtocol
    backends: tuple[str, ...]
    selector: Mapping[str, str]
    type: ServiceType
    node_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service with its cluster address, one of the lab's `service_cidr`. `node_port` is None but for NodePort."""

    name: str
    address: IPv4Address
    port: int
    target_port: int
    protocol: ServiceProtocol
    backends: tuple[str, ...]
    selector: Mapping[str, str]
    type: ServiceType
    node_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """`scenarios` are loaded; the first is what the others are compared with. What is None or empty is left to the
    first scenario's `compare` section."""

    name: str
    source: str
    scenarios: tuple[Scenario, ...]
    checks: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()
    rounds: int | None = None
    duration_s: float | None = None
    seed: int | None = None
    until: float | None = None
    max_rounds: int | None = None
    reference: bool = False
    fail_if: tuple[str, ...] = ()


class Strategy(StrEnum):
    """Labs side by side, one lab that is switched between modes, or whatever there is room for."""

    AUTO = "auto"
    PARALLEL = "parallel"
    SWITCH = "switch"
