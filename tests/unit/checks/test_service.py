"""The service check: who answered, where the address was translated, and what it says when a Service does not work."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.server import Asked
from labctl.checks.service import ServiceCheck, argv_connections, parse_connections, parse_exchange, syn_filter
from labctl.checks.service_findings import Attempts
from labctl.errors import MeasureFailed, ToolMissing
from labctl.model.lab import CheckSpec, Lab, Pair, Placement, Service, ServiceProtocol, ServiceType
from labctl.model.parameters import ServiceParameters
from labctl.model.result import CheckResult, Verdict
from labctl.testing.labs import CLIENT, SERVER, example_lab
from labctl.testing.packets import ethernet, ipv4, pcap_file, tcp
from labctl.testing.scripted import Answer, MemoryRaw, ScriptedLab, ScriptedTarget

VIP = "10.96.0.11"
CLIENT_IP = "10.244.0.10"
SERVER_IP = "10.244.1.20"
WEB = Service(
    name="web",
    address=IPv4Address(VIP),
    port=80,
    target_port=5205,
    protocol=ServiceProtocol.TCP,
    backends=(SERVER,),
    selector={"app": SERVER},
    type=ServiceType.CLUSTER_IP,
)
# iperf3 3.12, when nothing listens.
REFUSED = "iperf3: error - unable to connect to server: Connection refused\n"
SUMMARY = b"listening on eth0\n%d packets captured\n%d packets received by filter\n0 packets dropped by kernel\n"


def syn(source_port: int, destination: str, port: int) -> tuple[int, bytes]:
    segment = tcp(source_port, port)
    packet = ipv4(CLIENT_IP, destination, segment, protocol=6)
    return source_port, ethernet("02:00:00:00:00:01", "02:00:00:00:00:02", packet)


def captured(*frames: tuple[int, bytes]) -> Answer:
    return Answer(
        argv=("tcpdump",), stdout=pcap_file(frames), stderr=SUMMARY % (len(frames), len(frames)), returncode=0
    )


def exchanged(peer: str = VIP, seen_from: str = CLIENT_IP) -> tuple[Answer, Answer]:
    client = {"start": {"connected": [{"remote_host": peer, "remote_port": 80}]}, "end": {}}
    accepted = f"Server listening on 5205\nAccepted connection from {seen_from}, port 40000\n"
    return (
        Answer(argv=("iperf3", "-J"), stdout=json.dumps(client).encode()),
        Answer(argv=("iperf3", "-s"), stdout=accepted.encode()),
    )


def lab_with(*services: Service, replaces: bool = True) -> Lab:
    lab = example_lab()
    return replace(lab, services=services, datapath=replace(lab.datapath, kube_proxy_replacement=replaces))


def run(
    lab: Lab,
    *,
    at_client: Answer,
    at_server: Answer,
    said: str = REFUSED * 3,
    rules: str = "#listed-by iptables-legacy-save\n-A KUBE-POSTROUTING -j MASQUERADE\n",
    exchange: tuple[Answer, Answer] | None = None,
    tools: Answer | None = None,
) -> CheckResult:
    met = exchange or exchanged()
    version = tools or Answer(argv=("iperf3", "--version"), stdout=b"iperf 3.12")
    client = ScriptedTarget(CLIENT, [at_client, version, Answer(argv=("sh",), stdout=said.encode()), met[0]])
    server = ScriptedTarget(SERVER, [at_server, met[1]])
    node = ScriptedTarget("node1", [Answer(argv=("sh",), stdout=rules.encode())])
    return ServiceCheck(sleep=lambda _: None).run(
        CheckContext(
            open_lab=ScriptedLab(lab, [client, server, node]),
            pair=lab.pairs[0],
            spec=CheckSpec(name="service", kind="service", parameters=ServiceParameters(connections=3)),
            raw=MemoryRaw(),
        )
    )


ARRIVED = captured(*(syn(port, SERVER_IP, 5205) for port in (1, 2, 3)))


def test_a_service_translated_in_the_socket_passes_with_every_finding() -> None:
    result = run(lab_with(WEB), at_client=ARRIVED, at_server=ARRIVED)
    assert (result.verdict, result.reason) == (Verdict.PASS, "all 6 findings are as expected")
    said = {one.name: one.sentence for one in result.findings}
    assert said == {
        "web: answered": f"3 of 3 connections to {VIP}:80 were answered by a pod",
        "web: translated in the socket": f"0 packets to {VIP}:80 left client's eth0",
        "web: backends": "of 3 connections arrived: server 3",
        "web: netfilter": "no line of iptables-legacy-save names the Service by its address, node port, name or chains",
        "web: peer's name": f"the client's socket reports its peer as {VIP}",
        "web: client's address": f"the backend saw the connection come from {CLIENT_IP}",
    }
    assert result.samples == ()


def test_the_services_address_on_the_wire_fails_where_kube_proxy_is_replaced() -> None:
    on_wire = captured(*(syn(port, VIP, 80) for port in (1, 2, 3)))
    result = run(lab_with(WEB), at_client=on_wire, at_server=ARRIVED)
    assert result.verdict is Verdict.FAIL
    assert result.reason.startswith(f"web: translated in the socket does not hold: 3 packets to {VIP}:80 left")


def test_with_kube_proxy_the_address_is_on_the_wire_and_in_netfilter() -> None:
    on_wire = captured(*(syn(port, VIP, 80) for port in (1, 2, 3)))
    rules = f"#listed-by iptables-legacy-save\n-A KUBE-SERVICES -d {VIP}/32 -p tcp -j KUBE-SVC-X\n"
    result = run(lab_with(WEB, replaces=False), at_client=on_wire, at_server=ARRIVED, rules=rules)
    assert result.verdict is Verdict.PASS
    without = run(lab_with(WEB, replaces=False), at_client=on_wire, at_server=ARRIVED)
    assert "web: netfilter does not hold" in without.reason


def test_a_service_without_endpoints_fails_with_the_clients_own_words() -> None:
    said = "iperf3: error - unable to connect to server: Operation not permitted\n" * 3
    nobody = captured()
    result = run(lab_with(WEB), at_client=nobody, at_server=nobody, said=said)
    assert result.verdict is Verdict.FAIL
    assert "0 of 3 connections" in result.reason
    assert "3 × Operation not permitted" in result.reason


def test_a_rule_with_the_address_fails() -> None:
    rules = f"#listed-by iptables-nft-save\n-A X -d {VIP}/32 -j Y\n-A X -d {VIP}0/32 -j Y\n-A X -d 1{VIP}/32 -j Y\n"
    result = run(lab_with(WEB), at_client=ARRIVED, at_server=ARRIVED, rules=rules)
    assert f"1 lines of iptables-nft-save name the Service: -A X -d {VIP}/32 -j Y" in result.reason


def test_a_node_that_cannot_list_its_rules_is_an_error_not_a_pass() -> None:
    result = run(lab_with(WEB), at_client=ARRIVED, at_server=ARRIVED, rules="")
    assert result.verdict is Verdict.ERROR
    assert "no program that lists netfilter's rules" in result.reason


def test_a_masqueraded_client_and_a_translated_peer_fail() -> None:
    wrong = exchanged(peer=SERVER_IP, seen_from="172.30.0.3")
    result = run(lab_with(WEB), at_client=ARRIVED, at_server=ARRIVED, exchange=wrong)
    failed = {one.name for one in result.findings if one.verdict is Verdict.FAIL}
    assert failed == {"web: peer's name", "web: client's address"}


def test_without_a_service_of_the_server_there_is_nothing_to_check() -> None:
    result = run(lab_with(replace(WEB, backends=(CLIENT,))), at_client=ARRIVED, at_server=ARRIVED)
    assert result.verdict is Verdict.SKIP
    assert result.reason == "no TCP Service of the scenario has server among its backends"


def test_a_pod_without_iperf3_is_a_skip_that_names_it() -> None:
    missing = Answer(argv=("iperf3", "--version"), fails=ToolMissing("the program iperf3 is not in client"))
    result = run(lab_with(WEB), at_client=ARRIVED, at_server=ARRIVED, tools=missing)
    assert (result.verdict, result.reason) == (Verdict.SKIP, "the program iperf3 is not in client")


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        (b"listening on eth0\n", "ended badly"),
        (
            SUMMARY.replace(b"0 packets dropped", b"2 packets dropped") % (3, 3),
            "is not complete: the kernel dropped 2 packets",
        ),
        (SUMMARY % (2, 3), "is not complete: 1 packets"),
    ],
)
def test_a_capture_that_cannot_be_trusted_is_an_error(summary: bytes, words: str) -> None:
    result = run(lab_with(WEB), at_client=ARRIVED, at_server=replace(ARRIVED, stderr=summary))
    assert result.verdict is Verdict.ERROR
    assert words in result.reason


def test_a_repeated_first_packet_is_one_connection() -> None:
    twice = captured(*(syn(port, SERVER_IP, 5205) for port in (1, 1, 2, 3)))
    assert run(lab_with(WEB), at_client=ARRIVED, at_server=twice).verdict is Verdict.PASS


def test_every_connection_has_one_line() -> None:
    assert parse_connections(REFUSED * 2, 2) == Attempts(made=2, refused=2, others={})
    with pytest.raises(MeasureFailed, match="cannot be read"):
        parse_connections(REFUSED, 2)


@pytest.mark.parametrize("text", ["", "{}", '{"start": {"connected": []}}', '{"start": 1}'])
def test_output_of_iperf3_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(MeasureFailed):
        parse_exchange(text, "one", "Accepted connection from 1.2.3.4, port 1")


def test_what_iperf3_says_of_its_failure_is_passed_on() -> None:
    failed = json.dumps({"start": {"connected": [{"remote_host": VIP}]}, "error": "control socket has closed"})
    with pytest.raises(MeasureFailed) as told:
        parse_exchange(failed, "one", "Accepted connection from 1.2.3.4, port 1")
    assert told.value.cause == "control socket has closed"


def test_the_commands_are_those_that_a_person_would_type() -> None:
    asked = Asked(address=IPv4Address(VIP), port=80, listening={})
    assert argv_connections(asked, 7)[3:] == ("sh", "7", VIP, "80")
    assert syn_filter(asked, WEB) == (
        f"tcp[tcpflags] & tcp-syn != 0 and ((dst host {VIP} and dst port 80) or dst port 5205)"
    )


def test_a_service_as_the_server_is_the_one_that_is_asked() -> None:
    lab = lab_with(WEB, replace(WEB, name="other", address=IPv4Address("10.96.0.12")))
    to_service = Pair(client=CLIENT, server="web", placement=Placement.CROSS_NODE)
    result = run(replace(lab, pairs=(to_service,)), at_client=ARRIVED, at_server=ARRIVED)
    assert result.verdict is Verdict.PASS
    assert {one.name.partition(":")[0] for one in result.findings} == {"web"}


def test_without_backends_three_connections_are_enough_and_all_are_refused_at_once() -> None:
    lab = lab_with(replace(WEB, backends=()))
    to_service = Pair(client=CLIENT, server="web", placement=Placement.SAME_NODE)
    said = "iperf3: error - unable to connect to server: Operation not permitted\n" * 3
    result = run(replace(lab, pairs=(to_service,)), at_client=captured(), at_server=captured(), said=said)
    assert result.verdict is Verdict.PASS
    assert result.findings[0].sentence == f"3 connections to {VIP}:80 ended: 3 × Operation not permitted"


@pytest.mark.parametrize(
    ("service", "server", "why"),
    [
        (WEB, SERVER, ""),
        (WEB, "web", ""),
        (replace(WEB, backends=()), "web", ""),
        (
            replace(WEB, protocol=ServiceProtocol.UDP),
            "web",
            "this check makes TCP connections, and the Service has none",
        ),
        (WEB, "node2", "this check is about the way between two pods"),
    ],
)
def test_what_it_is_for(service: Service, server: str, why: str) -> None:
    pair = Pair(client=CLIENT, server=server, placement=Placement.CROSS_NODE)
    assert ServiceCheck().unfit(lab_with(service), pair) == why
