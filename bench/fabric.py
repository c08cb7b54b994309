"""A large Clos fabric: how long until it is up and converged, and what each router takes of memory. Needs root and FRR.

    python bench/fabric.py [--spines 16] [--leaves 84] [--nodes 2] [--output FILE] [--json]

Every router has zebra and bgpd of its own, in a namespace. The steps' times are labctl's own; `converged` is the time
that BGP takes once the daemons run, until every node has the other nodes' ranges. Memory is the proportional set size
of all processes in the routers' namespaces (what they share is counted once), and the resident one beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.names import namespace_of
from labctl.planning.resolve import resolve
from labctl.providers.netns.provider import NetnsProvider
from labctl.system import netns

CHECKOUT = Path(__file__).resolve().parents[1]
PUBLISHED = (
    {
        "tool": "netlab 25.10 and containerlab",
        "says": "300 Linux containers and 6 FRR containers, on 16 cores: netlab create 18 s, containerlab deploy 39 s, "
        "netlab initial 2 min 20 s (some 12 min of CPU time), containerlab destroy 37 s",
        "address": "https://blog.ipspace.net/2026/01/netlab-faster-without-ansible",
    },
    {
        "tool": "netlab status --memory",
        "says": "an FRR container takes about 35 MB, a cEOS one about 1.7 GB",
        "address": "https://github.com/ipspace/netlab/discussions/3844",
    },
)
"""What others publish of their tools: other topologies and machines, an order of magnitude and no comparison."""


def parts_of(lab: Lab) -> list[str]:
    return [router.name for router in lab.routers]


def memory(lab: Lab) -> dict[str, Any]:
    """Bytes of the processes in the routers' namespaces."""
    inodes = {netns.path_of(namespace_of(lab.name, part)).stat().st_ino for part in parts_of(lab)}
    resident = proportional = processes = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if (folder / "ns" / "net").stat().st_ino not in inodes:
                continue
            text = (folder / "smaps_rollup").read_text()
        except OSError:
            continue
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines()[1:] if " kB" in line}
        resident += found.get("Rss", 0)
        proportional += found.get("Pss", 0)
        processes += 1
    count = len(parts_of(lab))
    return {
        "processes": processes,
        "residentByte": resident,
        "proportionalByte": proportional,
        "residentPerRouterByte": resident // count,
        "proportionalPerRouterByte": proportional // count,
    }


def measure(spines: int, leaves: int, nodes: int) -> dict[str, Any]:
    overrides = (f"fabric.spines={spines}", f"fabric.leaves={leaves}", f"nodes={nodes}")
    provider = NetnsProvider()
    begun_s = time.monotonic()
    lab = resolve(load_scenario("clos-bgp", overrides=overrides, start=CHECKOUT), name=f"bench-{os.getpid()}")
    plan = provider.plan(lab)
    planned_s = time.monotonic() - begun_s
    steps: dict[str, float] = {}
    try:
        with provider.executor(lab) as executor:
            for step in plan.steps:
                at_s = time.monotonic()
                executor.execute(step.actions)
                kind = step.id.partition("-")[0]
                steps[kind] = steps.get(kind, 0.0) + time.monotonic() - at_s
            executor.finish(lab)
        up_s = time.monotonic() - begun_s
        used = memory(lab)
    finally:
        at_s = time.monotonic()
        provider.teardown(lab.name)
        down_s = time.monotonic() - at_s
    return {
        "routers": len(lab.routers),
        "links": len(lab.links),
        "nodes": nodes,
        "planS": round(planned_s, 3),
        "stepsS": {name: round(value, 3) for name, value in steps.items()},
        "upS": round(up_s, 3),
        "convergedS": round(steps.get("converged", 0.0), 3),
        "ownS": round(up_s - steps.get("converged", 0.0), 3),
        "downS": round(down_s, 3),
        "memory": used,
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--spines", type=int, default=16)
    arguments.add_argument("--leaves", type=int, default=84)
    arguments.add_argument("--nodes", type=int, default=2)
    arguments.add_argument("--output", type=Path)
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    result = {
        "command": f"python bench/fabric.py --spines {chosen.spines} --leaves {chosen.leaves} --nodes {chosen.nodes}",
        "kernel": os.uname().release,
        "cpus": os.cpu_count(),
        "loadBefore": round(os.getloadavg()[0], 1),
        "measured": measure(chosen.spines, chosen.leaves, chosen.nodes),
        "published": PUBLISHED,
    }
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if chosen.output:
        chosen.output.write_text(text, encoding="utf-8")
    if chosen.json:
        sys.stdout.write(text)
        return 0
    found: dict[str, Any] = result["measured"]  # type: ignore[assignment]
    sys.stdout.write(f"{found['routers']} routers, {found['links']} links: up {found['upS']} s, ")
    sys.stdout.write(f"of which BGP {found['convergedS']} s; down {found['downS']} s; ")
    sys.stdout.write(
        f"{found['memory']['proportionalPerRouterByte'] / 1e6:.1f} MB a router (load {result['loadBefore']})\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
