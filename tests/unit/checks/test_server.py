"""Servers behind a Service: one in each backend, where and on which port, and what their times come to."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.checks.base import Check, CheckContext
from labctl.checks.connect import ConnectCheck
from labctl.checks.latency import LatencyCheck
from labctl.checks.server import Asked, asked_of, unfit_over_tcp
from labctl.checks.tcpdump import TcpdumpCheck
from labctl.model.lab import CheckSpec, Lab, Pair, Placement, Service, ServiceProtocol, ServiceType
from labctl.model.parameters import ConnectParameters
from labctl.model.result import CheckResult, Verdict
from labctl.testing.labs import sample_lab
from labctl.testing.scripted import Answer, MemoryRaw, ScriptedLab, ScriptedTarget

WEB = Service(
    name="web",
    address=IPv4Address("10.96.0.11"),
    port=80,
    target_port=5205,
    protocol=ServiceProtocol.TCP,
    backends=("neighbour", "server"),
    selector={"app": "web"},
    type=ServiceType.NODE_PORT,
    node_port=30205,
)
TO_WEB = Pair(client="client", server="web", placement=Placement.MIXED)
LISTENING = Answer(argv=("python3",), stdout=b"listening\n", cpu_s=0.1)
CONNECTED = json.dumps({"connections": 100, "seconds": 1.0, "error": ""}).encode()


def lab_with(service: Service = WEB) -> Lab:
    return replace(sample_lab("demo"), services=(service,))


def connect(lab: Lab, neighbour: Answer, server: Answer, raw: MemoryRaw) -> tuple[CheckResult, ScriptedTarget]:
    client = ScriptedTarget("client", [Answer(argv=("python3",), stdout=CONNECTED, cpu_s=0.3)])
    targets = [client, ScriptedTarget("neighbour", [neighbour]), ScriptedTarget("server", [server])]
    context = CheckContext(
        open_lab=ScriptedLab(lab, targets),
        pair=TO_WEB,
        spec=CheckSpec(name="connect", kind="connect", parameters=ConnectParameters(duration_s=1.0)),
        raw=raw,
    )
    return ConnectCheck().run(context), client


def test_a_service_is_asked_at_its_own_port_and_answered_on_its_backends() -> None:
    lab = lab_with()
    listening = {"neighbour": (IPv4Address("10.244.0.3"), 5205), "server": (IPv4Address("10.244.1.2"), 5205)}
    assert asked_of(lab, TO_WEB, 11112) == Asked(address=WEB.address, port=80, listening=listening)
    at_node = replace(TO_WEB, via="node2")
    assert asked_of(lab, at_node, 11112) == Asked(address=IPv4Address("172.30.0.3"), port=30205, listening=listening)
    pod = IPv4Address("10.244.1.2")
    to_pod = Pair(client="client", server="server", placement=Placement.CROSS_NODE)
    assert asked_of(lab, to_pod, 11112) == Asked(address=pod, port=11112, listening={"server": (pod, 11112)})


def test_connections_to_a_service_cost_what_client_and_all_servers_used() -> None:
    raw = MemoryRaw()
    result, client = connect(lab_with(), LISTENING, LISTENING, raw)
    assert result.verdict is Verdict.PASS
    assert {one.metric: one.value for one in result.samples} == pytest.approx(
        {"connections_per_s": 100.0, "cpu_per_connection": 0.005}
    )
    assert tuple(client.calls[0].argv[-3:]) == ("10.96.0.11", "80", "1")
    assert {name.partition(".")[0] for name in raw.files} == {"client", "server-neighbour", "server-server"}


def test_a_backend_whose_server_does_not_come_up_is_an_error_that_names_the_program() -> None:
    refused = Answer(argv=("python3",), stderr=b"OSError: [Errno 98] Address already in use\n", returncode=1)
    result, _ = connect(lab_with(), LISTENING, refused, MemoryRaw())
    assert result.verdict is Verdict.ERROR
    assert "the python3 server did not come up" in result.reason


@pytest.mark.parametrize("check", [ConnectCheck(), LatencyCheck()])
def test_what_connects_over_tcp_needs_a_tcp_service_with_backends(check: ConnectCheck | LatencyCheck) -> None:
    assert check.unfit(lab_with(), TO_WEB) == ""
    udp = replace(WEB, protocol=ServiceProtocol.UDP)
    assert check.unfit(lab_with(udp), TO_WEB) == "this check makes TCP connections, and the Service has none"
    assert unfit_over_tcp(lab_with(replace(WEB, backends=())), TO_WEB) == "the Service has no backends"


def test_an_echo_request_to_a_service_is_not_what_tcpdump_is_for() -> None:
    check: Check = TcpdumpCheck()
    assert isinstance(check, TcpdumpCheck)
    assert "labctl trace" in check.unfit(lab_with(), TO_WEB)
    to_pod = Pair(client="client", server="server", placement=Placement.CROSS_NODE)
    assert check.unfit(lab_with(), to_pod) == ""
