"""A scenario: what to build and what to check, complete and valid, before any address is decided.

`loading` makes these; `planning.resolve` turns them into a `Lab`. What may stand in a file is `model/document.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from labctl.model.datapath import Datapath
from labctl.model.lab import CheckSpec, Pair
from labctl.model.parameters import CompareParameters
from labctl.model.service import ScenarioService


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioPod:
    """A pod by name, the node it is on, and its labels (pods with equal labels share one security identity)."""

    name: str
    node: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario after site defaults, parents and overrides were merged and every rule was checked.

    `source` is the path of its file. `nodes` are names in order. `mtu` is the device MTU in bytes. `settings` holds
    the sections that the scenario's provider reads (`cilium:`, …), as JSON-ready data.
    """

    name: str
    source: str
    provider: str
    nodes: tuple[str, ...]
    pods: tuple[ScenarioPod, ...]
    pairs: tuple[Pair, ...]
    datapath: Datapath
    underlay_cidr: IPv4Network
    pod_cidr: IPv4Network
    service_cidr: IPv4Network
    mtu: int
    checks: tuple[CheckSpec, ...]
    compare: CompareParameters
    settings: Mapping[str, object] = field(default_factory=dict)
    services: tuple[ScenarioService, ...] = ()
