"""What a scenario's address ranges and MTU mean together: nothing overlaps, and everything has room.

It reads the merged tree tolerantly, as `meaning.py` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network

from labctl.errors import Problem
from labctl.loading.tree import Place, Scalar, Tree, find, items_of, text_of
from labctl.loading.wording import path_text
from labctl.model.datapath import Encapsulation
from labctl.model.document import SMALLEST_MTU_BYTE
from labctl.model.interfaces import VXLAN_OVERHEAD_BYTE
from labctl.planning import addresses

KEYS = ("underlayCIDR", "podCIDR", "serviceCIDR")

_UNUSABLE = {
    IPv4Network("0.0.0.0/8"): "this network (RFC 1122)",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local addresses",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}


def address_problems(tree: Tree, nodes: int | None, node_of_pod: Mapping[str, str]) -> Iterator[Problem]:
    """`nodes` is how many there are, where known; `node_of_pod` gives the node of each pod that could be read."""
    ranges: dict[str, tuple[IPv4Network, Place]] = {}
    for key in KEYS:
        found = find(tree, "network", key)
        text = text_of(found)
        if found is None or text is None:
            continue
        try:
            ranges[key] = IPv4Network(text), found.place
        except ValueError:
            yield from _host_bits(key, text, found.place)
    yield from _unusable(ranges)
    yield from _overlaps(ranges)
    yield from _too_small(ranges, nodes)
    yield from _crowded(tree, node_of_pod)
    yield from _mtu(tree)


def _at(place: Place, key: str, message: str, allowed: str = "", suggestion: str = "") -> Problem:
    return Problem(
        file=place.file,
        line=place.line,
        column=place.column,
        path=path_text(("network", key)),
        message=message,
        allowed=allowed,
        suggestion=suggestion,
    )


def _host_bits(key: str, text: str, place: Place) -> Iterator[Problem]:
    """Only for what is a network but for its host bits: everything else is the structure's."""
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        return
    yield _at(place, key, f"'{text}' has bits set beyond /{network.prefixlen}", "the network's address", str(network))


def _unusable(ranges: Mapping[str, tuple[IPv4Network, Place]]) -> Iterator[Problem]:
    for key, (network, place) in ranges.items():
        for unusable, use in _UNUSABLE.items():
            if network.overlaps(unusable):
                yield _at(place, key, f"{network} contains addresses of {unusable}: {use}", "unicast addresses")
                break


def _overlaps(ranges: Mapping[str, tuple[IPv4Network, Place]]) -> Iterator[Problem]:
    """Each overlap is told once, at the range that comes later in `KEYS`."""
    keys = list(ranges)
    for number, key in enumerate(keys):
        network, place = ranges[key]
        for other in keys[:number]:
            if network.overlaps(ranges[other][0]):
                yield _at(place, key, f"{network} overlaps {other} {ranges[other][0]}", "ranges that do not overlap")


def _too_small(ranges: Mapping[str, tuple[IPv4Network, Place]], nodes: int | None) -> Iterator[Problem]:
    if "serviceCIDR" in ranges:
        network, place = ranges["serviceCIDR"]
        if network.prefixlen > addresses.SMALLEST_SERVICE_PREFIX:
            allowed = f"/{addresses.SMALLEST_SERVICE_PREFIX} or larger"
            yield _at(place, "serviceCIDR", f"{network} is too small for Services", allowed)
    if nodes is None:
        return
    for key, capacity, prefix, need in (
        ("underlayCIDR", addresses.node_capacity, addresses.underlay_prefix_for, "an address"),
        ("podCIDR", addresses.pod_network_capacity, addresses.pod_prefix_for, f"a /{addresses.NODE_PREFIX}"),
    ):
        if key in ranges:
            network, place = ranges[key]
            if capacity(network) < nodes:
                message = f"{network} is too small: {nodes} nodes need {need} each, it has room for {capacity(network)}"
                yield _at(place, key, message, f"/{prefix(nodes)} or larger")


def _crowded(tree: Tree, node_of_pod: Mapping[str, str]) -> Iterator[Problem]:
    for node, count in Counter(node_of_pod.values()).items():
        if count > addresses.PODS_PER_NODE:
            places = [pod.place for _, pod in items_of(find(tree, "pods")) if text_of(find(pod, "node")) == node]
            place = places[addresses.PODS_PER_NODE]
            message = f"{count} pods are on {node}, whose /{addresses.NODE_PREFIX} has addresses for fewer"
            yield Problem(
                file=place.file,
                line=place.line,
                column=place.column,
                path="pods",
                message=message,
                allowed=f"at most {addresses.PODS_PER_NODE} pods on a node",
            )


def _mtu(tree: Tree) -> Iterator[Problem]:
    """Every IPv4 host must take 576 bytes (RFC 791), so pods must be able to send as much."""
    mtu = find(tree, "network", "mtu")
    least = SMALLEST_MTU_BYTE + VXLAN_OVERHEAD_BYTE
    if (
        isinstance(mtu, Scalar)
        and isinstance(mtu.value, int)
        and SMALLEST_MTU_BYTE <= mtu.value < least
        and text_of(find(tree, "datapath", "encapsulation")) == Encapsulation.VXLAN
    ):
        message = (
            f"vxlan takes {VXLAN_OVERHEAD_BYTE} bytes of {mtu.value}, which leaves pods fewer than {SMALLEST_MTU_BYTE}"
        )
        yield _at(mtu.place, "mtu", message, f"{least} or more with vxlan")
