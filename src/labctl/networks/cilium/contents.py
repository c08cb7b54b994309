"""What the maps of a node hold: from a resolved lab to keys and values. Pure.

With the flags in `config_of`, this is the only place that reads the faults which the eBPF datapath can be given.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from labctl.datapath.layout import (
    CONFIG_KEY,
    NO_ADDRESS,
    NO_FLAGS,
    Config,
    ConfigFlag,
    EndpointEntry,
    SecurityIdentity,
    pack_address,
    pack_config,
    pack_endpoint,
    pack_ipcache,
    pack_tunnel_key,
)
from labctl.model.interfaces import (
    CILIUM_HOST,
    CILIUM_NET_INDEX,
    CILIUM_TUNNEL_INDEX,
    UPLINK_INDEX,
    device_mac,
    lxc_indexes,
)
from labctl.model.lab import Fault, Lab, Masquerade, Node, Placement
from labctl.networks.cilium.services import service_contents, service_flags, translates_services

Entries = tuple[tuple[bytes, bytes], ...]


def map_contents(lab: Lab, node: str) -> Mapping[str, Entries]:
    """The entries of each map that has to be filled before traffic, by the map's name.

    `tunnel` is there with vxlan only: the objects for native routing have no such map.
    """
    contents = {
        "config": ((CONFIG_KEY, pack_config(config_of(lab, node))),),
        "endpoints": _endpoints(lab, node),
        "ipcache": _ipcache(lab, node),
    }
    if lab.datapath.encapsulation.is_tunnel:
        contents["tunnel"] = _tunnel(lab, node)
    if translates_services(lab):
        contents |= service_contents(lab, node)
    return contents


def config_of(lab: Lab, node: str) -> Config:
    """The node's configuration, not traced."""
    here = lab.node(node)
    flags = NO_FLAGS
    if lab.in_force.masquerade is Masquerade.BPF:
        flags |= ConfigFlag.MASQUERADE
    if Fault.NO_REDIRECT_PEER in lab.datapath.faults:
        flags |= ConfigFlag.NO_REDIRECT_PEER
    if Fault.WRONG_VNI in lab.datapath.faults:
        flags |= ConfigFlag.WRONG_VNI
    if translates_services(lab):
        flags |= service_flags(lab)
    return Config(
        node_address=here.address.ip,
        router_address=here.router,
        pod_cidr=lab.datapath.ipv4_native_routing_cidr or lab.network.pod_cidr,
        uplink_ifindex=UPLINK_INDEX,
        cilium_net_ifindex=CILIUM_NET_INDEX,
        cilium_vxlan_ifindex=CILIUM_TUNNEL_INDEX,
        cilium_host_mac=device_mac(node, CILIUM_HOST),
        flags=flags,
        extra_delay_ns=lab.datapath.extra_delay_ns,
    )


def _endpoints(lab: Lab, node: str) -> Entries:
    indexes = lxc_indexes(lab, node)
    return tuple(
        (
            pack_address(pod.address),
            pack_endpoint(
                EndpointEntry(mac=pod.mac, lxc_mac=pod.lxc_mac, ifindex=indexes[pod.name], identity=pod.identity)
            ),
        )
        for pod in lab.pods_on(node)
    )


def _ipcache(lab: Lab, node: str) -> Entries:
    """Identity and tunnel endpoint of every address of the cluster; an address that is not in it is the world's."""
    entries: list[tuple[bytes, bytes]] = []
    for other in lab.nodes:
        is_here = other.name == node
        identity = SecurityIdentity.HOST if is_here else SecurityIdentity.REMOTE_NODE
        entries.append((pack_address(other.address.ip), pack_ipcache(identity, NO_ADDRESS)))
        entries.append((pack_address(other.router), pack_ipcache(identity, _tunnel_endpoint(lab, node, other))))
    by_name = {other.name: _tunnel_endpoint(lab, node, other) for other in lab.nodes}
    entries.extend((pack_address(pod.address), pack_ipcache(pod.identity, by_name[pod.node])) for pod in lab.pods)
    return tuple(entries)


def _tunnel(lab: Lab, node: str) -> Entries:
    return tuple(
        (pack_tunnel_key(other.pod_cidr), pack_address(_tunnel_endpoint(lab, node, other)))
        for other in lab.nodes
        if other.name != node
    )


def _tunnel_endpoint(lab: Lab, node: str, other: Node) -> IPv4Address:
    """The underlay address that packets for pods on `other` are tunnelled to, or none for this node's own and
    with native routing.

    With the fault WRONG_VTEP it is, on the clients' nodes, the address of the node after the right one (never this
    node's own), or where there is no third node the underlay's last address but one, which no node has. The other
    nodes are right, so that the third one forwards what it should not have received, as a Cilium node does.
    """
    if other.name == node or not lab.datapath.encapsulation.is_tunnel:
        return NO_ADDRESS
    if Fault.WRONG_VTEP not in lab.datapath.faults or node not in _misled(lab):
        return other.address.ip
    rest = [lab.nodes[(other.index + step) % len(lab.nodes)] for step in range(1, len(lab.nodes))]
    third = [candidate for candidate in rest if candidate.name != node]
    return third[0].address.ip if third else lab.network.underlay_cidr.broadcast_address - 1


def _misled(lab: Lab) -> frozenset[str]:
    """The nodes that the fault WRONG_VTEP is on: those of clients whose servers are elsewhere, else the first."""
    across = (pair for pair in lab.pairs if pair.placement is Placement.CROSS_NODE)
    clients = (node for pair in across if (node := lab.client(pair).node) is not None)
    return frozenset(clients) or frozenset((lab.nodes[0].name,))
