"""What a Service costs a request, against the same client talking to the backend's pod itself.

    sudo python bench/service_paths.py [--rounds N] [--output FILE]

Two labs are up at once, with BPF host routing and vxlan: in one a Service is translated at the socket, in the other in
each packet (`socketLB: false`). Each round measures, in an order that changes, requests over one connection (`latency`)
to the pod and to the Service in both. Intervals are those of paired rounds (Wilcoxon), as in `labctl compare`. Needs
root.

Targets: at the socket p50 and CPU are within 3 % of those of the pod, in each packet within 10 %. The exit code is 1
when an interval lies beyond.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from services import Side, build, compared, say

from labctl import __version__
from labctl.checks.base import CheckContext
from labctl.checks.latency import LatencyCheck
from labctl.model.lab import (
    CheckSpec,
    Encapsulation,
    HostRouting,
    Lab,
    Pair,
    Placement,
    Service,
    ServiceProtocol,
    ServiceType,
)
from labctl.model.parameters import LatencyParameters
from labctl.model.result import Verdict
from labctl.providers.netns.open import open_lab
from labctl.providers.netns.provider import teardown
from labctl.store.environment import read_environment
from labctl.testing.labs import sample_lab
from labctl.testing.scripted import MemoryRaw

RESULT = Path(__file__).parent / "results" / "service_paths.json"
METRICS = ("latency_p50", "cpu_per_transaction")
MOST = {"socket": 0.03, "packet": 0.10}
PAIRS = {
    "pod": Pair(client="client", server="server", placement=Placement.CROSS_NODE),
    "service": Pair(client="client", server="web", placement=Placement.CROSS_NODE),
}
SPEC = CheckSpec(name="latency", kind="latency", parameters=LatencyParameters(duration_s=1.0))


def lab_of(way: str) -> Lab:
    lab = sample_lab(
        f"bench-{way}-{os.getpid() % 10000}",
        nodes=2,
        pods=(("client", "node1"), ("server", "node2")),
        host_routing=HostRouting.BPF,
        encapsulation=Encapsulation.VXLAN,
        socket_lb=way == "socket",
    )
    web = Service(
        name="web", address=IPv4Address("10.96.0.11"), port=80, target_port=5205, protocol=ServiceProtocol.TCP,
        backends=("server",), selector={"app": "server"}, type=ServiceType.CLUSTER_IP,
    )  # fmt: skip
    return replace(lab, services=(web,))


@contextlib.contextmanager
def sides() -> Iterator[tuple[Side, ...]]:
    made: list[Side] = []
    try:
        for way in MOST:
            lab = lab_of(way)
            made += (Side(name=f"{way} {what}", lab=lab, pair=pair) for what, pair in PAIRS.items())
            build(lab)
        yield tuple(made)
    finally:
        for name in {side.lab.name for side in made}:
            teardown(name)


def measure(side: Side) -> None:
    """Raises SystemExit for a check that did not pass: it would be no sample."""
    with open_lab(side.lab) as opened:
        result = LatencyCheck().run(CheckContext(open_lab=opened, pair=side.pair, spec=SPEC, raw=MemoryRaw()))
    if result.verdict is not Verdict.PASS:
        raise SystemExit(f"{side.name}: latency ended as {result.verdict}: {result.reason}")
    for sample in result.samples:
        side.samples.setdefault(sample.metric, []).append(sample.value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    order = random.Random(given.seed)
    busy: list[float] = []
    with sides() as made:
        for number in range(given.rounds):
            turns = list(made)
            order.shuffle(turns)
            for side in turns:
                measure(side)
            busy.append(os.getloadavg()[0])
            say(f"round {number + 1} of {given.rounds}, load {busy[-1]:.1f}")
    by_name = {side.name: side for side in made}
    changes, missed = {}, []
    for way, most in MOST.items():
        for metric in METRICS:
            change = compared(by_name[f"{way} pod"].samples[metric], by_name[f"{way} service"].samples[metric])
            changes[f"{metric}: pod → Service, {way}"] = change
            if change["low"] > most:
                missed.append(f"{metric} in the {way}: {change['estimate']:+.1%}, more than {most:.0%}")
    document = {
        "bench": "service_paths",
        "command": shlex.join(["python", *sys.argv]),
        "labctlVersion": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": given.rounds,
        "loadAverage": busy,
        "environment": asdict(read_environment()),
        "missed": missed,
        "figures": {
            side.name: {
                metric: {"median": statistics.median(side.samples[metric]), "samples": side.samples[metric]}
                for metric in METRICS
            }
            for side in made
        },
        "changes": changes,
    }
    given.output.write_text(json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    for name, change in changes.items():
        print(f"{name:48} {change['estimate']:+7.1%}  [{change['low']:+.1%}, {change['high']:+.1%}]")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
