"""What may stand in scenario files, matrix files and lab.yaml: the model that parser and JSON Schema are made from.

It owns keys, types, bounds and descriptions of each key. What keys mean together (names that must exist, ranges that
must not overlap) is `loading/rules.py`. A key is the name used throughout labctl in camelCase; the unit of a quantity
is its last word, as an SI symbol or written out (`durationS`, `sizeByte`, `extraDelayNs`).

The `checks` section is made from the parameter classes that the checks themselves read: names, types, defaults and
bounds come from `model/parameters.py`, descriptions and one rule from here: a parameter called `max_…` or `min_…` is an
expectation and stands under `expect:`. A matrix file says which scenarios are measured against the first, with which
checks and placements.

The sections that belong to a provider are in `PROVIDER_SECTIONS`, the one place where a provider adds its own. To add a
section: write its model here or in a module next to this one, derived from `Section`, and give it an entry there.
Parser, JSON Schema, merging and `Lab.settings` follow from that entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import reduce
from ipaddress import IPv4Network
from operator import or_
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import Discriminator, Field, StringConstraints, Tag, create_model

from labctl.codec import Doc, Fits, key_of
from labctl.model.fabric import ENDPOINT_PATTERN, FabricChoice, is_endpoint
from labctl.model.impairment import LINK_PATTERN, Impairment
from labctl.model.lab import Datapath, Placement, ServiceProtocol, ServiceType, TrafficPolicy
from labctl.model.parameters import PARAMETERS_OF, Seconds, Share
from labctl.model.pod_network import PodNetworkChoice
from labctl.model.section import CIDR_PATTERN, IPV4_PATTERN, SCENARIO_PATTERN, Section
from labctl.model.sections import Cilium, ExistingCluster, Hosts, KindCluster, Kubeadm
from labctl.names import LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN, NAME_PATTERN, is_name
from labctl.values import dataclass

EXPECTATION_PREFIXES = ("max_", "min_")

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "ping": {
            "": "ICMP echo from the client to the server: loss and round-trip times, from every reply.",
            "count": "How many echo requests are sent.",
            "interval_s": "Seconds from one request to the next. 0: each is sent upon the reply to the previous one.",
            "size_byte": "Bytes of payload in each request.",
            "slices": "How many processes share the requests; other runs of a comparison are interleaved with them.",
            "max_loss": "The share of requests that may go unanswered: 0 is none, 1 is all.",
        },
        "iperf": {
            "": "iperf3 from the client to the server: throughput, retransmits (TCP), loss and jitter (UDP), own CPU.",
            "protocol": "What carries the data.",
            "duration_s": "Seconds of sending. iperf3 counts whole seconds: a fraction is rounded up.",
            "streams": "How many connections send at the same time.",
            "rate_bit_per_s": "The sending rate of UDP, in bit/s. TCP sends what it can.",
            "min_throughput_bit_per_s": "The least throughput that passes, in bit/s.",
            "max_loss": "The share of UDP datagrams that may be lost: 0 is none, 1 is all.",
        },
        "latency": {
            "": "sockperf request and response over TCP, one request in flight: percentiles, transactions/s, own CPU.",
            "duration_s": "Seconds of measuring.",
            "message_byte": "Bytes in each request and each response.",
        },
        "paced": {
            "": "sockperf requests over TCP at a fixed rate, each measured from when it was due: queueing shows.",
            "duration_s": "Seconds of measuring.",
            "message_byte": "Bytes in each request and each response.",
            "rate_per_s": "Requests per second; well below what the path can carry.",
        },
        "connect": {
            "": "Short TCP connections one after the other: connections/s, and own CPU per connection.",
            "duration_s": "Seconds of measuring.",
        },
        "load": {
            "": "labctl's own load program: requests over TCP and UDP, connections, streams, in slices of 2 ms.",
            "duration_s": "Seconds of a run, shared by all that it measures.",
            "message_byte": "Bytes in each request and each answer.",
            "streams": "How many streams there are where there are several.",
            "rate_per_s": "Requests per second of the paced ones.",
            "spin": "Whether a spinner keeps the CPUs of both ends awake.",
        },
        "tcpdump": {
            "": "Captures at every tap while a known packet goes through; the signature must be that of the mode.",
            "count": "How many echo requests go through while the captures run.",
        },
        "addressing": {
            "": "Pod mask, gateway, ARP, TTLs, VXLAN envelope and MTU, each observed and explained.",
            "count": "How many echo requests go through while the captures run.",
        },
        "service": {
            "": "Services that the server is a backend of: the backends that answered, where and how translated.",
            "connections": "How many connections are made to each Service.",
        },
        "masquerade": {
            "": "With which address a host outside sees the client, who rewrote it, and whether answers come back.",
        },
        "routes": {"": "The next hops that each node and router has for the other nodes and their pods, all of them."},
        "fdb": {"": "What each tunnel knows: VTEPs, and who told it of them."},
        "arp": {"": "Who answers for the client's next hop."},
        "mtu": {"": "The largest packet that gets through, and what a larger one is told."},
        "bgp": {"": "BGP sessions of the lab's routers and nodes: established, with what they told."},
        "ospf": {"": "OSPF neighbours of the lab's routers and nodes."},
        "impairment": {
            "": "What was asked of the links of the pair's way, beside what was measured, with intervals.",
            "count": "How many echo requests go through.",
            "interval_s": "Seconds between two requests.",
            "duration_s": "Seconds of iperf3 each way, where a rate is set.",
            "rate_margin": "By what share a rate may be off.",
            "delay_margin_s": "By how many seconds a round trip may be longer than the delays.",
        },
        "ecmp": {
            "": "Flows of one pair over all paths of the fabric: how many take each.",
            "flows": "How many flows, which differ in their port.",
        },
        "convergence": {
            "": "An event at the router that carries the packets, and for how long they are missing.",
            "event": "link-down: its link goes down; router-stopped: it forwards and says nothing, its links up; "
            "vtep-withdrawn: the server's node announces nothing for a second (EVPN). auto: what the lab can survive.",
            "interval_s": "Seconds between two pings.",
            "before_s": "Seconds of pings before the event.",
            "after_s": "Seconds of pings after the event.",
            "max_outage_s": "The longest that packets may be missing, in seconds.",
        },
        "kube-proxy": {
            "": "kube-proxy's process, DaemonSet, chains and table: on the nodes only where the scenario asks for it.",
        },
        "host-reachable": {
            "": "Services from a node: their cluster address, 127.0.0.1 and its own address at the node port.",
            "timeout_s": "Seconds that a connection may take.",
        },
        "mode": {
            "": "The mode that is in force, by packets and counters, against the one that was asked for.",
            "count": "How many echo requests go through.",
        },
        "netfilter": {
            "": "Which netfilter hooks of the nodes a known number of packets goes through, and conntrack's entries.",
            "count": "How many echo requests are sent.",
        },
    }
)


def is_expectation(parameter: str) -> bool:
    return parameter.startswith(EXPECTATION_PREFIXES)


def _model_name(kind: str) -> str:
    return kind.title().replace("-", "")


def _check_model(kind: str) -> type[Section]:
    """The model of one entry under `checks` whose `check` is `kind`."""
    parameters = PARAMETERS_OF[kind]
    described = DESCRIPTIONS.get(kind, {})
    hints = get_type_hints(parameters, include_extras=True)
    own: dict[str, Any] = {
        "check": (Literal[kind], Field(description="The kind of check.")),
        "name": (
            Annotated[str, StringConstraints(pattern=NAME_PATTERN)] | None,
            Field(None, description="What reports call this check. Without it, the kind is the name."),
        ),
    }
    expected: dict[str, Any] = {}
    for parameter in fields(parameters):
        default = parameter.default if parameter.default is not MISSING else None
        made = (hints[parameter.name], Field(default, description=described.get(parameter.name)))
        (expected if is_expectation(parameter.name) else own)[parameter.name] = made
    if expected:
        expect = create_model(
            f"{_model_name(kind)}Expect", __base__=Section, __doc__="What must hold for the check to pass.", **expected
        )
        own["expect"] = (expect | None, Field(None, description="What must hold for the check to pass."))
    model: type[Section] = create_model(f"{_model_name(kind)}Check", __base__=Section, __doc__=described.get(""), **own)
    return model


def checks_type() -> Any:
    """The type of `checks`: a list with one model a kind, selected by `check`."""
    entry: Any = Annotated[reduce(or_, map(_check_model, PARAMETERS_OF)), Field(discriminator="check")]
    entries: Any = tuple[entry, ...]
    return Annotated[entries, Field(min_length=1, max_length=1_000)] | None


Reference = Annotated[str, StringConstraints(pattern=SCENARIO_PATTERN)]
Rounds = Annotated[int, Ge(1), Le(10_000)]


class MatrixDocument(Section):
    """A labctl matrix: scenarios, checks and placements that are measured in the same interleaved blocks."""

    api_version: Literal["labctl/v1"] = Field(description="The version of the file format.")
    kind: Literal["Matrix"] = Field(description="What the file is.")
    name: Name | None = Field(None, description="The matrix's name. Without it, the file's name is used.")
    scenarios: Annotated[tuple[Reference, ...], Field(min_length=2, max_length=26)] = Field(
        description="Names, or paths ending in .yaml. Each one is compared with the first."
    )
    checks: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        None, description="Names of the checks that a block runs. Default: compare.checks of the first scenario."
    )
    placements: Annotated[tuple[Placement, ...], Field(min_length=1)] | None = Field(
        None, description="Only pairs that are placed so. Default: all pairs that every scenario has."
    )
    rounds: Rounds | None = Field(None, description="How many blocks. Default: compare.rounds of the first scenario.")
    duration_s: Seconds | None = Field(None, description="Seconds of every check that has a duration.")
    seed: Annotated[int, Ge(0)] | None = Field(
        None, description="Decides the order of the runs. Default: a new one, recorded."
    )
    until_percent: Annotated[float, Gt(0), Le(100)] | None = Field(
        None, description="Go on until every primary interval is within so many percent."
    )
    max_rounds: Rounds | None = Field(None, description="With untilPercent: at most so many blocks.")
    reference: bool | None = Field(None, description="Measure between the nodes too: the limit that the wire sets.")
    fail_if: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Thresholds, as with --fail-if: cross-node rtt_p50 > +5%."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSection:
    """One section: the model of its content (a `Section`, or an annotated list of them), and the providers that
    read it."""

    model: Any
    providers: tuple[str, ...]
    description: str = ""


PROVIDER_SECTIONS: Mapping[str, ProviderSection] = MappingProxyType(
    {
        "cilium": ProviderSection(model=Cilium, providers=("kind", "kubeadm")),
        "kindCluster": ProviderSection(model=KindCluster, providers=("kind",)),
        "cluster": ProviderSection(model=ExistingCluster, providers=("cluster",)),
        "kubeadm": ProviderSection(model=Kubeadm, providers=("kubeadm",)),
        "hosts": ProviderSection(
            model=Hosts, providers=("kubeadm",), description="Machines of your own that are reached by SSH."
        ),
    }
)

SMALLEST_MTU_BYTE = 576
LARGEST_MTU_BYTE = 65_520
"""Linux sends no longer IPv4 packet, whatever the device's MTU (IP_MAX_MTU in include/net/ip.h)."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Cidr = Annotated[str, StringConstraints(pattern=CIDR_PATTERN)]
Address = Annotated[str, StringConstraints(pattern=IPV4_PATTERN)]
Provider = Literal["netns", "kind", "kubeadm", "cluster"]
NodeCount = Annotated[int, Ge(1), Le(250)]


class NodeEntry(Section):
    """One node by name."""

    name: Name = Field(description="The node's name.")


class PodEntry(Section):
    """One pod and the node it is on."""

    name: Name = Field(description="The pod's name.")
    node: Name = Field(description="The node that the pod is on.")
    labels: (
        dict[
            Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN)],
            Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN)],
        ]
        | None
    ) = Field(None, description="Labels. Pods with equal labels have one security identity. Default: app: NAME.")


class OutsideEntry(Section):
    """A host beyond the nodes."""

    name: Name = Field(description="The host's name.")
    address: Annotated[str, StringConstraints(pattern=IPV4_PATTERN)] | None = Field(
        None,
        description="Its address. One of the underlay: on the nodes' own network, as without it. Any other: one hop "
        "further, behind the nodes' gateway.",
    )


class PairEntry(Section):
    """A client and a server: pods, nodes, hosts outside; a Service as server."""

    client: Name = Field(description="What asks: a pod, a node, or a host outside.")
    server: Name = Field(description="What answers: a pod, a node, a host outside, or a Service.")
    via: Name | None = Field(
        None,
        description="The node whose port is asked, with a Service of type NodePort. "
        "Without it: the first node from outside, and the cluster address from inside.",
    )
    placement: Placement | None = Field(
        None, description="Where the two are to each other. It follows from both; if you write it, it must be true."
    )


Port = Annotated[int, Ge(1), Le(65_535)]
NodePort = Annotated[int, Ge(30_000), Le(32_767)]
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN)]


class ServiceEntry(Section):
    """A Service: one address in front of pods."""

    name: Name = Field(description="The Service's name.")
    port: Port = Field(description="The port that clients use.")
    target_port: Port | None = Field(None, description="The port on the pods. Without it: the same.")
    protocol: ServiceProtocol = Field(ServiceProtocol.TCP, description="What it carries.")
    type: ServiceType = Field(ServiceType.CLUSTER_IP, description="NodePort: also at a port of every node.")
    cluster_ip: Address | None = Field(
        None, alias="clusterIP", description="Its address, of serviceCIDR. Without it: the next one that is free."
    )
    node_port: NodePort | None = Field(None, description="That port, with type: NodePort.")
    external_traffic_policy: TrafficPolicy | None = Field(
        None, description="With type: NodePort. Local: only backends on the node that was asked, and no masquerade."
    )
    backends: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        None, description="The pods that answer: exactly those that have their common labels."
    )
    selector: Annotated[dict[LabelKey, LabelValue], Field(min_length=1)] | None = Field(
        None, description="Labels of the pods that answer, in place of backends."
    )


def _section_of(choices: type, name: str, says: str) -> type[Section]:
    """Every key of the dataclass, none of which a file must have: another one that it builds on may say it."""
    keys: dict[str, Any] = {
        field: (_said(hint) | None, Field(None, alias=key_of(choices, field), description=_description(hint)))
        for field, hint in get_type_hints(choices, include_extras=True).items()
    }
    section: type[Section] = create_model(name, __base__=Section, __doc__=says, **keys)
    return section


def _entry_of(choices: type) -> type[Section]:
    """An item of a list, or a section within one: a key without a default has to be there."""
    defaults = {field.name: field.default for field in fields(choices)}
    keys: dict[str, Any] = {}
    for field, hint in get_type_hints(choices, include_extras=True).items():
        alias, description = key_of(choices, field), _description(hint)
        if defaults[field] is MISSING:
            keys[field] = _said(hint), Field(alias=alias, description=description)
        else:
            keys[field] = _said(hint) | None, Field(None, alias=alias, description=description)
    says = str(choices.__doc__).partition(". ")[0].rstrip(".") + "."
    section: type[Section] = create_model(f"{choices.__name__}Section", __base__=Section, __doc__=says, **keys)
    return section


def _description(hint: Any) -> str:
    return next(mark.text for mark in hint.__metadata__ if isinstance(mark, Doc))


_PATTERN_OF: Mapping[object, str] = {is_name: NAME_PATTERN, is_endpoint: ENDPOINT_PATTERN}


def _said(hint: Any) -> Any:
    """What a file says for a field of that type: ranges and texts with the pattern of every file, dataclasses as
    sections."""
    origin, of = get_origin(hint), get_args(hint)
    if origin is Annotated:
        marks: list[object] = [mark for mark in of[1:] if isinstance(mark, Ge | Le | MinLen | MaxLen)]
        marks += [StringConstraints(pattern=_PATTERN_OF[mark.is_right]) for mark in of[1:] if isinstance(mark, Fits)]
        made = _said(of[0])
        for mark in marks:
            made = Annotated[made, mark]
        return made
    if origin in (Union, UnionType):
        return _said(next(one for one in of if one is not NoneType))
    if origin is tuple:
        return tuple[_said(of[0]), ...]  # type: ignore[misc]
    if isinstance(hint, type) and is_dataclass(hint):
        return _entry_of(hint)
    return Cidr if hint is IPv4Network else hint


_DATAPATH = "How packets between pods are carried."
_POD_NETWORK = "What connects the pods; Cilium, as datapath says, where it is not written."


class NetworkSection(Section):
    """Address ranges and MTU. All of it lives inside the lab: ranges in use on the host do no harm."""

    underlay_cidr: Cidr | None = Field(
        None, alias="underlayCIDR", description="The nodes' own network; the first node has its second address."
    )
    pod_cidr: Cidr | None = Field(None, alias="podCIDR", description="The pods' range; each node gets a /24 of it.")
    service_cidr: Cidr | None = Field(None, alias="serviceCIDR", description="The range of Services.")
    mtu: Annotated[int, Ge(SMALLEST_MTU_BYTE), Le(LARGEST_MTU_BYTE)] | None = Field(
        None, description="MTU of the devices, in bytes. With vxlan, routes get 50 bytes less."
    )


class MarginsSection(Section):
    """Equivalence margins, as relative differences: 0.03 is 3 %."""

    latency: Share | None = Field(None, description="Margin of latency metrics.")
    cpu: Share | None = Field(None, description="Margin of CPU metrics.")
    throughput: Share | None = Field(None, description="Margin of throughput metrics.")


class ComparedPingSection(Section):
    """How a comparison pings: many requests in little time, in slices that alternate between the sides."""

    count: Annotated[int, Ge(1), Le(100_000)] | None = Field(
        None, description="Echo requests of a run, in place of the count of every ping."
    )
    interval_s: Annotated[float, Ge(0), Le(60)] | None = Field(
        None,
        description="Seconds from one request to the next. 0: each is sent upon the reply to the previous one.",
    )
    slices: Annotated[int, Ge(1), Le(1_000)] | None = Field(
        None, description="In how many slices a run is cut; the runs of the other sides take turns with it."
    )


class CompareSection(Section):
    """How `labctl compare` works on this scenario."""

    rounds: Annotated[int, Ge(1), Le(10_000)] | None = Field(
        None, description="How many blocks: each runs every check on both sides, in random order."
    )
    duration_s: Seconds | None = Field(
        None, description="Seconds, in place of the duration of every check that has one."
    )
    ping: ComparedPingSection | None = Field(None, description="How every ping of a comparison is done.")
    checks: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        None, description="Names of the checks that a block runs."
    )
    margins: MarginsSection | None = Field(None, description="Equivalence margins, as relative differences.")


def _nodes_tag(value: object) -> str:
    return "list" if isinstance(value, list) else "count"


Nodes = Annotated[
    Annotated[NodeCount, Tag("count")]
    | Annotated[tuple[NodeEntry, ...], Field(min_length=1, max_length=250), Tag("list")],
    Discriminator(_nodes_tag),
]


class _Common(Section):
    provider: Provider | None = Field(None, description="What builds the lab.")
    nodes: Nodes | None = Field(None, description="How many nodes (node1, node2, …), or a list of names.")
    network: NetworkSection | None = Field(None, description="Address ranges and MTU.")
    compare: CompareSection | None = Field(None, description="How `labctl compare` works on it.")


class _Scenario(_Common):
    api_version: Literal["labctl/v1"] = Field(description="The version of the file format.")
    kind: Literal["Scenario"] = Field(description="What the file is.")
    name: Name | None = Field(None, description="The scenario's name. Without it, the file's name is used.")
    extends: Annotated[str, StringConstraints(pattern=SCENARIO_PATTERN)] | None = Field(
        None, description="The scenario that this one starts from: a name, or a path ending in .yaml."
    )
    pods: Annotated[tuple[PodEntry, ...], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="The pods, and the node each is on."
    )
    pairs: Annotated[tuple[PairEntry, ...], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="What talks to what: every check runs on every pair that it is for."
    )
    services: Annotated[tuple[ServiceEntry, ...], Field(max_length=1_000)] | None = Field(
        None, description="Services in front of pods."
    )
    outside: Annotated[tuple[OutsideEntry, ...], Field(max_length=16)] | None = Field(
        None,
        description="Hosts beyond the nodes. Default: one called outside, where the scenario has a Service of type "
        "NodePort or the check masquerade.",
    )


class _Site(_Common):
    api_version: Literal["labctl/v1"] = Field(description="The version of the file format.")
    kind: Literal["Site"] = Field(description="What the file is.")


_SHARED: dict[str, Any] = {
    "datapath": (_section_of(Datapath, "DatapathSection", _DATAPATH) | None, Field(None, description=_DATAPATH)),
    "checks": (checks_type(), Field(None, description="What is measured, with parameters and expectations.")),
} | {
    name: (part.model | None, Field(None, description=part.description or part.model.__doc__))
    for name, part in PROVIDER_SECTIONS.items()
}

_FABRIC = "How the nodes reach each other; one bridge where it is not written."
_IMPAIRMENT = _section_of(Impairment, "ImpairmentSection", "What is done to the packets of one link on purpose.")
_LINK = Annotated[str, StringConstraints(pattern=LINK_PATTERN)]
_OF_SCENARIO: dict[str, Any] = {
    "fabric": (_section_of(FabricChoice, "FabricSection", _FABRIC) | None, Field(None, description=_FABRIC)),
    "pod_network": (
        _section_of(PodNetworkChoice, "PodNetworkSection", _POD_NETWORK) | None,
        Field(None, description=_POD_NETWORK),
    ),
    "impairments": (
        dict[_LINK, _IMPAIRMENT] | None,  # type: ignore[valid-type]
        Field(
            None,
            description="Loss, delay, a rate and the like by the link: a node's or pod's name, leaf1-spine1, or uplink "
            "for the links of all nodes.",
        ),
    ),
}

ScenarioDocument = create_model(
    "ScenarioDocument",
    __base__=_Scenario,
    __doc__="A labctl scenario: what to build and what to check.",
    **_SHARED,
    **_OF_SCENARIO,
)
SiteDocument = create_model(
    "SiteDocument", __base__=_Site, __doc__="lab.yaml: defaults of this site for every scenario.", **_SHARED
)
