"""Routes and tunnel entries, judged on what `ip -j` and `bridge -j` print (iproute2 6.1)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from labctl.checks.routes import entries_of, judge_route, judge_tunnel
from labctl.errors import MeasureFailed
from labctl.model.result import Verdict
from labctl.model.ways import ExpectedRoute, ExpectedTunnel, Told

TO_PODS = IPv4Network("10.244.1.0/24")
SPINES = frozenset({IPv4Address("10.254.0.0"), IPv4Address("10.254.0.2")})
BOTH = {
    "dst": "10.244.1.0/24", "protocol": "bgp", "metric": 20, "flags": [],
    "nexthops": [
        {"gateway": "10.254.0.2", "dev": "to-spine2", "weight": 1, "flags": []},
        {"gateway": "10.254.0.0", "dev": "to-spine1", "weight": 1, "flags": []},
    ],
}  # fmt: skip
BY_TUNNEL = {"dst": "10.244.1.0/24", "gateway": "10.244.1.0", "dev": "flannel.1", "flags": ["onlink"]}


def route(next_hops: frozenset[IPv4Address], device: str = "") -> ExpectedRoute:
    return ExpectedRoute(part="leaf1", destination=TO_PODS, next_hops=next_hops, device=device)


def test_every_next_hop_has_to_be_there() -> None:
    assert judge_route(route(SPINES), [BOTH], ()).verdict is Verdict.PASS
    one_less = {**BOTH, "nexthops": BOTH["nexthops"][:1]}  # type: ignore[index]
    found = judge_route(route(SPINES), [one_less], ())
    assert found.verdict is Verdict.FAIL
    assert found.sentence == (
        "leaf1 reaches 10.244.1.0/24 by 10.254.0.2 on to-spine2 (bgp); expected is 10.254.0.0, 10.254.0.2"
    )


def test_the_device_counts_where_it_matters() -> None:
    hop = frozenset({IPv4Address("10.244.1.0")})
    assert judge_route(route(hop, "flannel.1"), [BY_TUNNEL], ()).verdict is Verdict.PASS
    assert judge_route(route(hop, "eth0"), [BY_TUNNEL], ()).verdict is Verdict.FAIL


def test_a_missing_route_is_said_to_be_missing() -> None:
    found = judge_route(route(SPINES), [], ())
    assert found.sentence == "leaf1 has no route to 10.244.1.0/24; expected is one by 10.254.0.0, 10.254.0.2"


VTEP = IPv4Address("172.30.0.3")
ENTRIES: dict[Told, dict[str, Any]] = {
    Told.SET: {"mac": "be:12:89:17:c4:4b", "dst": "172.30.0.3", "flags": ["self"], "state": "permanent"},
    Told.LEARNED: {"mac": "66:7b:3b:53:e0:ad", "dst": "172.30.0.3", "flags": ["self"], "state": ""},
    Told.BGP: {"mac": "66:7b:3b:53:e0:ad", "dst": "172.30.0.3", "flags": ["self", "extern_learn"], "state": ""},
}
FLOOD = {"mac": "00:00:00:00:00:00", "dst": "172.30.0.3", "flags": ["self"], "state": "permanent"}


@pytest.mark.parametrize("told", Told)
@pytest.mark.parametrize("there", Told)
def test_who_told_an_entry_is_part_of_what_is_expected(told: Told, there: Told) -> None:
    wanted = ExpectedTunnel(part="node1", device="vxlan5", node=VTEP, told=told)
    found = judge_tunnel(wanted, [FLOOD, ENTRIES[there]], ())
    assert (found.verdict is Verdict.PASS) == (told is there)


def test_where_everything_is_flooded_to_is_no_entry_of_a_mac() -> None:
    wanted = ExpectedTunnel(part="node1", device="vxlan5", node=VTEP, told=Told.SET)
    found = judge_tunnel(wanted, [FLOOD], ())
    assert found.sentence == "node1's vxlan5 knows no MAC behind 172.30.0.3"


@pytest.mark.parametrize("text", ["{", '{"dst": 1}', "[1]"])
def test_output_of_another_form_is_no_finding(text: str) -> None:
    with pytest.raises(MeasureFailed):
        entries_of(text, "ip route")
