"""Links that lose, duplicate, corrupt and reorder packets, and a rate: asked and measured, and gone without a trace."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest
from test_faults import CHANGING, CHECKOUT, PROVIDER, needs_frr, running
from test_links_and_nodes import labctl, shown, until

from labctl import app
from labctl.engine.apply import apply
from labctl.engine.mend import mend
from labctl.engine.run_checks import run_check
from labctl.errors import UsageError
from labctl.faults.table import BY_NAME
from labctl.loading import load_scenario
from labctl.model.changes import NOTHING, Power
from labctl.model.impairment import impairment_of
from labctl.model.lab import CheckSpec, Lab
from labctl.model.parameters import ImpairmentParameters
from labctl.model.result import CheckResult, Verdict
from labctl.planning.resolve import resolve
from labctl.providers.base import OpenLab
from labctl.providers.netns.changes import read_changes
from labctl.providers.netns.kinds.impairment import has_netem
from labctl.providers.netns.reading import compared
from labctl.store.runs import MemorySink
from labctl.system import netns

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
]


def measured(opened: OpenLab, *, count: int = 2000, interval_s: float = 0.001) -> CheckResult:
    pair = next(pair for pair in opened.lab.pairs if (pair.client, pair.server) == ("client", "server"))
    parameters = ImpairmentParameters(count=count, interval_s=interval_s)
    spec = CheckSpec(name="impairment", kind="impairment", parameters=parameters)
    return run_check(app.checks()["impairment"], opened, pair, spec, MemorySink(), lambda event: None)


def traces(lab: Lab) -> str:
    """What an impairment leaves on the devices of node1, if it leaves anything."""
    place = f"labctl.{lab.name}.node1"
    qdiscs = shown("tc", "-n", place, "qdisc", "show", "dev", "eth0")
    filters = shown("tc", "-n", place, "filter", "show", "dev", "eth0", "ingress")
    port = shown("tc", "-n", f"labctl.{lab.name}.underlay", "qdisc", "show", "dev", "port1")
    return "\n".join(line for line in (qdiscs + filters + port).splitlines() if "impair" in line or "1ab:" in line)


def set_on(lab: Lab, link: str, *words: str) -> None:
    CHANGING.impair(lab, (link,), impairment_of(words))


SCENARIOS = ("bpf", pytest.param("legacy-native", marks=pytest.mark.thorough),
             pytest.param("docker-host-routes", marks=pytest.mark.thorough))  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_lost_is_what_was_asked(host_as_found: str, scenario: str) -> None:
    with running(scenario, host_as_found) as (lab, opened):
        assert measured(opened, count=10).verdict is Verdict.SKIP
        set_on(lab, "node1", "loss=5%", "direction=to")
        found = measured(opened)
        assert found.verdict is Verdict.PASS, found.reason
        assert [one.name for one in found.findings] == ["loss underlay→node1", "end-to-end"]
        CHANGING.impair(lab, ("node1",), None)
        assert traces(lab) == ""
        assert read_changes(lab.name) == NOTHING
        assert measured(opened, count=10).verdict is Verdict.SKIP


DECLARED = ("node1={loss: 0.05, direction: to}", "node3={rateBitPerS: 20000000}",
            "client={duplicate: 0.1, direction: from}")  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_a_scenario_declares_is_set_measured_and_mended(host_as_found: str, scenario: str) -> None:
    settings = tuple(f"impairments.{one}" for one in DECLARED)
    with running(scenario, host_as_found, *settings) as (lab, opened):
        assert compared(lab, (), "").drift.differences == ()
        assert {way.link for way in opened.impaired_ways()} == {"node1", "node3", "client"}
        found = measured(opened, count=1000)
        assert found.verdict is Verdict.PASS, found.reason
        assert {one.name for one in found.findings} >= {"loss underlay→node1", "duplicate client→node1", "end-to-end"}
        CHANGING.impair(lab, ("node1",), None)
        CHANGING.impair(lab, ("node3",), impairment_of(["rate=1mbit"]))
        assert set(CHANGING.impairments(lab)) == {"node3", "client"}
        differences = compared(lab, (), "").drift.differences
        assert {one.key for one in differences} == {"impairments"}
        assert {one.part for one in differences} == {"underlay", "node1", "node3"}
        assert "link node1 is not impaired as its scenario says" in read_changes(lab.name).sentences()
        mend(PROVIDER, lab, lambda event: None)
        assert read_changes(lab.name) == NOTHING
        assert compared(lab, (), "").drift.differences == ()
        assert CHANGING.impairments(lab)["node1"].loss == 0.05
        CHANGING.set_node(lab, "node1", Power.REBOOT)
        assert compared(lab, (), "").drift.differences == ()
        CHANGING.impair(lab, ("server",), impairment_of(["loss=50%", "direction=to"]))
        without = resolve(load_scenario(scenario, start=CHECKOUT), name=lab.name)
        apply(PROVIDER, lab, without, lambda event: None)
        assert compared(without, (), "").drift.differences == ()
        assert CHANGING.impairments(without) == {}
        assert read_changes(lab.name) == NOTHING


@pytest.mark.thorough
@pytest.mark.parametrize("scenario", ["bpf", "legacy-native", "clos-bgp"])
@pytest.mark.parametrize(
    ("words", "findings"),
    [
        (("loss=1%",), 3), (("duplicate=10%",), 3), (("corrupt=3%",), 3), (("reorder=20%",), 3),
        (("loss=2%", "duplicate=2%", "corrupt=2%", "reorder=2%"), 9), (("rate=10mbit",), 2),
        (("delay=20ms", "jitter=2ms"), 2), (("delay=5ms", "loss=1%", "rate=20mbit"), 6),
    ],
)  # fmt: skip
def test_each_impairment_is_measured_within_its_interval(
    host_as_found: str, scenario: str, words: tuple[str, ...], findings: int
) -> None:
    with running(scenario, host_as_found) as (lab, opened):
        set_on(lab, "node1", *words)
        found = measured(opened, count=10_000)
        assert found.verdict is Verdict.PASS, found.reason
        assert len(found.findings) == findings


@pytest.mark.thorough
def test_the_same_seed_loses_the_same_packets(host_as_found: str) -> None:
    def losses() -> Iterator[tuple[str, ...]]:
        argv = ("ping", "-n", "-c", "60", "-i", "0.01", "-W", "1", str(lab.pod("server").address))
        for seed in (5, 5, 6):
            for _ in range(5):
                set_on(lab, "node2", "loss=20%", "direction=to", f"seed={seed}")
                done = opened.target("client").run(argv, timeout_s=60)
                (way,) = opened.impaired_ways()
                if way.counts.seen == 60:  # else a packet of something else took a draw
                    break
            yield tuple(line.split("icmp_seq=")[1].split()[0] for line in done.text.splitlines() if "icmp_seq=" in line)

    with running("legacy-native", host_as_found) as (lab, opened):
        first, again, other = losses()
        assert 30 < len(first) < 60
        assert first == again
        assert first != other


def test_what_a_datapath_cannot_do_is_refused_and_leaves_nothing(host_as_found: str) -> None:
    with running("bpf", host_as_found) as (lab, _):
        with pytest.raises(UsageError, match="passes no queue"):
            set_on(lab, "client", "rate=1mbit", "direction=to")
        assert compared(lab, (), "").drift.differences == ()
        assert read_changes(lab.name) == NOTHING


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_delay_is_measured_and_its_relay_mended_where_it_is_one(host_as_found: str, scenario: str) -> None:
    with running(scenario, host_as_found, "impairments.node1={delayS: 0.02, jitterS: 0.002}") as (lab, opened):
        assert compared(lab, (), "").drift.differences == ()
        found = measured(opened, count=500, interval_s=0.004)
        assert [one.name for one in found.findings] == ["delay", "jitter"]
        assert "found a round trip of" in found.findings[0].sentence
        least_s = float(re.findall(r"round trip of ([0-9.]+) ms", found.findings[0].sentence)[0])
        assert least_s >= 39.0, found.findings[0].sentence  # how much more, a busy machine decides
        place = f"labctl.{lab.name}.node1"
        if not has_netem():
            (key,) = filter(None, [netns.key_of(place)])
            (pid,) = [pid for pid in netns.processes_in([key]) if netns.name_of(pid).startswith("labctl-wait")]
            os.kill(pid, signal.SIGKILL)
            until(lambda: "wait" not in shown("ip", "-n", place, "-o", "link"), "the relay's device is still there")
            (difference,) = compared(lab, (), "").drift.differences
            assert difference.name == "impairment of when eth0 receives: delay=20.0 ms jitter=2.00 ms"
            assert difference.key == "impairments"
            mend(PROVIDER, lab, lambda event: None)
            assert compared(lab, (), "").drift.differences == ()
        CHANGING.impair(lab, ("node1",), None)
        until(lambda: "xdp" not in shown("ip", "-n", place, "link"), "the relay's program is still there")
        assert "netem" not in shown("tc", "-n", place, "qdisc", "show")


def test_an_impairment_for_a_while_ends_with_its_command_however_that_ends(host_as_found: str) -> None:
    with running("legacy-native", host_as_found) as (lab, _):
        for sig in (signal.SIGKILL, signal.SIGINT):
            with labctl("impair", lab.name, "node1", "loss=50%", "--for", "90s") as impairing:
                until(lambda: "impair" in traces(lab), "it is not set")
                time.sleep(0.2)
                impairing.send_signal(sig)
                assert impairing.wait(timeout=60) == (-sig if sig is signal.SIGKILL else 130)
            until(lambda: traces(lab) == "", "it is still set")
            until(lambda: read_changes(lab.name) == NOTHING, "the act is still written down")


KILLED = {
    "impair": ("node1", "loss=20%", "duplicate=5%", "delay=5ms", "rate=50mbit"), "link": ("node1", "down"),
    "break": ("missing-neighbour",), "node": ("node2", "reboot"),
}  # fmt: skip
POINTS_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
"""After the act was written down as begun."""


def as_recorded(lab: Lab) -> None:
    """What is there is what the record says; then it is taken back, and nothing is left."""
    until(lambda: (CHANGING.settle(lab), not read_changes(lab.name).pending)[1], "the act is still written down")
    changes, differences = read_changes(lab.name), compared(lab, (), "").drift.differences
    assert bool(changes.impairments) == any(one.kind == "impairment" for one in differences), (changes, differences)
    down = {link.name for link in CHANGING.links(lab) if link.state == "down"}
    assert down == {*changes.links_down}
    if not (changes.impairments or changes.links_down or changes.faults or changes.nodes_stopped):
        until(lambda: compared(lab, (), "").drift.differences == (), f"differs without a record: {differences}")
    for name in changes.impairments:
        CHANGING.impair(lab, (name,), None)
    for name in changes.links_down:
        CHANGING.set_link(lab, (name,), is_up=True)
    for fault in changes.faults:
        CHANGING.mend(lab, fault.fault)
    for name in changes.nodes_stopped:
        CHANGING.set_node(lab, name, Power.START)
    assert read_changes(lab.name) == NOTHING
    until(lambda: compared(lab, (), "").drift.differences == (), f"it is not as it was built after {changes}")


def killed(lab: Lab, command: str, after_s: float) -> None:
    with labctl(command, lab.name, *KILLED[command]) as acting:
        until(lambda: acting.poll() is not None or bool(read_changes(lab.name).pending), "it does not begin")
        time.sleep(after_s)
        acting.kill()
        acting.wait(timeout=60)
    as_recorded(lab)


def test_a_command_that_is_killed_leaves_no_half_state(host_as_found: str) -> None:
    with running("legacy-native", host_as_found) as (lab, _):
        killed(lab, "impair", 0.05)
        killed(lab, "break", 0.0)


@pytest.mark.thorough
@pytest.mark.parametrize("scenario", ["bpf", "legacy-native", pytest.param("clos-bgp", marks=needs_frr)])
def test_commands_that_are_killed_at_any_point_leave_no_half_state(host_as_found: str, scenario: str) -> None:
    with running(scenario, host_as_found) as (lab, _):
        for command in KILLED:
            if command == "break" and BY_NAME["missing-neighbour"].unfit(lab):
                continue
            for after_s in POINTS_S:
                killed(lab, command, after_s)
