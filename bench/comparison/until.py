"""How many blocks, and how long, it takes until every primary row is as narrow as it was asked for.

    sudo .venv/bin/python bench/comparison/until.py [--until 1%] [--a legacy --b bpf] [--max-rounds N] [--done RUN…]

Runs `labctl compare A B --until X%` and keeps, of each, after how many blocks it stopped, whether that was since it was
narrow enough, and half the width of each primary row's interval. The exit code is 1 when one was not narrow enough.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trials import compare, options_of, parser, primary, row_name, store, stored, warnings_of


def main() -> int:
    made = parser(__doc__ or "", count=1)
    made.add_argument("--until", default="1%", help="half the width that is asked for (default: 1%%)")
    made.add_argument("--done", type=Path, nargs="*", default=[], help="runs of comparisons that count")
    made.add_argument("--max-rounds", type=int, help="the most blocks (default: labctl's own)")
    made.add_argument("--a", default="legacy", help="the first scenario (default: legacy)")
    made.add_argument("--b", default="bpf", help="the second (default: bpf)")
    given = made.parse_args()
    most = () if given.max_rounds is None else ("--max-rounds", str(given.max_rounds))
    documents = []
    trials = []
    for number in range(1, given.count + 1):
        load_before = os.getloadavg()[0]
        is_stored = number <= len(given.done)
        document, duration_s = (
            stored(given.done[number - 1])
            if is_stored
            else compare(given.a, given.b, "--until", given.until, *most, *options_of(given))
        )
        documents.append(document)
        stopping = document["stopping"]
        trial = {
            "seed": document["seed"],
            "durationS": duration_s,
            "loadAverage": None if is_stored else [load_before, os.getloadavg()[0]],
            "blocks": stopping["after"],
            "isReached": stopping["reached"],
            "halfWidth": stopping["halfWidth"],
            "rows": {
                row_name(row): {
                    "check": row["check"],
                    "verdict": row["verdict"],
                    "estimate": row["change"]["estimate"],
                    "halfWidth": (row["change"]["high"] - row["change"]["low"]) / 2,
                    "confidence": row["change"]["confidence"],
                }
                for row in primary(document)
                if row["change"]
            },
        }
        trials.append(trial)
        reached = "reached" if stopping["reached"] else "not reached"
        print(
            f"{number}/{given.count}: {given.until} {reached} after {stopping['after']} blocks and {duration_s:.0f} s, "
            f"widest ± {stopping['halfWidth']:.2%}",
            file=sys.stderr,
            flush=True,
        )
    missed = sum(not trial["isReached"] for trial in trials)
    result = {
        "scenarios": [given.a, given.b],
        "until": given.until,
        "comparisons": len(trials),
        "reached": len(trials) - missed,
        "warnings": warnings_of(documents),
        "trials": trials,
    }
    print(store("until", given, documents[0]["environment"], result))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
