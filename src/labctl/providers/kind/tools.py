"""Which container engine kind will use here, and how it lists kind's node containers. Pure but for the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

ENGINES = ("docker", "nerdctl", "podman")
"""In the order in which kind looks for them."""
CLUSTER_LABEL = "io.x-k8s.kind.cluster"
ROLE_LABEL = "io.x-k8s.kind.role"


def engine_of(environment: Mapping[str, str], find: Callable[[str], str | None]) -> str:
    """The engine that kind will use: the one that KIND_EXPERIMENTAL_PROVIDER names, else the first that is there."""
    named = environment.get("KIND_EXPERIMENTAL_PROVIDER", "")
    if named in ENGINES:
        return named
    return next((engine for engine in ENGINES if find(engine)), ENGINES[0])


def engine_here(find: Callable[[str], str | None]) -> str:
    return engine_of(os.environ, find)


def argv_list(engine: str, cluster: str = "") -> tuple[str, ...]:
    """Names of the node containers, of every kind cluster or of one, running or not."""
    chosen = f"label={CLUSTER_LABEL}={cluster}" if cluster else f"label={CLUSTER_LABEL}"
    return (engine, "ps", "--all", "--filter", chosen, "--format", "{{.Names}}")
