"""Every shipped network and fabric as a person uses it: up, status, check, trace, down, by labctl's own command line.

Takes minutes: `make test-networks`. The short form, through the packages, is in tests/integration/networks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
NETWORKS = (
    "docker-host-routes", "docker-snat", "vxlan-p2p", "vxlan-multicast", "evpn", "clos-bgp", "clos-ospf", "macvlan",
    "cni-chain", "flannel-vxlan", "flannel-host-gw", "calico-vxlan", "calico-bgp", "bpf-on-clos", "stp-loop",
    "triangle",
)  # fmt: skip
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.environ.get("LABCTL_TEST_NETWORKS") != "1", reason="takes minutes: make test-networks"),
]


def labctl(*argv: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "labctl", *argv]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=CHECKOUT, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def lab(host_as_found: str) -> Iterator[str]:
    yield host_as_found
    labctl("down", host_as_found)


def unexplained(traced: dict[str, Any]) -> list[str]:
    """Hops of which no witness said what brought the packet there, and taps that it went past without a reason."""
    hops = [hop["tap"] for path in traced["paths"] for hop in path["hops"] if hop["carriage"] == "unobserved"]
    return [*hops, *(one["tap"] for path in traced["paths"] for one in path["skipped"] if not one["isObserved"])]


@pytest.mark.parametrize("scenario", NETWORKS)
def test_a_network_from_up_to_down(lab: str, scenario: str, tmp_path: Path) -> None:
    up = labctl("up", scenario, "--name", lab)
    assert up.returncode == 0, up.stderr
    status = labctl("status", lab, "--json")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["modeInForce"]["proven"]
    check = labctl("check", lab, "--runs-dir", str(tmp_path))
    assert check.returncode == 0, check.stdout
    trace = labctl("trace", lab, "client", "server", "--no-run", "--html", str(tmp_path / "trace.html"), "--json")
    assert trace.returncode == 0, trace.stdout
    assert unexplained(json.loads(trace.stdout)) == []
    graph = labctl("graph", lab, "--svg", str(tmp_path / "graph.svg"), "--html", str(tmp_path / "graph.html"))
    assert graph.returncode == 0, graph.stderr
    down = labctl("down", lab)
    assert down.returncode == 0, down.stderr


@pytest.mark.parametrize("scenario", ["clos-bgp", "clos-ospf"])
def test_a_fabric_heals_when_a_spine_falls_silent(lab: str, scenario: str, tmp_path: Path) -> None:
    assert labctl("up", scenario, "--name", lab).returncode == 0
    check = labctl("check", lab, "convergence", "ecmp", "--runs-dir", str(tmp_path), "--json")
    assert check.returncode == 0, check.stdout
    found = [one for one in json.loads(check.stdout)["results"] if one["check"] == "convergence"]
    outages = [s["value"] for one in found for s in one["samples"] if s["metric"] == "outage"]
    assert len(outages) == 1
    assert outages[0] > 0
