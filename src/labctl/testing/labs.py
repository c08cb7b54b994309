"""A small resolved lab to test with: a client and a server, on one node or on two, with fixed addresses.

A resolved lab made without a scenario file: three nodes, two pods on the first and one on the second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.model.lab import (
    CheckSpec,
    Datapath,
    Encapsulation,
    Fault,
    HostRouting,
    Lab,
    Masquerade,
    Network,
    Node,
    Pair,
    Placement,
    Pod,
)
from labctl.model.parameters import CompareParameters, PingParameters
from labctl.model.signature import Role
from labctl.names import lxc_name, stable_mac
from labctl.providers.base import OpenDevice

CLIENT = "client"
SERVER = "server"


def example_lab(
    *,
    host_routing: HostRouting = HostRouting.LEGACY,
    encapsulation: Encapsulation = Encapsulation.VXLAN,
    placement: Placement = Placement.CROSS_NODE,
    checks: Sequence[CheckSpec] = (),
    client_address: str = "10.244.0.10",
    server_address: str = "",
) -> Lab:
    """Two nodes, `client` on the first and `server` where `placement` puts it, one pair."""
    server_node = 0 if placement is Placement.SAME_NODE else 1
    nodes = tuple(
        Node(
            name=f"node{index + 1}",
            index=index,
            address=IPv4Interface(f"172.30.0.{index + 3}/24"),
            mac=stable_mac(f"node{index + 1}", "eth0"),
            pod_cidr=IPv4Network(f"10.244.{index}.0/24"),
            router=IPv4Address(f"10.244.{index}.1"),
        )
        for index in range(2)
    )
    pods = (
        _pod(CLIENT, "node1", client_address, identity=16843),
        _pod(SERVER, f"node{server_node + 1}", server_address or f"10.244.{server_node}.20", identity=23579),
    )
    return Lab(
        name="example",
        scenario="example",
        source="example.yaml",
        provider="scripted",
        datapath=Datapath(
            host_routing=host_routing,
            encapsulation=encapsulation,
            masquerade=Masquerade.BPF,
            kube_proxy_replacement=True,
        ),
        network=Network(
            underlay_cidr=IPv4Network("172.30.0.0/24"),
            pod_cidr=IPv4Network("10.244.0.0/16"),
            service_cidr=IPv4Network("10.96.0.0/16"),
            mtu=1500,
            route_mtu=1450 if encapsulation is Encapsulation.VXLAN else 1500,
        ),
        nodes=nodes,
        pods=pods,
        pairs=(Pair(client=CLIENT, server=SERVER, placement=placement),),
        checks=tuple(checks),
        compare=CompareParameters(),
        digest="0" * 64,
    )


def example_devices(lab: Lab) -> tuple[OpenDevice, ...]:
    """The devices on the way of the lab's pair, with the MACs that `example_lab` gives them."""
    client, server = lab.pod(CLIENT), lab.pod(SERVER)
    return (
        OpenDevice(role=str(Role.CLIENT_ETH0), mac=client.mac),
        OpenDevice(role=str(Role.CLIENT_LXC), mac=client.lxc_mac),
        OpenDevice(role=str(Role.CLIENT_UPLINK), mac=lab.node(client.node).mac),
        OpenDevice(role=str(Role.SERVER_UPLINK), mac=lab.node(server.node).mac),
        OpenDevice(role=str(Role.SERVER_LXC), mac=server.lxc_mac),
        OpenDevice(role=str(Role.SERVER_ETH0), mac=server.mac),
    )


def _pod(name: str, node: str, address: str, *, identity: int) -> Pod:
    return Pod(
        name=name,
        node=node,
        address=IPv4Address(address),
        mac=stable_mac(name, "eth0"),
        lxc=lxc_name(name),
        lxc_mac=stable_mac(name, "lxc"),
        identity=identity,
        labels={"app": name},
    )


def sample_lab(
    name: str,
    *,
    host_routing: HostRouting = HostRouting.BPF,
    encapsulation: Encapsulation = Encapsulation.VXLAN,
    masquerade: Masquerade = Masquerade.BPF,
    nodes: int = 3,
    pods: tuple[tuple[str, str], ...] = (("client", "node1"), ("neighbour", "node1"), ("server", "node2")),
    extra_iptables_rules: int = 0,
    faults: tuple[Fault, ...] = (),
) -> Lab:
    """`pods` are (name, node). The pairs are from the first pod to each of the others. At most 250 nodes and
    250 pods a node."""
    made_nodes = tuple(_node(index) for index in range(nodes))
    made_pods = _pods(pods, {node.name: node for node in made_nodes})
    datapath = Datapath(
        host_routing=host_routing,
        encapsulation=encapsulation,
        masquerade=masquerade,
        kube_proxy_replacement=True,
        extra_iptables_rules=extra_iptables_rules,
        faults=faults,
    )
    return Lab(
        name=name,
        scenario=f"{host_routing}-{encapsulation}",
        source="",
        provider="netns",
        datapath=datapath,
        network=Network(
            underlay_cidr=IPv4Network("172.30.0.0/24"),
            pod_cidr=IPv4Network("10.244.0.0/16"),
            service_cidr=IPv4Network("10.96.0.0/16"),
            mtu=1500,
            route_mtu=1450 if encapsulation is Encapsulation.VXLAN else 1500,
        ),
        nodes=made_nodes,
        pods=made_pods,
        pairs=tuple(_pair(made_pods[0], pod) for pod in made_pods[1:]),
        checks=(CheckSpec(name="ping", kind="ping", parameters=PingParameters()),),
        compare=CompareParameters(),
        digest=hashlib.sha256(repr((datapath, made_nodes, made_pods)).encode()).hexdigest(),
    )


def _node(index: int) -> Node:
    pod_cidr = IPv4Network(f"10.244.{index}.0/24")
    name = f"node{index + 1}"
    return Node(
        name=name,
        index=index,
        address=IPv4Interface(f"172.30.0.{index + 2}/24"),
        mac=stable_mac(name, "eth0"),
        pod_cidr=pod_cidr,
        router=pod_cidr.network_address + 1,
    )


def _pods(wanted: tuple[tuple[str, str], ...], nodes: dict[str, Node]) -> tuple[Pod, ...]:
    next_address: dict[str, IPv4Address] = {name: node.router + 1 for name, node in nodes.items()}
    made = []
    for number, (name, node) in enumerate(wanted):
        made.append(
            Pod(
                name=name,
                node=node,
                address=next_address[node],
                mac=stable_mac(name, "eth0"),
                lxc=lxc_name(name),
                lxc_mac=stable_mac(name, "lxc"),
                identity=1000 + number,
                labels={"app": name},
            )
        )
        next_address[node] += 1
    return tuple(made)


def _pair(client: Pod, server: Pod) -> Pair:
    same = client.node == server.node
    return Pair(client=client.name, server=server.name, placement=Placement.SAME_NODE if same else Placement.CROSS_NODE)
