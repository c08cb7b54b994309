"""The Services that the nodes of a running lab translate, as `cilium service list` and `cilium bpf lb list` show them.

Read from what is in force: the maps of the eBPF programs, or what Cilium's agent prints of its own. Where kube-proxy
translates, the lists are empty, and `by` says so.
"""

from __future__ import annotations

from typing import Annotated

from labctl.codec import NULL, Key
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBackend:
    """One backend as Cilium numbers it, from 1. `address` is `10.244.0.10:5205`, `pod` its name in the lab. A backend
    that is not `active` gets no new connection: its pod's device is gone."""

    number: int
    address: str
    pod: Annotated[str, NULL] = ""
    active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFrontend:
    """One address of a Service: `10.96.0.11:80`. `service` is its name in the lab, empty for one that the scenario does
    not have; `scope` is `external` or `internal` where the two have different backends (externalTrafficPolicy)."""

    id: int
    service: Annotated[str, NULL] = ""
    frontend: str
    protocol: str
    type: str
    scope: Annotated[str, NULL] = ""
    backends: tuple[ServiceBackend, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancerEntry:
    """One line of `cilium bpf lb list`: slot 0 of a Service (`10.96.0.11:80 (0)`) with its flags, or a backend's."""

    service: str
    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeServices:
    """One node. `by` says who translates there; the commands list the same by hand, in the order of the two lists."""

    node: str
    by: str
    frontends: tuple[ServiceFrontend, ...]
    entries: tuple[LoadBalancerEntry, ...]
    service_command: Annotated[str, NULL, Key("serviceCommand")] = ""
    entries_command: Annotated[str, NULL, Key("entriesCommand")] = ""
