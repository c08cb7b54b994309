"""What this host lacks to run a real kind cluster with real Cilium: each thing with the command that fixes it.

    tests/kind_cluster/preflight.py [SCENARIO]

Exit code 0 when nothing is missing, 3 with the reasons when something is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import LabError
from labctl.model.lab import Lab
from labctl.providers.cilium.commands import Commands, HostCommands
from labctl.providers.kind.provider import KindProvider

TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "bin"
HOST_LACKS = 3
_PRIVILEGED_S = 120.0


def lacking(provider: KindProvider, lab: Lab, commands: Commands) -> Iterator[str]:
    """One line for each thing that is missing, what it is for, and its remedy."""
    missing = [probe for probe in provider.probes() if probe.required and not probe.present]
    for probe in missing:
        yield f"{probe.name}: {probe.found} (needed for {probe.needed_for}); try: {probe.remedy}"
    if missing:
        return
    try:
        parts = provider.images(lab)
    except LabError as failed:
        yield f"{failed.what}: {failed.cause}; try: {failed.remedy}"
        return
    cluster = provider.settings(lab).cluster
    only_node = bool(cluster.archives or cluster.preloaded)
    in_engine = [part for part in parts if part.role == "node" or (part.role != "chart" and not only_node)]
    absent = [part for part in in_engine if not _is_here(provider.engine, part.reference, commands)]
    for part in absent:
        yield (
            f"the {part.role} image {part.reference} is not in {provider.engine}; try: "
            f"{provider.engine} pull {part.reference}, or name one that is there in lab.yaml (docs/kind.md)"
        )
    node = next(part.reference for part in parts if part.role == "node")
    if all(part.reference != node for part in absent):
        argv = (provider.engine, "run", "--rm", "--privileged", "--entrypoint", "true", node)
        done = commands.run(argv, timeout_s=_PRIVILEGED_S)
        if done.returncode != 0:
            said = done.error_text.strip().splitlines()
            yield f"{provider.engine} cannot run privileged containers: {said[-1] if said else 'it says nothing'}"


def _is_here(engine: str, reference: str, commands: Commands) -> bool:
    return commands.run((engine, "image", "inspect", reference), timeout_s=30.0).returncode == 0


def lab_of(scenario: str) -> Lab:
    from labctl.cli.options import load_lab

    return load_lab(scenario, provider="kind", name=None, overrides=())


def main(arguments: list[str]) -> int:
    import os

    if TOOLS.is_dir():
        os.environ["PATH"] = f"{TOOLS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    commands = HostCommands("kind")
    try:
        found = list(lacking(KindProvider(commands), lab_of(arguments[0] if arguments else "bpf"), commands))
    except LabError as failed:
        found = [f"{failed.what}: {failed.cause}; try: {failed.remedy}"]
    if not found:
        return 0
    print("a real kind cluster cannot run here:", *(f"  - {line}" for line in found), sep="\n", file=sys.stderr)
    return HOST_LACKS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
