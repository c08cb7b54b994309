"""Every reader of a tool's words, on what each distribution's version prints (recorded by tests/distros/record.sh)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from labctl.checks.addressing_findings import (
    Fate,
    parse_default_route,
    parse_device,
    parse_neighbour,
    parse_sized_ping,
)
from labctl.checks.captures import parse_counts
from labctl.checks.iperf import Unreached, measured_iperf, parse_iperf
from labctl.checks.latency import parse_sockperf
from labctl.checks.netfilter import Counting, parse_connections, parse_counters
from labctl.checks.paced import parse_paced
from labctl.checks.ping import measured_ping, parse_ping
from labctl.checks.service import parse_exchange
from labctl.errors import MeasureFailed
from labctl.model.parameters import IperfParameters, PingParameters
from labctl.model.result import Verdict
from labctl.providers.base import Completed
from labctl.providers.kubeadm.failures import failure_of, recognise
from labctl.providers.netns.counters import parse_iptables_save
from labctl.providers.netns.netfilter_watch import parse_chain

SAMPLES = Path(__file__).resolve().parents[1] / "fixtures/distros"
DISTROS = ("bookworm", "trixie", "sid")


class Distro:
    """What one distribution's tools printed."""

    def __init__(self, name: str) -> None:
        self.folder = SAMPLES / name
        lines = (self.folder / "STATUS").read_text(encoding="utf-8").splitlines()
        self.statuses = {name: int(status) for name, status in (line.split() for line in lines)}

    def text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def ended(self, name: str) -> Completed:
        """As labctl would have seen that program end."""
        stdout, stderr = self.text(name).encode(), self.text(f"{name}.stderr").encode()
        return Completed(
            argv=(name.partition("-")[0],), returncode=self.statuses[name], stdout=stdout, stderr=stderr, duration_s=1.0
        )


@cache
def _distro(name: str) -> Distro:
    return Distro(name)


@pytest.fixture(params=DISTROS)
def distro(request: pytest.FixtureRequest) -> Distro:
    return _distro(str(request.param))


def test_the_samples_are_of_different_versions_of_the_tools() -> None:
    versions = [_distro(name).text("VERSIONS").splitlines() for name in DISTROS]
    for number, tool in ((1, "iputils"), (2, "iproute2"), (4, "iperf"), (7, "nftables"), (9, "OpenSSH")):
        said = [lines[number] for lines in versions]
        assert all(tool in words for words in said)
        assert len(set(said)) == len(DISTROS), said


def test_every_distribution_has_the_same_samples() -> None:
    found = [set(_distro(name).statuses) for name in DISTROS]
    assert found[0] == found[1] == found[2]


# ---- ping


@pytest.mark.parametrize(("sample", "replies"), [("ping-pass", 3), ("ping-closed-loop", 20)])
def test_replies_of_ping_are_read(distro: Distro, sample: str, replies: int) -> None:
    report = parse_ping(distro.text(sample))
    assert (report.received, report.transmitted, len(report.rtts_s)) == (replies, replies, replies)
    assert report.ttls == (63,)
    assert 1e-6 < report.rtts_s[0] < 0.1


@pytest.mark.parametrize(
    ("sample", "words"),
    [("ping-unreachable", "Destination Host Unreachable"), ("ping-lost", "Destination Net Unreachable")],
)
def test_what_came_back_in_place_of_a_reply_is_loss_with_a_reason(distro: Distro, sample: str, words: str) -> None:
    measured = measured_ping([distro.ended(sample)], PingParameters(count=2, interval_s=0.05))
    assert measured.judgement.verdict is Verdict.FAIL
    assert words in measured.judgement.reason


def test_a_ping_without_a_route_is_the_networks_fault(distro: Distro) -> None:
    measured = measured_ping([distro.ended("ping-no-route")], PingParameters(count=1))
    assert measured.judgement.verdict is Verdict.FAIL
    assert "no route" in measured.judgement.reason


@pytest.mark.parametrize("sample", ["ping-bad-option", "ping-killed"])
def test_a_ping_that_failed_is_an_error(distro: Distro, sample: str) -> None:
    with pytest.raises(MeasureFailed, match="ping"):
        measured_ping([distro.ended(sample)], PingParameters(count=9, interval_s=0.2))
    with pytest.raises(MeasureFailed, match="ping"):
        parse_sized_ping(distro.ended(sample))


@pytest.mark.parametrize(
    ("sample", "fate"),
    [
        ("ping-largest", Fate.ANSWERED),
        ("ping-too-long", Fate.REFUSED),
        ("ping-too-long-for-the-route", Fate.REFUSED),
        ("ping-too-big", Fate.TOO_BIG),
        ("ping-no-route", Fate.NO_ROUTE),
        ("ping-unanswered", Fate.UNANSWERED),
    ],
)
def test_what_became_of_a_ping_of_a_certain_size_is_known(distro: Distro, sample: str, fate: Fate) -> None:
    sent = parse_sized_ping(distro.ended(sample))
    assert sent.fate is fate
    assert sent.mtu in {"ping-too-big": (1400,), "ping-too-long-for-the-route": (1300, None)}.get(sample, (1500, None))


# ---- ip, tcpdump


def test_the_pods_network_is_read(distro: Distro) -> None:
    device = parse_device(distro.text("ip-address.json"))
    assert device.mtu == 1500
    assert [(one.address, one.prefix_length) for one in device.addresses] == [("10.9.0.2", 24)]
    route = parse_default_route(distro.text("ip-route.json"))
    assert route is not None
    assert (route.gateway, route.device, route.mtu, route.is_on_link) == ("10.9.0.1", "eth0", 1450, False)
    neighbours = distro.text("ip-neighbour.json")
    assert parse_neighbour(neighbours, "10.9.0.1") == "02:00:00:00:00:01"
    assert parse_neighbour(neighbours, "10.9.0.77") is None


def test_tcpdumps_closing_counts_are_read_and_a_refusal_has_none(distro: Distro) -> None:
    counts = parse_counts(distro.text("tcpdump.stderr"))
    assert counts is not None
    assert (counts.captured, counts.received, counts.dropped) == (6, 6, 0)
    for refused in ("tcpdump-no-device", "tcpdump-bad-filter"):
        assert distro.statuses[refused] != 0
        assert parse_counts(distro.text(f"{refused}.stderr")) is None


# ---- iperf3, sockperf


def test_what_iperf3_transferred_is_read(distro: Distro) -> None:
    tcp = parse_iperf(distro.text("iperf3-tcp.json"))
    assert tcp.throughput_bit_per_s > 1e6
    assert tcp.cpu_s > 0
    assert tcp.retransmits is not None
    assert tcp.loss is None
    udp = parse_iperf(distro.text("iperf3-udp.json"))
    assert udp.loss is not None
    assert 0 <= udp.loss < 1
    assert udp.datagrams
    assert 5e6 < udp.throughput_bit_per_s < 2e7


@pytest.mark.parametrize("sample", ["iperf3-timed-out.json", "iperf3-no-route.json"])
def test_an_address_that_iperf3_did_not_reach_is_the_networks_fault(distro: Distro, sample: str) -> None:
    with pytest.raises(Unreached):
        parse_iperf(distro.text(sample))
    assert measured_iperf(distro.ended(sample), IperfParameters()).judgement.verdict is Verdict.FAIL


@pytest.mark.parametrize("sample", ["iperf3-refused.json", "iperf3-server-died.json", "iperf3-bad-option"])
def test_an_iperf3_that_failed_is_an_error_in_its_own_words(distro: Distro, sample: str) -> None:
    with pytest.raises(MeasureFailed) as caught:
        measured_iperf(distro.ended(sample), IperfParameters())
    assert not isinstance(caught.value, Unreached)
    said = distro.text(sample) + distro.text(f"{sample}.stderr")
    cause = caught.value.cause.removeprefix("its last output: ").partition("; ")[0]
    assert cause
    assert cause in said


def test_an_iperf3_server_says_that_it_listens_and_who_came(distro: Distro) -> None:
    server = distro.text("iperf3-server")
    assert "Server listening" in server
    transfer = parse_exchange(distro.text("iperf3-exchange.json"), "neighbour", server)
    assert (transfer.peer, transfer.seen_from) == ("10.9.1.2", "10.9.0.2")


def test_sockperfs_figures_are_read_and_its_failure_is_an_error(distro: Distro) -> None:
    report = parse_sockperf(distro.text("sockperf-pass"))
    assert report.valid_transactions > 10
    paced = parse_paced(distro.text("sockperf-paced"), distro.text("sockperf-paced.stderr"))
    assert len(paced.service_times_s()) > 10
    with pytest.raises(MeasureFailed, match="sockperf"):
        parse_sockperf(distro.text("sockperf-refused") + distro.text("sockperf-refused.stderr"))


# ---- netfilter

COUNTING = Counting(mark="sample", client="10.9.0.2", server="10.9.1.2", client_node="10.9.0.1", server_node="10.9.1.1")


def test_the_counters_of_our_own_rules_are_read(distro: Distro) -> None:
    text = distro.text("iptables-save-mangle").replace(
        "labctl-sample-pod-request", COUNTING.comment(*next(iter(COUNTING.ways())))
    )
    counts = next(iter(parse_counters(text, COUNTING).values()))
    assert counts == {"PREROUTING": 3, "INPUT": 0, "FORWARD": 3, "OUTPUT": 0, "POSTROUTING": 3}


def test_all_rules_and_the_forwarded_packets_are_counted(distro: Distro) -> None:
    read = parse_iptables_save(distro.text("iptables-save"))
    assert (read.forwarded, read.rules) == (6, 7)


def test_a_rules_text_is_found_by_its_handle_without_its_counters(distro: Distro) -> None:
    rules = parse_chain(distro.text("nft-chain"), "filter", "FORWARD")
    (text,) = rules.values()
    assert re.fullmatch(r'tcp dport 9 (comment "a rule that drops" )?drop', text), text


def test_a_chain_that_is_not_there_has_no_rules(distro: Distro) -> None:
    assert distro.statuses["nft-no-chain"] != 0
    assert parse_chain(distro.text("nft-no-chain") + distro.text("nft-no-chain.stderr"), "nosuch", "FORWARD") == {}


def test_conntracks_entries_are_read(distro: Distro) -> None:
    (entry,) = parse_connections(distro.text("conntrack-list"))
    assert (entry.protocol, entry.source, entry.destination, entry.is_replied) == ("icmp", "10.9.0.2", "10.9.1.2", True)
    assert parse_connections(distro.text("conntrack-none")) == ()


# ---- ssh


@pytest.mark.parametrize(
    ("sample", "cause"),
    [
        ("ssh-refused", "no SSH server answers"),
        ("ssh-timed-out", "does not answer, or dropped the connection"),
        ("ssh-dropped", "does not answer, or dropped the connection"),
        ("ssh-dropped-later", "does not answer, or dropped the connection"),
        ("ssh-no-name", "does not resolve"),
        ("ssh-denied", "accepts none of the available keys"),
        ("ssh-unknown-key", "is not known yet"),
        ("ssh-changed-key", "presents a host key other than the known one"),
    ],
)
def test_what_ssh_says_is_recognised(distro: Distro, sample: str, cause: str) -> None:
    assert distro.statuses[sample] == 255
    said = distro.text(f"{sample}.stderr")
    for message in (f"Task failed: Failed to connect to the host via ssh: {said}", said):
        known = recognise(failure_of("node1", "Gathering Facts", {"msg": message}, unreachable=message != said))
        assert known is not None
        assert cause in known[0].cause
