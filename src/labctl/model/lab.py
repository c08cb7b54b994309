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
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Annotated

from annotated_types import Ge, Le

from labctl.codec import OMITTED, UNWRITTEN, ChosenBy, Doc, Fits, Key, key_of, plain
from labctl.model.parameters import PARAMETERS_OF, CheckParameters, CompareParameters
from labctl.model.fabric import FabricChoice, Link, Router
from labctl.model.pod_network import NetworkType, PodNetworkChoice
from labctl.names import is_device, is_label_key, is_label_value, is_mac, is_name

Name = Annotated[str, Fits(is_name, "a name: a DNS label of at most 40 characters")]
Mac = Annotated[str, Fits(is_mac, "a MAC address")]
Device = Annotated[str, Fits(is_device, "the name of a network device")]
Labels = Mapping[
    Annotated[str, Fits(is_label_key, "the key of a label")], Annotated[str, Fits(is_label_value, "a label's value")]
]
Port = Annotated[int, Ge(1), Le(65_535)]


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

    name: Name
    index: Annotated[int, UNWRITTEN]
    address: IPv4Interface
    mac: Mac
    pod_cidr: Annotated[IPv4Network, Key("podCIDR")]
    router: IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod. `lxc` is the name of the host's end of its veth pair; `identity` is the security identity
    that its labels have (≥ 256), which is the VNI of what it sends over vxlan."""

    name: Name
    node: Name
    address: IPv4Address
    mac: Mac
    lxc: Device
    lxc_mac: Mac
    identity: Annotated[int, Ge(0), Le(0xFFFFFF)]
    labels: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A client pod, a server pod, and where they are to each other."""

    client: Name
    server: Name
    placement: Placement

    @property
    def name(self) -> str:
        return f"{self.client}→{self.server}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSpec:
    """One check of the scenario: `name` is the scenario's, `kind` says which check it is."""

    name: Name
    kind: Annotated[str, Key("check")]
    parameters: Annotated[CheckParameters, ChosenBy("kind", PARAMETERS_OF)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The address ranges. `mtu` is the device MTU in bytes; `route_mtu` is what pods may send (less 50 with vxlan)."""

    underlay_cidr: Annotated[IPv4Network, Key("underlayCIDR")]
    pod_cidr: Annotated[IPv4Network, Key("podCIDR")]
    service_cidr: Annotated[IPv4Network, Key("serviceCIDR")]
    mtu: Annotated[int, Ge(68), Le(65_535)]
    route_mtu: Annotated[int, Ge(0), Le(65_535)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """Everything a provider needs to build, and everything a check needs to look.

    `name` is the lab's (unique on the host), `scenario` the name it was made from, `source` that file's path;
    `digest` is the SHA-256 of the resolved content, so that equal labs have equal digests wherever they are.
    `settings` is the provider's own section of the scenario, already validated (`kind:`, `kubeadm:`, `cilium:`).
    """

    name: Name
    scenario: str
    source: str
    digest: str
    provider: Name
    datapath: Datapath
    network: Network
    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    pairs: tuple[Pair, ...]
    checks: tuple[CheckSpec, ...]
    compare: CompareParameters
    settings: Mapping[str, object] = field(default_factory=dict)
    services: Annotated[tuple[Service, ...], OMITTED] = ()
    pod_network: Annotated[PodNetworkChoice, OMITTED] = PodNetworkChoice()
    fabric: Annotated[FabricChoice, OMITTED] = FabricChoice()
    routers: Annotated[tuple[Router, ...], OMITTED] = ()
    links: Annotated[tuple[Link, ...], OMITTED] = ()

    def is_router(self, part: str) -> bool:
        return any(router.name == part for router in self.routers)

    def asked(self) -> dict[str, object]:
        """What the scenario asked for, as its own words, for reports (`modeInForce[].asked`)."""
        return self.datapath.asked() if self.pod_network.type is NetworkType.CILIUM else self.pod_network.asked()

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
    pod_network: PodNetworkChoice = PodNetworkChoice()
    fabric: FabricChoice = FabricChoice()


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


class KubeProxy(StrEnum):
    """In which of its modes kube-proxy programs Services, where it is not replaced."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"


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
    """The datapath that a scenario asks for: what `datapath:` may say in a file, what records hold, and what is shown.

    Those without a default are the mode. A key that is new here needs a default and `OMITTED`, and nothing else but
    whoever acts on it. No packet matches the `extra_iptables_rules`, but every packet that crosses the host's netfilter
    walks past them.
    """

    host_routing: Annotated[
        HostRouting,
        Doc("What moves packets through the node: the kernel's stack (legacy) or eBPF redirects (bpf)."),
    ]
    encapsulation: Annotated[
        Encapsulation, Doc("How packets cross from node to node: inside VXLAN, or routed as they are.")
    ]
    masquerade: Annotated[
        Masquerade,
        Doc("What rewrites source addresses of packets that leave the cluster. BPF host routing needs bpf."),
    ]
    kube_proxy_replacement: Annotated[
        bool,
        Doc("Services by eBPF instead of kube-proxy. BPF host routing and BPF masquerading need it."),
    ]
    extra_iptables_rules: Annotated[
        int,
        Ge(0),
        Le(20_000),
        Doc("Rules per node beyond those of a Cilium node. They match nothing, but are evaluated."),
    ] = 0
    extra_delay_ns: Annotated[
        int,
        Ge(0),
        Le(10_000),
        Doc("A busy-wait per packet in the eBPF programs: a known slowdown, to test comparisons with."),
    ] = 0
    faults: Annotated[tuple[Fault, ...], Doc("Defects put in on purpose, to learn to find them.")] = ()
    allow_fallback: Annotated[
        bool,
        Doc("true: where BPF host routing cannot be had, fall back to legacy as Cilium does. false: refuse."),
        OMITTED,
    ] = False
    ipv4_native_routing_cidr: Annotated[
        IPv4Network | None,
        Key("ipv4NativeRoutingCIDR"),
        Doc("What is reached with the pods' own addresses, not masqueraded. Default: the pods' range."),
        OMITTED,
    ] = None
    socket_lb: Annotated[
        bool,
        Key("socketLB"),
        Doc("true: a Service's address is translated at the socket, before there is a packet. false: in each packet."),
        OMITTED,
    ] = True
    kube_proxy: Annotated[
        KubeProxy,
        Doc("The mode of kube-proxy, with kubeProxyReplacement: false."),
        OMITTED,
    ] = KubeProxy.IPTABLES
    extra_services: Annotated[
        int,
        Ge(0),
        Le(20_000),
        Doc("Services beyond those of the scenario. No client uses them, but they are programmed."),
        OMITTED,
    ] = 0

    def asked(self) -> dict[str, object]:
        """The mode as the scenario's own words, for reports (`modeInForce[].asked`)."""
        return {
            key_of(Datapath, each.name): plain(getattr(self, each.name))
            for each in fields(self)
            if each.default is MISSING
        }


class ServiceType(StrEnum):
    """Where a Service can be reached: inside the cluster, or also at a port of every node."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"


class TrafficPolicy(StrEnum):
    """Which backends a node gives to what comes from outside: all of them, or those that it has itself."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class ServiceProtocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioService:
    """A Service as a scenario has it. `selector` are the labels that exactly the `backends` have."""

    name: str
    port: int
    target_port: int
    protocol: ServiceProtocol = ServiceProtocol.TCP
    backends: tuple[str, ...]
    selector: Mapping[str, str]
    type: ServiceType = ServiceType.CLUSTER_IP
    node_port: int | None = None
    external_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service with its cluster address, one of the lab's `service_cidr`. `node_port` is None but for NodePort."""

    name: Name
    address: IPv4Address
    port: Port
    target_port: Port
    protocol: ServiceProtocol
    backends: tuple[Name, ...]
    selector: Labels
    type: ServiceType
    node_port: Port | None = None
    external_traffic_policy: Annotated[TrafficPolicy, OMITTED] = TrafficPolicy.CLUSTER


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
