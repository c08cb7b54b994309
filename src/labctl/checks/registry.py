"""Every kind of check that labctl has, by name. The composition root hands this to the engine.

It stands alone because it reaches every check. A check is imported when it is asked for: a command that runs one of
them does not wait for the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.checks.base import Check

KINDS = (
    "ping",
    "latency",
    "paced",
    "connect",
    "load",
    "iperf",
    "tcpdump",
    "addressing",
    "netfilter",
    "service",
    "routes",
    "fdb",
    "arp",
    "mtu",
    "impairment",
    "bgp",
    "ospf",
    "ecmp",
    "convergence",
    "kube-proxy",
    "host-reachable",
    "mode",
    "masquerade",
)
"""In the order in which `labctl` lists them."""


class _Checks(Mapping[str, "Check"]):
    def __init__(self) -> None:
        self._made: dict[str, Check] = {}

    def __getitem__(self, kind: str) -> Check:
        if kind not in self._made:
            self._made[kind] = _made(kind)
        return self._made[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in KINDS

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


def all_checks() -> Mapping[str, Check]:
    """A check of each kind, by its kind."""
    return _Checks()


def _made(kind: str) -> Check:
    match kind:
        case "ping":
            from labctl.checks.ping import PingCheck

            return PingCheck()
        case "latency":
            from labctl.checks.latency import LatencyCheck

            return LatencyCheck()
        case "paced":
            from labctl.checks.paced import PacedCheck

            return PacedCheck()
        case "connect":
            from labctl.checks.connect import ConnectCheck

            return ConnectCheck()
        case "load":
            from labctl.checks.load import LoadCheck

            return LoadCheck()
        case "iperf":
            from labctl.checks.iperf import IperfCheck

            return IperfCheck()
        case "tcpdump":
            from labctl.checks.tcpdump import TcpdumpCheck

            return TcpdumpCheck()
        case "addressing":
            from labctl.checks.addressing import AddressingCheck

            return AddressingCheck()
        case "netfilter":
            from labctl.checks.netfilter import NetfilterCheck

            return NetfilterCheck()
        case "service":
            from labctl.checks.service import ServiceCheck

            return ServiceCheck()
        case "routes":
            from labctl.checks.routes import RoutesCheck

            return RoutesCheck()
        case "fdb":
            from labctl.checks.routes import FdbCheck

            return FdbCheck()
        case "arp":
            from labctl.checks.wire import ArpCheck

            return ArpCheck()
        case "mtu":
            from labctl.checks.wire import MtuCheck

            return MtuCheck()
        case "impairment":
            from labctl.checks.impairment import ImpairmentCheck

            return ImpairmentCheck()
        case "bgp":
            from labctl.checks.sessions import SessionsCheck
            from labctl.model.fabric import Routing

            return SessionsCheck(Routing.BGP)
        case "ospf":
            from labctl.checks.sessions import SessionsCheck
            from labctl.model.fabric import Routing

            return SessionsCheck(Routing.OSPF)
        case "ecmp":
            from labctl.checks.paths import EcmpCheck

            return EcmpCheck()
        case "convergence":
            from labctl.checks.paths import ConvergenceCheck

            return ConvergenceCheck()
        case "kube-proxy":
            from labctl.checks.kube_proxy import KubeProxyCheck

            return KubeProxyCheck()
        case "host-reachable":
            from labctl.checks.host_reachable import HostReachableCheck

            return HostReachableCheck()
        case "mode":
            from labctl.checks.mode import ModeCheck

            return ModeCheck()
        case "masquerade":
            from labctl.checks.masquerade import MasqueradeCheck

            return MasqueradeCheck()
    raise KeyError(kind)
