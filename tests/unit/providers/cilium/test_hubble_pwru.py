"""Hubble's flows as movements of a trace: lines written by hubble's own printer (tests/fixtures/cilium/encoded)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.errors import MeasureFailed
from labctl.model.trace import Mover
from labctl.providers.cilium.hubble_pwru import (
    HUBBLE_READY,
    argv_hubble,
    enabled_by,
    lost_events,
    movements_of,
    parse_hubble,
    trouble_in_status,
)

from .cilium_recordings import recorded

JSON = recorded("encoded/hubble-jsonpb.1.16.0.txt")
COMPACT = recorded("documented/hubble-compact.txt")
PODS = {"10.244.0.10": ("node1", "lxcclient"), "10.244.1.20": ("node2", "lxcserver")}
NAMES = {"labctl-example/client": "10.244.0.10", "labctl-example/server": "10.244.1.20"}


def test_hubble_is_asked_about_the_pair_in_both_directions_and_nothing_else() -> None:
    assert " ".join(argv_hubble(("10.244.0.10", "10.244.1.20"))) == (
        "hubble observe --follow --last 1 --from-ip 10.244.0.10 --from-ip 10.244.1.20 "
        "--to-ip 10.244.0.10 --to-ip 10.244.1.20 -o jsonpb"
    )


@pytest.mark.parametrize("addresses", [(), ("10.0.0.1",), ("10.0.0.1", "10.0.0.1"), ("1.1.1.1", "2.2.2.2", "3.3.3.3")])
def test_without_a_pair_hubble_is_never_started(addresses: tuple[str, ...]) -> None:
    with pytest.raises(MeasureFailed, match="a pair of pods only"):
        argv_hubble(addresses)


def test_json_flows_carry_point_ports_identity_and_device() -> None:
    flows = parse_hubble(JSON)
    assert [(flow.point, flow.verdict, flow.protocol) for flow in flows] == [
        ("from-endpoint", "FORWARDED", "icmp"),
        ("from-endpoint", "FORWARDED", "tcp"),
        ("to-overlay", "FORWARDED", "tcp"),
        ("", "DROPPED", "tcp"),
    ]
    assert (flows[2].source, flows[2].source_port, flows[2].destination_port) == ("10.244.0.10", 41600, 80)
    assert (flows[2].identity, flows[2].interface, flows[3].reason) == (16843, "cilium_vxlan", "POLICY_DENIED")


def test_older_json_without_an_envelope_is_read_the_same() -> None:
    bare = parse_hubble(recorded("encoded/hubble-json.1.16.0.txt"))
    assert [replace(flow, raw="") for flow in bare] == [replace(flow, raw="") for flow in parse_hubble(JSON)]


def test_compact_text_tells_the_same_flows_without_devices() -> None:
    *told, reply = parse_hubble(recorded("encoded/hubble-compact.1.16.0.txt"))
    for text, flow in zip(told, parse_hubble(JSON), strict=True):
        assert (text.verdict, text.protocol, text.identity) == (flow.verdict, flow.protocol, flow.identity)
        assert (text.source, text.source_port, text.destination, text.destination_port) == (
            flow.source, flow.source_port, flow.destination, flow.destination_port,
        )  # fmt: skip
    assert [text.point for text in told] == ["from-endpoint", "from-endpoint", "to-overlay", "Policy denied"]
    assert (reply.source, reply.source_port, reply.identity) == ("10.244.1.20", 80, 23579)


def test_every_line_of_flows_shows_that_hubble_is_listening() -> None:
    assert all(HUBBLE_READY in line for line in JSON.splitlines()[:4])


def test_compact_replies_have_the_client_on_the_left() -> None:
    request, reply, _ = parse_hubble(COMPACT)
    assert (request.source, request.source_port, request.destination_port, request.identity) == (
        "default/curl-pod", 40332, 80, 23926,
    )  # fmt: skip
    assert (reply.source, reply.source_port, reply.destination, reply.identity) == (
        "default/webpod-…", 80, "default/curl-pod", 12438,
    )  # fmt: skip
    assert (request.point, reply.point, reply.protocol) == ("to-overlay", "to-endpoint", "tcp")


def test_pods_of_the_compact_text_become_addresses() -> None:
    *_, dropped = movements_of("node1", parse_hubble(COMPACT), PODS, NAMES)
    assert (dropped.packet.src, dropped.packet.dst, dropped.packet.protocol) == ("10.244.0.10", "10.244.1.20", "icmp")
    assert dropped.helper == "Policy denied dropped"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"flow": 3}', '{"flow": {"IP": {}}}', "Error: connection refused"])
def test_what_is_no_flow_is_left_out(text: str) -> None:
    assert parse_hubble(text) == ()


def test_a_flow_is_told_by_the_agent_where_its_program_is_and_moves_nothing() -> None:
    sent = movements_of("node1", parse_hubble(JSON)[1:], PODS, NAMES)
    assert {(m.mover, m.what, m.target, m.time_ns) for m in sent} == {(Mover.AGENT, "hubble", "", None)}
    assert [(m.device, m.hook, m.helper) for m in sent] == [
        ("lxcclient", "ingress", "from-endpoint forwarded"),
        ("cilium_vxlan", "egress", "to-overlay forwarded"),
        ("", "ingress", "dropped (POLICY_DENIED)"),
    ]


def test_events_that_hubble_lost_are_counted() -> None:
    assert (lost_events(JSON), lost_events(COMPACT)) == (3, 0)


@pytest.mark.parametrize(
    ("config", "values", "enabled"),
    [
        ({"enable-hubble": "true"}, {}, True),
        ({"enable-hubble": "false"}, {"hubble": {"enabled": True}}, False),
        ({}, {"hubble": {"enabled": True}}, True),
        ({}, {"hubble.enabled": False}, False),
        ({}, {"hubble": {"relay": {}}}, None),
        ({}, {}, None),
    ],
)
def test_the_configuration_of_the_cluster_counts_before_the_labs_values(
    config: dict[str, str], values: dict[str, object], enabled: bool | None
) -> None:
    assert enabled_by(config, values) is enabled


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        ('{"hubble": {"state": "Ok", "observer": {"current-flows": 7}}}', ""),
        ('{"hubble": {"state": "Failure", "msg": "no socket"}}', "the agent's status says: Failure, no socket"),
        ("nothing", "the agent's status is not JSON"),
    ],
)
def test_the_agents_status_tells_whether_hubble_runs(status: str, trouble: str) -> None:
    assert trouble_in_status(status) == trouble


def test_a_recorded_agent_without_hubble_says_so() -> None:
    assert "not enabled; cilium: {values: {hubble:" in trouble_in_status(recorded("status-bpf-vxlan.json"))
