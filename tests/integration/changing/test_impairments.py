"""Links that lose, duplicate, corrupt and reorder packets, and a rate: asked and measured, and gone without a trace."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from test_faults import CHANGING, PROVIDER, running
from test_links_and_nodes import labctl, shown, until

from labctl import app
from labctl.engine.mend import mend
from labctl.engine.run_checks import run_check
from labctl.errors import HostLacks, UsageError
from labctl.model.changes import NOTHING, Power
from labctl.model.impairment import impairment_of
from labctl.model.lab import CheckSpec, Lab
from labctl.model.parameters import ImpairmentParameters
from labctl.model.result import CheckResult, Verdict
from labctl.providers.base import OpenLab
from labctl.providers.netns.changes import read_changes
from labctl.providers.netns.reading import compared
from labctl.store.runs import MemorySink

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


@pytest.mark.thorough
@pytest.mark.parametrize("scenario", ["bpf", "legacy-native", "clos-bgp"])
@pytest.mark.parametrize(
    ("words", "findings"),
    [
        (("loss=1%",), 3), (("duplicate=10%",), 3), (("corrupt=3%",), 3), (("reorder=20%",), 3),
        (("loss=2%", "duplicate=2%", "corrupt=2%", "reorder=2%"), 9), (("rate=10mbit",), 2),
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


def test_what_a_kernel_or_a_datapath_cannot_do_is_refused_and_leaves_nothing(host_as_found: str) -> None:
    with running("bpf", host_as_found) as (lab, _):
        with pytest.raises(UsageError, match="passes no queue"):
            set_on(lab, "client", "rate=1mbit", "direction=to")
        try:
            set_on(lab, "node1", "delay=20ms", "loss=1%")
        except HostLacks as lacking:
            assert "CONFIG_NET_SCH_NETEM" in f"{lacking.cause} {lacking.remedy}"  # noqa: PT017  # else it is set
            assert traces(lab) == ""
            assert read_changes(lab.name) == NOTHING


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
