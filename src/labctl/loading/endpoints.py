"""What the ends of a scenario's pairs are, read from the merged tree, and what is wrong with pairs and hosts outside.

An end is a pod, a node, a host outside, or a Service: looked for in this order, so that a pod and its Service may have
one name, which is then the pod's. A Service only answers. From outside it is asked at a node's port. Where the two
ends of a pair are to each other follows from the nodes that they are on; a Service is where its backends are.

A scenario that has no `outside:` has one such host where it needs one: with a Service of type NodePort, or the check
`masquerade`; and with Services of kube-proxy's, which translates what a node sends once there is a route for it: the
nodes' way to the world. `outside: []` is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network

from labctl.errors import Problem
from labctl.loading.messages import listed, nearest, problem_at, shown
from labctl.loading.tree import Block, KeyPath, Scalar, Tree, find, items_of, place_of, plain, text_of
from labctl.model.lab import EndpointKind, Placement, ServiceType, placement_of
from labctl.names import is_name
from labctl.planning import resolve
from labctl.planning.resolve import selected
from labctl.values import dataclass

OUTSIDE = "outside"
"""The section, and the name of the host that a scenario has by default."""
NEEDS_OUTSIDE = ("masquerade",)
"""The checks that look at what a host outside sees."""
MAKES_OUTSIDE = ("netns", "kind")
"""The providers that make such a host. Another one's labs have none by default, and are refused one."""
_GIVES_ADDRESSES = ("kind",)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndFacts:
    """What every name is that a pair may have, and the nodes that it is on or answered on (None: on none)."""

    kinds: Mapping[str, EndpointKind]
    nodes: Mapping[str, tuple[str | None, ...]]
    node_port: frozenset[str]
    node_names: tuple[str, ...]

    @property
    def first_node(self) -> str | None:
        return self.node_names[0] if self.node_names else None

    def placement(self, client: str, server: str) -> Placement:
        return placement_of(self.nodes[client][0], self.nodes[server])


def outside_hosts(tree: Tree) -> tuple[tuple[str, str | None], ...]:
    """Name and address (None where the scenario says none) of every host outside."""
    section = find(tree, OUTSIDE)
    if section is not None:
        return tuple(
            (name, text_of(find(entry, "address")))
            for _, entry in items_of(section)
            if (name := text_of(find(entry, "name"))) is not None
        )
    if text_of(find(tree, "provider")) not in MAKES_OUTSIDE:
        return ()
    checks = {text_of(find(check, "check")) for _, check in items_of(find(tree, "checks"))}
    types = [text_of(find(entry, "type")) for _, entry in items_of(find(tree, "services"))]
    replaces = find(tree, "datapath", "kubeProxyReplacement")
    is_needed = (
        bool(checks.intersection(NEEDS_OUTSIDE))
        or ServiceType.NODE_PORT in types
        or (bool(types) and isinstance(replaces, Scalar) and replaces.value is False)
    )
    return ((OUTSIDE, None),) if is_needed else ()


def labels_of_pods(tree: Tree) -> dict[str, Mapping[str, str]]:
    pods: dict[str, Mapping[str, str]] = {}
    for _, pod in items_of(find(tree, "pods")):
        name, labels = text_of(find(pod, "name")), find(pod, "labels")
        if name:
            pods.setdefault(name, plain(labels) if isinstance(labels, Block) else {"app": name})
    return pods


def end_facts(tree: Tree) -> EndFacts:
    """Read tolerantly: what is wrong is missing."""
    nodes = _node_names(tree)
    kinds: dict[str, EndpointKind] = {}
    on: dict[str, tuple[str | None, ...]] = {}
    for _, pod in items_of(find(tree, "pods")):
        name, node = text_of(find(pod, "name")), text_of(find(pod, "node"))
        if name and node:
            kinds.setdefault(name, EndpointKind.POD)
            on.setdefault(name, (node,))
    node_of = {name: where[0] for name, where in on.items()}
    for name in nodes:
        kinds.setdefault(name, EndpointKind.NODE)
        on.setdefault(name, (name,))
    for name, _ in outside_hosts(tree):
        kinds.setdefault(name, EndpointKind.OUTSIDE)
        on.setdefault(name, (None,))
    labels, node_port = labels_of_pods(tree), []
    for _, entry in items_of(find(tree, "services")):
        if (service := text_of(find(entry, "name"))) is None:
            continue
        if text_of(find(entry, "type")) == ServiceType.NODE_PORT:
            node_port.append(service)
        kinds.setdefault(service, EndpointKind.SERVICE)
        answering = [node_of.get(pod) for pod in _backends(entry, labels)]
        on.setdefault(service, tuple(node for node in answering if node is not None))
    return EndFacts(kinds=kinds, nodes=on, node_port=frozenset(node_port), node_names=nodes)


def _node_names(tree: Tree) -> tuple[str, ...]:
    nodes = find(tree, "nodes")
    if isinstance(nodes, Scalar) and isinstance(nodes.value, int) and not isinstance(nodes.value, bool):
        return counted_nodes(nodes.value) if 1 <= nodes.value <= 250 else ()
    return tuple(name for _, node in items_of(nodes) if (name := text_of(find(node, "name"))) is not None)


def counted_nodes(count: int) -> tuple[str, ...]:
    """The names of nodes that were only counted."""
    return tuple(f"node{number}" for number in range(1, count + 1))


def _backends(entry: Tree, labels: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    backends, selector = find(entry, "backends"), find(entry, "selector")
    if isinstance(selector, Block):
        return selected(plain(selector), labels)
    return tuple(name for _, item in items_of(backends) if (name := text_of(item)) is not None)


def pair_problems(tree: Tree, *, pods: tuple[str, ...] | None) -> Iterator[Problem]:
    """`pods` are the names of the scenario's, None where that section is unreadable."""
    pairs = find(tree, "pairs")
    if pairs is None:
        example = "a list such as [{client: client, server: server}]"
        yield problem_at(tree.place, ("pairs",), "there are no pairs, so nothing could be checked", example)
    facts = end_facts(tree)
    first_line: dict[tuple[str, str, str | None], int] = {}
    for index, pair in items_of(pairs):
        yield from _unknown_ends(tree, index, pair, facts, pods)
        client, server = text_of(find(pair, "client")), text_of(find(pair, "server"))
        if client is None or server is None:
            continue
        via = text_of(find(pair, "via"))
        if client == server:
            path: KeyPath = ("pairs", index, "server")
            kind = facts.kinds.get(client, EndpointKind.POD)
            message = f"client and server are the same {_WORDS[kind]}"
            yield problem_at(place_of(tree, path), path, message, f"two different {_WORDS[kind]}s")
        elif (client, server, via) in first_line:
            line = first_line[client, server, via]
            message = f"the pair of {client} and {server} is already listed, on line {line}"
            yield problem_at(pair.place, ("pairs", index), message)
        else:
            first_line[client, server, via] = pair.place.line
        yield from _reached(tree, index, client, server, facts)
        yield from _placement(tree, index, client, server, facts)


_WORDS = {
    EndpointKind.POD: "pod",
    EndpointKind.NODE: "node",
    EndpointKind.OUTSIDE: "host outside",
    EndpointKind.SERVICE: "Service",
}


def _unknown_ends(
    tree: Tree, index: int, pair: Tree, facts: EndFacts, pods: tuple[str, ...] | None
) -> Iterator[Problem]:
    for end in ("client", "server"):
        name = text_of(find(pair, end))
        path: KeyPath = ("pairs", index, end)
        if name is None or not is_name(name) or pods is None:
            continue
        if facts.kinds.get(name) is None and name not in pods:
            known = [one for one, kind in facts.kinds.items() if end == "server" or kind is not EndpointKind.SERVICE]
            message = f"there is no {_CHOICES[end]} {shown(name)}"
            yield problem_at(place_of(tree, path), path, message, listed(known), nearest(name, known))
        elif end == "client" and facts.kinds.get(name) is EndpointKind.SERVICE:
            message = f"{shown(name)} is a Service, which only answers"
            yield problem_at(place_of(tree, path), path, message, "a pod, a node or a host outside")


_CHOICES = {"client": "pod, node or host outside", "server": "pod, node, host outside or Service"}


def _reached(tree: Tree, index: int, client: str, server: str, facts: EndFacts) -> Iterator[Problem]:
    """Whether the client has a way to ask for that server, and `via` a meaning."""
    kinds = facts.kinds.get(client), facts.kinds.get(server)
    at_server: KeyPath = ("pairs", index, "server")
    if kinds == (EndpointKind.OUTSIDE, EndpointKind.OUTSIDE) and client != server:
        message = "both are hosts outside: what goes between them never comes to a node"
        yield problem_at(place_of(tree, at_server), at_server, message, "a node, a pod or a Service of type NodePort")
    if kinds == (EndpointKind.OUTSIDE, EndpointKind.SERVICE) and server not in facts.node_port:
        message = f"the Service {shown(server)} has no port on nodes, and its cluster address means nothing outside"
        yield problem_at(place_of(tree, at_server), at_server, message, "a Service of type NodePort")
    via = text_of(find(tree, "pairs", index, "via"))
    path: KeyPath = ("pairs", index, "via")
    if via is None or kinds[1] is None or not is_name(via):
        return
    if server not in facts.node_port or kinds[1] is not EndpointKind.SERVICE:
        message = f"{shown(server)} is no Service of type NodePort, so no node has a port for it"
        yield problem_at(place_of(tree, path), path, message, "no such key, or another server")
    elif facts.node_names and via not in facts.node_names:
        message = f"there is no node {shown(via)}"
        yield problem_at(place_of(tree, path), path, message, listed(facts.node_names), nearest(via, facts.node_names))


def _placement(tree: Tree, index: int, client: str, server: str, facts: EndFacts) -> Iterator[Problem]:
    written = text_of(find(tree, "pairs", index, "placement"))
    if written not in tuple(Placement) or client not in facts.nodes or server not in facts.nodes:
        return
    if facts.kinds[client] is EndpointKind.SERVICE:
        return
    real = facts.placement(client, server)
    if written != real:
        path: KeyPath = ("pairs", index, "placement")
        message = f"is not true: {_where(client, facts)} and {_where(server, facts)}"
        yield problem_at(place_of(tree, path), path, message, str(real))


def _where(name: str, facts: EndFacts) -> str:
    nodes = tuple(dict.fromkeys(facts.nodes[name]))
    if None in nodes:
        return f"{name} is outside the nodes"
    return f"{name} is on {' and '.join(node for node in nodes if node)}" if nodes else f"{name} has no backends"


def outside_problems(tree: Tree) -> Iterator[Problem]:
    """Hosts outside that this provider cannot make, or whose addresses something else has."""
    section = find(tree, OUTSIDE)
    provider = text_of(find(tree, "provider"))
    hosts = list(items_of(section))
    if hosts and provider is not None and provider not in MAKES_OUTSIDE:
        message = f"the provider {provider} makes no hosts outside"
        yield problem_at(place_of(tree, (OUTSIDE,)), (OUTSIDE,), message, f"no such key, or {listed(MAKES_OUTSIDE)}")
    if provider in _GIVES_ADDRESSES:
        for index, entry in hosts:
            if find(entry, "address") is not None:
                path: KeyPath = (OUTSIDE, index, "address")
                message = f"with the provider {provider} the container engine gives addresses"
                yield problem_at(place_of(tree, path), path, message, "no such key")
        return
    underlay = _network(tree, "underlayCIDR")
    nodes = len(_node_names(tree))
    if underlay is not None and nodes and resolve.node_capacity(underlay) >= nodes:
        room = resolve.outside_capacity(underlay, nodes)
        near = [address for _, address in outside_hosts(tree) if address is None]
        if len(near) > room:
            at: KeyPath = (OUTSIDE,) if section is not None else ("network", "underlayCIDR")
            message = f"{underlay} has room for {room} hosts outside beside its {nodes} nodes, not for {len(near)}"
            yield problem_at(place_of(tree, at), at, message, "a larger underlayCIDR, or an address: of each host")
    taken: dict[IPv4Address, str] = {}
    for index, entry in hosts:
        yield from _address(tree, index, entry, taken, nodes)


def _address(tree: Tree, index: int, entry: Tree, taken: dict[IPv4Address, str], nodes: int) -> Iterator[Problem]:
    text = text_of(find(entry, "address"))
    path: KeyPath = (OUTSIDE, index, "address")
    try:
        address = IPv4Address(text or "")
    except ValueError:
        return  # missing, or the shape's
    place = place_of(tree, path)
    if address in taken:
        yield problem_at(place, path, f"{address} is the address of {taken[address]} already")
    taken.setdefault(address, text_of(find(entry, "name")) or "")
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        yield problem_at(place, path, f"{address} is no address of a host", "a unicast address")
    for key in ("podCIDR", "serviceCIDR"):
        network = _network(tree, key)
        if network is not None and address in network:
            yield problem_at(place, path, f"{address} is in {key} {network}, which is the cluster's own", "another")
    underlay = _network(tree, "underlayCIDR")
    if underlay is not None and address in underlay and address in set(_in_use(tree, underlay, nodes)):
        message = f"{address} of underlayCIDR {underlay} is in use, or kept free"
        yield problem_at(place, path, message, "an address that no node has, or no address:")


def _in_use(tree: Tree, underlay: IPv4Network, nodes: int) -> Iterator[IPv4Address]:
    """The addresses of the underlay that are no host's to choose: gateway, nodes, hosts without an address of their
    own, and the ends of the range."""
    yield from (underlay.network_address, underlay.network_address + 1)
    yield from (underlay.broadcast_address, underlay.broadcast_address - 1)
    yield from (resolve.node_address(underlay, number).ip for number in range(nodes))
    for number, other in items_of(find(tree, OUTSIDE)):
        if find(other, "address") is None:
            yield resolve.outside_address(underlay, number)


def _network(tree: Tree, key: str) -> IPv4Network | None:
    try:
        return IPv4Network(text_of(find(tree, "network", key)) or "")
    except ValueError:
        return None
