"""Whether `labctl compare` finds a slowdown of known size. The acceptance: 8 of 10, and the interval covers 9 of 10.

    sudo .venv/bin/python bench/comparison/injected_slowdown.py [--count 10] [--share 0.10] [--rounds N …]

Side B is the same scenario with `datapath.extraDelayNs`: a busy-wait once for each packet that a pod sends, so twice in
a round trip. A pilot finds the delay that makes the wanted share of the median, and the kernel says what the program
then really adds to a packet. The truth of a trial follows from that and side A's own samples, block by block:
2 · added / a. The exit code is 1 when the acceptance is missed.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from delay import added_ns
from trials import compare, options_of, parser, primary, row_name, store, warnings_of

from labctl.compare.statistics import paired_estimate, relative

PACKETS_PER_ROUND_TRIP = 2
LARGEST_DELAY_NS = 10_000


def slowed(directory: Path, scenario: str, delay_ns: int) -> str:
    path = directory / "slowed.yaml"
    path.write_text(
        f"apiVersion: labctl/v1\nkind: Scenario\nextends: {scenario}\ndatapath:\n  extraDelayNs: {delay_ns}\n"
    )
    return str(path)


def row_of(document: dict[str, Any], wanted: str) -> dict[str, Any]:
    return next(row for row in primary(document) if row_name(row) == wanted)


def truth_of(row: dict[str, Any], packet_ns: float) -> float:
    """The change that the delay makes, relative: the same estimate as labctl's, on what the blocks must have been."""
    added_s = PACKETS_PER_ROUND_TRIP * packet_ns * 1e-9
    return relative(paired_estimate([math.log1p(added_s / a) for a in row["a"]["samples"]]).estimate)


def main() -> int:
    made = parser(__doc__ or "", count=10)
    made.add_argument("--scenario", default="legacy-native", help="the scenario that is slowed")
    made.add_argument("--share", type=float, default=0.10, help="the slowdown of the median (default: 0.10)")
    made.add_argument("--row", default="cross-node rtt_p50", help="the row that is looked at")
    given = made.parse_args()
    words = options_of(given)
    trials = []
    documents = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pilot, _ = compare(given.scenario, given.scenario, *words, "--rounds", "2")
        median_s = row_of(pilot, given.row)["a"]["median"]
        wanted_ns = min(LARGEST_DELAY_NS, round(given.share * median_s / PACKETS_PER_ROUND_TRIP * 1e9))
        # Less what the program adds beyond the delay.
        delay_ns = 2 * wanted_ns - round(added_ns(wanted_ns))
        packet_ns = added_ns(delay_ns)
        said = f"pilot: median {median_s * 1e6:.1f} µs, delay {delay_ns} ns a packet, which adds {packet_ns:.0f} ns"
        print(said, file=sys.stderr, flush=True)
        other = slowed(directory, given.scenario, delay_ns)
        for number in range(1, given.count + 1):
            document, duration_s = compare(given.scenario, other, *words)
            documents.append(document)
            row = row_of(document, given.row)
            truth = truth_of(row, packet_ns)
            change = row["change"]
            trial = {
                "seed": document["seed"],
                "durationS": duration_s,
                "verdict": row["verdict"],
                "truth": truth,
                "estimate": change["estimate"],
                "low": change["low"],
                "high": change["high"],
                "isFound": row["verdict"] == "slower",
                "isCovered": change["low"] <= truth <= change["high"],
            }
            trials.append(trial)
            interval = f"{change['estimate']:+.1%} [{change['low']:+.1%}, {change['high']:+.1%}]"
            print(
                f"{number}/{given.count}: {duration_s:.0f} s, {row['verdict']} {interval}, truth {truth:+.1%}",
                file=sys.stderr,
                flush=True,
            )
    found, covered = (sum(bool(trial[key]) for trial in trials) for key in ("isFound", "isCovered"))
    result = {
        "scenario": given.scenario,
        "row": given.row,
        "delayNs": delay_ns,
        "addedNs": packet_ns,
        "comparisons": len(trials),
        "found": found,
        "covered": covered,
        "warnings": warnings_of(documents),
        "trials": trials,
    }
    path = store("injected_slowdown", given, documents[0]["environment"], result)
    print(f"found in {found} of {len(trials)}, the truth is covered in {covered} of {len(trials)}")
    print(path)
    return 0 if found >= 0.8 * len(trials) and covered >= 0.9 * len(trials) else 1


if __name__ == "__main__":
    sys.exit(main())
