"""A small resolved lab to test with: a client and a server, on one node or on two, with fixed addresses."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.model.datapath import Datapath, Encapsulation, HostRouting, Masquerade
from labctl.model.lab import CheckSpec, Lab, Network, Node, Pair, Placement, Pod
from labctl.model.parameters import CompareParameters
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
