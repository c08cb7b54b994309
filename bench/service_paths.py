"""What a Service costs a request, against the same client talking to the backend's pod itself.

    sudo python bench/service_paths.py [--rounds N] [--seconds S] [--output FILE]

Two labs are up at once, with BPF host routing and vxlan: in one a Service is translated at the socket, in the other in
each packet (`socketLB: false`). Each round makes new connections to the pod and to the Service in each lab, and
labctl's load program measures both in slices of 2 ms that alternate (src/labctl/load). Intervals are over the rounds
(Wilcoxon, paired), as in `labctl compare`. Needs root.

Targets: at the socket p50 and CPU are within 3 % of those of the pod, in each packet within 10 %. The exit code is 1
when an interval does not lie within.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path

from load_rounds import compared, write_result
from services import VIP, build, measure, say, services_of

from labctl.load.measure import Task
from labctl.load.slices import Kind
from labctl.model.lab import Encapsulation, HostRouting, Lab, ServiceProtocol
from labctl.providers.netns.provider import teardown
from labctl.testing.labs import sample_lab

RESULT = Path(__file__).parent / "results" / "service_paths.json"
METRICS = ("latency_p50", "cpu_per_transaction", "udp_p50", "udp_cpu_per_transaction")
MOST = {"socket": 0.03, "packet": 0.10}
TASKS = (Task(kind=Kind.TCP, share=0.6), Task(kind=Kind.UDP, share=0.4))


@dataclass(kw_only=True)
class Side:
    """A lab, and the address that its client talks to."""

    name: str
    lab: Lab
    asked: IPv4Address
    samples: dict[str, list[float]] = field(default_factory=dict)


def lab_of(way: str) -> Lab:
    lab = sample_lab(
        f"bench-{way}-{os.getpid() % 10000}",
        nodes=2,
        pods=(("client", "node1"), ("server", "node2")),
        host_routing=HostRouting.BPF,
        encapsulation=Encapsulation.VXLAN,
        socket_lb=way == "socket",
    )
    return replace(lab, services=services_of(*ServiceProtocol))


@contextlib.contextmanager
def sides() -> Iterator[tuple[Side, ...]]:
    made: list[Side] = []
    try:
        for way in MOST:
            lab = lab_of(way)
            made.append(Side(name=f"{way} pod", lab=lab, asked=lab.pod("server").address))
            made.append(Side(name=f"{way} service", lab=lab, asked=VIP))
            build(lab)
        yield tuple(made)
    finally:
        for name in {side.lab.name for side in made}:
            teardown(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a round, for each side")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    busy: list[float] = []
    with sides() as made:
        for number in range(given.rounds):
            for way in MOST:
                chosen = [side for side in made if side.name.startswith(way)]
                found = measure([(side.lab, side.asked) for side in chosen], TASKS, given.seconds, f"round {number}")
                for side, values in zip(chosen, found, strict=True):
                    for metric in METRICS:
                        side.samples.setdefault(metric, []).append(values[metric])
            busy.append(os.getloadavg()[0])
            say(f"round {number + 1} of {given.rounds}, load {busy[-1]:.1f}")
    by_name = {side.name: side for side in made}
    changes, missed = {}, []
    for way, most in MOST.items():
        for metric in METRICS:
            change = compared(by_name[f"{way} pod"].samples[metric], by_name[f"{way} service"].samples[metric])
            changes[f"{metric}: pod → Service, {way}"] = change
            if not -most < change["low"] <= change["high"] < most:
                missed.append(f"{metric}, {way}: [{change['low']:+.1%}, {change['high']:+.1%}], not within {most:.0%}")
    figures = {
        side.name: {
            metric: {"median": statistics.median(side.samples[metric]), "samples": side.samples[metric]}
            for metric in METRICS
        }
        for side in made
    }
    write_result(given.output, "service_paths", busy, missed=missed, figures=figures, changes=changes)
    for name, change in changes.items():
        print(f"{name:48} {change['estimate']:+7.1%}  [{change['low']:+.1%}, {change['high']:+.1%}]")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
