"""Rounds of labctl's load program over several ways at once, for benchmarks: slices that alternate, one figure a way;
what their samples say, and the file of the result.

Needs root, and the package on the path.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from labctl import __version__
from labctl.checks.load import load_values
from labctl.compare.statistics import log_ratios, paired_estimate, relative
from labctl.load.measure import Plan, Session, Task, measure_load
from labctl.model.parameters import LoadParameters
from labctl.store.environment import read_environment
from labctl.system.cpus import cpus_for_pair


def session(client: str, server: str, address: str, asked: str = "") -> Session:
    """Between two namespaces of this host, by their names below /run/netns. All sessions are measured against each
    other."""
    places = Path("/run/netns")
    return Session(group="all", client=places / client, server=places / server, address=address, asked=asked)


def round_of(sessions: Sequence[Session], tasks: tuple[Task, ...], seconds: float, seed: str) -> list[dict[str, float]]:
    """The metrics of the check `load` for each session, in their order; `seconds` for each, over new connections.
    Raises SystemExit where one was given up: it would be no sample."""
    client, server = cpus_for_pair()
    plan = Plan(
        tasks=tasks, duration_s=seconds, message_byte=64, spin=True, client_cpu=client, server_cpu=server, seed=seed
    )
    result = measure_load(sessions, plan)
    for one, loaded in zip(sessions, result.loaded, strict=True):
        if loaded.refused:
            raise SystemExit(f"{one.client.name} → {one.asked or one.address}: {loaded.refused}")
    values = load_values({number: one.slices for number, one in enumerate(result.loaded)}, LoadParameters())
    return [values[number] for number in range(len(sessions))]


def compared(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """The relative change from the one to the other, with its interval."""
    estimate = paired_estimate(log_ratios(before, after))
    return {
        "estimate": relative(estimate.estimate),
        "low": relative(estimate.low),
        "high": relative(estimate.high),
        "confidence": estimate.confidence,
    }


def write_result(output: Path, bench: str, busy: Sequence[float], **found: object) -> dict[str, object]:
    """The document of the result, which is in the file then; `busy` are the load averages after each round."""
    document = {
        "bench": bench,
        "command": shlex.join(["python", *sys.argv]),
        "labctlVersion": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": len(busy),
        "loadAverage": busy,
        "environment": asdict(read_environment()),
        **found,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    return document
