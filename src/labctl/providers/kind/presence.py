"""Whether labs of kind can be on this host: which container engine kind uses here, and how it lists node containers.

Apart from the provider so that commands that look for any lab (`labctl list`) do not wait for it to load. Reads the
environment and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from labctl.model.result import Completed
from labctl.providers.cilium.commands import RECORD, kept, state_root
from labctl.system import process

LOOK_S = 10.0


def _run(argv: Sequence[str]) -> Completed:
    return process.run(argv, timeout_s=LOOK_S)


def may_have_labs(
    root: Path | None = None,
    *,
    find: Callable[[str], str | None] = process.find_program,
    run: Callable[[Sequence[str]], Completed] = _run,
) -> bool:
    """False when `KindProvider.discover` would find none: the engine has no node of any kind cluster, or there is none
    or it does not answer, and no lab is on record."""
    engine = engine_here(find)
    if find(engine) is not None:
        listed = run(argv_list(engine))
        if not listed.timed_out and listed.returncode == 0:
            return bool(listed.text.strip())
    return bool(kept(root or state_root("kind"), RECORD))


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
