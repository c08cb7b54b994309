"""Services as a node reaches them: what is tried from where, what should answer, and how bash says that nothing did."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.host_reachable import (
    Attempt,
    HostReachableCheck,
    Reached,
    argv_client,
    attempts_of,
    judge_attempt,
    node_of,
    parse_client,
)
from labctl.errors import MeasureFailed
from labctl.model.lab import (
    CheckSpec,
    KubeProxy,
    Lab,
    Outside,
    Pair,
    Placement,
    Service,
    ServiceProtocol,
    ServiceType,
)
from labctl.model.parameters import HostReachableParameters
from labctl.model.result import CheckResult, Completed, Verdict
from labctl.testing.labs import sample_lab
from labctl.testing.scripted import Answer, MemoryRaw, ScriptedLab, ScriptedTarget

WEB = Service(
    name="web", address=IPv4Address("10.96.0.11"), port=80, target_port=5205, protocol=ServiceProtocol.TCP,
    backends=("server",), selector={"app": "server"}, type=ServiceType.NODE_PORT, node_port=30205,
)  # fmt: skip
INSIDE = replace(WEB, type=ServiceType.CLUSTER_IP, node_port=None)
NO, REFUSED, PLACE = "Operation not permitted", "Connection refused", "/dev/tcp/10.96.0.11/80"
TO_WEB = Pair(client="client", server="web", placement=Placement.CROSS_NODE)


def lab(service: Service = WEB, **datapath: object) -> Lab:
    world = Outside(name="world", address=IPv4Address("172.30.0.253"), mac="02:00:00:00:00:09")
    return replace(sample_lab("demo", **datapath), services=(service,), outside=(world,))


def ended(text: str = "", error: str = "", returncode: int = 0) -> Completed:
    return Completed(
        argv=("timeout",),
        returncode=returncode,
        stdout=text.encode(),
        stderr=error.encode(),
        duration_s=0.1,
        cpu_s=None,
    )


def tried(of: Lab, pod: str = "client") -> dict[str, tuple[str, str, int, bool]]:
    every = attempts_of(of, of.services[0], "node1", pod)
    return {one.name: (one.target, str(one.address), one.port, one.should_answer) for one in every}


def test_the_cluster_address_and_every_way_to_the_node_port_are_tried() -> None:
    assert tried(lab()) == {
        "web: cluster address": ("node1", "10.96.0.11", 80, True),
        "web: 127.0.0.1": ("node1", "127.0.0.1", 30205, True),
        "web: own address": ("node1", "172.30.0.2", 30205, True),
        "web: 127.0.0.1 in a pod": ("client", "127.0.0.1", 30205, False),
    }
    assert set(tried(lab(INSIDE))) == {"web: cluster address"}
    assert "web: 127.0.0.1 in a pod" not in tried(lab(), pod="")


@pytest.mark.parametrize(
    ("datapath", "answers"),
    [
        ({}, True),
        ({"kube_proxy_replacement": False, "kube_proxy": KubeProxy.IPTABLES}, True),
        ({"kube_proxy_replacement": False, "kube_proxy": KubeProxy.NFTABLES}, False),
    ],
)
def test_kube_proxys_nftables_mode_alone_has_no_node_port_on_localhost(
    datapath: dict[str, object], answers: bool
) -> None:
    assert tried(lab(**datapath))["web: 127.0.0.1"][3] is answers
    assert tried(lab(**datapath))["web: own address"][3]


@pytest.mark.parametrize(
    ("done", "reached"),
    [
        (ended("seen 10.244.0.1\n"), Reached(seen_from="10.244.0.1")),
        (ended(error=f"bash: connect: {NO}\nbash: line 1: {PLACE}: {NO}\n", returncode=1), Reached(error=NO)),
        (ended(error=f"10.96.0.11: line 1: {PLACE}: Connection refused\n", returncode=1), Reached(error=REFUSED)),
        (ended(returncode=124), Reached(error="no answer in time")),
        (ended(returncode=1), Reached(error="it closed without an answer")),
    ],
)
def test_how_a_connection_ended_is_read_from_bash(done: Completed, reached: Reached) -> None:
    assert parse_client(done) == reached


@pytest.mark.parametrize(
    "done",
    [
        ended(error="timeout: failed to run command 'bash': No such file or directory\n", returncode=127),
        ended(error="bash: line 1: /dev/tcp/10.96.0.11/80: No such file or directory\n", returncode=1),
    ],
)
def test_a_node_that_cannot_try_is_an_error(done: Completed) -> None:
    with pytest.raises(MeasureFailed, match="bash cannot connect"):
        parse_client(done)


@pytest.mark.parametrize(
    ("should_answer", "reached", "verdict"),
    [
        (True, Reached(seen_from="10.244.0.1"), Verdict.PASS),
        (True, Reached(seen_from="8.8.8.8"), Verdict.FAIL),
        (True, Reached(error="Connection refused"), Verdict.FAIL),
        (False, Reached(error="Connection refused"), Verdict.PASS),
        (False, Reached(seen_from="10.244.0.1"), Verdict.FAIL),
    ],
)
def test_reached_is_not_enough_and_not_reached_is_not_wrong_everywhere(
    should_answer: bool, reached: Reached, verdict: Verdict
) -> None:
    attempt = Attempt(
        name="web: own address", target="node1", address=IPv4Address("172.30.0.2"), port=30205,
        should_answer=should_answer, lesson="",
    )  # fmt: skip
    assert judge_attempt(attempt, reached, frozenset(("10.244.0.1",)), ("x",)).verdict is verdict


def test_it_is_tried_from_the_clients_node_or_the_one_that_is_asked() -> None:
    of = lab()
    assert node_of(of, TO_WEB) == "node1"
    assert node_of(of, Pair(client="world", server="web", placement=Placement.OUTSIDE, via="node3")) == "node3"
    assert node_of(of, Pair(client="node2", server="web", placement=Placement.SAME_NODE)) == "node2"


@pytest.mark.parametrize(
    ("service", "server", "fits"),
    [
        (WEB, "web", True),
        (WEB, "server", True),
        (WEB, "neighbour", False),
        (replace(WEB, protocol=ServiceProtocol.UDP), "web", False),
        (replace(WEB, backends=()), "web", False),
    ],
)
def test_what_it_is_for(service: Service, server: str, fits: bool) -> None:
    pair = Pair(client="client", server=server, placement=Placement.CROSS_NODE)
    assert bool(HostReachableCheck().unfit(lab(service), pair)) is not fits


def run(of: Lab, *answers: str) -> CheckResult:
    said = [Answer(argv=("timeout",), stdout=text.encode(), returncode=0) for text in answers]
    node = ScriptedTarget("node1", said)
    refused = Answer(argv=("timeout",), stderr=b"bash: connect: Connection refused\n", returncode=1)
    client = ScriptedTarget("client", [refused])
    server = ScriptedTarget("server", [Answer(argv=("python3",), stdout=b"listening\n")])
    return HostReachableCheck().run(
        CheckContext(
            open_lab=ScriptedLab(of, [node, client, server]),
            pair=TO_WEB,
            spec=CheckSpec(name="host-reachable", kind="host-reachable", parameters=HostReachableParameters()),
            raw=MemoryRaw(),
        )
    )


def test_a_run_tries_all_of_it_and_says_whom_the_backend_saw() -> None:
    result = run(lab(), *["seen 10.244.0.1\n"] * 3)
    assert (result.verdict, result.reason) == (Verdict.PASS, "all 4 findings are as expected")
    assert result.findings[0].sentence == "10.96.0.11:80 from node1: answered, and the backend saw 10.244.0.1"
    assert result.findings[3].sentence == "127.0.0.1:30205 from client: Connection refused"


def test_the_command_can_be_pasted() -> None:
    (first, *_) = attempts_of(lab(), WEB, "node1", "")
    assert argv_client(first, 3.0)[:3] == ("timeout", "3", "bash")
    assert argv_client(first, 3.0)[-3:] == ("10.96.0.11", "80", "3")
