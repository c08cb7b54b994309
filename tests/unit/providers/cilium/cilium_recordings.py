"""Recorded output of real Cilium (tests/fixtures/cilium/README.md says where from), and labs to judge it against."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from labctl.model.lab import Datapath, Encapsulation, HostRouting, Masquerade
from labctl.model.versions import Version
from labctl.providers.cilium.values import CiliumImages, Wanted

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "cilium"


def recorded(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


def datapath(
    host_routing: str = "bpf", encapsulation: str = "vxlan", masquerade: str = "bpf", replacement: bool = True
) -> Datapath:
    return Datapath(
        host_routing=HostRouting(host_routing),
        encapsulation=Encapsulation(encapsulation),
        masquerade=Masquerade(masquerade),
        kube_proxy_replacement=replacement,
    )


def wanted(
    version: str = "1.13.12", path: Datapath | None = None, images: CiliumImages | None = None, devices: str = "eth0"
) -> Wanted:
    return Wanted(
        version=Version.parse(version),
        datapath=path or datapath(),
        pod_cidr=IPv4Network("10.244.0.0/16"),
        node_mask_size=24,
        api_host="lab-control-plane",
        api_port=6443,
        devices=devices,
        images=images or CiliumImages(),
    )
