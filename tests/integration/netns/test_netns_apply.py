"""A running lab becomes another scenario by the least change: the same as if that had been built, and back again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from netns_building import needs_root, ping, running

from labctl.engine import mend as mending
from labctl.engine.apply import apply, complete
from labctl.engine.events import Observer
from labctl.errors import StepFailed
from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.model.plan import Plan
from labctl.names import namespace_of
from labctl.planning.resolve import resolve
from labctl.providers.base import Executor
from labctl.providers.netns.kept import NetnsKeeping
from labctl.providers.netns.kinds.daemon import vtysh
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.record import parse_document, record_path
from labctl.system import netns

pytestmark = [pytest.mark.root, needs_root]
CHECKOUT = Path(__file__).resolve().parents[3]
PROVIDER = NetnsProvider()
PODS = "pods=[{name: client, node: node1}, {name: neighbour, node: node1}, {name: server, node: node2}%s]"
MORE_PODS = PODS % ", {name: late, node: node2}, {name: later, node: node1}"
CHANGES = {
    "pods more": (MORE_PODS,),
    "another MTU": ("network.mtu=1400",),
    "Legacy": ("datapath.hostRouting=legacy",),
    "native": ("datapath.encapsulation=native",),
    "a node more": ("nodes=4",),
    "a node away": ("nodes=2",),
    "a Service more": ("services=[{name: web, port: 80, targetPort: 5205, backends: [server]}]",),
    "more rules": ("datapath.extraIptablesRules=20",),
    "all of it": (MORE_PODS, "nodes=4", "network.mtu=1400", "datapath.hostRouting=legacy"),
}
LB = "datapath.socketLB=false"
SAMPLE = ("pods more", "Legacy")
UNDISTURBING = ("pods more", "a node more", "a node away", "a Service more", "Legacy")
"""After these the pods of the ping are where they were, on the same devices."""
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the steps of a change, those that are done when it stops."""
shares = pytest.mark.parametrize(
    "share", [pytest.param(one, marks=() if one == 0.4 else pytest.mark.thorough) for one in SHARES]
)


def lab_of(name: str, *overrides: str, scenario: str = "bpf") -> Lab:
    return resolve(load_scenario(scenario, start=CHECKOUT, overrides=overrides), name=name)


def quietly(event: object) -> None:
    del event


def reaches(lab: Lab) -> bool:
    return ping(lab, "client", lab.pod("server").address).returncode == 0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(lab_of(f"t{secrets.token_hex(3)}-apply")) as made:
        yield made


def is_as(lab: Lab) -> bool:
    drift = PROVIDER.compared(lab).drift
    recorded = parse_document(record_path(lab.name).read_text(encoding="utf-8"))
    return drift.is_as_wanted and recorded is not None and recorded.digest == lab.digest


@pytest.mark.parametrize(
    "what", [pytest.param(one, marks=() if one in SAMPLE else pytest.mark.thorough) for one in CHANGES]
)
def test_a_lab_becomes_another_and_back_and_is_then_as_if_it_had_been_built(lab: Lab, what: str) -> None:
    other = lab_of(lab.name, *CHANGES[what])
    assert other.digest != lab.digest
    try:
        assert apply(PROVIDER, lab, other, quietly) > 0
        assert is_as(other)
        assert reaches(other)
        assert apply(PROVIDER, other, other, quietly) == 0
    finally:
        apply(PROVIDER, other, lab, quietly)
    assert is_as(lab)
    assert reaches(lab)


@pytest.mark.parametrize(
    "what",
    [pytest.param(one, marks=() if one == "pods more" else pytest.mark.thorough) for one in UNDISTURBING],
)
def test_traffic_between_pods_that_are_not_touched_loses_nothing(lab: Lab, what: str) -> None:
    argv = netns.command(
        namespace_of(lab.name, "client"),
        ("ping", "-q", "-i", "0.001", "-c", "3000", "-w", "30", str(lab.pod("server").address)),
    )
    other = lab_of(lab.name, *CHANGES[what])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as pinging:
        time.sleep(0.2)
        apply(PROVIDER, lab, other, quietly)
        assert is_as(other)
        apply(PROVIDER, other, lab, quietly)
        output, _ = pinging.communicate(timeout=60)
    assert " 0% packet loss" in output, output


@shares
def test_a_change_that_fails_is_taken_back(lab: Lab, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    other, carry_out, calls = lab_of(lab.name, *CHANGES["all of it"]), mending.carry_out, [0]

    def failing(executor: Executor, plan: Plan, observer: Observer) -> None:
        calls[0] += 1
        if calls[0] > 1:
            carry_out(executor, plan, observer)
            return
        carry_out(executor, replace(plan, steps=plan.steps[: round(share * len(plan.steps))]), observer)
        raise StepFailed(what="cut here")

    monkeypatch.setattr(mending, "carry_out", failing)
    with pytest.raises(StepFailed, match="cut here"):
        apply(PROVIDER, lab, other, quietly)
    assert is_as(lab)
    assert PROVIDER.cut_off(lab.name) is None


@shares
def test_a_change_that_was_killed_is_completed_by_the_next_command(lab: Lab, share: float) -> None:
    other = lab_of(lab.name, *CHANGES["all of it"])
    PROVIDER.begin_change(other)
    steps = PROVIDER.compared(other).plan.steps
    with PROVIDER.mending(other) as executor:
        for step in steps[: round(share * len(steps))]:
            executor.execute(step.actions)
    try:
        assert complete(PROVIDER, lab, quietly) == other
        assert is_as(other)
        assert complete(PROVIDER, other, quietly) is None
    finally:
        apply(PROVIDER, other, lab, quietly)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("scenario", "override"),
    [
        ("clos-bgp", "nodes=4"),
        ("flannel-vxlan", "nodes=4"),
        ("calico-vxlan", "nodes=2"),
        ("services", LB),
    ],
)
def test_other_networks_too(scenario: str, override: str) -> None:
    name = f"t{secrets.token_hex(3)}-{scenario}"
    first, second = lab_of(name, scenario=scenario), lab_of(name, override, scenario=scenario)
    with running(first):
        apply(PROVIDER, first, second, quietly)
        assert is_as(second)
        apply(PROVIDER, second, first, quietly)
        assert is_as(first)


def hold_times_s(lab: Lab) -> set[int]:
    """Those that the established sessions of all routers and nodes agreed on."""
    asked = ("-c", "show bgp neighbors json")
    found = set()
    for part in (*(router.name for router in lab.routers), *(node.name for node in lab.nodes)):
        space = namespace_of(lab.name, part)
        done = subprocess.run(
            netns.command(space, vtysh(space, asked)), capture_output=True, text=True, timeout=60, check=True
        )
        for session in json.loads(done.stdout).values():
            assert session["bgpState"] == "Established"
            found.add(session["bgpTimerHoldTimeMsecs"] // 1000)
    return found


@pytest.mark.thorough
def test_other_timers_of_bgp_are_those_of_sessions_that_run_and_back() -> None:
    name = f"t{secrets.token_hex(3)}-timers"
    first = lab_of(name, scenario="clos-bgp")
    second = lab_of(name, "fabric.timers={keepaliveS: 2, holdS: 9}", scenario="clos-bgp")
    with running(first):
        for before, after, hold_s in ((first, second, 9), (second, first, 3)):
            apply(PROVIDER, before, after, quietly)
            assert is_as(after)
            assert hold_times_s(after) == {hold_s}


@pytest.mark.thorough
def test_a_clos_of_more_spines_uses_all_of_them_when_the_change_is_done_and_back() -> None:
    """Devices are made again beside daemons that run: an address that zebra missed kept a session down."""
    name = f"t{secrets.token_hex(3)}-spines"
    two, four = lab_of(name, scenario="clos-bgp"), lab_of(name, "fabric.spines=4", scenario="clos-bgp")
    with running(two):
        for before, after, spines in ((two, four, 4), (four, two, 2)) * 2:
            apply(PROVIDER, before, after, quietly)
            assert is_as(after)
            argv = ("ip", "-j", "-n", namespace_of(name, "leaf1"), "route", "show", "exact", "10.244.1.0/24")
            shown = json.loads(subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout)
            assert [len(route["nexthops"]) for route in shown] == [spines]


_ALL_OF_IT = CHANGES["all of it"]
KILLS = 12


def labctl(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    return subprocess.Popen(
        (sys.executable, "-m", "labctl", *words), env=environment, cwd=CHECKOUT, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def killed(lab: str, overrides: Sequence[str], *, after_lines: int, then_s: float) -> bool:
    """Changes the lab, and kills that command some time after it has begun that many steps; False where it was done by
    then."""
    sets = [word for one in overrides for word in ("--set", one)]
    with labctl("up", "bpf", "--apply", "--name", lab, *sets) as changing:
        assert changing.stderr is not None
        begun = 0
        for line in changing.stderr:
            begun += bool(re.match(r"\[\d+/\d+\]", line))
            if begun > after_lines:
                break
        time.sleep(then_s)
        changing.kill()
        changing.stderr.close()
        return changing.wait(timeout=60) == -signal.SIGKILL


@pytest.mark.thorough
def test_a_command_that_is_killed_anywhere_is_completed_or_taken_back_by_the_next_one() -> None:
    """SIGKILL to the real command, at random points of a change of everything and of the way back."""
    name, points = f"t{secrets.token_hex(3)}-kill", Random(17)
    with contextlib.ExitStack() as stack:
        stack.callback(NetnsKeeping().forget, name)  # the command keeps it for after a boot
        made = stack.enter_context(running(lab_of(name)))
        count, now = 0, made
        for turn in range(KILLS):
            overrides = _ALL_OF_IT if turn % 2 == 0 else ()
            count += killed(name, overrides, after_lines=points.randrange(0, 25), then_s=points.uniform(0, 0.2))
            with labctl("diff", name) as following:
                assert following.stderr is not None
                said = following.stderr.read()
                assert following.wait(timeout=300) == 0, f"turn {turn}: {said}"
            there = parse_document(record_path(name).read_text())
            assert there is not None
            now = there
            assert now.digest in {lab_of(name).digest, lab_of(name, *_ALL_OF_IT).digest}
            assert is_as(now)
            assert PROVIDER.cut_off(name) is None
            assert reaches(now)
        assert count > KILLS // 2, "most of the kills came before the change was done"
        apply(PROVIDER, now, made, quietly)
        assert is_as(made)
