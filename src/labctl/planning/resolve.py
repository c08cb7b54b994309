"""Scenario → Lab: every address, MAC, name and number decided. Pure, and the same for the same scenario everywhere.

Address ranges: each node has one address on the underlay and a /24 of the pods' range, as Kubernetes gives it
(podCIDR per node).

A security identity is one number for each set of labels, which is the VNI of what such a pod sends over vxlan. Cilium
gives cluster identities from 256 to 65535; lower numbers are reserved (host, world, …). The number depends on the
labels, not on the order of pods, so that an unchanged pod keeps its identity when another is added (unless the two
would collide). Labels also name a Service's backends, as in Kubernetes: which labels say exactly these pods, and
which pods have these labels.

A bundle's settings override the scenario's: other settings of its provider.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import PurePath

from labctl import names
from labctl.errors import UsageError
from labctl.model.interfaces import TUNNEL_OVERHEAD_BYTE, UPLINK
from labctl.model.lab import (
    FIRST_IDENTITY,
    LAST_IDENTITY,
    Lab,
    Network,
    Node,
    Outside,
    Pod,
    Scenario,
    Service,
)
from labctl.model.pod_network import NetworkType, PodNetworkChoice
from labctl.planning.record import digest_of
from labctl.planning.topology import links_of, routers_of


def resolve(scenario: Scenario, *, name: str | None = None) -> Lab:
    """The lab that the scenario describes, called `name` or as the scenario is.

    Raises UsageError when `name` is not a name, or when there are more sets of labels than identities.
    """
    if name is not None and not names.is_name(name):
        raise UsageError(
            f"'{name[:60]}' is not a lab's name" if name.isprintable() else "that is not a lab's name",
            "names have lower-case letters, digits and hyphens, at most 40 characters",
            "choose another: --name my-lab",
        )
    nodes, routers = _nodes(scenario), routers_of(scenario.fabric, scenario.pod_network)
    lab = Lab(
        name=name or scenario.name,
        scenario=scenario.name,
        source=scenario.source,
        provider=scenario.provider,
        datapath=scenario.datapath,
        network=_network(scenario),
        nodes=nodes,
        pods=_pods(scenario, {node.name: node.pod_cidr for node in nodes}),
        pairs=scenario.pairs,
        checks=scenario.checks,
        compare=scenario.compare,
        digest="",
        settings=scenario.settings,
        services=_services(scenario),
        pod_network=scenario.pod_network,
        fabric=scenario.fabric,
        routers=routers,
        links=links_of(scenario.fabric, routers, {node.name: node.mac for node in nodes}),
        fallback=scenario.fallback,
        impairments=scenario.impairments,
        outside=_outside(scenario),
        cni=unknown_network(scenario.pod_network),
    )
    return dataclasses.replace(lab, digest=digest_of(lab))


_FIRST_PLUGINS = ("ptp", "bridge", "macvlan")
"""Those that make a pod's device, of which it is known what its packets show (`networks.cni`)."""


def unknown_network(choice: PodNetworkChoice) -> str:
    """The pod network in words, where nothing is known of what its taps should show; else empty."""
    if choice.is_of_a_cluster:
        return str(choice.type) if choice.manifest is None else f"what {PurePath(choice.manifest).name} installs"
    if choice.type is NetworkType.CNI and (not choice.chain or choice.chain[0] not in _FIRST_PLUGINS):
        return f"the CNI plugin {choice.chain[0] if choice.chain else ''}".strip()
    return ""


def _services(scenario: Scenario) -> tuple[Service, ...]:
    """Those that say their address have it; the others share out the rest of the range, in the scenario's order."""
    said = {service.cluster_ip for service in scenario.services}
    numbers = range(service_capacity(scenario.service_cidr))
    free = (each for number in numbers if (each := service_address(scenario.service_cidr, number)) not in said)
    return tuple(
        Service(
            name=service.name,
            address=service.cluster_ip or next(free),
            port=service.port,
            target_port=service.target_port,
            protocol=service.protocol,
            backends=service.backends,
            selector=service.selector,
            type=service.type,
            node_port=service.node_port,
            external_traffic_policy=service.external_traffic_policy,
        )
        for service in scenario.services
    )


def _outside(scenario: Scenario) -> tuple[Outside, ...]:
    return tuple(
        Outside(
            name=host.name,
            address=host.address or outside_address(scenario.underlay_cidr, number),
            mac=names.stable_mac("outside", host.name),
        )
        for number, host in enumerate(scenario.outside)
    )


def _network(scenario: Scenario) -> Network:
    overhead = TUNNEL_OVERHEAD_BYTE if scenario.datapath.encapsulation.is_tunnel else 0
    return Network(
        underlay_cidr=scenario.underlay_cidr,
        pod_cidr=scenario.pod_cidr,
        service_cidr=scenario.service_cidr,
        mtu=scenario.mtu,
        route_mtu=scenario.mtu - overhead,
    )


def _nodes(scenario: Scenario) -> tuple[Node, ...]:
    nodes = []
    for index, name in enumerate(scenario.nodes):
        pod_cidr = pod_network(scenario.pod_cidr, index)
        nodes.append(
            Node(
                name=name,
                index=index,
                address=node_address(scenario.underlay_cidr, index),
                mac=names.stable_mac("node", name),
                pod_cidr=pod_cidr,
                router=router_address(pod_cidr),
            )
        )
    return tuple(nodes)


def _pods(scenario: Scenario, pod_cidrs: dict[str, IPv4Network]) -> tuple[Pod, ...]:
    try:
        identity_of = identities(pod.labels for pod in scenario.pods)
    except ValueError as error:
        raise UsageError("the lab has too many identities", str(error), "give pods the same labels") from None
    placed: Counter[str] = Counter()
    pods = []
    for pod in scenario.pods:
        pods.append(
            Pod(
                name=pod.name,
                node=pod.node,
                address=pod_address(pod_cidrs[pod.node], placed[pod.node]),
                mac=names.stable_mac("pod", pod.name),
                lxc=device_on_node(scenario.pod_network, pod.name),
                lxc_mac=names.stable_mac("lxc", pod.name)
                if scenario.pod_network.type is not NetworkType.CALICO
                else CALICO_MAC,
                identity=identity_of[label_key(pod.labels)],
                labels=dict(pod.labels),
            )
        )
        placed[pod.node] += 1
    return tuple(pods)


CALICO_MAC = "ee:ee:ee:ee:ee:ee"
"""Calico gives it to every pod's device on the node."""
_PREFIXES = {NetworkType.CILIUM: "lxc", NetworkType.CALICO: "cali"}


def device_on_node(network: PodNetworkChoice, pod: str) -> str:
    """The device of the node that the pod hangs on, named as that network names it; CNI's plugins choose the name
    themselves, which is seen when the lab is up. With macvlan and ipvlan it is the uplink, which the pods share."""
    if network.is_on_uplink:
        return UPLINK
    return names.host_end(_PREFIXES.get(network.type, "veth"), pod)


def identities(label_sets: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """The identity of each distinct set of labels, by `label_key`. Raises ValueError when there are too many."""
    keys = sorted({label_key(labels) for labels in label_sets})
    room = LAST_IDENTITY - FIRST_IDENTITY + 1
    if len(keys) > room:
        raise ValueError(f"{len(keys)} different sets of labels, but only {room} identities")
    taken: set[int] = set()
    found: dict[str, int] = {}
    for key in keys:
        offset = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % room
        while offset in taken:
            offset = (offset + 1) % room
        taken.add(offset)
        found[key] = FIRST_IDENTITY + offset
    return found


def label_key(labels: Mapping[str, str]) -> str:
    """The same text for the same labels, whatever their order."""
    return json.dumps(dict(labels), sort_keys=True)


def with_settings(lab: Lab, over: Mapping[str, Mapping[str, object]]) -> Lab:
    """`over` has sections by name, and wins key by key; None takes a key away. The digest follows."""
    settings = dict(lab.settings)
    for name, section in over.items():
        before = settings.get(name)
        merged = {**(before if isinstance(before, Mapping) else {}), **section}
        settings[name] = {key: value for key, value in merged.items() if value is not None}
    changed = replace(lab, settings=settings)
    return replace(changed, digest=digest_of(changed))


def selected(selector: Mapping[str, str], pods: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The pods (by name, with their labels) that have every label of the selector."""
    return tuple(name for name, labels in pods.items() if selector.items() <= labels.items())


def selector_of(backends: Iterable[str], pods: Mapping[str, Mapping[str, str]]) -> dict[str, str] | None:
    """The labels that all of these pods have in common, if no other pod has all of them; else None."""
    chosen = [pods[name] for name in backends]
    common = dict(chosen[0]) if chosen else {}
    for labels in chosen[1:]:
        common = {key: value for key, value in common.items() if labels.get(key) == value}
    if not common or set(selected(common, pods)) != set(backends):
        return None
    return common


NODE_PREFIX = 24
FIRST_NODE_HOST = 2
ROUTER_HOST = 1
FIRST_POD_HOST = 10
PODS_PER_NODE = 2 ** (32 - NODE_PREFIX) - 1 - FIRST_POD_HOST
SMALLEST_SERVICE_PREFIX = 28
"""A cluster's DNS service has the tenth address of the range by convention: a /28 is the smallest that has one."""
API_SERVER_HOST, DNS_HOST = 1, 10
FIRST_SERVICE_HOST = 11
"""The first address is the API server's, the tenth the DNS service's. Kubernetes gives those that were not chosen from
the upper part of the range."""


def service_capacity(service_cidr: IPv4Network) -> int:
    """How many Services of a scenario the range has addresses for."""
    return max(0, service_cidr.num_addresses - FIRST_SERVICE_HOST - 1)


def reserved_address(service_cidr: IPv4Network, address: IPv4Address) -> str:
    """What an address of the range is for that no Service of a scenario may have; "" for others."""
    offset = int(address) - int(service_cidr.network_address)
    of_cluster = {0: "the network's own", API_SERVER_HOST: "the API server's", DNS_HOST: "the DNS service's"}
    return "the range's broadcast address" if address == service_cidr.broadcast_address else of_cluster.get(offset, "")


def service_address(service_cidr: IPv4Network, number: int) -> IPv4Address:
    """The cluster address of Service number `number` (from 0)."""
    return service_cidr.network_address + FIRST_SERVICE_HOST + number


def outside_address(underlay: IPv4Network, number: int) -> IPv4Address:
    """The address of host outside number `number` (from 0), which is on the nodes' own network: from its upper end.
    The last address stays free: an address that nothing has, for what must be sent to nothing."""
    return underlay.broadcast_address - 2 - number


def outside_capacity(underlay: IPv4Network, nodes: int) -> int:
    """How many hosts outside it has addresses for, beside that many nodes."""
    return max(0, node_capacity(underlay) - nodes - 1)


def node_capacity(underlay: IPv4Network) -> int:
    """How many nodes the underlay has addresses for: all but the network, the first host and the broadcast."""
    return max(0, underlay.num_addresses - FIRST_NODE_HOST - 1)


def underlay_prefix_for(nodes: int) -> int:
    """The longest prefix whose network has addresses for that many nodes."""
    return 32 - (nodes + FIRST_NODE_HOST).bit_length()


def pod_network_capacity(pod_cidr: IPv4Network) -> int:
    """How many nodes the pods' range has a /24 for."""
    return 2 ** (NODE_PREFIX - pod_cidr.prefixlen) if pod_cidr.prefixlen <= NODE_PREFIX else 0


def pod_prefix_for(nodes: int) -> int:
    """The longest prefix whose network has a /24 for that many nodes."""
    return NODE_PREFIX - (nodes - 1).bit_length()


def node_address(underlay: IPv4Network, index: int) -> IPv4Interface:
    """The underlay address of node number `index` (from 0)."""
    return IPv4Interface((int(underlay.network_address) + FIRST_NODE_HOST + index, underlay.prefixlen))


def pod_network(pod_cidr: IPv4Network, index: int) -> IPv4Network:
    """The pods' range on node number `index` (from 0)."""
    return IPv4Network((int(pod_cidr.network_address) + index * 2 ** (32 - NODE_PREFIX), NODE_PREFIX))


def router_address(pod_network: IPv4Network) -> IPv4Address:
    """The address of `cilium_host`: the gateway of the pods on that node."""
    return pod_network.network_address + ROUTER_HOST


def pod_address(pod_network: IPv4Network, number: int) -> IPv4Address:
    """The address of pod number `number` (from 0) on its node."""
    return pod_network.network_address + FIRST_POD_HOST + number
