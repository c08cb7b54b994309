"""The acts of live_acts.py with the provider netns, as `make test-machines` and `make test-kind` do them elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from live_acts import Live
from live_results import all_tried, new_column, recorded

ROOT = Path(__file__).resolve().parents[3]
NO_NETWORK = "labctl reaches its nodes without a network"
pytestmark = pytest.mark.root


@pytest.mark.thorough
def test_the_whole_life_of_a_lab(host_as_found: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scenarios", tmp_path / "scenarios")
    shutil.copy(ROOT / "lab.yaml", tmp_path)
    live = Live(
        provider="netns", name=f"{host_as_found}-a", scenario="legacy", other="bpf", directory=tmp_path,
        environment={"PYTHONPATH": str(ROOT / "src")}, phases=(1, 5, 9, 12),
        without={
            "slow link of 200 ms": NO_NETWORK, "connections cut": NO_NETWORK, "machine gone": "its nodes are this host",
            "engine gone": "there is none beneath it",
            "compare, by switching": "its labs take a second to build, and both are there at once",
        },
    )  # fmt: skip
    column = new_column("network namespaces of this host, labctl's own eBPF. Ctrl-C in the steps 1, 5, 9 and 12.")
    failures = all_tried(live, column)
    recorded("netns", column)
    assert not failures, "\n".join(failures)
