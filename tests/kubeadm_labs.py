"""A small resolved lab for tests of the kubeadm provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from labctl.model.lab import Datapath, Encapsulation, HostRouting, Lab, Masquerade, Network, Node, Pair, Placement, Pod
from labctl.model.parameters import CompareParameters
from labctl.planning.record import digest_of


def make_lab(
    *,
    hosts: Sequence[dict[str, Any]] = (),
    kubeadm: dict[str, Any] | None = None,
    cilium: dict[str, Any] | None = None,
    nodes: int = 3,
    name: str = "legacy",
    host_routing: HostRouting = HostRouting.LEGACY,
    encapsulation: Encapsulation = Encapsulation.VXLAN,
) -> Lab:
    where = (("client", "node1", "10.244.0.10"), ("server", f"node{min(2, nodes)}", "10.244.1.10"))
    lab = Lab(
        name=name,
        scenario="legacy",
        source="scenarios/legacy.yaml",
        provider="kubeadm",
        datapath=Datapath(
            host_routing=host_routing,
            encapsulation=encapsulation,
            masquerade=Masquerade.BPF,
            kube_proxy_replacement=True,
        ),
        network=Network(
            underlay_cidr=IPv4Network("172.30.0.0/24"),
            pod_cidr=IPv4Network("10.244.0.0/16"),
            service_cidr=IPv4Network("10.96.0.0/12"),
            mtu=1500,
            route_mtu=1450,
        ),
        nodes=tuple(
            Node(
                name=f"node{index + 1}",
                index=index,
                address=IPv4Interface(f"172.30.0.{index + 2}/24"),
                mac="02:00:00:00:00:01",
                pod_cidr=IPv4Network(f"10.244.{index}.0/24"),
                router=IPv4Address(f"10.244.{index}.1"),
            )
            for index in range(nodes)
        ),
        pods=tuple(
            Pod(
                name=pod,
                node=node,
                address=IPv4Address(address),
                mac="02:00:00:00:01:01",
                lxc="lxc1",
                lxc_mac="02:00:00:00:01:02",
                identity=300,
                labels={"app": pod},
            )
            for pod, node, address in where
        ),
        pairs=(Pair(client="client", server="server", placement=Placement.CROSS_NODE),),
        checks=(),
        compare=CompareParameters(),
        digest="0123",
        settings={
            "kubeadm": {"kubernetes": "1.20.2", **(kubeadm or {})},
            "cilium": {"version": "1.13.12", **(cilium or {})},
            "hosts": list(hosts),
        },
    )
    return replace(lab, digest=digest_of(lab))


THREE_HOSTS: tuple[dict[str, Any], ...] = (
    {"address": "192.168.56.10", "user": "debian", "role": "control-plane"},
    {"address": "192.168.56.11", "user": "debian"},
    {"address": "192.168.56.12", "user": "debian"},
)
