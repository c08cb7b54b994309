"""A small resolved lab for tests of the kubeadm provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from labctl.model.lab import Encapsulation, HostRouting, Lab
from labctl.planning.record import digest_of
from labctl.testing import labs


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
    pods = (
        labs.make_pod("client", "node1", "10.244.0.10", identity=300),
        labs.make_pod("server", f"node{min(2, nodes)}", "10.244.1.10", identity=300),
    )
    made = labs.make_lab(
        name, (labs.make_node(index) for index in range(nodes)), pods, host_routing=host_routing,
        encapsulation=encapsulation, service_cidr="10.96.0.0/12",
    )  # fmt: skip
    lab = replace(
        made, scenario="legacy", source="scenarios/legacy.yaml", provider="kubeadm", checks=(),
        settings={
            "kubeadm": {"kubernetes": "1.20.2", **(kubeadm or {})},
            "cilium": {"version": "1.13.12", **(cilium or {})},
            "hosts": list(hosts),
        },
    )  # fmt: skip
    return replace(lab, digest=digest_of(lab))


THREE_HOSTS: tuple[dict[str, Any], ...] = (
    {"address": "192.168.56.10", "user": "debian", "role": "control-plane"},
    {"address": "192.168.56.11", "user": "debian"},
    {"address": "192.168.56.12", "user": "debian"},
)
