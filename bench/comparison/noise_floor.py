"""How often `labctl compare X X` finds a difference that is not there. The acceptance: 1 of 20 comparisons at most.

    sudo .venv/bin/python bench/comparison/noise_floor.py [--count 20] [--rounds N --duration S --checks …]

With labctl's defaults twenty comparisons take three quarters of an hour; the options make it shorter, and the result
then says that it was. An interrupted one goes on with `--done RUN…`, the runs of the comparisons that it had made.
Half the width of each row's interval is printed: `--checks ping,load` for those of the load program.
The exit code is 1 when more than one of twenty had a primary verdict of difference.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trials import DIFFERENCES, compare, options_of, parser, primary, row_name, store, stored, warnings_of


def half_widths(trials: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """By row, half the width of its interval in each comparison that judged it."""
    found: dict[str, list[float]] = {}
    for trial in trials:
        for name, row in trial["rows"].items():
            if row["verdict"] != "refused":
                found.setdefault(name, []).append((row["high"] - row["low"]) / 2)
    return found


def main() -> int:
    made = parser(__doc__ or "", count=20)
    made.add_argument("--scenario", default="legacy", help="the scenario that is compared with itself")
    made.add_argument("--done", type=Path, nargs="*", default=[], help="runs of comparisons that count")
    given = made.parse_args()
    documents = []
    trials = []
    for number in range(1, given.count + 1):
        document, duration_s = (
            stored(given.done[number - 1])
            if number <= len(given.done)
            else compare(given.scenario, given.scenario, *options_of(given))
        )
        documents.append(document)
        rows = {
            row_name(row): {
                "verdict": row["verdict"],
                "estimate": row["change"]["estimate"] if row["change"] else None,
                "low": row["change"]["low"] if row["change"] else None,
                "high": row["change"]["high"] if row["change"] else None,
            }
            for row in primary(document)
        }
        found = sorted(name for name, row in rows.items() if row["verdict"] in DIFFERENCES)
        refused = sum(row["verdict"] == "refused" for row in rows.values())
        trials.append({"seed": document["seed"], "durationS": duration_s, "differences": found, "rows": rows})
        said = f"differences: {', '.join(found) or 'none'}" + (f", {refused} rows refused" if refused else "")
        print(f"{number}/{given.count}: {duration_s:.0f} s, {said}", file=sys.stderr, flush=True)
    wrong = sum(bool(trial["differences"]) for trial in trials)
    judged = [row for trial in trials for row in trial["rows"].values() if row["verdict"] != "refused"]
    covering = sum(row["low"] <= 0 <= row["high"] for row in judged)
    able = sum("too-few-rounds" not in {warning["kind"] for warning in each["warnings"]} for each in documents)
    result = {
        "scenario": given.scenario,
        "comparisons": len(trials),
        "withADifference": wrong,
        "thatCouldHaveFoundOne": able,
        "judgedRows": len(judged),
        "intervalsThatCoverZero": covering,
        "halfWidths": half_widths(trials),
        "warnings": warnings_of(documents),
        "trials": trials,
    }
    for name, widths in half_widths(trials).items():
        print(f"{name}: ± {statistics.median(widths):.2%} in the median, ± {max(widths):.2%} at most")
    path = store("noise_floor", given, documents[0]["environment"], result)
    print(f"{wrong} of {len(trials)} comparisons found a difference; {covering} of {len(judged)} intervals cover 0")
    if able < len(trials):
        print(f"only {able} of {len(trials)} had enough blocks for any difference word: take more --rounds")
    print(path)
    return 1 if wrong > max(1, len(trials) // 20) or not judged or not able else 0


if __name__ == "__main__":
    sys.exit(main())
