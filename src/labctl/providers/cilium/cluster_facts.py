"""A running cluster's facts, and the resolved lab with them in place: addresses, MACs, identities, lxc names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network

from labctl.errors import MeasureFailed
from labctl.json_text import of_known_form, parse_json
from labctl.model.lab import Lab, Node, Pod
from labctl.providers.cilium.endpoints import CiliumEndpoint, endpoint_of
from labctl.providers.cilium.workloads import PodState

LINKS_SCRIPT = (
    "cd /sys/class/net && for d in *; do "
    'if [ -e "$d/ifindex" ]; then echo "$d $(cat $d/ifindex) $(cat $d/address)"; fi; done'
)
COUNTERS_SCRIPT = 'cd /sys/class/net/"$0"/statistics && echo "$(cat tx_packets) $(cat rx_packets)"'


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLink:
    name: str
    index: int
    mac: str


def parse_links(text: str) -> dict[str, NodeLink]:
    """Devices by name, from `LINKS_SCRIPT`."""
    links = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            links[words[0]] = NodeLink(name=words[0], index=int(words[1]), mac=words[2] if len(words) > 2 else "")
    return links


@dataclass(frozen=True, slots=True, kw_only=True)
class CiliumNode:
    """One node as its CiliumNode object has it."""

    name: str
    address: str
    router: str
    pod_cidr: str


@of_known_form("kubectl's list of CiliumNodes")
def parse_cilium_nodes(text: str) -> dict[str, CiliumNode]:
    """By Kubernetes name, from `kubectl get ciliumnodes -o json`. Raises MeasureFailed."""
    try:
        items = parse_json(text)["items"]
    except (ValueError, KeyError, TypeError) as failed:
        raise MeasureFailed(what="kubectl's list of CiliumNodes is not JSON", cause=text.strip()[:200]) from failed
    nodes = {}
    for item in items:
        spec = item.get("spec") or {}
        addresses = {entry.get("type"): str(entry.get("ip")) for entry in spec.get("addresses") or () if _is_v4(entry)}
        pod_cidrs = (spec.get("ipam") or {}).get("podCIDRs") or ()
        name = str(item["metadata"]["name"])
        nodes[name] = CiliumNode(
            name=name,
            address=addresses.get("InternalIP", ""),
            router=addresses.get("CiliumInternalIP", ""),
            pod_cidr=str(pod_cidrs[0]) if pod_cidrs else "",
        )
    return nodes


def _is_v4(entry: Mapping[str, object]) -> bool:
    try:
        IPv4Address(str(entry.get("ip")))
    except AddressValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What was read from the running cluster. Nodes go by the scenario's name."""

    pods: Mapping[str, PodState]
    endpoints: Mapping[str, tuple[CiliumEndpoint, ...]]
    links: Mapping[str, Mapping[str, NodeLink]]
    cilium_nodes: Mapping[str, CiliumNode]
    uplinks: Mapping[str, str]


def with_facts(lab: Lab, facts: ClusterFacts, namespace: str) -> Lab:
    """The lab as it really is. Raises MeasureFailed when a pod has no endpoint."""
    return replace(
        lab,
        nodes=tuple(_node(node, facts) for node in lab.nodes),
        pods=tuple(_pod(pod, facts, namespace) for pod in lab.pods),
    )


def _node(node: Node, facts: ClusterFacts) -> Node:
    known = facts.cilium_nodes.get(node.name)
    uplink = facts.links.get(node.name, {}).get(facts.uplinks.get(node.name, ""))
    changed = replace(node, mac=uplink.mac) if uplink else node
    if known is None:
        return changed
    return replace(
        changed,
        address=IPv4Interface(f"{known.address}/{node.address.network.prefixlen}") if known.address else node.address,
        router=IPv4Address(known.router) if known.router else node.router,
        pod_cidr=IPv4Network(known.pod_cidr) if known.pod_cidr else node.pod_cidr,
    )


def _pod(pod: Pod, facts: ClusterFacts, namespace: str) -> Pod:
    endpoint = endpoint_of(facts.endpoints.get(pod.node, ()), f"{namespace}/{pod.name}")
    if endpoint is None:
        raise MeasureFailed(
            what=f"Cilium on node {pod.node} has no endpoint for pod {pod.name}",
            cause=f"it has: {', '.join(e.pod for e in facts.endpoints.get(pod.node, ()) if e.pod) or 'none'}",
            remedy=f"kubectl -n {namespace} get pod {pod.name} -o wide",
        )
    return replace(
        pod,
        address=IPv4Address(endpoint.address),
        mac=endpoint.mac,
        lxc=endpoint.lxc,
        lxc_mac=endpoint.lxc_mac,
        identity=endpoint.identity,
    )
