"""Facts of routes and routing daemons, of what ip (6.1) and vtysh (FRR 8.4) printed."""

from __future__ import annotations

import json

import pytest

from labctl.errors import MeasureFailed
from labctl.facts.node_facts import count_next_hops, longest_patience
from labctl.facts.trace_facts import Unmeasured
from labctl.model.fabric import Routing

TWO_HOPS = (
    '[{"dst":"10.244.1.0/24","protocol":"bgp","metric":20,"flags":[],"nexthops":'
    '[{"gateway":"10.254.0.0","dev":"to-spine1","weight":1,"flags":[]},'
    '{"gateway":"10.254.0.2","dev":"to-spine2","weight":1,"flags":[]}]}]'
)
DEFAULT = '{"dst":"default","gateway":"172.30.0.1","dev":"eth0","flags":[]}'


@pytest.mark.parametrize(
    ("printed", "count"),
    [
        (TWO_HOPS, 2),
        (f"[{DEFAULT}]", 1),
        (f"[{DEFAULT},{TWO_HOPS[1:-1]}]", 2),
        ("[]", 0),
        ("", 0),
    ],
    ids=["two-next-hops", "default-route", "longest-prefix-counts", "no-route", "nothing-printed"],
)
def test_next_hops_are_those_of_the_longest_prefix(printed: str, count: int) -> None:
    assert count_next_hops(printed) == count


def test_routes_that_cannot_be_read_are_no_count() -> None:
    with pytest.raises(MeasureFailed):
        count_next_hops("Cannot open network namespace")


def _bgp(state: str = "Established", hold_ms: int = 3000) -> dict[str, object]:
    return {"remoteAs": 65000, "bgpState": state, "bgpTimerHoldTimeMsecs": hold_ms}


def _ospf(neighbours: int, dead_s: int) -> dict[str, object]:
    return {"ifUp": True, "timerDeadSecs": dead_s, "nbrCount": neighbours}


def test_bgp_waits_for_the_hold_time_of_sessions_that_are_up() -> None:
    told = json.dumps({"10.254.0.0": _bgp(), "10.254.0.2": _bgp("Active", 180_000)})
    assert longest_patience(Routing.BGP, told) == 3


def test_ospf_waits_for_the_dead_interval_of_interfaces_with_a_neighbour() -> None:
    told = json.dumps({"interfaces": {"lo": _ospf(0, 40), "to-spine1": _ospf(1, 4)}})
    assert longest_patience(Routing.OSPF, told) == 4


@pytest.mark.parametrize("protocol", [Routing.BGP, Routing.OSPF])
def test_without_a_neighbour_there_is_no_time(protocol: Routing) -> None:
    with pytest.raises(Unmeasured):
        longest_patience(protocol, "{}")


@pytest.mark.parametrize("printed", ["", "[]", '{"10.254.0.0": {"bgpState": "Established"}}'])
def test_what_vtysh_did_not_say_is_no_time(printed: str) -> None:
    with pytest.raises(MeasureFailed):
        longest_patience(Routing.BGP, printed)
