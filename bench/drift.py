"""How long comparing and mending take: a lab of a thousand pods read and compared, three pods reset.

    sudo .venv/bin/python bench/drift.py [--pods 1000] [--runs 5] [--baseline PYTHONPATH]

Wall time and, steadier on a machine that has other things to do, CPU time (user and system, children included). With
`--baseline`, the sources of another version of labctl, each run is paired with one of those, in turns. Results go to
results/drift.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "drift.json"
LAB = "bench-drift"
TREES = ("this", "baseline")
TARGETS_S = {"diff": 1.0, "reset": 0.3, "resetHard": 0.3}
DAMAGE = ("ip", "-n", f"labctl.{LAB}.client", "link", "set", "dev", "eth0", "mtu", "1400")


def scenario(pods: int) -> dict[str, Any]:
    """Two pods with names, the others spread over the nodes: at most 200 on each."""
    nodes = max(3, -(-pods // 200))
    placed = [{"name": "client", "node": "node1"}, {"name": "server", "node": "node2"}]
    placed += [{"name": f"pod{number}", "node": f"node{number % nodes + 1}"} for number in range(pods - 2)]
    return {
        "apiVersion": "labctl/v1", "kind": "Scenario", "nodes": nodes, "pods": placed,
        "pairs": [{"client": "client", "server": "server"}], "datapath": {"hostRouting": "bpf"},
        "checks": [{"check": "ping"}], "compare": {"checks": ["ping"]},
    }  # fmt: skip


def labctl(sources: str, *words: str) -> dict[str, float]:
    """Seconds of one command: wall, and CPU of it and its children."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "PYTHONPATH": sources}
    argv = (sys.executable, "-m", "labctl", *words)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": time.monotonic() - begun, "cpu_s": used}


def measured(sides: Sequence[str], runs: int, act: Callable[[str], dict[str, float]]) -> list[dict[str, Any]]:
    """Medians of each side; the sides take turns."""
    found: list[list[dict[str, float]]] = [[] for _ in sides]
    for _ in range(runs):
        for side, into in zip(sides, found, strict=True):
            into.append(act(side))
    return [
        {
            "tree": tree,
            "runs": runs,
            **{key: round(statistics.median(one[key] for one in each), 3) for key in each[0]},
        }
        for tree, each in zip(TREES, found, strict=False)
    ]


def reset(side: str) -> dict[str, float]:
    subprocess.run(DAMAGE, check=True, timeout=60)
    return labctl(side, "reset", LAB)


def main() -> Iterator[tuple[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--baseline", help="the sources (PYTHONPATH) of a version to compare with")
    asked = parser.parse_args()
    sides = [str(ROOT / "src"), *([asked.baseline] if asked.baseline else [])]
    yield "load", round(os.getloadavg()[0], 1)
    for what, pods, act in (
        ("diff", asked.pods, lambda side: labctl(side, "diff", LAB)),
        ("reset", 3, reset),
        ("resetHard", 3, lambda side: labctl(side, "reset", LAB, "--hard")),
    ):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "scenario.yaml"
            place.write_text(json.dumps(scenario(pods)), encoding="utf-8")
            try:
                labctl(sides[0], "up", str(place), "--name", LAB)
                yield what, {"pods": pods, "sides": measured(sides, asked.runs, act)}
            finally:
                labctl(sides[0], "down", LAB)


if __name__ == "__main__":
    result = dict(main())
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    missed = [what for what, most_s in TARGETS_S.items() if result[what]["sides"][0]["wall_s"] > most_s]
    sys.exit(f"missed: {', '.join(missed)}" if missed else 0)
