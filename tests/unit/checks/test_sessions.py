"""Sessions of routing daemons, as FRR 8.4's shell prints them in JSON."""

from __future__ import annotations

import json

import pytest

from labctl.checks.sessions import judge_sessions, parse_bgp, parse_ospf
from labctl.errors import MeasureFailed
from labctl.model.fabric import Routing
from labctl.model.result import Verdict

BGP = json.dumps(
    {
        "ipv4Unicast": {
            "routerId": "10.255.0.3", "as": 65101,
            "peers": {
                "10.254.0.0": {"remoteAs": 65000, "pfxRcd": 8, "pfxSnt": 10, "state": "Established"},
                "10.254.0.2": {"remoteAs": 65000, "pfxRcd": 0, "state": "Active"},
            },
            "totalPeers": 2,
        }
    }
)  # fmt: skip
OSPF = json.dumps(
    {
        "neighbors": {
            "10.255.0.1": [
                {"priority": 1, "state": "Full/-", "nbrState": "Full/-", "ifaceName": "to-spine1:10.254.0.1"}
            ],
            "10.255.0.2": [{"priority": 1, "state": "ExStart/-", "nbrState": "ExStart/-"}],
        }
    }
)


def test_a_peer_that_is_not_established_is_named_with_its_state() -> None:
    found = judge_sessions("leaf1", Routing.BGP, parse_bgp(BGP), 2, ())
    assert found.verdict is Verdict.FAIL
    assert found.sentence == "leaf1 talks bgp with 1 of 2 neighbours, 8 prefixes received; 10.254.0.2 is Active"


def test_all_up_passes_and_one_that_is_not_even_there_fails() -> None:
    up = parse_bgp(BGP.replace("Active", "Established"))
    assert judge_sessions("leaf1", Routing.BGP, up, 2, ()).verdict is Verdict.PASS
    assert judge_sessions("leaf1", Routing.BGP, up, 3, ()).verdict is Verdict.FAIL


def test_ospf_counts_full_adjacencies() -> None:
    assert [(one.peer, one.is_up) for one in parse_ospf(OSPF)] == [("10.255.0.1", True), ("10.255.0.2", False)]


def test_a_daemon_without_neighbours_has_none() -> None:
    assert parse_bgp("{}") == ()
    assert parse_ospf('{"neighbors": {}}') == ()


@pytest.mark.parametrize("text", ["% bgpd is not running", "[]", ""])
def test_what_is_no_answer_of_frr_is_no_finding(text: str) -> None:
    with pytest.raises(MeasureFailed):
        parse_bgp(text)
