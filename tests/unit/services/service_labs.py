"""A lab with every kind of Service that kube-proxy's rules differ for."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from labctl.model.lab import HostRouting, Lab, Masquerade, Service, ServiceProtocol, ServiceType, TrafficPolicy
from labctl.testing.labs import sample_lab


def lab_with_services(**datapath: Any) -> Lab:
    """Pods 10.244.0.2 (client), 10.244.0.3 (neighbour) on node1 and 10.244.1.2 (server) on node2.

    `web` is a node port with two backends, `local` one with one backend and policy Local, `names` speaks UDP, `none`
    has no backends.
    """
    asked = {
        "host_routing": HostRouting.LEGACY,
        "masquerade": Masquerade.IPTABLES,
        "kube_proxy_replacement": False,
        **datapath,
    }
    services = (
        _service("web", 11, ("neighbour", "server"), type=ServiceType.NODE_PORT, node_port=30205),
        _service(
            "local",
            12,
            ("server",),
            type=ServiceType.NODE_PORT,
            node_port=30215,
            external_traffic_policy=TrafficPolicy.LOCAL,
        ),
        _service("names", 13, ("neighbour", "server"), protocol=ServiceProtocol.UDP),
        _service("none", 14, (), type=ServiceType.NODE_PORT, node_port=30216),
    )
    return replace(sample_lab("demo", **asked), services=services)


def _service(name: str, host: int, backends: tuple[str, ...], **more: Any) -> Service:
    return Service(
        **{
            "name": name,
            "address": IPv4Address(f"10.96.0.{host}"),
            "port": 80,
            "target_port": 5205,
            "protocol": ServiceProtocol.TCP,
            "backends": backends,
            "selector": {"app": name},
            "type": ServiceType.CLUSTER_IP,
            **more,
        }
    )
