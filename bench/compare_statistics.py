"""How fast the statistics of `labctl compare` are, and how often they err: level, power and coverage by simulation.

    .venv/bin/python bench/compare_statistics.py [--trials 1000]

Prints one JSON document. Speed is CPU time of this process; the simulation is seeded and gives the same shares
everywhere. The load of the simulated machine drifts as a random walk, which is what a neighbour does to a shared one.

Not called `statistics.py`: a script's own directory comes first in its path, and would hide the standard library's.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable

from labctl.compare.statistics import log_ratios, paired_estimate, rank_sum_p, signed_rank_p, unpaired_estimate

SEED = 20261122
RUN_NOISE = 0.03
LOAD_STEP = 0.10
SAMPLES = 1_000

Sides = tuple[list[float], list[float]]


def load(source: random.Random, hours: int) -> list[float]:
    walk = [0.0]
    for _ in range(hours - 1):
        walk.append(walk[-1] + source.gauss(0, LOAD_STEP))
    return walk


def interleaved(source: random.Random, blocks: int, effect: float) -> Sides:
    weather = load(source, blocks)
    a = [hour + source.gauss(0, RUN_NOISE) for hour in weather]
    return a, [hour + effect + source.gauss(0, RUN_NOISE) for hour in weather]


def one_after_the_other(source: random.Random, blocks: int, effect: float) -> Sides:
    values = [hour + source.gauss(0, RUN_NOISE) for hour in load(source, 2 * blocks)]
    return values[:blocks], [value + effect for value in values[blocks:]]


def differences(sides: Sides) -> list[float]:
    return [b - a for a, b in zip(*sides, strict=True)]


def rejected(
    measure: Callable[[random.Random, int, float], Sides],
    p_value: Callable[[Sides], float],
    blocks: int,
    effect: float,
    trials: int,
) -> float:
    """The share of trials in which the test says that there is a difference, at 5 %."""
    source = random.Random(SEED)
    return sum(p_value(measure(source, blocks, effect)) < 0.05 for _ in range(trials)) / trials


def covered(blocks: int, trials: int) -> float:
    """The share of trials whose 95 % interval holds the true difference."""
    source = random.Random(SEED)
    truth = math.log(1.1)
    hits = 0
    for _ in range(trials):
        found = paired_estimate(differences(interleaved(source, blocks, truth)))
        hits += found.low <= truth <= found.high
    return hits / trials


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return round(time.process_time() - start, 3)


def paired(sides: Sides) -> float:
    return signed_rank_p(differences(sides))


def unpaired(sides: Sides) -> float:
    return rank_sum_p(*sides)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed, level, power and coverage of the comparison's statistics.")
    parser.add_argument("--trials", type=int, default=1_000)
    trials = parser.parse_args().trials
    source = random.Random(SEED)
    a = [math.exp(source.gauss(0, 1)) for _ in range(SAMPLES)]
    b = [math.exp(source.gauss(0, 1)) for _ in range(SAMPLES)]
    document = {
        "samples": SAMPLES,
        "paired_cpu_s": seconds(lambda: paired_estimate(log_ratios(a, b))),
        "unpaired_cpu_s": seconds(lambda: unpaired_estimate(a, b)),
        "trials": trials,
        "false_positives": {
            str(blocks): {
                "interleaved, paired": rejected(interleaved, paired, blocks, 0.0, trials),
                "A then B, Mann-Whitney": rejected(one_after_the_other, unpaired, blocks, 0.0, trials),
            }
            for blocks in (10, 20)
        },
        "power_at_5_percent_with_10_blocks": {
            "interleaved, paired": rejected(interleaved, paired, 10, math.log(1.05), trials),
            "interleaved, Mann-Whitney": rejected(interleaved, unpaired, 10, math.log(1.05), trials),
        },
        "coverage_of_95_percent_intervals": {str(blocks): covered(blocks, trials) for blocks in (6, 10, 20)},
    }
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
