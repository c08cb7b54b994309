"""What a lab is: the scenario (what to build and check) and the resolved lab (nothing left to look up). Pure data.

A scenario is complete and valid before any address is decided: `loading` makes it, and what may stand in its file is
`model/document.py`. `planning.resolve` turns it into a `Lab`, every name, address and number decided, which every
provider and check reads.

What scenarios choose from are closed sets: how packets between pods are carried, how a client's choice of a Service's
backend is asked for (a Service is one address in front of several pods), how the sides of a comparison stand to each
other. A matrix says which scenarios, checks and placements are measured together, complete and valid too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, field, fields, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Annotated

from annotated_types import Ge, Le

from labctl.codec import OMITTED, UNWRITTEN, ChosenBy, Doc, Fits, Key, key_of, plain
from labctl.errors import Problem
from labctl.model.fabric import ONE_BRIDGE, FabricChoice, Link, Router
from labctl.model.impairment import Impairment
from labctl.model.parameters import PARAMETERS_OF, CheckParameters, CompareParameters
from labctl.model.pod_network import CILIUM, NetworkType, PodNetworkChoice
from labctl.names import is_device, is_label_key, is_label_value, is_mac, is_name
from labctl.values import dataclass

Name = Annotated[str, Fits(is_name, "a name: a DNS label of at most 40 characters")]
Mac = Annotated[str, Fits(is_mac, "a MAC address")]
Device = Annotated[str, Fits(is_device, "the name of a network device")]
Labels = Mapping[
    Annotated[str, Fits(is_label_key, "the key of a label")], Annotated[str, Fits(is_label_value, "a label's value")]
]
Port = Annotated[int, Ge(1), Le(65_535)]
FIRST_IDENTITY = 256
LAST_IDENTITY = 65_535
"""The security identities that pods can have. Lower ones are reserved."""

Said = bool | int | str
"""A value as YAML has it."""


class Placement(StrEnum):
    """Where the two ends of a pair are to each other. A Service is where its backends are: some here and some
    there is `mixed`."""

    SAME_NODE = "same-node"
    CROSS_NODE = "cross-node"
    OUTSIDE = "outside"
    MIXED = "mixed"


POD_PLACEMENTS = (Placement.SAME_NODE, Placement.CROSS_NODE)
"""Where two pods can be to each other."""


def placement_of(client: str | None, servers: Collection[str | None]) -> Placement:
    """From the client's node and the nodes of whatever may answer; None is a host outside, which is on no node.
    What has no backends is answered where the client is."""
    if client is None or None in servers:
        return Placement.OUTSIDE
    nodes = set(servers)
    if nodes <= {client}:
        return Placement.SAME_NODE
    return Placement.MIXED if client in nodes else Placement.CROSS_NODE


class EndpointKind(StrEnum):
    """What can be an end of a pair."""

    POD = "pod"
    NODE = "node"
    OUTSIDE = "outside"
    SERVICE = "service"


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
class Outside:
    """A host beyond the nodes. With an address of the underlay it is on the nodes' own network, as the recorded one
    was; with any other it is one hop further, behind the gateway."""

    name: Name
    address: IPv4Address
    mac: Mac


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An end of a pair. `address` is where packets to it are sent. `node` is the node that it is on, or that is asked
    for a node port; None outside the nodes, and for a Service at its cluster address."""

    name: str
    kind: EndpointKind
    address: IPv4Address
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A client, a server, and where they are to each other: a pod, a node, a host outside; as server also a Service,
    at its cluster address or, with `via`, at its port of that node."""

    client: Name
    server: Name
    placement: Placement
    via: Annotated[Name | None, OMITTED] = None

    @property
    def name(self) -> str:
        return f"{self.client}→{self.destination}"

    @property
    def destination(self) -> str:
        """The server in one word, with the node that is asked: `web`, `web@node1`. `between` reads it."""
        return self.server if self.via is None else f"{self.server}@{self.via}"

    @classmethod
    def between(cls, client: str, destination: str, placement: Placement) -> Pair:
        server, _, via = destination.partition("@")
        return cls(client=client, server=server, placement=placement, via=via or None)


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

    @property
    def gateway(self) -> IPv4Address:
        """The nodes' way to the world, where there is one: the underlay's first address."""
        return self.underlay_cidr.network_address + 1


NETNS = "netns"
"""The provider whose nodes and pods are namespaces, with a datapath of labctl's own."""

EXISTING_CLUSTER = "cluster"
"""The provider whose nodes and whose datapath are there before the lab, and after it: labctl changes neither."""


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
    cni: Annotated[str, OMITTED] = ""
    """Of a lab on a cluster that labctl did not make: what connects its pods, where that is another than Cilium, or a
    Cilium whose agents may not be read. Nothing is known of what its taps should show."""
    outside: Annotated[tuple[Outside, ...], OMITTED] = ()
    pod_network: Annotated[PodNetworkChoice, OMITTED] = CILIUM
    fabric: Annotated[FabricChoice, OMITTED] = ONE_BRIDGE
    routers: Annotated[tuple[Router, ...], OMITTED] = ()
    links: Annotated[tuple[Link, ...], OMITTED] = ()
    impairments: Annotated[Mapping[str, Impairment], OMITTED] = field(default_factory=dict)
    """By the link's name, or `uplink` for those of all nodes, as the scenario has them."""

    fallback: Annotated[Fallback | None, OMITTED] = None
    """Set where the scenario allows it and BPF host routing cannot be had."""

    @property
    def in_force(self) -> Datapath:
        """The datapath that the lab is to have: the one asked for, or what Cilium falls back to."""
        if self.fallback is None:
            return self.datapath
        masquerade = self.fallback.masquerade or self.datapath.masquerade
        return replace(self.datapath, host_routing=HostRouting.LEGACY, masquerade=masquerade)

    def is_router(self, part: str) -> bool:
        return any(router.name == part for router in self.routers)

    def asked(self) -> dict[str, object]:
        """What the scenario asked for, as its own words, for reports (`modeInForce[].asked`)."""
        return self.datapath.asked() if self.pod_network.type is NetworkType.CILIUM else self.pod_network.asked()

    def meant(self) -> dict[str, object]:
        """What is to be in force: what was asked for, or what Cilium falls back to."""
        return self.in_force.asked() if self.pod_network.type is NetworkType.CILIUM else self.pod_network.asked()

    def node(self, name: str) -> Node:
        """The node of that name. Raises KeyError."""
        return {node.name: node for node in self.nodes}[name]

    def pod(self, name: str) -> Pod:
        """The pod of that name. Raises KeyError."""
        return {pod.name: pod for pod in self.pods}[name]

    def pods_on(self, node: str) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if pod.node == node)

    def service(self, name: str) -> Service:
        """The Service of that name. Raises KeyError."""
        return {service.name: service for service in self.services}[name]

    def endpoint(self, name: str, via: str | None = None) -> Endpoint:
        """The pod, node, host outside or Service of that name, in this order; a Service at its port of the node `via`,
        or at its cluster address. Raises KeyError."""
        for pod in self.pods:
            if pod.name == name:
                return Endpoint(name=name, kind=EndpointKind.POD, address=pod.address, node=pod.node)
        for node in self.nodes:
            if node.name == name:
                return Endpoint(name=name, kind=EndpointKind.NODE, address=node.address.ip, node=name)
        for host in self.outside:
            if host.name == name:
                return Endpoint(name=name, kind=EndpointKind.OUTSIDE, address=host.address, node=None)
        address = self.service(name).address if via is None else self.node(via).address.ip
        return Endpoint(name=name, kind=EndpointKind.SERVICE, address=address, node=via)

    def client(self, pair: Pair) -> Endpoint:
        """The client's end of a pair of this lab."""
        return self.endpoint(pair.client)

    def server(self, pair: Pair) -> Endpoint:
        """The server's end of a pair of this lab."""
        return self.endpoint(pair.server, pair.via)

    def backends(self, pair: Pair) -> tuple[Pod, ...]:
        """The pods that answer the pair where a Service is the server; none where it is not."""
        if self.server(pair).kind is not EndpointKind.SERVICE:
            return ()
        return tuple(self.pod(name) for name in self.service(pair.server).backends)

    def nodes_of(self, pair: Pair) -> tuple[str, ...]:
        """The nodes that the pair's packets begin at, are addressed to and are answered on, each once, in this order;
        hosts outside are on none."""
        on = (self.client(pair).node, self.server(pair).node, *(pod.node for pod in self.backends(pair)))
        return tuple(dict.fromkeys(node for node in on if node is not None))

    def is_near(self, host: Outside) -> bool:
        """A host outside that is on the nodes' own network, not behind their gateway."""
        return any(host.address in node.address.network for node in self.nodes)

    def is_between_pods(self, pair: Pair) -> bool:
        """Both ends are pods, at their own addresses."""
        return {self.client(pair).kind, self.server(pair).kind} == {EndpointKind.POD}


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
    the sections that the scenario's provider reads (`cilium:`, …), as JSON-ready data. `warnings` is what is allowed in
    it and seldom meant.
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
    pod_network: PodNetworkChoice = CILIUM
    fabric: FabricChoice = ONE_BRIDGE
    fallback: Fallback | None = None
    warnings: tuple[Problem, ...] = ()
    outside: tuple[ScenarioOutside, ...] = ()
    impairments: Mapping[str, Impairment] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioOutside:
    """A host outside by name, and its address where the scenario says one."""

    name: str
    address: IPv4Address | None = None


class HostRouting(StrEnum):
    """Who moves a packet through the node: the kernel's stack (legacy) or eBPF redirects (bpf)."""

    LEGACY = "legacy"
    BPF = "bpf"


class Encapsulation(StrEnum):
    """How a packet crosses from node to node."""

    VXLAN = "vxlan"
    GENEVE = "geneve"
    NATIVE = "native"

    @property
    def is_tunnel(self) -> bool:
        return self is not Encapsulation.NATIVE


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
        Encapsulation, Doc("How packets cross from node to node: inside VXLAN or Geneve, or routed as they are.")
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

    observed: Annotated[
        bool,
        Doc(
            "true: nothing above is asked for; whatever is in force is taken as it is. Only where labctl did not make "
            "the datapath (provider cluster)."
        ),
        OMITTED,
    ] = False

    def asked(self) -> dict[str, object]:
        """The mode as the scenario's own words, for reports (`modeInForce[].asked`); empty where nothing is asked."""
        return {} if self.observed else self.mode()

    def mode(self) -> dict[str, object]:
        """The mode in a scenario's words, whether it was asked for or read from what is there."""
        return {
            key_of(Datapath, each.name): plain(getattr(self, each.name))
            for each in fields(self)
            if each.default is MISSING
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """Why a lab that was asked for BPF host routing has Legacy. When that is so: `model/fallback.py`.

    `line` is what the agent of that `version` logs, empty where it logs nothing; `masquerade` is what is in force then,
    None where it is as asked.
    """

    reason: str
    remedy: str
    line: str = ""
    version: str = ""
    masquerade: Masquerade | None = None


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
    """A Service as a scenario has it. `selector` are the labels that exactly the `backends` have; there may be none.
    Without a `cluster_ip` it gets the next address that is free."""

    name: str
    port: int
    target_port: int
    protocol: ServiceProtocol = ServiceProtocol.TCP
    backends: tuple[str, ...]
    selector: Mapping[str, str]
    type: ServiceType = ServiceType.CLUSTER_IP
    node_port: int | None = None
    external_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    cluster_ip: Annotated[IPv4Address | None, Key("clusterIP")] = None


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
