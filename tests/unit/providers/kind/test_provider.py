"""A running lab opened through scripted tools that answer with a real cluster's output (1.13.12, bpf over vxlan)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kind_world import FIXTURES, Cluster, World, lab_of
from labctl.errors import UsageError
from labctl.model.lab import Placement
from labctl.model.signature import Role
from labctl.providers.base import OpenLab, TargetKind
from labctl.providers.kind.provider import KindProvider


@contextlib.contextmanager
def opened(cluster: Cluster, tmp_path: Path, **lab: Any) -> Iterator[OpenLab]:
    provider = KindProvider(commands=cluster, root=tmp_path / "state")
    kubeconfig = tmp_path / "state" / "bpf" / "kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.write_text("")
    with provider.open(lab_of(tmp_path, **lab)) as open_lab:
        yield open_lab


def test_the_lab_is_as_it_is_on_the_cluster(tmp_path: Path) -> None:
    with opened(Cluster(), tmp_path) as open_lab:
        client, node = open_lab.lab.pod("client"), open_lab.lab.node("node1")
    assert (str(client.address), client.lxc, client.identity, client.lxc_mac) == (
        "10.244.0.187", "lxcclient", 16843, "a2:78:55:91:97:1b",
    )  # fmt: skip
    assert (str(node.address.ip), node.mac, str(node.router), str(node.pod_cidr)) == (
        "172.18.0.3", "02:42:ac:1e:00:03", "10.244.3.53", "10.244.3.0/24",
    )  # fmt: skip


def test_taps_stand_in_the_order_of_the_way(tmp_path: Path) -> None:
    with opened(Cluster(), tmp_path) as open_lab:
        same, cross = (open_lab.taps(pair) for pair in open_lab.lab.pairs)
    assert [tap.name for tap in same] == [
        "client:eth0", "node1:lxcclient", "node1:cilium_host", "node1:cilium_net", "node1:cilium_vxlan", "node1:eth0",
        "node1:lo", "node1:lxcneighbour", "neighbour:eth0",
    ]  # fmt: skip
    assert [tap.role for tap in cross][-7:] == [
        Role.SERVER_LO, Role.SERVER_UPLINK, Role.SERVER_CILIUM_VXLAN, Role.SERVER_CILIUM_NET, Role.SERVER_CILIUM_HOST,
        Role.SERVER_LXC, Role.SERVER_ETH0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("node_has_tcpdump", "capture", "door"),
    [
        (True, "auto", "docker exec labctl-bpf-worker tcpdump"),
        (False, "auto", "exec labctl-helper-node1 -c tools -- tcpdump"),
        (True, "pod", "exec labctl-helper-node1 -c tools -- tcpdump"),
        (False, "node", "docker exec labctl-bpf-worker tcpdump"),
    ],
)
def test_captures_on_nodes_run_where_tcpdump_is(
    node_has_tcpdump: bool, capture: str, door: str, tmp_path: Path
) -> None:
    cluster = Cluster()
    cluster.node_has_tcpdump = node_has_tcpdump
    with opened(cluster, tmp_path, kindCluster={"capture": capture}) as open_lab:
        tap = open_lab.taps(open_lab.lab.pairs[0])[1]
    assert tap.target.kind is TargetKind.NODE
    assert " ".join(tap.target.command(("tcpdump",))).endswith(door)


def test_pods_and_nodes_are_reached_by_the_commands_a_person_would_paste(tmp_path: Path) -> None:
    with opened(Cluster(), tmp_path) as open_lab:
        pod, node = open_lab.target("client"), open_lab.target("node2")
        with pytest.raises(UsageError) as unknown:
            open_lab.target("clinet")
    kubectl = f"kubectl --kubeconfig {tmp_path}/state/bpf/kubeconfig -n labctl-bpf"
    assert " ".join(pod.command(("ping", "x"))) == f"{kubectl} exec client -c tools -- ping x"
    assert " ".join(node.command(("ip", "link"))) == "docker exec labctl-bpf-worker2 ip link"
    assert unknown.value.remedy == "did you mean client?"


def test_devices_carry_the_macs_of_the_running_lab(tmp_path: Path) -> None:
    with opened(Cluster(), tmp_path) as open_lab:
        devices = {device.role: device.mac for device in open_lab.devices(open_lab.lab.pairs[1])}
    assert devices[Role.CLIENT_ETH0] == "02:00:00:00:00:06"
    assert (devices[Role.CLIENT_UPLINK], devices[Role.SERVER_UPLINK]) == ("02:42:ac:1e:00:03", "02:42:ac:1e:00:04")
    assert Role.CLIENT_LO not in devices


def test_all_witnesses_of_a_lab_in_bpf_mode_agree(tmp_path: Path) -> None:
    cluster = Cluster()
    recording = (FIXTURES / "bpf-vxlan.monitor-none.extract.txt").read_text()
    cluster.monitor = recording.split("#####")[2]

    def send() -> None:
        cluster.counters = {"client": [0, 3], "server": [0, 3]}

    with opened(cluster, tmp_path) as open_lab:
        evidence = open_lab.testimony(open_lab.lab.pairs[1], send)
    by_witness = {(piece.witness, piece.where): piece.supports for piece in evidence}
    assert by_witness == {
        ("agent-status", "node1"): True,
        ("agent-status", "node2"): True,
        ("agent-status", "node3"): True,
        ("cilium-config", "kube-system/cilium-config"): None,
        ("lxc-counters", "node1:lxcclient"): True,
        ("lxc-counters", "node2:lxcserver"): True,
        ("conntrack", "node1"): None,
        ("monitor", "node1"): None,
    }
    assert all(piece.command for piece in evidence)


def test_a_fallback_to_legacy_is_told_by_the_agents_and_by_the_packets(tmp_path: Path) -> None:
    log = (FIXTURES / "fallback" / "masq-iptables.txt").read_text()
    cluster = Cluster("status-legacy-vxlan.json", log)

    def send() -> None:
        cluster.counters = {"client": [3, 3], "server": [3, 3]}

    with opened(cluster, tmp_path) as open_lab:
        evidence = open_lab.testimony(open_lab.lab.pairs[1], send)
    against = {piece.witness for piece in evidence if piece.supports is False}
    assert against == {"agent-status", "lxc-counters"}
    told = next(piece.finding for piece in evidence if piece.witness == "agent-status")
    assert "masquerading is done by iptables" in told


def test_a_monitor_that_fails_never_stops_the_traffic(tmp_path: Path) -> None:
    cluster, sent = Cluster(), []
    cluster.monitor_fails = True
    with opened(cluster, tmp_path) as open_lab:
        evidence = open_lab.testimony(open_lab.lab.pairs[1], lambda: sent.append(1))
    told = next(piece for piece in evidence if piece.witness == "monitor")
    assert (sent, told.supports) == ([1], None)
    assert "connection refused" in told.finding


@pytest.mark.parametrize(
    ("says", "dies", "told"),
    [
        ("", True, "monitor ended by itself before the packets had gone through"),
        ("CPU 01: Lost 7 events\n", False, "monitor lost 7 events"),
        ("CPU 01: Lost 7 events\n", True, "monitor ended by itself"),
    ],
)
def test_a_monitor_that_did_not_tell_everything_speaks_for_no_mode(
    tmp_path: Path, says: str, dies: bool, told: str
) -> None:
    cluster = Cluster()
    cluster.monitor_dies = dies
    cluster.monitor = says + (FIXTURES / "bpf-native.monitor-none.extract.txt").read_text()
    with opened(cluster, tmp_path) as open_lab:
        evidence = open_lab.testimony(open_lab.lab.pairs[1], lambda: None)
    piece = next(piece for piece in evidence if piece.witness == "monitor")
    assert (piece.supports, piece.found or {}) == (None, {})
    assert told in piece.finding


def test_a_log_that_cannot_be_read_is_no_reason_to_guess(tmp_path: Path) -> None:
    cluster = Cluster("status-legacy-vxlan.json")
    cluster.log_fails = True
    with opened(cluster, tmp_path) as open_lab:
        evidence = open_lab.testimony(open_lab.lab.pairs[1], lambda: None)
    told = next(piece.finding for piece in evidence if piece.witness == "agent-status")
    assert "the agent's log, which could say why, cannot be read: Forbidden" in told


def test_the_monitor_is_filtered_inside_the_agent(tmp_path: Path) -> None:
    cluster = Cluster()
    with opened(cluster, tmp_path) as open_lab:
        open_lab.testimony(open_lab.lab.pairs[1], lambda: None)
    (line,) = [line for line in cluster.said if " monitor " in line]
    assert re.search(r"monitor -t trace --related-to 82$", line)


def test_watching_gives_the_movements_of_the_pair_alone(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.monitor = (FIXTURES / "bpf-vxlan.monitor-none.extract.txt").read_text().split("#####")[2]
    with opened(cluster, tmp_path) as open_lab:
        pair = next(pair for pair in open_lab.lab.pairs if pair.placement is Placement.CROSS_NODE)
        with open_lab.watching(pair) as watch:
            movements, gaps = watch.movements(), watch.gaps()
    assert {(m.packet.src, m.packet.dst) for m in movements} == {
        ("10.244.0.187", "10.244.1.67"), ("10.244.1.67", "10.244.0.187"),
    }  # fmt: skip
    assert gaps == ()
    lines = [line for line in cluster.said if " monitor -j " in line]
    assert len(lines) == 2
    assert all("10[.]244[.]0[.]187" in line and "--related-to" not in line for line in lines)


def test_an_aggregated_monitor_is_reported_as_a_gap(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.config["monitor-aggregation"] = "medium"
    with opened(cluster, tmp_path) as open_lab, open_lab.watching(open_lab.lab.pairs[1]) as watch:
        assert watch.gaps() == ("monitor aggregation is 'medium': not every packet is reported",)


def test_a_lab_that_is_not_up_is_said_to_be_so(tmp_path: Path) -> None:
    provider = KindProvider(commands=World(), root=tmp_path / "state")
    with pytest.raises(UsageError, match="lab bpf is not up"), provider.open(lab_of(tmp_path)):
        pass
