"""How much of the wall time of `labctl compare` is labctl's own work. The acceptance: at most 5 %.

    sudo .venv/bin/python bench/comparison/overhead.py [--count 1] [--rounds N --duration S --checks …]

From the journal of each comparison: the time in which checks ran (their tools' own waits included), the time in which
labs were built, proven and warmed up, and what is left of the process's wall time: starting Python, reading scenarios
and the environment, planning, recording, statistics, the report. That rest is what the target is about.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from trials import compare, options_of, parser, store

from labctl.store.journal import read_journal

SLICED = "ping"
TARGET = 0.05


def at_s(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def union_s(spans: Iterable[tuple[float, float]]) -> float:
    """The time that at least one span covers: runs whose waits overlap count once."""
    covered, until = 0.0, float("-inf")
    for begun, ended in sorted(spans):
        covered += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return covered


def spans_of(runs: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """When checks ran. Runs in slices take turns: those of a block are one span, as long as all of them together."""
    spans: list[tuple[float, float]] = []
    turns: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for run in runs:
        if run["kind"] == SLICED:
            turns.setdefault((run["block"], run["check"]), []).append(run)
        else:
            spans.append((at_s(run["started_at"]), at_s(run["started_at"]) + run["duration_s"]))
    for together in turns.values():
        begun = min(at_s(run["started_at"]) for run in together)
        spans.append((begun, begun + sum(run["duration_s"] for run in together)))
    return spans


def parts_of(run: Path, wall_s: float) -> dict[str, float]:
    entries = list(read_journal(run / "journal.jsonl"))
    runs: list[dict[str, Any]] = [dict(entry.content["run"]) for entry in entries if entry.kind == "run"]  # type: ignore[call-overload]
    spans = spans_of(runs)
    prepared: list[dict[str, float]] = [
        dict(entry.content["durationsS"])  # type: ignore[call-overload]
        for entry in entries
        if entry.kind == "prepared"
    ]
    parts = {"checks": union_s(spans)}
    for name in ("built", "proven", "warmedUp"):
        parts[name] = sum(each[name] for each in prepared)
    parts["own"] = wall_s - sum(parts.values())
    gaps = [second[0] - first[1] for first, second in pairwise(sorted(spans))]
    parts["longestGapBetweenRuns"] = max(gaps, default=0.0)
    return parts


def main() -> int:
    given = parser(__doc__ or "", count=1).parse_args()
    trials = []
    environment: object = None
    for number in range(1, given.count + 1):
        document, wall_s = compare("legacy", "bpf", *options_of(given))
        environment = document["environment"]
        newest = max(Path(given.runs_dir).glob("*-compare-*/run.json"), key=lambda path: path.stat().st_mtime)
        parts = parts_of(newest.parent, wall_s)
        trials.append({"wallS": wall_s, "partsS": parts, "ownShare": parts["own"] / wall_s})
        said = ", ".join(f"{name} {value:.2f} s" for name, value in parts.items())
        print(f"{number}/{given.count}: {wall_s:.1f} s: {said}", file=sys.stderr, flush=True)
    worst = max(float(trial["ownShare"]) for trial in trials)  # type: ignore[arg-type]
    path = store("overhead", given, environment, {"target": TARGET, "worstOwnShare": worst, "trials": trials})
    print(f"labctl's own work: {worst:.1%} of the wall time at most (target {TARGET:.0%})")
    print(path)
    return 0 if worst <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
