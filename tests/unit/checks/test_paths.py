"""How flows spread, and how long nothing got through: counting and judging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labctl.checks.paths import (
    ConvergenceCheck,
    event_at,
    judge_spread,
    missing_in_a_row,
    sent_by_device,
    spread_probability,
    survivable,
)
from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.model.result import Verdict
from labctl.planning.resolve import resolve

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("counts", "probability"),
    # chi-square upper tails: 1, 2 and 3 degrees of freedom (R: pchisq(x, df, lower.tail = FALSE))
    [
        ((32, 32), 1.0),
        ((40, 24), 0.0455002639),
        ((30, 20, 14), 0.0460),
        ((16, 16, 16, 16), 1.0),
        ((26, 16, 12, 10), 0.0233),
    ],
)
def test_the_probability_is_that_of_the_chi_square_distribution(counts: tuple[int, ...], probability: float) -> None:
    assert spread_probability(counts) == pytest.approx(probability, rel=0.02)


def test_one_path_or_nothing_sent_is_no_uneven_spread() -> None:
    assert spread_probability((64,)) == 1.0
    assert spread_probability((0, 0)) == 1.0


def test_a_path_without_flows_fails_and_chance_does_not() -> None:
    assert judge_spread("leaf1", {"to-spine1": 34, "to-spine2": 30}, 64).verdict is Verdict.PASS
    assert judge_spread("leaf1", {"to-spine1": 64, "to-spine2": 0}, 64).reason.endswith("a path is not used")
    assert judge_spread("leaf1", {"to-spine1": 60, "to-spine2": 4}, 64).verdict is Verdict.FAIL
    assert judge_spread("leaf1", {"to-spine1": 64}, 64).reason.endswith("there is one path")


def ping(*answered: int) -> str:
    return "".join(f"64 bytes from 10.244.1.10: icmp_seq={number} ttl=59 time=0.05 ms\n" for number in answered)


@pytest.mark.parametrize(
    ("answered", "lost", "longest"),
    [((1, 2, 3, 4, 5), 0, 0), ((1, 5), 3, 3), ((1, 3, 5), 2, 1), ((), 5, 5), ((1, 2), 3, 3)],
)
def test_the_longest_gap_is_the_outage(answered: tuple[int, ...], lost: int, longest: int) -> None:
    assert missing_in_a_row(ping(*answered), 5) == (lost, longest)


def test_packets_are_counted_by_device() -> None:
    text = json.dumps(
        [{"ifname": "to-spine1", "stats64": {"rx": {"packets": 3}, "tx": {"packets": 7}}}, {"ifname": "lo"}]
    )
    assert sent_by_device(text) == {"to-spine1": 7, "lo": 0}


def lab_of(name: str, *overrides: str) -> Lab:
    return resolve(load_scenario(name, overrides=overrides, start=CHECKOUT))


def test_what_a_fabric_can_survive_depends_on_the_way_round() -> None:
    clos, triangle = lab_of("clos-bgp"), lab_of("triangle")
    assert survivable(clos, "leaf1", "leaf2", "spine1") == ("router-stopped", "link-down")
    assert survivable(triangle, "r1", "r2", "r2") == ("link-down",)  # the router itself is the last one
    assert survivable(lab_of("clos-bgp", "fabric.spines=1"), "leaf1", "leaf2", "spine1") == ()


@pytest.mark.parametrize(
    ("scenario", "overrides", "unfit"),
    [
        ("clos-ospf", (), False),
        ("triangle", (), False),
        ("evpn", (), False),
        ("clos-bgp", ("fabric.spines=1",), True),
        ("flannel-vxlan", (), True),
        ("stp-loop", (), True),
    ],
)
def test_convergence_is_for_what_has_a_second_way(scenario: str, overrides: tuple[str, ...], *, unfit: bool) -> None:
    lab = lab_of(scenario, *overrides)
    assert bool(ConvergenceCheck().unfit(lab, lab.pairs[-1])) is unfit
    assert ConvergenceCheck().unfit(lab, lab.pairs[0])


def test_an_event_is_put_back_by_its_own_commands() -> None:
    assert event_at("link-down", "spine1", "to-leaf1").end == ("ip", "link", "set", "dev", "to-leaf1", "up")
    assert event_at("router-stopped", "spine1", "to-leaf1").begin == ("nft", "-f", "-")
    withdrawn = event_at("vtep-withdrawn", "node2", "")
    assert withdrawn.begin[-1] == "no advertise-all-vni"
    assert withdrawn.end[-1] == "advertise-all-vni"
