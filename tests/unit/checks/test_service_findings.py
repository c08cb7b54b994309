"""What a look at a Service means: who should translate, whom backends may see, and when a choice is not even."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.checks.kube_proxy import Rules
from labctl.checks.server import Asked
from labctl.checks.service_findings import (
    Attempts,
    ServiceLook,
    Transfer,
    Translation,
    chi_square_tail,
    chosen_from,
    evenness,
    judge_service,
    sources_at,
    translation_of,
)
from labctl.model.lab import (
    Endpoint,
    EndpointKind,
    Lab,
    Outside,
    Pair,
    Placement,
    Service,
    ServiceProtocol,
    ServiceType,
    TrafficPolicy,
)
from labctl.model.result import Verdict
from labctl.testing.labs import sample_lab

WEB = Service(
    name="web", address=IPv4Address("10.96.0.11"), port=80, target_port=5205, protocol=ServiceProtocol.TCP,
    backends=("neighbour", "server"), selector={"app": "web"}, type=ServiceType.NODE_PORT, node_port=30205,
)  # fmt: skip
LOCAL = replace(WEB, external_traffic_policy=TrafficPolicy.LOCAL)
WORLD = Outside(name="world", address=IPv4Address("172.30.0.253"), mac="02:00:00:00:00:09")
CLIENT_IP, VIP = "10.244.0.2", "10.96.0.11"


def lab(service: Service = WEB, **datapath: object) -> Lab:
    return replace(sample_lab("demo", **datapath), services=(service,), outside=(WORLD,))


def look(client: str = "client", **changes: object) -> ServiceLook:
    of = lab()
    seen = ServiceLook(
        service=WEB,
        client=of.endpoint(client),
        asked=Asked(address=WEB.address, port=80, listening={}),
        translation=Translation.SOCKET,
        chosen=("neighbour", "server"),
        attempts=Attempts(made=40, refused=40, others={}),
        to_service_on_wire=0,
        arrivals={"neighbour": {CLIENT_IP: 19}, "server": {CLIENT_IP: 21}},
        sources={"neighbour": frozenset((CLIENT_IP,)), "server": frozenset((CLIENT_IP,))},
        rules=Rules(listed_by=("iptables-legacy-save",), lines=()),
        transfer=None,
    )
    return replace(seen, **changes)  # type: ignore[arg-type]


def verdicts(seen: ServiceLook) -> dict[str, Verdict]:
    return {one.name.removeprefix("web: "): one.verdict for one in judge_service(seen)}


def test_several_backends_share_the_connections() -> None:
    assert set(verdicts(look()).values()) == {Verdict.PASS}
    alone = {"neighbour": {CLIENT_IP: 40}, "server": {}}
    assert verdicts(look(arrivals=alone))["every backend"] is Verdict.FAIL
    lost = {"neighbour": {CLIENT_IP: 19}, "server": {CLIENT_IP: 20}}
    assert verdicts(look(arrivals=lost))["backends"] is Verdict.FAIL


@pytest.mark.parametrize(
    ("one", "other", "verdict"), [(20, 20, Verdict.PASS), (27, 13, Verdict.PASS), (34, 6, Verdict.FAIL)]
)
def test_a_split_that_chance_does_not_make_is_not_even(one: int, other: int, verdict: Verdict) -> None:
    seen = look(arrivals={"neighbour": {CLIENT_IP: one}, "server": {CLIENT_IP: other}})
    assert verdicts(seen)["spread"] is verdict


def test_the_spread_says_statistic_and_probability() -> None:
    (spread,) = [one for one in judge_service(look()) if one.name == "web: spread"]
    assert spread.sentence == "19 : 21: χ² = 0.10 with 1 degree of freedom, p = 0.75"


def test_too_few_connections_say_nothing_of_the_choice() -> None:
    few = look(attempts=Attempts(made=3, refused=3, others={}), arrivals={"neighbour": {CLIENT_IP: 3}, "server": {}})
    assert not {"every backend", "spread"} & set(verdicts(few))


@pytest.mark.parametrize(
    ("statistic", "degrees", "tail"),
    # Quantiles of the chi-square distribution: Abramowitz and Stegun, table 26.8.
    [(3.841, 1, 0.05), (10.828, 1, 0.001), (5.991, 2, 0.05), (7.815, 3, 0.05), (16.266, 3, 0.001), (18.307, 10, 0.05),
     (29.588, 10, 0.001), (26.296, 16, 0.05), (0.0, 1, 1.0), (0.0, 4, 1.0)],
)  # fmt: skip
def test_the_tail_of_chi_square_is_that_of_the_tables(statistic: float, degrees: int, tail: float) -> None:
    assert chi_square_tail(statistic, degrees) == pytest.approx(tail, rel=2e-3)


def test_equal_shares_are_even_and_no_connections_say_nothing() -> None:
    assert evenness([10, 10, 10]) == (0.0, 1.0)
    assert evenness([0, 0]) == (0.0, 1.0)
    statistic, p_value = evenness([40, 0])
    assert statistic == 40.0
    assert p_value < 1e-9


def test_a_client_that_is_a_backend_itself_keeps_its_own_connections_on_its_loopback() -> None:
    own = look(chosen=("client", "server"), arrivals={"server": {CLIENT_IP: 22}})
    assert verdicts(own)["backends"] is Verdict.PASS
    assert verdicts(own)["spread"] is Verdict.PASS
    sentence = next(one.sentence for one in judge_service(own) if one.name == "web: backends")
    assert sentence == (
        "of 40 connections arrived: server 22, client itself the other 18 (they stay on its loopback device)"
    )


@pytest.mark.parametrize(
    ("client", "datapath", "translation"),
    [
        ("client", {}, Translation.SOCKET),
        ("node1", {}, Translation.SOCKET),
        ("world", {}, Translation.PACKET),
        ("client", {"socket_lb": False}, Translation.PACKET),
        ("node1", {"socket_lb": False}, Translation.SOCKET),
        ("client", {"kube_proxy_replacement": False}, Translation.NETFILTER),
        ("world", {"kube_proxy_replacement": False}, Translation.NETFILTER),
    ],
)
def test_who_translates_for_whom(client: str, datapath: dict[str, object], translation: Translation) -> None:
    of = lab(**datapath)
    assert translation_of(of, of.endpoint(client)) is translation


@pytest.mark.parametrize(
    ("translation", "client", "on_wire", "name", "verdict"),
    [
        (Translation.SOCKET, "client", 0, "translated in the socket", Verdict.PASS),
        (Translation.SOCKET, "client", 3, "translated in the socket", Verdict.FAIL),
        (Translation.SOCKET, "node1", 0, "translated in the socket", Verdict.PASS),
        (Translation.PACKET, "client", 40, "translated on the node", Verdict.PASS),
        (Translation.PACKET, "client", 0, "translated on the node", Verdict.FAIL),
        (Translation.NETFILTER, "client", 40, "translated on the node", Verdict.PASS),
        (Translation.NETFILTER, "node1", 0, "translated before it leaves", Verdict.PASS),
        (Translation.NETFILTER, "node1", 2, "translated before it leaves", Verdict.FAIL),
    ],
)
def test_where_the_services_address_may_be_seen(
    translation: Translation, client: str, on_wire: int, name: str, verdict: Verdict
) -> None:
    rules = Rules(listed_by=("nft",), lines=("x",) if translation is Translation.NETFILTER else ())
    assert verdicts(look(client, translation=translation, to_service_on_wire=on_wire, rules=rules))[name] is verdict


def pair(client: str, via: str | None = None) -> Pair:
    return Pair(client=client, server="web", placement=Placement.MIXED, via=via)


def sources(of: Lab, client: str, backend: str, via: str | None = None) -> set[str]:
    return set(sources_at(of, pair(client, via), of.endpoint(client), of.services[0], backend))


def test_whom_a_backend_may_see_as_the_client() -> None:
    ebpf, kube_proxy = lab(), lab(kube_proxy_replacement=False)
    node = {"172.30.0.2", "10.244.0.1"}
    assert sources(ebpf, "client", "server") == {CLIENT_IP}
    assert sources(ebpf, "node1", "server") == node
    assert sources(ebpf, "world", "server", "node1") == node
    assert sources(ebpf, "world", "neighbour", "node1") == {"172.30.0.253"}, "a backend of the node that is asked"
    assert sources(kube_proxy, "world", "neighbour", "node1") == node, "kube-proxy masquerades that too"
    assert sources(lab(LOCAL), "world", "neighbour", "node1") == {"172.30.0.253"}
    assert sources(lab(LOCAL, kube_proxy_replacement=False), "world", "neighbour", "node1") == {"172.30.0.253"}


def test_a_source_that_is_none_of_them_fails() -> None:
    allowed = {"neighbour": frozenset(("10.244.0.1",)), "server": frozenset(("172.30.0.2", "10.244.0.1"))}
    right = {"neighbour": {"10.244.0.1": 20}, "server": {"172.30.0.2": 20}}
    assert verdicts(look("node1", sources=allowed, arrivals=right))["source"] is Verdict.PASS
    wrong = {"neighbour": {"172.30.0.253": 20}, "server": {"172.30.0.2": 20}}
    assert verdicts(look("node1", sources=allowed, arrivals=wrong))["source"] is Verdict.FAIL


def test_with_the_policy_local_the_node_that_is_asked_chooses_from_its_own() -> None:
    assert chosen_from(lab(LOCAL), LOCAL, "node1") == ("neighbour",)
    assert chosen_from(lab(LOCAL), LOCAL, "node3") == ()
    assert chosen_from(lab(LOCAL), LOCAL, None) == ("neighbour", "server")
    assert chosen_from(lab(), WEB, "node3") == ("neighbour", "server")


@pytest.mark.parametrize(
    ("translation", "backends", "attempts", "verdict"),
    [
        (Translation.SOCKET, (), Attempts(made=3, refused=0, others={"Operation not permitted": 3}), Verdict.PASS),
        (Translation.SOCKET, (), Attempts(made=3, refused=0, others={"Connection timed out": 3}), Verdict.FAIL),
        (Translation.SOCKET, (), Attempts(made=3, refused=3, others={}), Verdict.FAIL),
        (Translation.NETFILTER, (), Attempts(made=3, refused=3, others={}), Verdict.PASS),
        (Translation.NETFILTER, (), Attempts(made=3, refused=0, others={"Connection timed out": 3}), Verdict.FAIL),
        (Translation.NETFILTER, ("server",), Attempts(made=3, refused=0, others={"timed out": 3}), Verdict.PASS),
        (Translation.PACKET, ("server",), Attempts(made=3, refused=0, others={"timed out": 3}), Verdict.PASS),
    ],
)
def test_where_nobody_may_answer_the_client_reads_what_the_translator_says(
    translation: Translation, backends: tuple[str, ...], attempts: Attempts, verdict: Verdict
) -> None:
    rules = Rules(listed_by=("nft",), lines=("x",) if translation is Translation.NETFILTER else ())
    seen = look(
        chosen=(), service=replace(WEB, backends=backends), translation=translation, attempts=attempts,
        arrivals={name: {} for name in backends}, rules=rules,
    )  # fmt: skip
    assert verdicts(seen)["no backend"] is verdict


def test_a_packet_that_came_to_a_backend_all_the_same_fails() -> None:
    seen = look(chosen=(), translation=Translation.PACKET, attempts=Attempts(made=3, refused=3, others={}))
    assert verdicts(seen)["no backend"] is Verdict.FAIL


def test_a_transfer_is_judged_where_there_was_one() -> None:
    right = Transfer(peer=VIP, seen_from=CLIENT_IP, server="server")
    assert {verdicts(look(transfer=right))[name] for name in ("peer's name", "client's address")} == {Verdict.PASS}
    wrong = verdicts(look(transfer=Transfer(peer="10.244.1.2", seen_from="172.30.0.3", server="server")))
    assert {wrong["peer's name"], wrong["client's address"]} == {Verdict.FAIL}


def test_an_endpoint_outside_is_on_no_node() -> None:
    assert lab().endpoint("world") == Endpoint(
        name="world", kind=EndpointKind.OUTSIDE, address=WORLD.address, node=None
    )
