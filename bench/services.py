"""What 10, 1,000 and 10,000 Services cost: translated by eBPF, by kube-proxy's iptables rules, by its nftables rules.

    sudo python bench/services.py [--rounds N] [--counts 10,1000,10000] [--output FILE] [--json]

All labs are up at the same time and alike but for the translation: Legacy host routing, vxlan, Services with one
backend on another node, and the fillers. Measured are, per node, the time to program the Services; per round, in an
order that changes, connections to a Service with a request each, and requests over one connection, by labctl's load
program, and the same from the client straight to the backend's pod in the eBPF lab of the smallest count. Own CPU is of
the client and the server; of programming it is that of labctl and of iptables-restore or nft. Beside each stands the
tool alone, run right after it with the same rules in an empty namespace: what is left is labctl's. Intervals are those
of paired rounds (Wilcoxon), as in `labctl compare`. Needs root.

The load program listens where it finds a port: the server's pod gives it one of eight, and each of them is a Service's.

Targets: programming 1,000 Services takes at most 0.3 s a node and 10,000 at most 2 s; connections per second by eBPF
are the same for every count, within the interval. The exit code is 1 when one is missed. Where other programs keep the
CPUs busy, the seconds of CPU say what an idle machine would need: each of these steps is one thread that does not wait.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from load_rounds import compared, round_of, session, write_result

from labctl import names
from labctl.load.measure import Task
from labctl.load.slices import Kind
from labctl.model.lab import (
    Encapsulation,
    HostRouting,
    KubeProxy,
    Lab,
    Masquerade,
    Service,
    ServiceProtocol,
    ServiceType,
)
from labctl.model.plan import Action
from labctl.providers.netns.execute import executor
from labctl.providers.netns.kinds.netfilter import IptablesRestore, NftRestore
from labctl.providers.netns.kinds.program import MapsFill
from labctl.providers.netns.plan import plan
from labctl.providers.netns.provider import teardown
from labctl.system import cgroups, netns
from labctl.testing.labs import sample_lab

RESULT = Path(__file__).parent / "results" / "services.json"
WAYS = ("ebpf", "iptables", "nftables")
MAPS_OF_SERVICES = ("services", "backends")
MOST_S = {1_000: 0.3, 10_000: 2.0}
VIP = IPv4Address("10.96.0.11")
PORTS = range(20000, 20008)
TASKS = (Task(kind=Kind.CONNECT, share=0.6), Task(kind=Kind.TCP, share=0.4))
METRICS = ("connections_per_s", "cpu_per_connection", "latency_p50", "cpu_per_transaction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one piece of work: how long it took, and its CPU time."""

    wall_s: float
    cpu_s: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(wall_s=self.wall_s + other.wall_s, cpu_s=self.cpu_s + other.cpu_s)


NOTHING = Cost(wall_s=0.0, cpu_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Programming:
    """Of one node's Services. `alone`: by iptables-restore or nft without labctl; nothing where eBPF does it."""

    whole: Cost
    alone: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One lab, and the address that its client talks to. `programming` has a figure for each node."""

    name: str
    lab: Lab
    asked: IPv4Address
    programming: tuple[Programming, ...] = ()
    samples: dict[str, list[float]] = field(default_factory=dict)


def lab_of(way: str, count: int) -> Lab:
    """Two nodes, the client on the first and the backend on the second, and `count` Services in all."""
    lab = sample_lab(
        f"bench-{way}-{count}-{os.getpid() % 1000}",
        nodes=2,
        pods=(("client", "node1"), ("server", "node2")),
        host_routing=HostRouting.LEGACY,
        encapsulation=Encapsulation.VXLAN,
        masquerade=Masquerade.IPTABLES,
        kube_proxy_replacement=way == "ebpf",
        kube_proxy=KubeProxy.NFTABLES if way == "nftables" else KubeProxy.IPTABLES,
        extra_services=count - len(PORTS),
    )
    return replace(lab, services=services_of(ServiceProtocol.TCP))


def services_of(*protocols: ServiceProtocol) -> tuple[Service, ...]:
    """One for each port of each protocol, all at one address, with the pod `server` behind them."""
    return tuple(
        Service(
            name=f"{protocol}-{port}", address=VIP, port=port, target_port=port, protocol=protocol,
            backends=("server",), selector={"app": "server"}, type=ServiceType.CLUSTER_IP,
        )
        for port in PORTS
        for protocol in protocols
    )  # fmt: skip


def is_programming(action: Action) -> bool:
    """Whether the action puts Services onto a node."""
    if isinstance(action, IptablesRestore):
        return bool(action.keeps)
    return isinstance(action, NftRestore) or (isinstance(action, MapsFill) and action.map in MAPS_OF_SERVICES)


def namespace_of(action: Action) -> str:
    return str(getattr(action, "namespace", ""))


def cpu_s() -> float:
    """Of this process and of those that it has waited for."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def cost_of(work: Callable[[], object]) -> Cost:
    begun, used = time.monotonic(), cpu_s()
    work()
    return Cost(wall_s=time.monotonic() - begun, cpu_s=cpu_s() - used)


def alone(action: Action) -> Cost:
    """The rules once more, by their tool, in a namespace with nothing in it."""
    if not isinstance(action, IptablesRestore | NftRestore):
        return NOTHING
    with netns.throwaway():
        return cost_of(lambda: subprocess.run(action.argv(), input=action.rules.encode(), check=True))


def build(lab: Lab) -> tuple[Programming, ...]:
    """Builds the lab, its server fit for the load program; gives what programming the Services cost on each node."""
    spent: dict[str, Programming] = {}
    with executor(lab) as running:
        for step in plan(lab).steps:
            for action in step.actions:
                cost = cost_of(partial(running.execute, [action]))
                if is_programming(action):
                    node, by_tool = namespace_of(action), alone(action)
                    so_far = spent.get(node, Programming(whole=NOTHING, alone=NOTHING))
                    spent[node] = Programming(whole=so_far.whole + cost, alone=so_far.alone + by_tool)
        running.finish(lab)
    settings = (f"net.ipv4.ip_local_port_range={PORTS[0]} {PORTS[-1]}", "net.ipv4.tcp_max_tw_buckets=0")
    enter = ("ip", "netns", "exec", names.namespace_of(lab.name, "server"))
    subprocess.run((*enter, "sysctl", "-q", "-w", *settings), check=True)
    return tuple(spent.values())


@contextlib.contextmanager
def sides(counts: Sequence[int]) -> Iterator[tuple[Side, ...]]:
    """All labs, up; removed at the end, whatever happens."""
    made: list[Side] = []
    try:
        for count in counts:
            for way in WAYS:
                lab = lab_of(way, count)
                made.append(Side(name=f"{way} {count}", lab=lab, asked=VIP))
                made[-1] = side = replace(made[-1], programming=build(lab))
                say(f"{way}, {count} Services: {to_program(side)}")
        made.append(Side(name="pod", lab=made[0].lab, asked=made[0].lab.pod("server").address))
        yield tuple(made)
    finally:
        for side in made:
            teardown(side.lab.name)


def median_cost(costs: Iterable[Cost]) -> Cost:
    found = tuple(costs)
    return Cost(
        wall_s=statistics.median(one.wall_s for one in found), cpu_s=statistics.median(one.cpu_s for one in found)
    )


def to_program(side: Side) -> str:
    whole = median_cost(one.whole for one in side.programming)
    by_tool = median_cost(one.alone for one in side.programming)
    said = f"{whole.wall_s:.3f} s ({whole.cpu_s:.3f} s of CPU) to program a node"
    return f"{said}; its tool alone {by_tool.wall_s:.3f} s ({by_tool.cpu_s:.3f} s)" if by_tool != NOTHING else said


def measure(
    made: Sequence[tuple[Lab, IPv4Address]], tasks: tuple[Task, ...], seconds: float, seed: str
) -> list[dict[str, float]]:
    """The metrics of each lab's client that talks to that address; all clients are in the cgroup of the first."""
    sessions = [
        session(
            names.namespace_of(lab.name, "client"),
            names.namespace_of(lab.name, "server"),
            str(lab.pod("server").address),
            str(asked),
        )
        for lab, asked in made
    ]
    with among_pods(made[0][0]):
        return round_of(sessions, tasks, seconds, seed)


@contextlib.contextmanager
def among_pods(lab: Lab) -> Iterator[None]:
    """This process, and what it starts, is where the client's pod is: sockets are translated by their cgroup. A lab
    that translates packets only has no cgroups."""
    pods = names.cgroup_of(lab.name, "node1", "pods")
    if not cgroups.is_there(pods):
        yield
        return
    before = Path("/proc/self/cgroup").read_text(encoding="ascii").rpartition("0::/")[2].strip()
    join(cgroups.path_of(pods))
    try:
        yield
    finally:
        join(cgroups.path_of(before))


def join(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text("0", encoding="ascii")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def report(made: Sequence[Side], counts: Sequence[int]) -> dict[str, Any]:
    by_name = {side.name: side for side in made}
    fewest, most = min(counts), max(counts)
    figures = {
        side.name: {
            "programS": [one.whole.wall_s for one in side.programming],
            "programCpuS": [one.whole.cpu_s for one in side.programming],
            "toolAloneS": [one.alone.wall_s for one in side.programming],
            "toolAloneCpuS": [one.alone.cpu_s for one in side.programming],
            **{name: {"median": statistics.median(values), "samples": values} for name, values in side.samples.items()},
        }
        for side in made
    }
    changes: dict[str, Any] = {}
    for metric in METRICS:
        for way in WAYS:
            few, many = by_name[f"{way} {fewest}"].samples[metric], by_name[f"{way} {most}"].samples[metric]
            changes[f"{metric}: {way}, {fewest} → {most} Services"] = compared(few, many)
        for way in WAYS[1:]:
            other, ebpf = by_name[f"{way} {most}"].samples[metric], by_name[f"ebpf {most}"].samples[metric]
            changes[f"{metric}: {way} → ebpf, {most} Services"] = compared(other, ebpf)
        direct, service = by_name["pod"].samples[metric], by_name[f"ebpf {fewest}"].samples[metric]
        changes[f"{metric}: pod → Service by ebpf"] = compared(direct, service)
    return {"figures": figures, "changes": changes}


def missed(made: Sequence[Side], changes: Mapping[str, Mapping[str, float]], counts: Sequence[int]) -> list[str]:
    wrong = []
    for side in made:
        count = side.lab.datapath.extra_services + len(PORTS)
        if not side.programming or not (most := MOST_S.get(count)):
            continue
        if median_cost(one.whole for one in side.programming).wall_s > most:
            wrong.append(f"{side.name}: {to_program(side)}, more than {most} s")
    change = changes[f"connections_per_s: ebpf, {min(counts)} → {max(counts)} Services"]
    if not change["low"] <= 0 <= change["high"]:
        wrong.append(f"connections per second by eBPF changed by {change['estimate']:+.1%}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--counts", default="10,1000,10000")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round, for each side")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    counts = sorted(int(count) for count in given.counts.split(","))
    order = random.Random(given.seed)
    busy: list[float] = []
    with sides(counts) as made:
        for number in range(given.rounds):
            turns = list(made)
            order.shuffle(turns)
            for side in turns:
                values = measure([(side.lab, side.asked)], TASKS, given.seconds, f"round {number}")[0]
                for metric in METRICS:
                    side.samples.setdefault(metric, []).append(values[metric])
            busy.append(os.getloadavg()[0])
            say(f"round {number + 1} of {given.rounds}, load {busy[-1]:.1f}")
        found = report(made, counts)
    wrong = missed(made, found["changes"], counts)
    document = write_result(given.output, "services", busy, missed=wrong, **found)
    if given.json:
        print(json.dumps(document, ensure_ascii=False, default=str))
    else:
        show(made, found["changes"], wrong)
    return 1 if wrong else 0


def show(made: Sequence[Side], changes: Mapping[str, Mapping[str, float]], wrong: Sequence[str]) -> None:
    print(f"{'':16}{'program':>10}{'its CPU':>10}{'conn/s':>10}{'cpu/conn':>12}{'p50':>10}{'cpu/req':>12}")
    for side in made:
        rate, cost, p50, request = (statistics.median(side.samples[metric]) for metric in METRICS)
        whole = median_cost(one.whole for one in side.programming) if side.programming else None
        program = f"{whole.wall_s:>8.3f} s{whole.cpu_s:>8.3f} s" if whole else f"{'-':>10}{'-':>10}"
        times = f"{cost * 1e6:>9.1f} µs{p50 * 1e6:>7.1f} µs{request * 1e6:>9.2f} µs"
        print(f"{side.name:16}{program}{rate:>10.0f}{times}")
    for name, change in changes.items():
        print(f"{name:60} {change['estimate']:+7.1%}  [{change['low']:+.1%}, {change['high']:+.1%}]")
    for line in wrong:
        print(f"missed: {line}")


if __name__ == "__main__":
    sys.exit(main())
