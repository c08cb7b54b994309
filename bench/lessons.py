"""How long the words of a lesson take: start, an answer, a check that measures nothing, reset, the text.

    sudo .venv/bin/python bench/lessons.py [--lesson which-mode] [--runs 7] [--baseline PYTHONPATH]

Wall time and, steadier on a machine that has other things to do, CPU time (user and system, children included). With
`--baseline`, the sources of another version of labctl, each run is paired with one of those, in turns. Results go to
results/lessons.json. Targets are wall times of a machine that does nothing else.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "lessons.json"
TREES = ("this", "baseline")
TARGETS_S = {"start": 1.5, "check": 2.0, "reset": 0.5}
PREDICTION = {"which-mode": ("predict-mode", "bpf", "observe-mode")}


class Side:
    """One tree of sources, with its own student, journals and labs."""

    def __init__(self, name: str, sources: str, folder: Path) -> None:
        self.name, self._sources, self._folder = name, sources, folder
        self.found: dict[str, list[tuple[float, float]]] = {}

    def run(self, what: str, *words: str, codes: tuple[int, ...] = (0,)) -> None:
        """Unmeasured where `what` is empty."""
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        environment = {**os.environ, "PYTHONPATH": self._sources, "XDG_STATE_HOME": str(self._folder)}
        argv = (sys.executable, "-m", "labctl", "lesson", *words, "--student", f"bench{self.name}")
        place = Path(self._sources).parent  # each tree has lessons of its own
        done = subprocess.run(
            argv, env=environment, cwd=place, capture_output=True, text=True, timeout=300, check=False
        )  # fmt: skip
        if done.returncode not in codes:
            sys.exit(f"{self.name}: {' '.join(words)} ends with {done.returncode}: {done.stderr}{done.stdout}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if what:
            self.found.setdefault(what, []).append((time.monotonic() - begun, used))

    def summary(self, what: str) -> dict[str, Any]:
        walls, cpus = zip(*self.found[what], strict=True)
        return {
            "sources": self.name, "runs": len(walls), "wall_s": round(statistics.median(walls), 3),
            "least_wall_s": round(min(walls), 3), "cpu_s": round(statistics.median(cpus), 3),
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lesson", default="which-mode", choices=PREDICTION)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--baseline", help="the sources (PYTHONPATH) of a version to compare with")
    asked = parser.parse_args()
    task, value, next_task = PREDICTION[asked.lesson]
    sources = [str(ROOT / "src"), *([asked.baseline] if asked.baseline else [])]
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side(name, path, Path(folder) / name) for name, path in zip(TREES, sources, strict=False)]
        for number in range(asked.runs + 1):  # the first is not measured: it may compile what the others read
            for side in sides:
                kept = number > 0
                side.run("start" if kept else "", "start", asked.lesson)
                side.run("predict" if kept else "", "answer", task, value, "--because", "that is what is asked for")
                side.run("check" if kept else "", "check", codes=(1,))
                side.run("answer" if kept else "", "answer", next_task, "bpf", codes=(0, 1))
                side.run("reset" if kept else "", "reset", next_task)
                side.run("text" if kept else "", "text")
                side.run("", "stop")
    result: dict[str, Any] = {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "lesson": asked.lesson}
    result |= {what: [side.summary(what) for side in sides] for what in sides[0].found}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    missed = [what for what, most_s in TARGETS_S.items() if result[what][0]["wall_s"] > most_s]
    print(f"missed: {', '.join(missed)}" if missed else "all targets are met", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
