"""A resolved lab made without a scenario file: three nodes, two pods on the first and one on the second."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.model.datapath import Datapath, Encapsulation, Fault, HostRouting, Masquerade
from labctl.model.lab import CheckSpec, Lab, Network, Node, Pair, Placement, Pod
from labctl.model.parameters import CompareParameters, PingParameters
from labctl.names import lxc_name, stable_mac


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
