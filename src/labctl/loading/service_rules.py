"""What Services mean together with their pods: backends that exist, labels that say them, ports, addresses, room.

Reads the merged tree tolerantly, as `rules` does, whose part it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from labctl.errors import Problem
from labctl.loading.endpoints import labels_of_pods
from labctl.loading.messages import listed, nearest, problem_at, shown
from labctl.loading.tree import Block, KeyPath, Scalar, Tree, find, items_of, place_of, plain, text_of
from labctl.model.lab import ServiceType
from labctl.names import is_name
from labctl.planning import resolve
from labctl.planning.resolve import selected, selector_of, service_capacity

_SECTION = "services"


def service_problems(tree: Tree) -> Iterator[Problem]:
    pods = labels_of_pods(tree)
    names: dict[str, int] = {}
    node_ports: dict[tuple[object, str], str] = {}
    addresses: dict[IPv4Address, str] = {}
    every = list(items_of(find(tree, _SECTION)))
    for index, entry in every:
        name = text_of(find(entry, "name")) or ""
        if name in names:
            message = f"the name '{name}' is taken by the service on line {names[name]}"
            yield _service_problem(tree, (_SECTION, index, "name"), message)
        elif name and is_name(name):
            names[name] = entry.place.line
            if not name[0].isalpha():
                message = f"the name '{name}' begins with a digit, which Kubernetes' Services may not"
                yield _service_problem(tree, (_SECTION, index, "name"), message, "a letter first")
        yield from _backends(tree, index, entry, pods)
        yield from _node_port(tree, index, entry, node_ports, name)
        yield from _cluster_ip(tree, index, entry, addresses, name)
    yield from _room(tree, len(every))


def warnings_of(tree: Tree) -> tuple[Problem, ...]:
    """What is allowed and seldom meant."""
    pods = labels_of_pods(tree)
    return tuple(
        replace(
            _service_problem(
                tree,
                (_SECTION, index, "selector"),
                "no pod has these labels, so every connection to the Service is refused",
                listed(sorted(map(_said, pods.values()))),
            ),
            is_warning=True,
        )
        for index, entry in items_of(find(tree, _SECTION))
        if isinstance(selector := find(entry, "selector"), Block) and not selected(plain(selector), pods)
    )


def _backends(tree: Tree, index: int, entry: Tree, pods: Mapping[str, Mapping[str, str]]) -> Iterator[Problem]:
    at: KeyPath = (_SECTION, index)
    backends, selector = find(entry, "backends"), find(entry, "selector")
    if backends is not None and selector is not None:
        yield _service_problem(tree, (*at, "selector"), "backends and selector both say which pods", "one of the two")
        return
    if selector is not None:
        return
    if backends is None:
        yield _service_problem(
            tree, at, "nothing says which pods answer", "backends: [POD, …], or selector: {LABEL: VALUE}"
        )
        return
    chosen: list[str] = []
    for number, item in items_of(backends):
        name = text_of(item)
        path = (*at, "backends", number)
        if name is None or not is_name(name):
            continue
        if name not in pods:
            yield _service_problem(
                tree, path, f"there is no pod {shown(name)}", listed(pods), nearest(name, list(pods))
            )
        elif name in chosen:
            yield _service_problem(tree, path, f"the pod {shown(name)} is already listed")
        else:
            chosen.append(name)
    if chosen and len(chosen) == len(list(items_of(backends))) and selector_of(chosen, pods) is None:
        message = f"no label selects {' and '.join(chosen)} and no other pod, and Kubernetes selects by labels"
        allowed = "a label of their own, such as labels: {service: web} on each of these pods"
        yield _service_problem(tree, (*at, "backends"), message, allowed)


def _said(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in labels.items()) + "}"


def _node_port(
    tree: Tree, index: int, entry: Tree, taken: dict[tuple[object, str], str], name: str
) -> Iterator[Problem]:
    kind, port = text_of(find(entry, "type")) or ServiceType.CLUSTER_IP, find(entry, "nodePort")
    path: KeyPath = (_SECTION, index, "nodePort")
    if kind == ServiceType.NODE_PORT and port is None:
        yield _service_problem(tree, (_SECTION, index), "type: NodePort needs a nodePort", "30000 to 32767")
    elif kind == ServiceType.CLUSTER_IP and port is not None:
        yield _service_problem(tree, path, "only a Service of type NodePort has one", "type: NodePort, or no such key")
    elif isinstance(port, Scalar):
        key = port.value, text_of(find(entry, "protocol")) or "tcp"
        if key in taken:
            yield _service_problem(tree, path, f"the port {port.value} is that of service '{taken[key]}' already")
        taken.setdefault(key, name)


def _cluster_ip(tree: Tree, index: int, entry: Tree, taken: dict[IPv4Address, str], name: str) -> Iterator[Problem]:
    """An address that is no address is the structure's, a range that is none another rule's."""
    path: KeyPath = (_SECTION, index, "clusterIP")
    try:
        address = IPv4Address(text_of(find(entry, "clusterIP")) or "")
        network = IPv4Network(text_of(find(tree, "network", "serviceCIDR")) or "")
    except ValueError:
        return
    if address not in network:
        yield _service_problem(tree, path, f"{address} is not in serviceCIDR {network}", f"an address of {network}")
    elif use := resolve.reserved_address(network, address):
        yield _service_problem(tree, path, f"{address} is {use}", "another address of the range")
    elif address in taken:
        yield _service_problem(tree, path, f"the address {address} is that of service '{taken[address]}' already")
    taken.setdefault(address, name)


def _room(tree: Tree, count: int) -> Iterator[Problem]:
    text = text_of(find(tree, "network", "serviceCIDR"))
    try:
        network = IPv4Network(text or "")
    except ValueError:
        return
    room = service_capacity(network)
    extra = find(tree, "datapath", "extraServices")
    more = extra.value if isinstance(extra, Scalar) and isinstance(extra.value, int) else 0
    if count > room:
        message = f"{count} services do not fit into serviceCIDR {network}, which has room for {room}"
        yield _service_problem(tree, (_SECTION,), message, "a larger serviceCIDR")
    elif count + more > room:
        message = (
            f"{more} services more than the scenario's {count} do not fit into serviceCIDR {network}, which has room "
            f"for {room}"
        )
        yield _service_problem(tree, ("datapath", "extraServices"), message, "a larger serviceCIDR")


def _service_problem(tree: Tree, path: KeyPath, message: str, allowed: str = "", suggestion: str = "") -> Problem:
    return problem_at(place_of(tree, path), path, message, allowed, suggestion)
