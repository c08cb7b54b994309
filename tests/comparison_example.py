"""A whole comparison for the tests of the reports. Its samples are synthetic (seeded); nobody measured them.

The signatures are shaped after native routing across nodes, shortened to the taps that tell the modes apart.
"""

from __future__ import annotations

import random
from dataclasses import replace

from labctl.compare.assemble import assemble
from labctl.compare.order import Schedule, WorkItem, schedule
from labctl.model.comparison import (
    CheckMetrics,
    Comparison,
    Environment,
    Noise,
    RunRecord,
    Side,
    SideSignature,
)
from labctl.model.evidence import Evidence, ModeInForce
from labctl.model.lab import Encapsulation, Placement
from labctl.model.parameters import CompareParameters
from labctl.model.result import Better, Metric, MetricFamily, Sample, Verdict, WayPart
from labctl.model.signature import Role, Seen, Signature, TapSight

RTT_P50 = Metric(
    name="rtt_p50",
    label="round-trip p50",
    unit="s",
    better=Better.LOWER,
    family=MetricFamily.LATENCY,
    primary=True,
)
RTT_P99 = replace(RTT_P50, name="rtt_p99", label="round-trip p99", primary=False)
LOSS = Metric(name="loss", label="loss", unit="1", better=Better.LOWER, family=MetricFamily.QUALITY)
TRANSACTIONS = Metric(
    name="transactions_per_s",
    label="transactions/s",
    unit="count/s",
    better=Better.HIGHER,
    family=MetricFamily.THROUGHPUT,
    primary=True,
)
CPU_PER_BYTE = Metric(
    name="cpu_per_byte",
    label="own CPU per byte",
    unit="cpu-s/byte",
    better=Better.LOWER,
    family=MetricFamily.CPU,
    primary=True,
)
THROUGHPUT = Metric(
    name="throughput",
    label="TCP throughput",
    unit="bit/s",
    better=Better.HIGHER,
    family=MetricFamily.THROUGHPUT,
)

CHECKS = (
    CheckMetrics(check="ping", kind="ping", metrics=(RTT_P50, RTT_P99, LOSS)),
    CheckMetrics(check="latency", kind="latency", metrics=(TRANSACTIONS,)),
    CheckMetrics(check="iperf", kind="iperf", metrics=(CPU_PER_BYTE, THROUGHPUT)),
)

# The typical value on side A, the factor of side B on each placement, and the spread (log scale).
TYPICAL: dict[str, tuple[float, float, float, float]] = {
    "rtt_p50": (52.3e-6, 0.79, 0.95, 0.02),
    "rtt_p99": (121e-6, 0.9, 1.0, 0.3),
    "loss": (0.0, 1.0, 1.0, 0.0),
    "transactions_per_s": (19_300, 1.2, 1.0, 0.25),
    "cpu_per_byte": (0.71e-9, 0.85, 1.001, 0.005),
    "throughput": (15.1e9, 1.1, 1.0, 0.4),
}

LEGACY_STATEMENT = "Legacy carries 87 iptables rules per node and conntrack"
NETNS_STATEMENT = "this lab's datapath is labctl's own eBPF with Cilium's hooks and helpers, not Cilium"


def example_schedule(rounds: int = 10, seed: int = 7) -> Schedule:
    work = [
        WorkItem(check=check.check, client="client", server=server, placement=placement)
        for check in CHECKS
        for server, placement in (("near", Placement.SAME_NODE), ("far", Placement.CROSS_NODE))
    ]
    return schedule(("a", "b"), work, rounds, seed)


def example_runs(plan: Schedule, seed: int = 1) -> tuple[RunRecord, ...]:
    source = random.Random(seed)
    metrics = {check.check: check for check in CHECKS}
    weather = [source.gauss(0, 0.2) for _ in range(plan.rounds)]
    return tuple(
        RunRecord(
            block=run.block,
            position=run.position,
            side=run.side,
            check=run.item.check,
            kind=metrics[run.item.check].kind,
            client=run.item.client,
            server=run.item.server,
            placement=run.item.placement,
            verdict=Verdict.PASS,
            reason="50 of 50 answered",
            started_at=f"2026-11-22T10:{run.block:02d}:{run.position:02d}Z",
            duration_s=1.0,
            samples=tuple(
                _sample(metric, run.side, run.item.placement, weather[run.block - 1], source)
                for metric in metrics[run.item.check].metrics
            ),
            raw=(f"raw/{run.block:04d}-{run.position:02d}-{run.item.check}.txt",),
        )
        for run in plan.runs()
    )


def _sample(metric: Metric, side: str, placement: Placement, weather: float, source: random.Random) -> Sample:
    typical, cross, same, spread = TYPICAL[metric.name]
    factor = (cross if placement is Placement.CROSS_NODE else same) if side == "b" else 1.0
    noise = 2.718281828 ** (source.gauss(0, spread) + weather)
    return Sample(metric=metric.name, value=typical * factor * noise, unit=metric.unit)


def example_side(key: str, scenario: str, routing: str) -> Side:
    statements = (NETNS_STATEMENT, LEGACY_STATEMENT) if routing == "legacy" else (NETNS_STATEMENT,)
    return Side(
        key=key,
        scenario=scenario,
        lab=f"compare-{key}",
        provider="netns",
        digest=f"{key}0ff1ce",
        datapath={"hostRouting": routing, "encapsulation": "native", "masquerade": "bpf", "kubeProxyReplacement": True},
        source=f"scenarios/{scenario}.yaml",
        statements=statements,
    )


def example_mode(side: Side, *, proven: bool = True) -> ModeInForce:
    found = dict(side.datapath) if proven else {**side.datapath, "hostRouting": "legacy"}
    return ModeInForce(
        lab=side.lab,
        asked=side.datapath,
        found=found,
        evidence=(
            Evidence(
                witness="programs",
                where="node2 eth0 ingress",
                finding="bpf_redirect_peer ran for 20 of 20 packets" if proven else "no redirect_peer was counted",
                supports=proven,
                command="labctl status compare-b",
                found={"hostRouting": "bpf" if proven else "legacy"},
            ),
            Evidence(witness="conntrack", where="node2", finding="0 entries for the pair", supports=None),
        ),
        proven=proven,
        reason="" if proven else "the programs say legacy",
    )


def example_signature(side: str, routing: str) -> SideSignature:
    forth = Seen(packets=3, ttl=64, src_mac="client-eth0", dst_mac="client-lxc")
    back = Seen(packets=3, ttl=60, src_mac="client-lxc", dst_mac="client-eth0")
    is_legacy = routing == "legacy"
    taps = (
        TapSight(tap="client:eth0", role=Role.CLIENT_ETH0, request=forth, reply=back if is_legacy else _ttl(back, 62)),
        TapSight(tap="node1:lxc3f", role=Role.CLIENT_LXC, request=forth, reply=back if is_legacy else None),
        TapSight(tap="node1:cilium_host", role=Role.CLIENT_CILIUM_HOST, request=None, reply=None),
        TapSight(tap="node1:eth0", role=Role.CLIENT_UPLINK, request=_ttl(forth, 62 if is_legacy else 63), reply=None),
    )
    signature = Signature(placement="cross-node", encapsulation=Encapsulation.NATIVE, taps=taps, ping_ttl=62)
    return SideSignature(side=side, client="client", server="far", signature=signature, is_expected=True)


def _ttl(seen: Seen, ttl: int) -> Seen:
    return replace(seen, ttl=ttl)


def example_environment() -> Environment:
    return Environment(
        kernel="6.18.0",
        cpu_model="Example CPU",
        cpus=2,
        memory_byte=8_000_000_000,
        versions={"iperf3": "3.12", "sockperf": "3.7"},
        sysctls={"net.ipv4.tcp_congestion_control": "cubic"},
        settings={"mtu": "1500"},
        pinning="client on CPU 0, server on CPU 1",
    )


def example_comparison(
    *,
    rounds: int = 10,
    runs: tuple[RunRecord, ...] | None = None,
    proven: bool = True,
    noise: tuple[Noise, ...] = (),
    names: tuple[str, str] = ("legacy-native", "bpf-native"),
) -> Comparison:
    plan = example_schedule(rounds)
    a, b = example_side("a", names[0], "legacy"), example_side("b", names[1], "bpf")
    return assemble(
        a=a,
        b=b,
        checks=CHECKS,
        runs=example_runs(plan) if runs is None else runs,
        modes={"a": example_mode(a), "b": example_mode(b, proven=proven)},
        signatures=(example_signature("a", "legacy"), example_signature("b", "bpf")),
        environment=example_environment(),
        schedule=plan,
        parameters=CompareParameters(),
        noise=noise,
    )


def example_with_parts(*, parts: bool = True) -> Comparison:
    """The ping's runs say where the time went, too: 8 µs to netfilter on side A and none on side B, 4 µs to the nodes'
    stack on both, the rest to the ends; on side B 2 µs more than the round trip took."""
    runs = example_runs(example_schedule())
    return example_comparison(runs=tuple(_with_parts(run) if parts else run for run in runs))


def _with_parts(run: RunRecord) -> RunRecord:
    found = [sample.value for sample in run.samples if sample.metric == RTT_P50.name]
    if not found:
        return run
    netfilter, more = (8e-6, 0.0) if run.side == "a" else (0.0, 2e-6)
    parts = {
        WayPart.NETFILTER: netfilter,
        WayPart.STACK: 4e-6,
        WayPart.WIRE: 0.0,
        WayPart.ENDS: found[0] + more - netfilter - 4e-6,
    }
    return replace(run, parts=tuple(Sample(metric=part, value=value, unit="s") for part, value in parts.items()))
