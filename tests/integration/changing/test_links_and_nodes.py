"""Links taken down, nodes stopped and started, in labs that are really up; killed commands leave no half state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import UsageError
from labctl.loading import load_scenario
from labctl.model.changes import NOTHING, Changes, Power
from labctl.model.lab import Lab
from labctl.planning.resolve import resolve
from labctl.providers.netns.changes import read_changes
from labctl.providers.netns.changing import NetnsChanging
from labctl.providers.netns.kinds.daemon import PROGRAMS
from labctl.providers.netns.provider import NetnsProvider
from labctl.system import netns

CHECKOUT = Path(__file__).resolve().parents[3]
PROVIDER, CHANGING = NetnsProvider(), NetnsChanging()
WITH_FRR = ("clos-bgp", "clos-ospf", "evpn", "calico-bgp", "bpf-on-clos")
EVERY = (
    "bpf", "legacy-native", "services", "nodeport", "services-iptables", "services-nftables", "docker-snat",
    "docker-host-routes", "flannel-vxlan", "flannel-host-gw", "calico-vxlan", "vxlan-p2p", "vxlan-multicast", "macvlan",
    "stp-loop", *WITH_FRR,
)  # fmt: skip
needs_frr = pytest.mark.skipif(not (PROGRAMS / "zebra").exists(), reason="needs FRR: make setup-networks")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
]


def marked(name: str, sample: tuple[str, ...]) -> Any:
    marks = [needs_frr] if name in WITH_FRR else []
    return pytest.param(name, marks=marks if name in sample else [*marks, pytest.mark.thorough])


@contextmanager
def running(scenario: str, name: str) -> Iterator[Lab]:
    lab = resolve(load_scenario(scenario, start=CHECKOUT), name=name)
    try:
        with PROVIDER.executor(lab) as executor:
            for step in PROVIDER.plan(lab).steps:
                executor.execute(step.actions)
            executor.finish(lab)
        yield lab
    finally:
        PROVIDER.teardown(lab.name)


def answers(lab: Lab, client: str = "client", server: str = "server") -> bool:
    argv = ("ping", "-n", "-c", "1", "-W", "1", str(lab.pod(server).address))
    inside = netns.command(f"labctl.{lab.name}.{client}", argv)
    return subprocess.run(inside, capture_output=True, timeout=60, check=False).returncode == 0


def until(is_so: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def missing(lab: Lab) -> tuple[str, ...]:
    return PROVIDER.discover(lab.name)[0].missing


def shown(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.mark.parametrize("scenario", [marked(name, ("bpf",)) for name in EVERY])
def test_a_link_goes_down_and_comes_back_as_the_plan_has_it(host_as_found: str, scenario: str) -> None:
    with running(scenario, host_as_found) as lab:
        until(lambda: answers(lab), "the lab does not answer")
        for name in ("node1", "server"):
            CHANGING.set_link(lab, (name,), is_up=False)
            assert {link.name: link.state for link in CHANGING.links(lab)}[name] == "down"
            assert read_changes(lab.name) == Changes(links_down=(name,))
            assert not answers(lab)
            CHANGING.set_link(lab, (name,), is_up=True)
            assert read_changes(lab.name) == NOTHING
            until(lambda: answers(lab), f"{name} is up and the server does not answer")
            assert missing(lab) == ()


@pytest.mark.parametrize("scenario", [marked(name, ("services", "clos-bgp")) for name in EVERY])
def test_a_node_stops_and_is_made_again_as_the_plan_says(host_as_found: str, scenario: str) -> None:
    with running(scenario, host_as_found) as lab:
        until(lambda: answers(lab), "the lab does not answer")
        node = lab.pod("server").node
        place = f"labctl.{lab.name}.{node}"
        pods = tuple(sorted(pod.name for pod in lab.pods_on(node)))
        assert CHANGING.set_node(lab, node, Power.STOP) == pods
        assert read_changes(lab.name) == Changes(nodes_stopped=(node,))
        links = shown("ip", "-n", place, "-o", "link")
        assert [line.split(": ")[1] for line in links.splitlines()] == ["lo"]
        assert shown("nsenter", f"--net=/run/netns/{place}", "--", "nft", "list", "ruleset") == ""
        key = netns.key_of(place)
        assert key is not None
        assert netns.processes_in([key]) == ()
        assert not answers(lab)
        assert {link.name: link.state for link in CHANGING.links(lab)}[node] == "gone"
        with pytest.raises(UsageError, match="is gone: node"):
            CHANGING.set_link(lab, (node,), is_up=False)
        CHANGING.set_node(lab, node, Power.START)
        assert read_changes(lab.name) == NOTHING
        until(lambda: answers(lab), f"{node} is started and the server does not answer")
        assert missing(lab) == ()
        assert PROVIDER.discover(lab.name)[0].is_whole


@needs_frr
@pytest.mark.thorough
def test_a_spine_dies_and_comes_back(host_as_found: str) -> None:
    with running("clos-bgp", host_as_found) as lab:
        CHANGING.set_node(lab, "spine1", Power.STOP)
        until(lambda: answers(lab), "the other spine does not carry the packets")
        routes = f"labctl.{lab.name}.leaf1"
        until(lambda: "nexthop" not in shown("ip", "-n", routes, "route", "show", "10.244.1.0/24"), "spine1 is a hop")
        CHANGING.set_node(lab, "spine1", Power.START)
        until(lambda: missing(lab) == (), "something is missing")


def labctl(*argv: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    return subprocess.Popen([sys.executable, "-m", "labctl", *argv], env=environment, start_new_session=True)


def test_a_flap_that_is_killed_leaves_the_link_up(host_as_found: str) -> None:
    with running("legacy-native", host_as_found) as lab:
        with labctl("link", lab.name, "node2", "flap", "--every", "60s", "--for", "90s") as flapping:
            until(lambda: {one.name: one.state for one in CHANGING.links(lab)}["node2"] == "down", "it does not flap")
            with pytest.raises(UsageError, match="another labctl is changing link node2"):
                CHANGING.set_link(lab, ("node2",), is_up=False)
            flapping.send_signal(signal.SIGKILL)
        until(lambda: missing(lab) == (), "nobody took the link up")
        until(lambda: read_changes(lab.name) == NOTHING, "the act is still written down")
        with labctl("link", lab.name, "node2", "flap", "--every", "60s", "--for", "90s") as flapping:
            until(lambda: {one.name: one.state for one in CHANGING.links(lab)}["node2"] == "down", "it does not flap")
            flapping.send_signal(signal.SIGINT)
            assert flapping.wait(timeout=30) == 130
        assert missing(lab) == ()
        assert read_changes(lab.name) == NOTHING


@pytest.mark.thorough
def test_a_reboot_that_is_killed_is_finished(host_as_found: str) -> None:
    with running("bpf", host_as_found) as lab:
        for delay_s in (0.3, 0.4, 0.5, 0.6, 0.8):
            with labctl("node", lab.name, "node2", "reboot") as rebooting:
                time.sleep(delay_s)
                rebooting.send_signal(signal.SIGKILL)
            until(lambda: read_changes(lab.name) == NOTHING, "the act is still written down")
            until(lambda: missing(lab) == (), "something is missing")
            assert answers(lab)
