"""What `podNetwork:` and `fabric:` mean together, and with `datapath:`. Tolerant of what `shape` has found already.

It stands alone because `rules` is about what every scenario has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address

from labctl.errors import Problem
from labctl.loading.conflist_rules import conflist_problems, first_plugin
from labctl.loading.fabric_rules import custom_problems, timer_problems
from labctl.loading.messages import listed, problem_at
from labctl.loading.rules import facts_of
from labctl.loading.tree import KeyPath, Tree, find, place_of, text_of
from labctl.model.fabric import FabricType, Routing
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
    NetworkType.KINDNET: {},
    NetworkType.MANIFEST: {"manifest": ()},
    NetworkType.CNI: {"conflist": (), "pluginDirectory": (), "runtimeConfig": ()},
}
"""The keys that each network has, and what they may be where not everything fits; the first is the default."""
_OF_CILIUM = ("hostRouting", "encapsulation", "masquerade", "kubeProxyReplacement")
_ALL = ("backend", "snat", "mode", "vni", "group", "conflist", "pluginDirectory", "runtimeConfig", "manifest")


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
    if chosen is NetworkType.CNI:
        yield from conflist_problems(tree)
    if chosen is NetworkType.MANIFEST and find(section, "manifest") is None:
        path = (SECTION, "manifest")
        yield problem_at(section.place, path, "is missing: it is the file that installs the network", "manifest: FILE")
    if chosen is not NetworkType.CILIUM:
        for key in _OF_CILIUM:
            at = find(tree, "datapath", key)
            if at is not None and at.place.file == section.place.file:
                path = ("datapath", key)
                message = f"{key} is Cilium's, and podNetwork is {chosen}"
                yield problem_at(at.place, path, message, "podNetwork: {type: cilium}, or no such key")


_OF_FABRIC: Mapping[str, tuple[FabricType, ...]] = {
    "routing": (FabricType.ROUTED, FabricType.CLOS, FabricType.CUSTOM),
    "spines": (FabricType.CLOS,),
    "leaves": (FabricType.CLOS,),
    "switches": (FabricType.SWITCHED,),
    "routers": (FabricType.CUSTOM,),
    "links": (FabricType.CUSTOM,),
    "timers": (FabricType.ROUTED, FabricType.CLOS, FabricType.CUSTOM),
}
_ON_ONE_WIRE = {
    NetworkType.MACVLAN: "its pods are on the nodes' wire",
    NetworkType.IPVLAN: "its pods are on the nodes' wire",
}


def fabric_problems(tree: Tree) -> Iterator[Problem]:
    """Keys that the chosen fabric does not have, one that nobody would route in, and networks that need one wire."""
    section = find(tree, "fabric")
    said = text_of(find(section, "type")) or FabricType.BRIDGE
    if section is None or said not in tuple(FabricType):
        return
    chosen, routing = FabricType(said), text_of(find(section, "routing"))
    for key, types in _OF_FABRIC.items():
        path: KeyPath = ("fabric", key)
        if find(section, key) is not None and chosen not in types:
            allowed = f"type: {' or '.join(map(str, types))}, or no such key"
            yield problem_at(place_of(tree, path), path, f"a fabric of type {chosen} has no {key}", allowed)
    if chosen is FabricType.CLOS and routing in (None, Routing.STATIC):
        path = ("fabric", "routing")
        message = "a Clos fabric needs a protocol: several paths are used together, and one may end"
        yield problem_at(place_of(tree, path), path, message, f"{Routing.BGP} or {Routing.OSPF}")
    if chosen in (FabricType.ROUTED, FabricType.CLOS, FabricType.CUSTOM):
        yield from timer_problems(tree, routing)
        yield from _wire_problems(tree, chosen)
    if chosen is FabricType.CUSTOM:
        yield from custom_problems(tree, facts_of(tree))


def _wire_problems(tree: Tree, fabric: FabricType) -> Iterator[Problem]:
    """A router passes on no frame, no multicast, and here no session but its own."""
    network, mode = text_of(find(tree, SECTION, "type")), text_of(find(tree, SECTION, "mode"))
    if network == NetworkType.CNI and first_plugin(tree) in _ON_ONE_WIRE:
        at: KeyPath = (SECTION, "conflist", "plugins", 0, "type")
        message = f"that needs the nodes on one wire (its pods are on the nodes' wire), and the fabric is {fabric}"
        yield problem_at(place_of(tree, at), at, message, "fabric: {type: bridge}, or another plugin")
    backend = text_of(find(tree, SECTION, "backend"))
    key, why = "", ""
    if network in _ON_ONE_WIRE:
        key, why = "type", _ON_ONE_WIRE[NetworkType(network)]
    elif mode == Flooding.MULTICAST:
        key, why = "mode", "the group does not cross routers"
    elif mode == Flooding.EVPN:
        key, why = "mode", "the route reflector is on the nodes' wire"
    elif network == NetworkType.CALICO and backend == Backend.BGP:
        key, why = "backend", "each node is the other ones' next hop"
    if key:
        path: KeyPath = (SECTION, key)
        message = f"that needs the nodes on one wire ({why}), and the fabric is {fabric}"
        yield problem_at(place_of(tree, path), path, message, "fabric: {type: bridge}, or another network")


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
