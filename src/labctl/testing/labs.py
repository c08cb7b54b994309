"""Small resolved labs to test with, made without a scenario file: of fixed nodes and pods, or of the caller's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from labctl.model.lab import (
    CheckSpec,
    Datapath,
    Encapsulation,
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


RECORDED = (Encapsulation.VXLAN, Encapsulation.NATIVE)
"""The encapsulations whose packets were recorded on real clusters; what Geneve shows follows from VXLAN's."""


def make_node(index: int, *, host: int | None = None, pods: int | None = None) -> Node:
    """`node1` has index 0, the address 172.30.0.2 (`host` for another last octet) and pods in 10.244.0.0/24 (`pods` for
    another third octet)."""
    name, third = f"node{index + 1}", index if pods is None else pods
    return Node(
        name=name,
        index=index,
        address=IPv4Interface(f"172.30.0.{index + 2 if host is None else host}/24"),
        mac=stable_mac(name, "eth0"),
        pod_cidr=IPv4Network(f"10.244.{third}.0/24"),
        router=IPv4Address(f"10.244.{third}.1"),
    )


def make_pod(name: str, node: str, address: str | IPv4Address, *, identity: int) -> Pod:
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


def make_lab(
    name: str,
    nodes: Iterable[Node],
    pods: Iterable[Pod],
    *,
    host_routing: HostRouting = HostRouting.BPF,
    encapsulation: Encapsulation = Encapsulation.VXLAN,
    masquerade: Masquerade = Masquerade.BPF,
    service_cidr: str = "10.96.0.0/16",
    **datapath: Any,
) -> Lab:
    """A lab of the provider netns with the ping check; the pairs are from the first pod to each of the others.
    `datapath` are further fields of `Datapath`."""
    nodes, pods = tuple(nodes), tuple(pods)
    asked = Datapath(
        host_routing=host_routing,
        encapsulation=encapsulation,
        masquerade=masquerade,
        **{"kube_proxy_replacement": True, **datapath},
    )
    return Lab(
        name=name,
        scenario=f"{host_routing}-{encapsulation}",
        source="",
        provider="netns",
        datapath=asked,
        network=Network(
            underlay_cidr=IPv4Network("172.30.0.0/24"),
            pod_cidr=IPv4Network("10.244.0.0/16"),
            service_cidr=IPv4Network(service_cidr),
            mtu=1500,
            route_mtu=1450 if encapsulation.is_tunnel else 1500,
        ),
        nodes=nodes,
        pods=pods,
        pairs=tuple(_pair(pods[0], pod) for pod in pods[1:]),
        checks=(CheckSpec(name="ping", kind="ping", parameters=PingParameters()),),
        compare=CompareParameters(),
        digest=hashlib.sha256(repr((asked, nodes, pods)).encode()).hexdigest(),
    )


def _pair(client: Pod, server: Pod) -> Pair:
    same = client.node == server.node
    return Pair(client=client.name, server=server.name, placement=Placement.SAME_NODE if same else Placement.CROSS_NODE)


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
    at = 0 if placement is Placement.SAME_NODE else 1
    pods = (
        make_pod(CLIENT, "node1", client_address, identity=16843),
        make_pod(SERVER, f"node{at + 1}", server_address or f"10.244.{at}.20", identity=23579),
    )
    nodes = (make_node(index, host=index + 3) for index in range(2))
    made = make_lab("example", nodes, pods, host_routing=host_routing, encapsulation=encapsulation)
    return replace(
        made, scenario="example", source="example.yaml", provider="scripted", checks=tuple(checks), digest="0" * 64
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


def sample_lab(
    name: str,
    *,
    nodes: int = 3,
    pods: tuple[tuple[str, str], ...] = (("client", "node1"), ("neighbour", "node1"), ("server", "node2")),
    **datapath: Any,
) -> Lab:
    """Three nodes, two pods on the first and one on the second. `pods` are (name, node), addressed from .2 up on each
    node; at most 250 nodes and 250 pods a node. `datapath` is as for `make_lab`."""
    made_nodes = tuple(make_node(index) for index in range(nodes))
    next_address = {node.name: node.router + 1 for node in made_nodes}
    made_pods = []
    for number, (pod, node) in enumerate(pods):
        made_pods.append(make_pod(pod, node, next_address[node], identity=1000 + number))
        next_address[node] += 1
    return make_lab(name, made_nodes, made_pods, **datapath)
