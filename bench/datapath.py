"""The datapath against the physical limit: labctl's load program over each datapath, and over one veth pair.

    sudo python bench/datapath.py [--rounds N] [--seconds S] [--only PATTERN] [--output FILE]

Each round makes new connections on every way and measures all of them in slices of 2 ms that alternate
(src/labctl/load); intervals are over the rounds (Wilcoxon, paired), as in `labctl compare`. Needs root, and the test
tree.

Targets: with BPF host routing, a request over TCP takes at most 10 % longer than over the veth on the same node, and at
most 15 % longer across nodes. The exit code is 1 when an interval lies beyond.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TREE / "tests" / "integration" / "datapath"))

from datapath_topology import Cluster, cluster, make_lab  # noqa: E402
from load_rounds import compared, round_of, session, write_result  # noqa: E402

from labctl.load.measure import Session, Task  # noqa: E402
from labctl.load.slices import Kind  # noqa: E402
from labctl.model.lab import Encapsulation, HostRouting  # noqa: E402

RESULT = Path(__file__).parent / "results" / "datapath.json"
TASKS = (
    Task(kind=Kind.TCP, share=0.4),
    Task(kind=Kind.STREAM, share=0.3, argument=1, on_one_cpu=True),
    Task(kind=Kind.UDP, share=0.3),
)
METRICS = ("latency_p50", "cpu_per_transaction", "cpu_per_byte", "udp_p50")
DIRECT = "direct veth"
MOST = {"same node": 0.10, "cross node": 0.15}


@contextmanager
def direct_veth() -> Iterator[Session]:
    client, server = f"dpbench-{time.time_ns()}-a", f"dpbench-{time.time_ns()}-b"
    try:
        for namespace in (client, server):
            subprocess.run(("ip", "netns", "add", namespace), check=True)
        script = (
            f"link add eth0 type veth peer name eth0 netns {server}\naddr add 10.9.0.1/24 dev eth0\nlink set eth0 up\n"
        )
        subprocess.run(("ip", "-n", client, "-batch", "-"), input=script.encode(), check=True)
        script = "addr add 10.9.0.2/24 dev eth0\nlink set eth0 up\n"
        subprocess.run(("ip", "-n", server, "-batch", "-"), input=script.encode(), check=True)
        yield session(client, server, "10.9.0.2")
    finally:
        for namespace in (client, server):
            subprocess.run(("ip", "netns", "del", namespace), check=False)


def way(built: Cluster, server: str) -> Session:
    return session(built.namespace("a"), built.namespace(server), str(built.lab.pod(server).address))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.6, help="of a round, for each way")
    parser.add_argument("--only", default="", help="regular expression of the ways to measure besides the direct veth")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces go, too
    busy: list[float] = []
    with ExitStack() as stack:
        ways = {DIRECT: stack.enter_context(direct_veth())}
        for routing in (HostRouting.BPF, HostRouting.LEGACY):
            for encapsulation in (Encapsulation.NATIVE, Encapsulation.VXLAN):
                built = stack.enter_context(cluster(make_lab(routing, encapsulation)))
                for server, placement in (("b", "same node"), ("c", "cross node")):
                    name = f"{routing}-{encapsulation}, {placement}"
                    if re.search(given.only, name):
                        ways[name] = way(built, server)
        samples: dict[str, dict[str, list[float]]] = {name: {metric: [] for metric in METRICS} for name in ways}
        for number in range(given.rounds):
            for name, values in zip(
                ways, round_of(list(ways.values()), TASKS, given.seconds, f"round {number}"), strict=True
            ):
                for metric in METRICS:
                    samples[name][metric].append(values[metric])
            busy.append(os.getloadavg()[0])
            print(f"round {number + 1} of {given.rounds}, load {busy[-1]:.1f}", file=sys.stderr, flush=True)
    changes = {
        name: {metric: compared(samples[DIRECT][metric], found[metric]) for metric in METRICS}
        for name, found in samples.items()
        if name != DIRECT
    }
    missed = [
        f"{name}: {found['latency_p50']['low']:+.1%} or more, and at most {most:.0%} were wanted"
        for name, found in changes.items()
        for placement, most in MOST.items()
        if name.startswith(str(HostRouting.BPF)) and name.endswith(placement) and found["latency_p50"]["low"] > most
    ]
    write_result(given.output, "datapath", busy, missed=missed, samples=samples, changes=changes)
    for metric in METRICS:
        print(f"{metric}: {DIRECT} {statistics.median(samples[DIRECT][metric]):.4g}")
        for name, found in changes.items():
            one = found[metric]
            print(f"  {name:28} {one['estimate']:+7.1%}  [{one['low']:+.1%}, {one['high']:+.1%}]")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
