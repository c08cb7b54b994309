"""A round of labctl's load program over several ways at once, for benchmarks: slices that alternate, one figure a way.

Needs root, and the package on the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labctl.checks.load import load_values
from labctl.load.measure import Plan, Session, Task, measure_load
from labctl.model.parameters import LoadParameters
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
