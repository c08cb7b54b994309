"""How long `labctl --help` takes, and where the time goes: launcher, interpreter, imports.

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

COMMANDS: dict[str, tuple[str, ...]] = {
    "interpreter alone (python -P -c pass)": (PYTHON, "-P", "-c", "pass"),
    "without the launcher (python -P -m labctl --help)": (PYTHON, "-P", "-m", "labctl", "--help"),
    "whole (labctl --help)": (str(TREE / "labctl"), "--help"),
    "version (labctl --version)": (str(TREE / "labctl"), "--version"),
}
WHOLE = "whole (labctl --help)"
BARE = "without the launcher (python -P -m labctl --help)"


def seconds(argv: Sequence[str]) -> float:
    """Wall time of one run. Raises CalledProcessError when it fails: a fast failure is not a fast start."""
    begun = time.perf_counter()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def measure(rounds: int) -> dict[str, list[float]]:
    for argv in COMMANDS.values():  # byte code and page cache warm
        seconds(argv)
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, argv in COMMANDS.items():
            samples[name].append(seconds(argv))
    return samples


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--json", action="store_true")
    asked = arguments.parse_args()
    samples = measure(asked.rounds)
    if asked.json:
        print(json.dumps({"benchmark": "startup", "unit": "s", "cpus": os.cpu_count(), "samples": samples}, indent=2))
    else:
        print(f"{'wall time in ms':52} {'median':>8} {'min':>8}   rounds: {asked.rounds}")
        for name, values in samples.items():
            print(f"{name:52} {statistics.median(values) * 1e3:8.0f} {min(values) * 1e3:8.0f}")
        overhead_s = statistics.median(w - b for w, b in zip(samples[WHOLE], samples[BARE], strict=True))
        print(f"{'launcher, by pairs':52} {overhead_s * 1e3:8.1f}")
    whole_s = statistics.median(samples[WHOLE])
    print(f"target: labctl --help in {TARGET_S * 1e3:.0f} ms: {whole_s * 1e3:.0f} ms", file=sys.stderr)
    return 0 if whole_s <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
