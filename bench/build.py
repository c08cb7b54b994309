"""How long building and removing netns labs takes, as ratios within one run. Needs root, gcc and an idle host.

    python bench/build.py [--rounds N] [--large] [--json]

The yardstick is bench/build_netlink.c, a loop in C that makes the same namespaces, links, addresses and routes and
nothing else. Rounds are interleaved in alternating order, so that a slow moment of the host hits both sides. With
Mininet installed its `linear` topology of as many hosts is run too. The exit code is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.providers.netns.execute import executor
from labctl.providers.netns.kinds.namespace import RecordWrite, Sysctls
from labctl.providers.netns.kinds.netfilter import IptablesRestore
from labctl.providers.netns.kinds.program import DatapathLoad, FilterAttach, HooksAdd, MapsFill
from labctl.providers.netns.open import open_lab
from labctl.providers.netns.plan import plan
from labctl.providers.netns.provider import teardown
from labctl.system import netns
from labctl.testing.labs import sample_lab

HERE = Path(__file__).parent
BEYOND_THE_YARDSTICK = (Sysctls, DatapathLoad, MapsFill, HooksAdd, FilterAttach, IptablesRestore, RecordWrite)
MININET = """
import time
from mininet.net import Mininet
from mininet.node import OVSBridge
from mininet.topo import LinearTopo
begun = time.monotonic()
net = Mininet(topo=LinearTopo(k=1, n={hosts}), switch=OVSBridge, controller=None)
net.start()
print(time.monotonic() - begun)
net.stop()
"""


def lab_of(name: str, nodes: int, pods_per_node: int) -> Lab:
    pods = tuple(
        (f"pod{node}x{number}", f"node{node}") for node in range(1, nodes + 1) for number in range(pods_per_node)
    )
    return sample_lab(name, nodes=nodes, pods=pods)


def build(lab: Lab, *, everything: bool) -> float:
    """Seconds to build the lab: all of it, or only what the yardstick makes too."""
    steps = plan(lab).steps
    if not everything:
        wanted: list[Sequence[Action]] = [
            [action for action in step.actions if not isinstance(action, BEYOND_THE_YARDSTICK)] for step in steps
        ]
    else:
        wanted = [step.actions for step in steps]
    begun = time.monotonic()
    with executor(lab) as running:
        for actions in wanted:
            running.execute(actions)
    return time.monotonic() - begun


def remove(lab: Lab) -> float:
    begun = time.monotonic()
    teardown(lab.name)
    return time.monotonic() - begun


def settle() -> None:
    """Waits until the kernel has freed what was dropped: its work would fall into the next measurement."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        busy = [line for line in Path("/proc/slabinfo").read_text().splitlines() if line.startswith("net_namespace")]
        before = busy[0].split()[1] if busy else ""
        time.sleep(0.2)
        after = [line for line in Path("/proc/slabinfo").read_text().splitlines() if line.startswith("net_namespace")]
        if not after or after[0].split()[1] == before:
            return


def yardstick(program: Path, name: str, nodes: int, pods_per_node: int) -> float:
    done = subprocess.run([program, name, str(nodes), str(pods_per_node)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def compare(program: Path, nodes: int, pods_per_node: int, rounds: int) -> dict[str, object]:
    """Interleaved; each ratio is of two measurements of one round."""
    name = f"bench{os.getpid()}"
    lab = lab_of(name, nodes, pods_per_node)
    samples: list[dict[str, float]] = []
    for number in range(rounds):
        taken: dict[str, float] = {}
        kinds = ["c", "topology", "everything"]
        for kind in kinds if number % 2 else reversed(kinds):
            settle()
            if kind == "c":
                taken["c"] = yardstick(program, name, nodes, pods_per_node)
            else:
                taken[kind] = build(lab, everything=kind == "everything")
                taken["remove"] = remove(lab)
        samples.append(taken)
    pods = nodes * pods_per_node
    return {
        "nodes": nodes,
        "pods": pods,
        "rounds": rounds,
        "topology_against_c": statistics.median(one["topology"] / one["c"] for one in samples),
        "everything_against_c": statistics.median(one["everything"] / one["c"] for one in samples),
        "everything_s": statistics.median(one["everything"] for one in samples),
        "remove_s_per_pod": statistics.median(one["remove"] for one in samples) / pods,
        "samples_s": samples,
    }


def large(nodes: int, pods_per_node: int) -> dict[str, object]:
    """One lab of many pods: how the time grows, whether the farthest pods answer, and what it takes of memory."""
    settle()
    name = f"bench{os.getpid()}"
    lab = lab_of(name, nodes, pods_per_node)
    available = memory_available_byte()
    at_s: list[float] = []
    begun = time.monotonic()
    try:
        with executor(lab) as running:
            for step in plan(lab).steps:
                running.execute(step.actions)
                if step.id.startswith("pod-"):
                    at_s.append(time.monotonic() - begun)
        built_s = time.monotonic() - begun
        used = available - memory_available_byte()
        with open_lab(lab) as opened:
            client = opened.target(lab.pods[0].name)
            pinged = [
                client.run(("ping", "-c", "1", "-W", "2", str(pod.address)), timeout_s=5)
                for pod in lab.pods[1 :: max(1, len(lab.pods) // 20)]
            ]
    finally:
        removed_s = remove(lab)
    tenth = len(at_s) // 10
    return {
        "nodes": nodes,
        "pods": len(lab.pods),
        "built_s": built_s,
        "first_tenth_s": at_s[tenth] - at_s[0],
        "last_tenth_s": at_s[-1] - at_s[-1 - tenth],
        "answered": sum(done.returncode == 0 for done in pinged),
        "asked": len(pinged),
        "removed_s_per_pod": removed_s / len(lab.pods),
        "host_memory_byte": used,
        "own_peak_resident_byte": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "names_left": [left for left in netns.names() if name in left],
    }


def memory_available_byte() -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def mininet(hosts: int) -> float | None:
    """Seconds that Mininet takes to start `linear` with that many hosts; None where it is not installed."""
    if shutil.which("mn") is None:
        return None
    done = subprocess.run(
        ["/usr/bin/python3", "-c", MININET.format(hosts=hosts)], capture_output=True, text=True, check=False
    )
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


@dataclass(frozen=True, slots=True)
class Target:
    """What was measured, and how much it may be at most."""

    what: str
    measured: float
    at_most: float


def targets(result: Mapping[str, Any]) -> list[Target]:
    small, medium = result["small"], result["medium"]
    found = [
        Target("3 nodes, 3 pods: all of building, s", small["everything_s"], 0.5),
        Target("3 nodes, 3 pods: same objects, against C", small["topology_against_c"], 2.5),
        Target("3 nodes, 60 pods: same objects, against C", medium["topology_against_c"], 2.5),
        Target("3 nodes, 60 pods: removing, s a pod", medium["remove_s_per_pod"], 0.001),
    ]
    if result["mininet_linear_60_hosts_s"]:
        share = medium["everything_s"] / result["mininet_linear_60_hosts_s"]
        found.append(Target("3 nodes, 60 pods: all of building, against Mininet", share, 0.1))
    if "large" in result:
        large_lab = result["large"]
        found += [
            Target("10 nodes, 1,000 pods: removing, s a pod", large_lab["removed_s_per_pod"], 0.001),
            Target("10 nodes, 1,000 pods: memory of the host, byte", large_lab["host_memory_byte"], 1e9),
        ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--large", action="store_true", help="also 1,000 pods on 10 nodes")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "build_netlink")
        subprocess.run(["gcc", "-O2", "-o", program, HERE / "build_netlink.c"], check=True)
        result: dict[str, Any] = {
            "small": compare(program, nodes=3, pods_per_node=1, rounds=asked.rounds),
            "medium": compare(program, nodes=3, pods_per_node=20, rounds=asked.rounds),
            "mininet_linear_60_hosts_s": mininet(60),
        }
        if asked.large:
            result["large"] = large(nodes=10, pods_per_node=100)
    if asked.json:
        print(json.dumps({"benchmark": "build", **result}, indent=2))
    else:
        print(f"{'medians of ' + str(asked.rounds) + ' rounds':52} {'measured':>14} {'at most':>14}")
        for target in targets(result):
            print(f"{target.what:52} {target.measured:14.4g} {target.at_most:14.4g}")
        if "large" in result:
            grown = ("built_s", "first_tenth_s", "last_tenth_s", "answered", "asked", "own_peak_resident_byte")
            print("10 nodes, 1,000 pods:", ", ".join(f"{name} {result['large'][name]:.3g}" for name in grown))
        if result["mininet_linear_60_hosts_s"] is None:
            print("Mininet is not installed: not compared with it")
    return 0 if all(target.measured <= target.at_most for target in targets(result)) else 1


if __name__ == "__main__":
    sys.exit(main())
