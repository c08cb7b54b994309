"""Every kind of check that labctl has, by name. The composition root hands this to the engine.

It stands alone because it imports every check, for which only those commands should wait that run one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from labctl.checks.addressing import AddressingCheck
from labctl.checks.base import Check
from labctl.checks.connect import ConnectCheck
from labctl.checks.host_reachable import HostReachableCheck
from labctl.checks.impairment import ImpairmentCheck
from labctl.checks.iperf import IperfCheck
from labctl.checks.kube_proxy import KubeProxyCheck
from labctl.checks.latency import LatencyCheck
from labctl.checks.load import LoadCheck
from labctl.checks.masquerade import MasqueradeCheck
from labctl.checks.mode import ModeCheck
from labctl.checks.netfilter import NetfilterCheck
from labctl.checks.paced import PacedCheck
from labctl.checks.paths import ConvergenceCheck, EcmpCheck
from labctl.checks.ping import PingCheck
from labctl.checks.routes import FdbCheck, RoutesCheck
from labctl.checks.service import ServiceCheck
from labctl.checks.sessions import SessionsCheck
from labctl.checks.tcpdump import TcpdumpCheck
from labctl.checks.wire import ArpCheck, MtuCheck
from labctl.model.fabric import Routing


def all_checks() -> Mapping[str, Check]:
    """A check of each kind, by its kind."""
    checks: tuple[Check, ...] = (
        PingCheck(),
        LatencyCheck(),
        PacedCheck(),
        ConnectCheck(),
        LoadCheck(),
        IperfCheck(),
        TcpdumpCheck(),
        AddressingCheck(),
        NetfilterCheck(),
        ServiceCheck(),
        RoutesCheck(),
        FdbCheck(),
        ArpCheck(),
        MtuCheck(),
        ImpairmentCheck(),
        SessionsCheck(Routing.BGP),
        SessionsCheck(Routing.OSPF),
        EcmpCheck(),
        ConvergenceCheck(),
        KubeProxyCheck(),
        HostReachableCheck(),
        ModeCheck(),
        MasqueradeCheck(),
    )
    return MappingProxyType({check.kind: check for check in checks})
