"""Services: one address in front of several pods, and how a client's choice of a backend is asked for. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address


class ServiceType(StrEnum):
    """Where a Service can be reached: inside the cluster, or also at a port of every node."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioService:
    """A Service as a scenario has it. `selector` are the labels that exactly the `backends` have."""

    name: str
    port: int
    target_port: int
    protocol: Protocol
    backends: tuple[str, ...]
    selector: Mapping[str, str]
    type: ServiceType
    node_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service with its cluster address, one of the lab's `service_cidr`. `node_port` is None but for NodePort."""

    name: str
    address: IPv4Address
    port: int
    target_port: int
    protocol: Protocol
    backends: tuple[str, ...]
    selector: Mapping[str, str]
    type: ServiceType
    node_port: int | None = None
