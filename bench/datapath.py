"""The datapath against the physical limit: round trips of sockperf over BPF host routing and over one veth pair.

Runs interleaved blocks in random order (`--seed`) and prints the ratio of medians with its range over the blocks.
Goals: same node within 10 % of the direct veth, cross-node native within 15 %. Needs root, sockperf, and the test tree.
"""

from __future__ import annotations

import argparse
import math
import random
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

from labctl.model.lab import Encapsulation, HostRouting  # noqa: E402

Way = tuple[str, str, str]
"""Client namespace, server namespace, server address."""


@contextmanager
def direct_veth() -> Iterator[Way]:
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
        yield client, server, "10.9.0.2"
    finally:
        for namespace in (client, server):
            subprocess.run(("ip", "netns", "del", namespace), check=False)


def way(cluster: Cluster, server: str) -> Way:
    return cluster.namespace("a"), cluster.namespace(server), str(cluster.lab.pod(server).address)


def p50_s(path: Way, duration_s: int) -> float:
    """The median round trip of one run, client on CPU 1 and server on CPU 0."""
    client, server, address = path
    in_server = ("nsenter", f"--net=/run/netns/{server}")
    in_client = ("nsenter", f"--net=/run/netns/{client}")
    serving = subprocess.Popen(
        (*in_server, "taskset", "-c", "0", "sockperf", "server", "--tcp", "-i", address, "-p", "11111"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 5
        listening = (*in_server, "ss", "-Hltn")
        while b":11111" not in subprocess.run(listening, capture_output=True, check=True).stdout:
            if time.monotonic() > deadline:
                raise TimeoutError("sockperf did not listen within 5 s")
            time.sleep(0.02)
        asking = ("sockperf", "ping-pong", "--tcp", "-i", address, "-p", "11111", "-t", str(duration_s), "-m", "64")
        done = subprocess.run((*in_client, "taskset", "-c", "1", *asking), capture_output=True, text=True, check=True)
    finally:
        serving.kill()
        serving.wait()
    found = re.search(r"percentile 50.000 = +([\d.]+)", done.stdout)
    if found is None:
        raise ValueError(f"sockperf printed no median:\n{done.stdout}")
    return 2 * float(found[1]) / 1e6  # sockperf prints half of the round trip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--duration", type=int, default=1, help="whole seconds of one run")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", default="", help="regular expression of the ways to measure besides the direct veth")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces go, too
    order = random.Random(arguments.seed)
    with ExitStack() as stack:
        paths = {"direct veth": stack.enter_context(direct_veth())}
        for routing in (HostRouting.BPF, HostRouting.LEGACY):
            for encapsulation in (Encapsulation.NATIVE, Encapsulation.VXLAN):
                built = stack.enter_context(cluster(make_lab(routing, encapsulation)))
                for server, placement in (("b", "same node"), ("c", "cross node")):
                    name = f"{routing}-{encapsulation}, {placement}"
                    if re.search(arguments.only, name):
                        paths[name] = way(built, server)
        for path in paths.values():
            p50_s(path, 1)
        samples: dict[str, list[float]] = {name: [] for name in paths}
        for _ in range(arguments.blocks):
            for name in order.sample(list(paths), len(paths)):
                samples[name].append(p50_s(paths[name], arguments.duration))
    reference = samples["direct veth"]
    print(f"p50 round trip, {arguments.blocks} blocks of {arguments.duration} s, seed {arguments.seed}")
    for name, values in samples.items():
        logs = sorted(math.log(value / base) for value, base in zip(values, reference, strict=True))
        change, low, high = (math.expm1(x) for x in (statistics.median(logs), logs[0], logs[-1]))
        print(f"  {name:28} {statistics.median(values) * 1e6:7.2f} µs  {change:+7.1%}  [{low:+.1%}, {high:+.1%}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
