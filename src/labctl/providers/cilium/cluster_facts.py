"""A running cluster's facts, and the resolved lab with them in place: addresses, MACs, identities, lxc names. Pure.

Endpoints, identities and tunnels are read as an agent lists them: `endpoint list -o json`, `bpf tunnel list`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network

from labctl.errors import MeasureFailed
from labctl.json_text import of_known_form, parse_json
from labctl.model.lab import Lab, Node, Pod
from labctl.names import is_device, is_mac
from labctl.providers.cilium.status import IN_AGENT
from labctl.providers.cilium.workloads import PodState
from labctl.values import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CiliumEndpoint:
    """One endpoint of an agent. `pod` is `namespace/name`, empty for the host and the health endpoint."""

    id: int
    pod: str
    identity: int
    address: str
    mac: str
    lxc: str
    lxc_index: int
    lxc_mac: str
    state: str


def argv_endpoints() -> tuple[str, ...]:
    return (*IN_AGENT, "endpoint", "list", "-o", "json")


@of_known_form("the agent's list of endpoints")
def parse_endpoints(text: str) -> tuple[CiliumEndpoint, ...]:
    """Raises MeasureFailed when the text is not a JSON list of endpoints."""
    try:
        entries = parse_json(text)
    except ValueError as failed:
        raise MeasureFailed(
            what="the agent's list of endpoints is not JSON", cause=text.strip()[:200] or "it is empty"
        ) from failed
    if not isinstance(entries, list):
        raise MeasureFailed(what="the agent's list of endpoints is not a list", cause=text.strip()[:200])
    return tuple(_endpoint(entry) for entry in entries)


def _endpoint(entry: dict[str, object]) -> CiliumEndpoint:
    status = _inner(entry, "status")
    identifiers = _inner(status, "external-identifiers")
    networking = _inner(status, "networking")
    addressing = networking.get("addressing")
    first = addressing[0] if isinstance(addressing, list) and addressing else {}
    namespace, name = identifiers.get("k8s-namespace"), identifiers.get("k8s-pod-name")
    return CiliumEndpoint(
        id=_whole(entry.get("id")),
        pod=f"{namespace}/{name}" if namespace and name else str(identifiers.get("pod-name", "")).strip("/"),
        identity=_whole(_inner(status, "identity").get("id")),
        address=str(first.get("ipv4", "")),
        mac=_named(networking.get("mac"), is_mac),
        lxc=_named(networking.get("interface-name"), is_device),
        lxc_index=_whole(networking.get("interface-index")),
        lxc_mac=_named(networking.get("host-mac"), is_mac),
        state=str(status.get("state", "")),
    )


def _inner(entry: dict[str, object], key: str) -> dict[str, object]:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def _named(value: object, is_one: Callable[[str], bool]) -> str:
    """A name that is passed to tools; empty where the agent has none. Raises MeasureFailed for an invalid one."""
    text = str(value or "")
    if text and not is_one(text):
        raise MeasureFailed(
            what="the agent's list of endpoints has an invalid device name or MAC address", cause=repr(text)[:200]
        )
    return text


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """One entry of the tunnel map. In native mode entries can remain: they prove no tunnel."""

    prefix: str
    endpoint: str


def argv_tunnels() -> tuple[str, ...]:
    return (*IN_AGENT, "bpf", "tunnel", "list")


def parse_tunnels(text: str) -> tuple[Tunnel, ...]:
    tunnels = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) >= 2:
            tunnels.append(Tunnel(prefix=words[0], endpoint=words[1].rsplit(":", 1)[0]))
    return tuple(tunnels)


def endpoint_of(endpoints: Sequence[CiliumEndpoint], pod: str) -> CiliumEndpoint | None:
    """The endpoint of `namespace/name`, or None."""
    return next((endpoint for endpoint in endpoints if endpoint.pod == pod), None)
