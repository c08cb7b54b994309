"""The parameters of checks and of comparisons, with their defaults and bounds.

The scenario schema and the checks read the same classes, so that what is documented is what is run.
Quantities carry their unit in the name. Bounds are `annotated_types` metadata: the loader enforces them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from labctl.codec import OMITTED
from labctl.values import dataclass

Share = Annotated[float, Ge(0), Le(1)]
SHORTEST_PING_INTERVAL_S = 0.001
Seconds = Annotated[float, Gt(0), Le(3600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PingParameters:
    """ICMP echo: `count` requests of `size_byte` bytes of payload, one every `interval_s` seconds.

    With an interval of 0 they go back to back: each when the reply to the one before has come. `slices` is how many
    processes share the requests; between them, the other runs of a comparison take their turn.
    """

    count: Annotated[int, Ge(1), Le(100_000)] = 50
    interval_s: Annotated[float, Ge(0), Le(60)] = 0.005
    size_byte: Annotated[int, Ge(16), Le(65_507)] = 56
    slices: Annotated[int, Ge(1), Le(1_000)] = 1
    max_loss: Share = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IperfParameters:
    """iperf3 from client to server. iperf3 counts whole seconds: `duration_s` is rounded up to them.

    `rate_bit_per_s` is the sending rate of UDP (TCP always sends what it can).
    """

    protocol: Literal["tcp", "udp"] = "tcp"
    duration_s: Seconds = 1.0
    streams: Annotated[int, Ge(1), Le(128)] = 1
    rate_bit_per_s: Annotated[int, Ge(1_000), Le(1_000_000_000_000)] = 20_000_000
    min_throughput_bit_per_s: Annotated[float, Ge(0)] = 0.0
    max_loss: Share = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyParameters:
    """sockperf ping-pong over TCP: one request of `message_byte` bytes in flight, for `duration_s` seconds."""

    duration_s: Seconds = 1.0
    message_byte: Annotated[int, Ge(14), Le(65_507)] = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedParameters:
    """sockperf over TCP at a fixed rate: `rate_per_s` requests of `message_byte` bytes each second."""

    duration_s: Seconds = 1.0
    message_byte: Annotated[int, Ge(14), Le(65_507)] = 64
    rate_per_s: Annotated[int, Ge(1), Le(1_000_000)] = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectParameters:
    """TCP connections one after the other, a byte each way in each, for `duration_s` seconds."""

    duration_s: Seconds = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadParameters:
    """labctl's own load program, for `duration_s` seconds a run: requests of `message_byte` bytes over TCP and UDP, a
    connection for each request, one stream and so many `streams` of TCP, and `rate_per_s` requests a second at their
    times. With `spin` the CPUs of both ends are kept from sleeping meanwhile."""

    duration_s: Seconds = 1.0
    message_byte: Annotated[int, Ge(64), Le(1_400)] = 64
    streams: Annotated[int, Ge(2), Le(64)] = 4
    rate_per_s: Annotated[int, Ge(100), Le(100_000)] = 2_000
    spin: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpdumpParameters:
    """Captures on every tap while `count` echo requests go through; the signature must be the expected one."""

    count: Annotated[int, Ge(1), Le(1_000)] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressingParameters:
    """Addresses, ARP, TTLs, envelope and MTU, seen with `count` echo requests."""

    count: Annotated[int, Ge(1), Le(1_000)] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NetfilterParameters:
    """Packets per netfilter hook of the nodes while `count` echo requests go through, and conntrack's entries."""

    count: Annotated[int, Ge(1), Le(1_000)] = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceParameters:
    """`connections` from the client to every Service that the server is a backend of."""

    connections: Annotated[int, Ge(1), Le(1_000)] = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class LookParameters:
    """Of a check that looks at what is there; nothing can be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpairmentParameters:
    """`count` echo requests, one every `interval_s` seconds, for shares and delays; iperf3 for `duration_s` seconds
    each way where a rate is set. A rate may be off by `rate_margin`, a delay be longer by `delay_margin_s`."""

    count: Annotated[int, Ge(10), Le(100_000)] = 2_000
    interval_s: Annotated[float, Ge(0.0005), Le(1)] = 0.002
    duration_s: Annotated[float, Ge(1), Le(600)] = 3.0
    rate_margin: Share = 0.05
    delay_margin_s: Annotated[float, Ge(0), Le(10)] = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class EcmpParameters:
    """So many `flows`, which differ in their port."""

    flows: Annotated[int, Ge(16), Le(1_000)] = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvergenceParameters:
    """A ping every `interval_s` seconds, from `before_s` before the event to `after_s` after it. `link-down`: the
    router takes down its link; `router-stopped`: it forwards nothing and says nothing any more, its links up;
    `vtep-withdrawn`: for a second the server's node announces no VNI (EVPN). `auto`: the hardest of these that the lab
    can survive."""

    event: Literal["auto", "link-down", "router-stopped", "vtep-withdrawn"] = "auto"
    interval_s: Annotated[float, Ge(0.002), Le(1)] = 0.02
    before_s: Annotated[float, Ge(0.2), Le(60)] = 0.5
    after_s: Annotated[float, Ge(1), Le(600)] = 8.0
    max_outage_s: Annotated[float, Ge(0), Le(600)] = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReachableParameters:
    """Services from a node itself; each connection may take `timeout_s` seconds."""

    timeout_s: Seconds = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeParameters:
    """The mode that `count` echo requests show."""

    count: Annotated[int, Ge(1), Le(1_000)] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeProxyParameters:
    """What of kube-proxy the nodes have: nothing to choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasqueradeParameters:
    """What the outside sees of a pod: nothing to choose."""


CheckParameters = (
    LookParameters
    | ImpairmentParameters
    | EcmpParameters
    | ConvergenceParameters
    | PingParameters
    | IperfParameters
    | LatencyParameters
    | PacedParameters
    | ConnectParameters
    | LoadParameters
    | TcpdumpParameters
    | AddressingParameters
    | NetfilterParameters
    | ServiceParameters
    | KubeProxyParameters
    | HostReachableParameters
    | ModeParameters
    | MasqueradeParameters
)

TimedParameters = IperfParameters | LatencyParameters | PacedParameters | ConnectParameters | LoadParameters
"""The checks that run for a time, not for a number of packets."""

PARAMETERS_OF: Mapping[str, type[CheckParameters]] = MappingProxyType(
    {
        "ping": PingParameters,
        "iperf": IperfParameters,
        "latency": LatencyParameters,
        "paced": PacedParameters,
        "connect": ConnectParameters,
        "load": LoadParameters,
        "tcpdump": TcpdumpParameters,
        "addressing": AddressingParameters,
        "netfilter": NetfilterParameters,
        "service": ServiceParameters,
        "routes": LookParameters,
        "fdb": LookParameters,
        "arp": LookParameters,
        "mtu": LookParameters,
        "bgp": LookParameters,
        "ospf": LookParameters,
        "impairment": ImpairmentParameters,
        "ecmp": EcmpParameters,
        "convergence": ConvergenceParameters,
        "kube-proxy": KubeProxyParameters,
        "host-reachable": HostReachableParameters,
        "mode": ModeParameters,
        "masquerade": MasqueradeParameters,
    }
)
"""Every kind of check, with the class of its parameters: the one list that files, records and checks share."""


LOAD = "load"
"""The check with labctl's own load program."""
CHECK_OF_TOOL: Mapping[str, str] = MappingProxyType({"sockperf": "latency", "iperf": "iperf"})
"""The tools of the field that measure what the load program does, by their names, and the checks that run them."""


def with_tools_of_the_field(checks: Iterable[str]) -> tuple[str, ...]:
    """The checks, with those of the field's tools in the place of the load program's."""
    named = ((CHECK_OF_TOOL.values() if name == LOAD else (name,)) for name in checks)
    return tuple(dict.fromkeys(chain.from_iterable(named)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareParameters:
    """How a comparison is carried out.

    `rounds` is the number of blocks; `duration_s` replaces the duration of every check that has one;
    `ping_count`, `ping_interval_s` and `ping_slices` replace those of every ping;
    `checks` names the checks (of the scenario) that a block runs. `margin_latency` and `margin_cpu` and
    `margin_throughput` are equivalence margins, as relative differences. Without `spin` no check keeps CPUs awake.
    """

    rounds: Annotated[int, Ge(1), Le(10_000)] = 10
    duration_s: Seconds = 1.0
    ping_count: Annotated[int, Ge(1), Le(100_000)] = 1_600
    ping_interval_s: Annotated[float, Ge(0), Le(60)] = 0.0
    ping_slices: Annotated[int, Ge(1), Le(1_000)] = 32
    checks: tuple[str, ...] = ("ping", "load")
    margin_latency: Share = 0.03
    margin_cpu: Share = 0.03
    margin_throughput: Share = 0.05
    spin: Annotated[bool, OMITTED] = True
