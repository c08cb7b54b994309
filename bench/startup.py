"""How long the short commands take, and where the time of `labctl --help` goes: launcher, interpreter, imports.

    .venv/bin/python bench/startup.py             # list, validate, plan: needs no lab; list needs root when labs are up
    sudo .venv/bin/python bench/startup.py LAB    # and `status --no-proof` and `status` of a running lab

Runs each command in turn, round by round, so that a busy moment hits all of them alike. `--json` prints the samples.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
PYTHON = str(TREE / ".venv/bin/python")
TARGET_S = 0.25
"""For `labctl --help`, and for `labctl list` where no lab of kind or kubeadm is."""

LABCTL = str(TREE / "labctl")
COMMANDS: dict[str, tuple[str, ...]] = {
    "interpreter alone (python -P -c pass)": (PYTHON, "-P", "-c", "pass"),
    "without the launcher (python -P -m labctl --help)": (PYTHON, "-P", "-m", "labctl", "--help"),
    "whole (labctl --help)": (LABCTL, "--help"),
    "version (labctl --version)": (LABCTL, "--version"),
    "list": (LABCTL, "list"),
    "validate": (LABCTL, "validate", str(TREE / "scenarios/bpf.yaml")),
    "plan": (LABCTL, "plan", "bpf"),
}
LIST = "list"
WHOLE = "whole (labctl --help)"
BARE = "without the launcher (python -P -m labctl --help)"


def seconds(argv: Sequence[str]) -> float:
    """Wall time of one run. Raises CalledProcessError when it fails: a fast failure is not a fast start."""
    begun = time.perf_counter()
    subprocess.run(argv, check=True, cwd=TREE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def commands_with(lab: str | None) -> dict[str, tuple[str, ...]]:
    """What is measured; of a running lab its status, too."""
    if lab is None:
        return COMMANDS
    return {**COMMANDS, "status --no-proof": (LABCTL, "status", lab, "--no-proof"), "status": (LABCTL, "status", lab)}


def measure(commands: dict[str, tuple[str, ...]], rounds: int) -> dict[str, list[float]]:
    for argv in commands.values():  # byte code and page cache warm
        seconds(argv)
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, argv in commands.items():
            samples[name].append(seconds(argv))
    return samples


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("lab", nargs="?", help="a running lab, for status")
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--json", action="store_true")
    asked = arguments.parse_args()
    samples = measure(commands_with(asked.lab), asked.rounds)
    if asked.json:
        print(json.dumps({"benchmark": "startup", "unit": "s", "cpus": os.cpu_count(), "samples": samples}, indent=2))
    else:
        print(f"{'wall time in ms':52} {'median':>8} {'min':>8}   rounds: {asked.rounds}")
        for name, values in samples.items():
            print(f"{name:52} {statistics.median(values) * 1e3:8.0f} {min(values) * 1e3:8.0f}")
        overhead_s = statistics.median(w - b for w, b in zip(samples[WHOLE], samples[BARE], strict=True))
        print(f"{'launcher, by pairs':52} {overhead_s * 1e3:8.1f}")
    slowest_s = 0.0
    for name in (WHOLE, LIST):
        median_s = statistics.median(samples[name])
        slowest_s = max(slowest_s, median_s)
        print(f"target: {name} in {TARGET_S * 1e3:.0f} ms: {median_s * 1e3:.0f} ms", file=sys.stderr)
    return 0 if slowest_s <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
