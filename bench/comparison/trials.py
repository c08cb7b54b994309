"""What the benches of comparisons share: one `labctl compare` as a trial, and the file that its result goes to."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labctl import __version__

RESULTS = Path(__file__).resolve().parents[1] / "results"
DIFFERENCES = ("faster", "slower", "cheaper", "dearer")


def parser(description: str, *, count: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--count", type=int, default=count, help=f"comparisons (default: {count})")
    made.add_argument("--rounds", type=int, help="blocks of each (default: labctl's own)")
    made.add_argument("--duration", type=float, help="seconds of each timed check (default: labctl's own)")
    made.add_argument("--checks", help="checks of a block (default: labctl's own)")
    made.add_argument("--runs-dir", default="runs", help="where the runs are kept")
    made.add_argument("--output", type=Path, help="where the result goes (default: bench/results/)")
    return made


def options_of(given: argparse.Namespace) -> list[str]:
    """The options that were given, for labctl."""
    words = ["--runs-dir", given.runs_dir]
    for name in ("rounds", "duration", "checks"):
        if (value := getattr(given, name)) is not None:
            words += [f"--{name}", str(value)]
    return words


def compare(*arguments: str) -> tuple[dict[str, Any], float]:
    """The document of one comparison and how long it took, in seconds. Ends the bench when it could not be made.

    A comparison in which a run could not be measured (exit code 4, with a document) counts like any other.
    """
    begun = time.monotonic()
    argv = [sys.executable, "-m", "labctl", "compare", *arguments, "--json"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1, 4) or not ended.stdout:
        raise SystemExit(f"{shlex.join(argv)} ended with {ended.returncode}:\n{ended.stderr}")
    document: dict[str, Any] = json.loads(ended.stdout)
    return document, time.monotonic() - begun


def stored(run: Path) -> tuple[dict[str, Any], float]:
    """The document of a comparison that an interrupted bench left behind, and how long it took, in seconds."""
    document: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    begun, ended = (datetime.fromisoformat(manifest[key]) for key in ("startedAt", "endedAt"))
    return document, (ended - begun).total_seconds()


def primary(document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return (row for row in document["metrics"] if row["verdict"] is not None)


def row_name(row: Mapping[str, Any]) -> str:
    return f"{row['placement']} {row['metric']}"


def store(name: str, given: argparse.Namespace, environment: object, result: Mapping[str, object]) -> Path:
    """Writes the result with how it was made; what a trial's samples were is in its run."""
    document = {
        "bench": name,
        "command": shlex.join(["python", *sys.argv]),
        "labctlVersion": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "isFull": given.rounds is None and given.duration is None and given.checks is None,
        "environment": environment,
        **result,
    }
    path: Path = given.output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def warnings_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many trials had each kind of warning."""
    kinds = [kind for each in documents for kind in {warning["kind"] for warning in each["warnings"]}]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
