"""How long `labctl up` takes in two source trees, a command and its pair in turn: what a change costs every user.

    sudo python bench/comparison/up_of_two_trees.py BEFORE AFTER [--scenario bpf] [--rounds N] [--output FILE]

BEFORE and AFTER are clones or worktrees of labctl (`git worktree add --detach DIR COMMIT`); this interpreter runs both.
Each round ups and removes the scenario once in each, in an order that changes. Measured are seconds and seconds of CPU
of `up`, with all that it starts; intervals are those of paired rounds (Wilcoxon), as in `labctl compare`. The exit code
is 1 when AFTER needs more, with the whole interval above 0. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from labctl.compare.statistics import log_ratios, paired_estimate, relative
from labctl.store.environment import read_environment

RESULT = Path(__file__).parents[1] / "results" / "up_of_two_trees.json"
METRICS = ("wall_s", "cpu_s")


def run(tree: Path, *words: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    argv = (sys.executable, "-m", "labctl", *words)
    subprocess.run(argv, cwd=tree, env=environment, check=True, capture_output=True)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def up(tree: Path, scenario: str) -> dict[str, float]:
    name = f"bench-up-{os.getpid() % 10000}"
    begun, used = time.monotonic(), cpu_s()
    run(tree, "up", scenario, "--name", name)
    found = {"wall_s": time.monotonic() - begun, "cpu_s": cpu_s() - used}
    run(tree, "down", name)
    return found


def commit_of(tree: Path) -> str:
    done = subprocess.run(
        ("git", "-C", str(tree), "log", "-1", "--format=%h %s"), capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--scenario", default="bpf")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    trees = {"before": given.before.resolve(), "after": given.after.resolve()}
    samples: dict[str, dict[str, list[float]]] = {side: {metric: [] for metric in METRICS} for side in trees}
    order, busy = random.Random(given.seed), []
    for tree in trees.values():  # compiled, and read from the disk
        up(tree, given.scenario)
    for number in range(given.rounds):
        turns = list(trees)
        order.shuffle(turns)
        for side in turns:
            for metric, value in up(trees[side], given.scenario).items():
                samples[side][metric].append(value)
        busy.append(os.getloadavg()[0])
        print(f"round {number + 1} of {given.rounds}, load {busy[-1]:.1f}", file=sys.stderr, flush=True)
    changes = {}
    for metric in METRICS:
        estimate = paired_estimate(log_ratios(samples["before"][metric], samples["after"][metric]))
        changes[metric] = {
            "estimate": relative(estimate.estimate), "low": relative(estimate.low), "high": relative(estimate.high),
        }  # fmt: skip
    missed = [f"{metric}: {change['estimate']:+.1%}" for metric, change in changes.items() if change["low"] > 0]
    document = {
        "bench": "up_of_two_trees",
        "command": shlex.join(["python", *sys.argv]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "scenario": given.scenario,
        "commits": {side: commit_of(tree) for side, tree in trees.items()},
        "rounds": given.rounds,
        "loadAverage": busy,
        "environment": asdict(read_environment()),
        "missed": missed,
        "figures": {
            side: {metric: {"median": statistics.median(values), "samples": values} for metric, values in of.items()}
            for side, of in samples.items()
        },
        "changes": changes,
    }
    given.output.write_text(json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    for metric, change in changes.items():
        medians = " → ".join(f"{statistics.median(samples[side][metric]):.3f} s" for side in trees)
        print(f"{metric:8} {medians}  {change['estimate']:+7.1%}  [{change['low']:+.1%}, {change['high']:+.1%}]")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
