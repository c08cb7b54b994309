"""What `podNetwork:` means together with itself and with `datapath:`. Tolerant of what `shape` has found already.

It stands alone because `rules` is about what every scenario has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address

from labctl.errors import Problem
from labctl.loading.messages import listed, problem_at
from labctl.loading.tree import KeyPath, Tree, find, place_of, text_of
from labctl.model.pod_network import Backend, Flooding, NetworkType

SECTION = "podNetwork"
_KEYS: Mapping[NetworkType, Mapping[str, tuple[str, ...]]] = {
    NetworkType.CILIUM: {},
    NetworkType.FLANNEL: {"backend": (Backend.VXLAN, Backend.HOST_GW)},
    NetworkType.CALICO: {"backend": (Backend.VXLAN, Backend.BGP)},
    NetworkType.DOCKER: {"snat": ()},
    NetworkType.VXLAN: {"mode": tuple(Flooding), "vni": (), "group": ()},
    NetworkType.MACVLAN: {},
    NetworkType.IPVLAN: {},
}
"""The keys that each network has, and what they may be where not everything fits; the first is the default."""
_OF_CILIUM = ("hostRouting", "encapsulation", "masquerade", "kubeProxyReplacement")
_ALL = ("backend", "snat", "mode", "vni", "group")


def pod_network_problems(tree: Tree) -> Iterator[Problem]:
    """Keys that the chosen network does not have, what its keys cannot be, and Cilium's keys beside another network."""
    section = find(tree, SECTION)
    said_type = text_of(find(section, "type")) or NetworkType.CILIUM
    if section is None or said_type not in tuple(NetworkType):
        return
    chosen = NetworkType(said_type)
    known = _KEYS[chosen]
    for key in _ALL:
        found = find(section, key)
        path: KeyPath = (SECTION, key)
        if found is None:
            continue
        if key not in known:
            having = [str(network) for network, keys in _KEYS.items() if key in keys]
            message = f"podNetwork {chosen} has no {key}"
            yield problem_at(place_of(tree, path), path, message, f"type: {' or '.join(having)}, or no such key")
        elif known[key] and (said := text_of(found)) is not None and said not in known[key]:
            message = f"{chosen} does not have the {key} {said}"
            yield problem_at(place_of(tree, path), path, message, listed(known[key]))
    yield from _group(tree)
    if chosen is not NetworkType.CILIUM:
        for key in _OF_CILIUM:
            at = find(tree, "datapath", key)
            if at is not None and at.place.file == section.place.file:
                path = ("datapath", key)
                message = f"{key} is Cilium's, and podNetwork is {chosen}"
                yield problem_at(at.place, path, message, "podNetwork: {type: cilium}, or no such key")


def _group(tree: Tree) -> Iterator[Problem]:
    """A group is a multicast address, and belongs to the mode of that name."""
    path: KeyPath = (SECTION, "group")
    said = text_of(find(tree, *path))
    if said is None:
        return
    if text_of(find(tree, SECTION, "mode")) != Flooding.MULTICAST:
        yield problem_at(
            place_of(tree, path), path, "a group is for mode: multicast", "mode: multicast, or no such key"
        )
        return
    try:
        is_multicast = IPv4Address(said).is_multicast
    except ValueError:
        return
    if not is_multicast:
        message = f"{said} is no multicast address"
        yield problem_at(place_of(tree, path), path, message, "224.0.0.0 to 239.255.255.255, such as 239.1.1.1")
