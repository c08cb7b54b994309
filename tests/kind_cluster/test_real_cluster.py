"""Real Cilium on a real kind cluster, through the command line as a person uses it. Run it with: make test-kind

Images, chart and versions are those of the lab.yaml in force, as docs/kind.md describes. All of it is taken down.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl.model.lab import Encapsulation, HostRouting, Placement
from labctl.networks.cilium.expected import expected_signature
from labctl.providers.cilium.commands import Commands, HostCommands
from labctl.providers.kind.clusters import nodes_of
from labctl.providers.kind.provider import KindProvider
from labctl.testing.labs import RECORDED
from live_acts import Live
from live_results import all_tried, new_column, recorded

pytestmark = [
    pytest.mark.needs_docker,
    pytest.mark.skipif(os.environ.get("LABCTL_TEST_KIND") != "1", reason="a real cluster is made by: make test-kind"),
]
MODES = [(routing, how) for routing in HostRouting for how in RECORDED]
UP_S = 1800.0
COMPARE_S = 7200.0


def labctl(*argv: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "labctl", *argv), capture_output=True, text=True, timeout=timeout_s, check=False
    )


def document(ended: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert ended.returncode == code, f"{ended.stderr[-3000:]}\n{ended.stdout[-1000:]}"
    return json.loads(ended.stdout)


def containers_of(name: str, commands: Commands | None = None) -> set[str]:
    """The node containers of the labs whose names begin so. Whatever else is on this engine comes and goes."""
    commands = commands or HostCommands("kind")
    nodes = nodes_of(commands, KindProvider(commands).engine)
    return {node.name for node in nodes if node.mark is not None and node.mark.lab.startswith(name)}


def new_name() -> str:
    return f"tk{secrets.token_hex(3)}"


@pytest.fixture
def name() -> Iterator[str]:
    """A lab of a name that nobody else has; it is gone afterwards, and so is every container of it."""
    made = new_name()
    yield made
    labctl("down", made, timeout_s=UP_S)
    assert containers_of(made) == set()


def scenario_of(routing: HostRouting, how: Encapsulation) -> str:
    return str(routing) if how is Encapsulation.VXLAN else f"{routing}-native"


@pytest.mark.parametrize(("routing", "how"), MODES)
def test_every_mode_is_in_force_and_every_tap_shows_what_was_recorded(
    routing: HostRouting, how: Encapsulation, name: str
) -> None:
    up = labctl("up", scenario_of(routing, how), "--provider", "kind", "--name", name, "--json", timeout_s=UP_S)
    mode = document(up)["modeInForce"]
    assert mode["proven"]
    assert (mode["found"]["hostRouting"], mode["found"]["encapsulation"]) == (routing, how)
    checked = document(labctl("check", name, "tcpdump", "--json"))
    for result in checked["results"]:
        assert result["verdict"] == "pass", result["reason"]
        wanted = expected_signature(
            routing, how, Placement(result["placement"]), packets=3, client_identity=1, server_identity=1
        ).signature
        seen = {
            tap["role"]: (tap["request"] is not None, tap["reply"] is not None) for tap in result["signature"]["taps"]
        }
        for tap in wanted.taps:
            assert seen.get(str(tap.role), (False, False)) == (tap.request is not None, tap.reply is not None), tap.role


@pytest.mark.parametrize("strategy", ["parallel", "switch"])
def test_a_comparison_of_two_rounds_measures_both_sides(strategy: str) -> None:
    name = new_name()
    compared = labctl(
        "compare", "legacy", "bpf", "--provider", "kind", "--name", name, "--rounds", "2", "--strategy", strategy,
        "--json",
        timeout_s=COMPARE_S,
    )  # fmt: skip
    result = document(compared)
    assert [mode["proven"] for mode in result["modeInForce"]] == [True, True]
    ping = [row for row in result["metrics"] if (row["check"], row["metric"]) == ("ping", "rtt_p50")]
    assert {row["placement"] for row in ping} == {"same-node", "cross-node"}
    assert all(len(row[side]["samples"]) == 2 for row in ping for side in "ab")
    assert containers_of(name) == set()


FALLBACKS = {
    "masquerading by iptables": ("bpf.masquerade=false",),
    "kube-proxy replacement off": ("kubeProxyReplacement=false", "bpf.masquerade=false"),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_a_silent_fallback_is_told_with_its_reason_and_exit_code_4(case: str, name: str) -> None:
    """Made behind labctl's back, since labctl itself refuses to install what would fall back."""
    up = labctl("up", "bpf", "--provider", "kind", "--name", name, "--json", timeout_s=UP_S)
    document(up)
    from labctl.cli.options import find_lab

    lab, provider = find_lab(name)
    settings = provider.settings(lab)  # type: ignore[attr-defined]
    keys = {"bpf.masquerade=false": "enable-bpf-masquerade", "kubeProxyReplacement=false": "kube-proxy-replacement"}
    off = {"enable-bpf-masquerade": "false", "kube-proxy-replacement": "false"}
    if settings.cilium_version.series < (1, 14):
        off["kube-proxy-replacement"] = "disabled"
    patch = json.dumps({"data": {keys[value]: off[keys[value]] for value in FALLBACKS[case]}})
    kubectl = settings.kubectl("-n", "kube-system")
    for argv in (
        (*kubectl, "patch", "configmap", "cilium-config", "--type", "merge", "-p", patch),
        (*kubectl, "rollout", "restart", "daemonset/cilium"),
        (*kubectl, "rollout", "status", "daemonset/cilium", "--timeout=300s"),
    ):
        subprocess.run(argv, check=True, capture_output=True, timeout=330)
    again = labctl("up", "bpf", "--provider", "kind", "--name", name, timeout_s=UP_S)
    assert again.returncode == 4, again.stderr
    assert f"lab {name} is up, and not in the mode that was asked for" in again.stderr
    assert "hostRouting asked bpf, found" in again.stderr
    assert "remedy:" in again.stderr
    assert labctl("status", name).returncode == 4


def test_down_leaves_nothing(name: str) -> None:
    assert containers_of(name) == set()
    document(labctl("up", "legacy", "--provider", "kind", "--name", name, "--json", timeout_s=UP_S))
    assert len(containers_of(name)) >= 2
    assert labctl("down", name, timeout_s=UP_S).returncode == 0
    assert containers_of(name) == set()
    assert name not in labctl("list", "--json").stdout


def test_the_whole_life_of_a_lab(tmp_path: Path) -> None:
    """The acts of live_acts.py, recorded for docs/providers.md."""
    name, commands = new_name(), HostCommands("kind")
    no_network = "labctl reaches its nodes by the engine of this host"
    live = Live(
        provider="kind", name=name, scenario="legacy", other="bpf", directory=Path.cwd(), up_s=UP_S, act_s=600.0,
        phases=(1, 3),
        without={
            "slow link of 200 ms": no_network, "connections cut": no_network,
            "machine gone": "its nodes are containers", "engine gone": "the engine has others' containers too",
        },
    )  # fmt: skip
    column = new_column("kind, real Cilium, versions of the lab.yaml in force. Ctrl-C in the phases 1 and 3.")
    try:
        failures = all_tried(live, column)
    finally:
        live.run("down", name, timeout_s=UP_S)
    recorded("kind", column)
    assert containers_of(name, commands) == set()
    assert not failures, "\n".join(failures)
