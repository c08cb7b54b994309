"""A running lab opened through scripted tools that answer with a real cluster's output (1.13.12, bpf over vxlan)."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from kind_world import World, completed, lab_of
from labctl.errors import MeasureFailed, UsageError
from labctl.model.lab import Placement
from labctl.model.signature import Role
from labctl.providers.base import Completed, OpenLab, Running, TargetKind
from labctl.providers.kind.provider import KindProvider

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "cilium"
NODES = {"labctl-bpf-worker": "node1", "labctl-bpf-worker2": "node2", "labctl-bpf-control-plane": "node3"}
TIMES = "labctl-times\n0m0.00s 0m0.00s\n0m0.01s 0m0.01s\n"
LINKS = """cilium_host 3 ae:0d:d3:b0:df:58
cilium_net 2 62:ac:0b:2c:59:b1
cilium_vxlan 47 0e:6e:65:46:42:cf
eth0 27 02:42:ac:1e:00:0{n}
lo 1 00:00:00:00:00:00
"""


class Cluster(World):
    """Three nodes with agents; pods `client`, `neighbour` on node1 and `server` on node2 have recorded endpoints."""

    def __init__(self, status: str = "status-bpf-vxlan.json", log: str = "") -> None:
        super().__init__()
        self.status = (FIXTURES / status).read_text()
        self.log = log
        self.node_has_tcpdump = False
        self.counters = {"client": [0, 0], "server": [0, 0]}
        self.monitor = ""
        self.monitor_fails = False
        self.monitor_dies = False
        self.log_fails = False
        self.config = {
            "enable-host-legacy-routing": "false", "kube-proxy-replacement": "strict", "tunnel": "vxlan",
            "enable-bpf-masquerade": "true", "enable-ipv4-masquerade": "true", "auto-direct-node-routes": "false",
            "ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.244.0.0/16", "cluster-pool-ipv4-mask-size": "24",
            "monitor-aggregation": "none", "debug": "true", "debug-verbose": "datapath", "enable-l7-proxy": "false",
            "tunnel-port": "8472", "devices": "eth0",
        }  # fmt: skip

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        self.said.append(" ".join(argv))
        if "exec" in argv:
            out, code = self._inside(argv)
            return completed(argv, out, TIMES, code)
        words = argv[3:]
        match words:
            case ("get", "ciliumnodes.cilium.io", *_):
                items = [self._cilium_node(number, name) for number, name in enumerate(NODES, start=3)]
                return completed(argv, json.dumps({"items": items}))
            case ("-n", "kube-system", "get", "pods", *_):
                pods = [self._pod(f"cilium-{name[-5:]}", "kube-system", name) for name in NODES]
                return completed(argv, json.dumps({"items": pods}))
            case ("-n", "kube-system", "get", "configmap", *_):
                return completed(argv, json.dumps({"data": self.config}))
            case ("-n", "kube-system", "logs", *_):
                return completed(argv, self.log, "Forbidden" if self.log_fails else "", int(self.log_fails))
            case ("-n", _, "get", "pods", *_):
                placed = {"client": "worker", "neighbour": "worker", "server": "worker2"}
                pods = [self._pod(pod, "labctl-bpf", f"labctl-bpf-{node}") for pod, node in placed.items()]
                return completed(argv, json.dumps({"items": pods}))
        raise AssertionError(f"unexpected command: {' '.join(argv)}")

    def _inside(self, argv: Sequence[str]) -> tuple[str, int]:
        line = " ".join(argv)
        if "status -o json" in line:
            return self.status, 0
        if "endpoint list" in line:
            return json.dumps(self._endpoints(line)), 0
        if "command -v tcpdump" in line:
            return "", 0 if self.node_has_tcpdump else 1
        if "statistics" in line:
            pod = "client" if "lxcclient" in line else "server"
            return f"{self.counters[pod][0]} {self.counters[pod][1]}\n", 0
        if "/proc/net/snmp" in line:
            pod = "client" if "labctl-client" in line or "client" in line else "server"
            return f"Ip: Forwarding InReceives\nIp: 2 {self.counters[pod][1]}\n", 0
        if "/sys/class/net" in line:
            return LINKS.replace("{n}", "4" if "worker2" in line else "3"), 0
        if "conntrack" in line:
            return "", 0
        if "kill -" in line:
            return "", 0
        raise AssertionError(f"unexpected command inside: {line}")

    def _endpoints(self, line: str) -> list[dict[str, Any]]:
        template = next(e for e in json.loads((FIXTURES / "endpoints.json").read_text()) if e["id"] == 82)
        pods = ["server"] if "cilium-rker2" in line else ["client", "neighbour"] if "cilium-orker" in line else []
        found = []
        for number, pod in enumerate(pods):
            entry = json.loads(json.dumps(template))
            entry["id"] += number
            entry["status"]["external-identifiers"] |= {"k8s-namespace": "labctl-bpf", "k8s-pod-name": pod}
            entry["status"]["networking"] |= {"interface-name": f"lxc{pod}", "mac": f"02:00:00:00:00:0{len(pod)}"}
            address = "10.244.1.67" if pod == "server" else "10.244.0.187"
            entry["status"]["networking"]["addressing"][0]["ipv4"] = address
            found.append(entry)
        return found

    def _cilium_node(self, number: int, name: str) -> dict[str, Any]:
        addresses = [
            {"type": "InternalIP", "ip": f"172.18.0.{number}"},
            {"type": "CiliumInternalIP", "ip": f"10.244.{number}.53"},
            {"type": "InternalIP", "ip": "fc00::2"},
        ]
        ipam = {"podCIDRs": [f"10.244.{number}.0/24"]}
        return {"metadata": {"name": name}, "spec": {"addresses": addresses, "ipam": ipam}}

    def start(
        self, argv: Sequence[str], *, stdin: bytes = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        self.said.append(" ".join(argv))
        return self._monitor(argv)

    @contextlib.contextmanager
    def _monitor(self, argv: Sequence[str]) -> Iterator[Running]:
        yield Monitor(tuple(argv), self)


class Monitor:
    def __init__(self, argv: tuple[str, ...], cluster: Cluster) -> None:
        self.argv, self._cluster, self._ended = argv, cluster, False

    def is_alive(self) -> bool:
        return not self._ended and not self._cluster.monitor_dies

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        if self._cluster.monitor_fails:
            raise MeasureFailed(what="monitor did not start", cause="connection refused")

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> Completed:
        return completed(self.argv, self._cluster.monitor, TIMES)


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


def test_an_aggregated_monitor_is_told_as_a_gap(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.config["monitor-aggregation"] = "medium"
    with opened(cluster, tmp_path) as open_lab, open_lab.watching(open_lab.lab.pairs[1]) as watch:
        assert watch.gaps() == ("monitor aggregation is 'medium': not every packet is told",)


def test_a_lab_that_is_not_up_is_said_to_be_so(tmp_path: Path) -> None:
    provider = KindProvider(commands=World(), root=tmp_path / "state")
    with pytest.raises(UsageError, match="lab bpf is not up"), provider.open(lab_of(tmp_path)):
        pass
